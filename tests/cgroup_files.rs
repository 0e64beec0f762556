//! The cgroup files: a tree that mirrors the cgroup tree, read and written as the kernel's own files are.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Actor, Cgroups, Daemon, Options, eventually, eventually_equal};
use ioasid::model::SetRequest;
use ioasid::proto::ResetPeak;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const ENOENT: i32 = 2;
const EINVAL: i32 = 22;
const EACCES: i32 = 13;
const EPERM: i32 = 1;
const ENODEV: i32 = 19;
const ENOTCONN: i32 = 107;

fn policy(cgroups: &Cgroups) -> String {
    format!(
        r#"
        version = 1
        [space]
        bits = 12
        reserved = ["0-1023"]
        quarantine = "0s"
        [[cgroup]]
        path = "{scratch}/limited"
        max = 2
        [[rule]]
        name = "tests"
        cgroup = "{scratch}/**"
        users = ["*"]
        action = "allow"
        quota = {{ default = 8, max = 64 }}
        "#,
        scratch = cgroups.path("")
    )
}

fn with_files() -> Options {
    let arguments = ["--bus", "none", "--device", "none"].map(str::to_owned).to_vec();
    Options { arguments: Some(arguments), ..Options::default() }
}

/// A service with the files, and a scratch cgroup.
struct Fixture {
    cgroups: Cgroups,
    daemon: Daemon,
}

impl Fixture {
    fn new() -> Self {
        let cgroups = Cgroups::new();
        let daemon = Daemon::start_with(&policy(&cgroups), &with_files());
        Self { cgroups, daemon }
    }

    fn top(&self) -> PathBuf {
        self.daemon.runtime_dir().join("cgroup")
    }

    fn directory(&self, below: &str) -> PathBuf {
        self.top().join(self.cgroups.path(below).relative())
    }

    fn file(&self, below: &str, name: &str) -> PathBuf {
        self.directory(below).join(name)
    }

    fn read(&self, below: &str, name: &str) -> String {
        fs::read_to_string(self.file(below, name)).unwrap()
    }

    fn write_max(&self, below: &str, text: &str) -> Result<(), i32> {
        let mut file =
            File::options().write(true).truncate(true).open(self.file(below, "ioasids.max")).map_err(errno)?;
        file.write_all(text.as_bytes()).map_err(errno)
    }

    fn finish(self) {
        let top = self.top();
        self.daemon.finish();
        assert!(!mounted(&top), "the files stay mounted");
    }
}

fn errno(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap()
}

fn mounted(top: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&format!(" {} ", top.display()))
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn shell(directory: &Path, script: &str) -> (i32, String) {
    let out = Command::new("sh").args(["-c", script]).current_dir(directory).output().unwrap();
    (out.status.code().unwrap(), String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn shell_of_user(uid: u32, directory: &Path, script: &str) -> i32 {
    let id = uid.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "sh", "-c", script]);
    command.current_dir(directory).stderr(std::process::Stdio::null()).status().unwrap().code().unwrap()
}

