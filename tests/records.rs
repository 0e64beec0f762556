//! Records: damaged, newer, of another boot, without their other half.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, Options, eventually, policy};
use ioasid::client::Service;
use ioasid::model::{Limit, SetRequest};
use ioasid::proto::SetCgroupMax;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn files(daemon: &Daemon) -> Vec<String> {
    let entries = fs::read_dir(daemon.runtime_dir().join("state")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A service that is killed with a set in its records, and its directory of them.
fn killed(cgroups: &Cgroups) -> (Daemon, PathBuf) {
    let mut daemon = Daemon::start(&policy(cgroups, "", ""));
    cgroups.make("a");
    let actor = Actor::new(cgroups, "a");
    let set = actor.create_set(&daemon, SetRequest::default());
    set.session().unwrap().alloc_many(3, None).unwrap();
    let max = SetCgroupMax { cgroup: cgroups.path("a").to_string(), max: "9".into(), persist: false };
    daemon.connect().ask(&max).unwrap();
    daemon.signal("KILL");
    daemon.wait();
    daemon.may_warn();
    let state = daemon.runtime_dir().join("state");
    (daemon, state)
}

#[test]
fn sets_that_nobody_kept_are_told_and_counters_go_on() {
    let cgroups = Cgroups::new();
    let (mut daemon, _) = killed(&cgroups);
    daemon.start_again(&Options::default());
    assert!(daemon.log().contains("1 set(s) whose descriptor was not kept"), "{}", daemon.log());
    let cgroup = daemon.cgroup(&cgroups.path("a"));
    assert_eq!((cgroup.current, cgroup.peak, cgroup.max), (0, 3, Limit::Count(9)), "the cgroup is the same");
    // Told once, and orderly ends tell nothing.
    let told = daemon.log().len();
    daemon.terminate();
    daemon.start_again(&Options::default());
    assert_eq!(daemon.log().len(), told, "{}", daemon.log());
    daemon.finish();
}

#[test]
fn a_file_that_is_damaged_is_set_aside_with_all_others() {
    for file in ["records.redb", "ids-global", "counters"] {
        let cgroups = Cgroups::new();
        let (mut daemon, state) = killed(&cgroups);
        let mut bytes = fs::read(state.join(file)).unwrap();
        bytes[3] ^= 0xff;
        fs::write(state.join(file), bytes).unwrap();
        daemon.start_again(&Options::default());
        let log = daemon.log();
        assert!(log.contains(&format!("the records cannot be used: {file}: ")), "{log}");
        let aside = files(&daemon).into_iter().filter(|name| name.contains(".damaged-")).count();
        assert_eq!(aside, 3, "{:?}", files(&daemon));
        // It serves without them.
        assert_eq!(daemon.cgroup(&cgroups.path("a")).max, Limit::Max);
        let actor = Actor::new(&cgroups, "a");
        actor.create_set(&daemon, SetRequest::default()).session().unwrap().alloc().unwrap();
        daemon.terminate();
    }
}

#[test]
fn one_file_missing_is_as_good_as_damaged() {
    for file in ["ids-global", "counters"] {
        let cgroups = Cgroups::new();
        let (mut daemon, state) = killed(&cgroups);
        fs::remove_file(state.join(file)).unwrap();
        daemon.start_again(&Options::default());
        assert!(daemon.log().contains("the records cannot be used"), "{}", daemon.log());
        daemon.terminate();
    }
}

#[test]
fn what_is_of_another_boot_is_void_without_a_word() {
    let cgroups = Cgroups::new();
    let (mut daemon, state) = killed(&cgroups);
    // The counters name their boot in plain text, as the others do.
    let mut bytes = fs::read(state.join("counters")).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let at = bytes.windows(36).position(|window| window == boot.trim().as_bytes()).unwrap();
    bytes[at..at + 36].copy_from_slice(b"00000000-0000-4000-8000-000000000000");
    fs::write(state.join("counters"), bytes).unwrap();
    daemon.start_again(&Options::default());
    assert_eq!(daemon.log(), "");
    assert_eq!(daemon.cgroup(&cgroups.path("a")).max, Limit::Max);
    daemon.finish();
}

#[test]
fn a_second_service_does_not_touch_the_records_of_the_first() {
    let cgroups = Cgroups::new();
    let daemon = Daemon::start(&policy(&cgroups, "", ""));
    let output = Command::new(common::daemon::IOASIDD)
        .args(["--bus", "none", "--device", "none", "--cgroup-fs", "none", "--policy"])
        .arg(daemon.policy_file())
        .arg("--runtime-dir")
        .arg(daemon.runtime_dir())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let wanted = format!("{} is in use by another service: stop that one, or", daemon.runtime_dir().display());
    assert!(said.contains(&wanted) && said.contains("--runtime-dir"), "{said}");
    daemon.finish();
}

#[test]
fn of_two_that_start_at_once_in_a_fresh_directory_one_serves_and_one_says_what_to_do() {
    for _ in 0..10 {
        let directory = common::daemon::scratch_directory();
        let (policy, runtime_dir) = (directory.path().join("policy.toml"), directory.path().join("run"));
        fs::write(&policy, "version = 1\n").unwrap();
        let start = || {
            let mut command = Command::new(common::daemon::IOASIDD);
            command.args(["--bus", "none", "--device", "none", "--cgroup-fs", "none", "--policy"]).arg(&policy);
            command.arg("--runtime-dir").arg(&runtime_dir).stderr(Stdio::piped()).spawn().unwrap()
        };
        let mut both = vec![start(), start()];
        let ended = eventually("one gives up", || both.iter_mut().position(|one| one.try_wait().unwrap().is_some()));
        let loser = both.remove(ended).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&loser.stderr).into_owned();
        assert_eq!(loser.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("{} is in use by another service", runtime_dir.display())), "{said}");
        let mut winner = both.remove(0);
        eventually("the other serves", || Service::connect(runtime_dir.join("ioasid.sock")).ok());
        assert!(runtime_dir.join("state/records.redb").exists(), "with the records that it writes to");
        winner.kill().unwrap();
        winner.wait().unwrap();
    }
}