#[test]
fn directories_come_and_go_with_their_cgroups() {
    let f = Fixture::new();
    let below = ["ioasids.current", "ioasids.events", "ioasids.events.local", "ioasids.max", "ioasids.peak"];
    assert!(names(&f.top()).iter().any(|name| name == "ioasids.capacity"));
    for missing in ["ioasids.max", "ioasids.events"] {
        assert_eq!(fs::metadata(f.top().join(missing)).unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert_eq!(names(&f.directory("")), below);
    assert_eq!(fs::metadata(f.directory("a")).unwrap_err().kind(), ErrorKind::NotFound);
    f.cgroups.make("a/b");
    assert_eq!(names(&f.directory("a")), [&["b"][..], &below].concat());
    let mut held = File::open(f.file("a/b", "ioasids.current")).unwrap();
    let old = fs::metadata(f.directory("a/b")).unwrap().ino();
    f.cgroups.remove("a/b");
    assert_eq!(fs::metadata(f.directory("a/b")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(held.read(&mut [0; 8]).map_err(errno), Err(ENODEV), "as on cgroupfs");
    f.cgroups.make("a/b");
    assert_ne!(fs::metadata(f.directory("a/b")).unwrap().ino(), old, "another cgroup of the same name");
    assert_eq!(held.read(&mut [0; 8]).map_err(errno), Err(ENODEV));
    drop(held);
    f.finish();
}

#[test]
fn modes_and_owners_are_those_of_the_cgroup() {
    let f = Fixture::new();
    f.cgroups.make("u/x");
    f.cgroups.delegate("u", 4321);
    for (below, name, mode, owner) in [
        ("u", "", 0o040_755, 4321),
        ("u", "ioasids.current", 0o100_444, 4321),
        ("u", "ioasids.max", 0o100_644, 0),
        ("u/x", "ioasids.max", 0o100_644, 4321),
        ("u/x", "ioasids.peak", 0o100_644, 0),
        ("u/x", "ioasids.events", 0o100_444, 0),
    ] {
        let metadata = fs::metadata(f.directory(below).join(name)).unwrap();
        assert_eq!((metadata.permissions().mode(), metadata.uid()), (mode, owner), "{below} {name}");
    }
    assert_eq!(fs::create_dir(f.directory("u/new")).map_err(errno), Err(EPERM));
    assert_eq!(fs::remove_file(f.file("u", "ioasids.max")).map_err(errno), Err(EPERM));
    assert_eq!(File::create(f.file("u", "new")).map(drop).map_err(errno), Err(EACCES));
    assert_eq!(
        fs::set_permissions(f.file("u", "ioasids.max"), PermissionsExt::from_mode(0o666)).map_err(errno),
        Err(EPERM)
    );
    f.finish();
}

#[test]
fn a_limit_is_written_as_to_a_cgroup_file() {
    let f = Fixture::new();
    f.cgroups.make("a");
    f.cgroups.make("limited");
    assert_eq!((f.read("a", "ioasids.max"), f.read("limited", "ioasids.max")), ("max\n".into(), "2\n".into()));
    for (text, shown) in [
        ("7", "7\n"),
        ("7\n", "7\n"),
        (" 0x10 \n", "16\n"),
        ("0", "0\n"),
        ("99999999", "99999999\n"),
        ("max\n", "max\n"),
    ] {
        assert_eq!(f.write_max("a", text), Ok(()), "{text:?}");
        assert_eq!(f.read("a", "ioasids.max"), shown);
    }
    f.write_max("a", "5").unwrap();
    for junk in ["-1", "x", "1 2", " \n", "\0", "1.0", "18446744073709551616"] {
        assert_eq!(f.write_max("a", junk), Err(EINVAL), "{junk:?}");
        assert_eq!(f.read("a", "ioasids.max"), "5\n", "unchanged");
    }
    let info = f.daemon.cgroup(&f.cgroups.path("a"));
    assert_eq!(info.max, ioasid::model::Limit::Count(5));
    f.finish();
}

/// No mode stops root, and what root writes to a file that takes nothing is refused as the kernel's files refuse it.
#[test]
fn read_only_files_take_nothing_from_anybody() {
    let f = Fixture::new();
    f.cgroups.make("a");
    for name in ["ioasids.current", "ioasids.events", "ioasids.events.local"] {
        assert_eq!(fs::write(f.file("a", name), "1\n").map_err(errno), Err(EINVAL), "{name}");
        assert_ne!(shell_of_user(4324, &f.directory("a"), &format!("echo 1 > {name}")), 0, "{name}");
        assert_eq!(shell_of_user(4324, &f.directory("a"), &format!("test -w {name}")), 1, "{name}");
    }
    assert_eq!(fs::write(f.top().join("ioasids.capacity"), "1\n").map_err(errno), Err(EINVAL));
    f.finish();
}

#[test]
fn a_directory_that_is_closed_to_others_is_closed_here() {
    let f = Fixture::new();
    f.cgroups.make("closed/below");
    let closed = f.cgroups.directory("closed");
    assert_eq!(shell_of_user(4325, &f.directory(""), "cat closed/below/ioasids.current > /dev/null"), 0);
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(shell_of_user(4325, &f.directory(""), "cat closed/below/ioasids.current > /dev/null"), 1);
    assert_eq!(shell_of_user(4325, &f.directory(""), "ls closed > /dev/null"), 2);
    f.finish();
}

#[test]
fn a_threaded_cgroup_has_no_files_of_its_own() {
    let f = Fixture::new();
    f.cgroups.make("a/threads");
    fs::write(f.cgroups.directory("a/threads").join("cgroup.type"), "threaded").unwrap();
    assert_eq!(names(&f.directory("a/threads")), [""; 0]);
    assert_eq!(fs::read(f.file("a/threads", "ioasids.max")).map_err(errno), Err(ENOENT));
    assert_eq!(f.read("a", "ioasids.max"), "max\n");
    assert_eq!(fs::read(f.file("a", "cgroup.procs")).map_err(errno), Err(ENOENT), "the kernel's files are elsewhere");
    f.finish();
}

#[test]
fn a_user_sets_limits_below_a_delegated_cgroup_and_nowhere_else() {
    const USER: u32 = 4322;
    let f = Fixture::new();
    f.cgroups.make("d/x");
    f.cgroups.make("other");
    f.cgroups.delegate("d", USER);
    let set = |below: &str| shell_of_user(USER, &f.directory(below), "echo 3 > ioasids.max");
    assert_eq!(set("d/x"), 0);
    assert_eq!(f.read("d/x", "ioasids.max"), "3\n");
    assert_ne!(set("d"), 0);
    assert_ne!(set("other"), 0);
    assert_eq!((f.read("d", "ioasids.max"), f.read("other", "ioasids.max")), ("max\n".into(), "max\n".into()));
    assert_eq!(shell_of_user(USER, &f.directory("d"), "cat ioasids.max x/ioasids.current > /dev/null"), 0);
    assert_eq!(shell_of_user(USER, &f.directory("d/x"), "test -w ioasids.max && ! test -w ioasids.peak"), 0);
    assert_eq!(shell_of_user(USER, &f.directory("d"), "test -w ioasids.max"), 1);
    f.finish();
}

/// Both who has the whole subtree and who has a part of it, whoever made the cgroup.
#[test]
fn each_user_with_a_delegated_cgroup_above_may_set_the_limit() {
    const WHOLE: u32 = 4327;
    const PART: u32 = 4328;
    let f = Fixture::new();
    f.cgroups.make("d/x/y");
    let set = |uid: u32, below: &str| shell_of_user(uid, &f.directory(below), "echo 3 > ioasids.max") == 0;
    f.cgroups.delegate("d", WHOLE);
    assert!(set(WHOLE, "d/x") && set(WHOLE, "d/x/y"), "also where root made it");
    assert!(!set(PART, "d/x/y"));
    f.cgroups.delegate("d/x", PART);
    assert!(set(WHOLE, "d/x/y") && set(PART, "d/x/y"));
    assert!(set(WHOLE, "d/x") && !set(PART, "d/x"));
    assert!(!set(4329, "d/x/y"), "whatever the mode says");
    f.finish();
}

/// Who opened the file was allowed to; the writer decides, so a privileged program's output sets nothing.
#[test]
fn a_file_that_was_passed_on_is_written_with_the_writers_right() {
    let f = Fixture::new();
    f.cgroups.make("a");
    let script = "exec 3> ioasids.max; setpriv --reuid 4323 --clear-groups sh -c 'echo 9 >&3'";
    assert_ne!(shell(&f.directory("a"), script).0, 0);
    assert_eq!(f.read("a", "ioasids.max"), "max\n");
    f.finish();
}

#[test]
fn counters_are_those_of_the_sets_charged_there() {
    let f = Fixture::new();
    f.cgroups.make("limited/guest");
    let actor = Actor::new(&f.cgroups, "limited/guest");
    let wire = actor.connect(&f.daemon);
    let (set, _) = wire.create_set(SetRequest::default()).unwrap();
    let mut session = set.session().unwrap();
    let pasids = session.alloc_many(2, None).unwrap();
    let read = |below: &str, name: &str| f.read(below, name).trim().to_owned();
    for below in ["limited/guest", "limited", ""] {
        assert_eq!((read(below, "ioasids.current"), read(below, "ioasids.peak")), ("2".into(), "2".into()), "{below}");
    }
    assert_eq!(fs::read_to_string(f.top().join("ioasids.current")).unwrap(), "2\n");
    assert_eq!(fs::read_to_string(f.top().join("ioasids.capacity")).unwrap(), "3072\n");
    session.alloc().unwrap_err();
    let events = |below: &str| (read(below, "ioasids.events"), read(below, "ioasids.events.local"));
    assert_eq!(events("limited"), ("max 1".into(), "max 1".into()));
    assert_eq!(events("limited/guest"), ("max 0".into(), "max 0".into()));
    assert_eq!(events(""), ("max 1".into(), "max 0".into()));
    session.free(&pasids).unwrap();
    assert_eq!((read("limited", "ioasids.current"), read("limited", "ioasids.peak")), ("0".into(), "2".into()));
    f.daemon.connect().ask(&ResetPeak { cgroup: f.cgroups.path("limited").to_string() }).unwrap();
    assert_eq!(read("limited", "ioasids.peak"), "0");
    assert_ne!(shell_of_user(4326, &f.directory(""), "echo 0 > ioasids.peak"), 0);
    assert_eq!(read("", "ioasids.peak"), "2");
    assert_eq!(shell(&f.top(), "echo 0 > ioasids.peak && cat ioasids.peak"), (0, "0".into()));
    assert_eq!(read("", "ioasids.peak"), "2", "each cgroup has its own");
    drop((session, set, wire, actor));
    f.finish();
}

/// The file's text now, and its poll events: POLLPRI where it changed since it was read.
fn ready(file: &File, timeout: PollTimeout) -> PollFlags {
    let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
    poll(&mut polled, timeout).unwrap();
    polled[0].revents().unwrap()
}

#[test]
fn a_poll_of_events_wakes_when_a_limit_is_hit() {
    let f = Fixture::new();
    f.cgroups.make("limited/guest");
    let actor = Actor::new(&f.cgroups, "limited/guest");
    let wire = actor.connect(&f.daemon);
    let (set, _) = wire.create_set(SetRequest::default()).unwrap();
    let mut session = set.session().unwrap();
    session.alloc_many(2, None).unwrap();
    let begun = std::time::Instant::now();
    let changed = PollFlags::POLLPRI | PollFlags::POLLERR;
    for (below, name) in [("limited", "ioasids.events"), ("limited", "ioasids.events.local"), ("", "ioasids.events")] {
        let mut file = File::open(f.file(below, name)).unwrap();
        assert_eq!(ready(&file, PollTimeout::ZERO), changed, "not read yet");
        let mut before = String::new();
        file.read_to_string(&mut before).unwrap();
        assert_eq!(ready(&file, PollTimeout::ZERO), PollFlags::empty());
        let waiting = {
            let file = file.try_clone().unwrap();
            std::thread::spawn(move || ready(&file, PollTimeout::from(20_000u16)))
        };
        // Only once the other thread polls does the kernel know that somebody waits.
        eventually("the thread polls", || {
            session.alloc().unwrap_err();
            waiting.is_finished().then_some(())
        });
        assert_eq!(waiting.join().unwrap(), changed, "{below} {name}");
        let mut after = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut after).unwrap();
        assert_ne!(before, after);
        assert_eq!(ready(&file, PollTimeout::ZERO), PollFlags::empty());
    }
    assert!(begun.elapsed().as_secs() < 15, "woken, not timed out");
    let quiet = File::open(f.file("limited", "ioasids.current")).unwrap();
    assert_eq!(ready(&quiet, PollTimeout::ZERO), PollFlags::empty());
    drop((session, set, wire, actor, quiet));
    f.finish();
}

/// What a poll waits for is in the memory of the service that was asked: the next one wakes whom it left.
#[test]
fn a_poll_is_not_lost_with_the_service_that_was_killed() {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let arguments = ["--supervise", "--bus", "none", "--device", "none"].map(str::to_owned).to_vec();
    let mut daemon =
        Daemon::start_with(&policy(&cgroups), &Options { arguments: Some(arguments), ..Options::default() });
    daemon.may_warn();
    let top = daemon.runtime_dir().join("cgroup");
    let mut file = File::open(top.join(cgroups.path("a").relative()).join("ioasids.events")).unwrap();
    file.read_to_string(&mut String::new()).unwrap();
    assert_eq!(ready(&file, PollTimeout::ZERO), PollFlags::empty());
    let (tell, told) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        tell.send(nix::unistd::gettid()).unwrap();
        ready(&file, PollTimeout::from(20_000u16))
    });
    let call = format!("/proc/self/task/{}/syscall", told.recv().unwrap());
    const POLL: &str = "7 ";
    eventually("the thread waits", || fs::read_to_string(&call).unwrap().starts_with(POLL).then_some(()));
    let begun = std::time::Instant::now();
    daemon.kill_service();
    assert_eq!(waiting.join().unwrap(), PollFlags::POLLPRI | PollFlags::POLLERR);
    assert!(begun.elapsed().as_secs() < 15, "woken, not timed out");
    daemon.finish();
    assert!(!mounted(&top));
}

/// As on cgroupfs, as far as FUSE goes: what is written is told, what the service counts is not.
#[test]
fn inotify_tells_of_writes() {
    let f = Fixture::new();
    f.cgroups.make("limited/guest");
    let actor = Actor::new(&f.cgroups, "limited/guest");
    let wire = actor.connect(&f.daemon);
    let (set, _) = wire.create_set(SetRequest::default()).unwrap();
    let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    let max = watch.add_watch(&f.file("limited", "ioasids.max"), AddWatchFlags::IN_MODIFY).unwrap();
    watch.add_watch(&f.file("limited", "ioasids.events"), AddWatchFlags::IN_MODIFY).unwrap();
    set.session().unwrap().alloc_many(3, None).unwrap_err();
    assert_eq!(f.read("limited", "ioasids.events"), "max 1\n");
    f.write_max("limited", "3").unwrap();
    let told: Vec<_> = watch.read_events().unwrap().into_iter().map(|event| event.wd).collect();
    assert!(!told.is_empty() && told.iter().all(|which| *which == max), "{told:?}");
    drop((watch, set, wire, actor));
    f.finish();
}

#[test]
fn readers_of_a_directory_that_changes_see_what_stays_once() {
    let f = Fixture::new();
    let name = |n: usize| format!("many/child-{n:03}");
    (0..300).for_each(|n| drop(f.cgroups.make(&name(n))));
    let mut readers: Vec<_> = (0..3).map(|_| fs::read_dir(f.directory("many")).unwrap()).collect();
    let mut seen = vec![Vec::new(); readers.len()];
    for round in 0.. {
        // Each some entries at a time, another directory in between, and children that come and go.
        for (reader, seen) in readers.iter_mut().zip(&mut seen) {
            let some = reader.by_ref().take(17).map(|entry| entry.unwrap().file_name().into_string().unwrap());
            seen.extend(some);
            assert!(f.directory("").read_dir().unwrap().count() > 3);
        }
        if round < 100 {
            f.cgroups.remove(&name(2 * round + 1));
            f.cgroups.make(&format!("many/new-{round}"));
        } else {
            break;
        }
    }
    for seen in seen {
        for n in (0..200).step_by(2).chain(200..300) {
            let name = format!("child-{n:03}");
            assert_eq!(seen.iter().filter(|found| **found == name).count(), 1, "{name}");
        }
        let mut once = seen.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), seen.len(), "something twice");
    }
    f.finish();
}

#[test]
fn tools_find_their_way() {
    let f = Fixture::new();
    for number in 0..300 {
        f.cgroups.make(&format!("many/c{number}"));
    }
    let top = f.directory("");
    assert_eq!(shell(&top, "grep -r . . | wc -l"), (0, (302 * 5).to_string()));
    assert_eq!(shell(&top, "find . -type d | wc -l"), (0, "302".into()));
    assert_eq!(shell(&top, "find . -name ioasids.max | wc -l"), (0, "302".into()));
    assert_eq!(shell(&top, "ls many | wc -l"), (0, "305".into()));
    assert_eq!(shell(&top, "ls -lR many > /dev/null && df . > /dev/null && stat -f . > /dev/null").0, 0);
    assert_eq!(
        shell(&top, "for d in many/*/; do echo 1 > $d/ioasids.max || exit 1; done; cat many/c*/ioasids.max | sort -u"),
        (0, "1".into())
    );
    assert_eq!(shell(&top, "cd many && cat ioasids.max && cd c1 && pwd -P > /dev/null"), (0, "max".into()));
    f.finish();
}

/// Some programs, busybox's cat for one, have the kernel copy a file: it looks at the size.
#[test]
fn a_file_can_be_sent_as_well_as_read() {
    let f = Fixture::new();
    f.cgroups.make("a");
    for text in ["7\n", "123456\n", "max\n"] {
        f.write_max("a", text).unwrap();
        assert_eq!(fs::metadata(f.file("a", "ioasids.max")).unwrap().len(), text.len() as u64);
        assert_eq!(
            shell(&f.directory("a"), "busybox cat ioasids.max; wc -c < ioasids.max"),
            (0, format!("{text}{}", text.len()))
        );
    }
    f.finish();
}

#[test]
fn a_read_goes_on_where_the_last_one_ended() {
    let f = Fixture::new();
    f.cgroups.make("a");
    f.write_max("a", "123456").unwrap();
    let file = File::open(f.file("a", "ioasids.max")).unwrap();
    let mut part = [0; 3];
    file.read_exact_at(&mut part, 0).unwrap();
    f.write_max("a", "9").unwrap();
    let mut rest = [0; 16];
    let length = file.read_at(&mut rest, 3).unwrap();
    assert_eq!((&part, &rest[..length]), (b"123", &b"456\n"[..]));
    assert_eq!(file.read_at(&mut rest, 100).unwrap(), 0);
    let length = file.read_at(&mut rest, 0).unwrap();
    assert_eq!(&rest[..length], b"9\n", "from the beginning it is read anew");
    drop(file);
    f.finish();
}

#[test]
fn what_a_killed_service_left_is_mounted_anew() {
    let f = Fixture::new();
    let Fixture { cgroups, mut daemon } = f;
    let top = daemon.runtime_dir().join("cgroup");
    let held = File::open(top.join("ioasids.current")).unwrap();
    daemon.signal("KILL");
    daemon.wait();
    eventually_equal("a dead tree says so", &Err(ENOTCONN), || fs::read(top.join("ioasids.current")).map_err(errno));
    daemon.start_again(&with_files());
    assert_eq!(fs::read_to_string(top.join("ioasids.current")).unwrap(), "0\n");
    assert_eq!((&held).read(&mut [0; 8]).map_err(errno), Err(ENOTCONN));
    drop(held);
    Fixture { cgroups, daemon }.finish();
}

#[test]
fn the_files_can_be_elsewhere_or_nowhere() {
    let cgroups = Cgroups::new();
    let elsewhere = common::daemon::scratch_directory();
    let dir = elsewhere.path().join("files");
    let arguments =
        ["--bus", "none", "--device", "none", "--cgroup-fs", dir.to_str().unwrap()].map(str::to_owned).to_vec();
    let daemon = Daemon::start_with(&policy(&cgroups), &Options { arguments: Some(arguments), ..Options::default() });
    assert_eq!(fs::read_to_string(dir.join("ioasids.peak")).unwrap(), "0\n");
    assert!(!daemon.runtime_dir().join("cgroup").exists());
    daemon.finish();
    assert!(!mounted(&dir));
    let daemon = Daemon::start(&policy(&cgroups));
    assert!(!daemon.runtime_dir().join("cgroup").exists());
    daemon.finish();
}
