//! Restart: kill -9 of the service loses nothing, and its clients do not notice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Cgroups, Daemon, eventually, policy};
use ioasid::client::Set;
use ioasid::model::{CgroupPath, Limit, Pasid, Refusal, SetRequest};
use ioasid::proto::{Phase, SetCgroupMax, WatchKind};
use std::os::fd::AsFd;
use std::time::Duration;

/// A set of this process, charged to a scratch cgroup.
fn set_in(daemon: &Daemon, cgroup: &CgroupPath) -> Set {
    let request = SetRequest { cgroup: Some(cgroup.clone()), quota: Some(64), ..SetRequest::default() };
    daemon.service().create_set(request).unwrap().0
}

/// The tests' policy, and a rule by which this process, wherever it is, charges scratch cgroups.
fn behalf(cgroups: &Cgroups, space: &str, rest: &str) -> String {
    let scratch = cgroups.path("");
    let rule = format!(
        "[[rule]]\nname = \"behalf\"\ncgroup = \"/**\"\nusers = [\"root\"]\naction = \"allow\"\n\
         quota = {{ default = 8, max = 256 }}\nsets_per_cgroup = 64\non_behalf_of = [\"{scratch}/**\"]\n"
    );
    policy(cgroups, space, &format!("{rule}{rest}"))
}

#[test]
fn ids_counters_aliases_and_limits_are_as_they_were() {
    let cgroups = Cgroups::new();
    let a = cgroups.make("a");
    let daemon = Daemon::start_supervised(&behalf(&cgroups, "quarantine = \"1h\"", ""));
    let set = set_in(&daemon, &a);
    let mut session = set.session().unwrap();
    let ids = session.alloc_many(5, None).unwrap();
    session.alias_add(ids[0], 70).unwrap();
    session.alias_add(ids[1], 71).unwrap();
    session.alias_del(71).unwrap();
    session.free(&ids[4..]).unwrap();
    session.set_quota(20).unwrap();
    let max = SetCgroupMax { cgroup: a.to_string(), max: "6".into(), persist: false };
    daemon.connect().ask(&max).unwrap();
    let full = session.alloc_many(3, None).unwrap_err();
    assert!(matches!(full.refusal(), Some(Refusal::LimitExceeded { .. })));
    let (info, cgroup, status) = (session.info().unwrap(), daemon.cgroup(&a), daemon.status());
    for _ in 0..3 {
        daemon.kill_service();
        assert_eq!(session.info().unwrap(), info);
        assert_eq!(daemon.cgroup(&a), cgroup);
        assert_eq!(daemon.status().domains, status.domains);
        assert_eq!((session.alias_find(70).unwrap(), cgroup.max), (ids[0], Limit::Count(6)));
        let gone = session.alias_find(71).unwrap_err();
        assert!(matches!(gone.refusal(), Some(Refusal::NotFound { .. })));
    }
    assert_eq!((cgroup.current, cgroup.peak, cgroup.events.max), (4, 5, 1));
    // The freed one still rests, and the limit still holds.
    let more = session.alloc_many(2, None).unwrap();
    assert!(!more.contains(&ids[4]) && more.iter().all(|id| !ids.contains(id)));
    assert!(session.alloc().is_err());
    drop((session, set));
    daemon.finish();
}

#[test]
fn the_peak_that_a_recharge_leaves_behind_stays() {
    let cgroups = Cgroups::new();
    let [a, b] = ["a", "b"].map(|below| cgroups.make(below));
    let daemon = Daemon::start_supervised(&behalf(&cgroups, "quarantine = \"0s\"", ""));
    let set = set_in(&daemon, &a);
    let mut session = set.session().unwrap();
    session.alloc_many(9, None).unwrap();
    let call = ioasid::proto::Recharge { set: session.set().0, cgroup: b.to_string() };
    daemon.connect().ask(&call).unwrap();
    daemon.kill_service();
    let peaks = [&a, &b].map(|path| (daemon.cgroup(path).current, daemon.cgroup(path).peak));
    assert_eq!(peaks, [(0, 9), (9, 9)]);
    drop((session, set));
    daemon.finish();
}

#[test]
fn a_second_supervisor_in_the_same_directory_is_refused_and_harms_nothing() {
    let cgroups = Cgroups::new();
    let a = cgroups.make("a");
    let daemon = Daemon::start_supervised(&behalf(&cgroups, "", ""));
    let set = set_in(&daemon, &a);
    let mut session = set.session().unwrap();
    session.alloc_many(3, None).unwrap();
    let second = std::process::Command::new(common::daemon::IOASIDD)
        .arg("--policy")
        .arg(daemon.policy_file())
        .arg("--runtime-dir")
        .arg(daemon.runtime_dir())
        .args(["--supervise", "--bus", "none", "--device", "none", "--cgroup-fs", "none"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another service is supervised here"), "{said}");
    // What was parked is still there for the next process.
    daemon.kill_service();
    session.alloc().unwrap();
    assert_eq!(daemon.current(&a), 4);
    drop((session, set));
    daemon.finish();
}

#[test]
fn a_service_whose_supervisor_is_killed_ends_in_order() {
    let cgroups = Cgroups::new();
    let mut daemon = Daemon::start_supervised(&behalf(&cgroups, "", ""));
    let served = eventually("somebody serves", || daemon.served_by());
    let process = std::fs::File::open(format!("/proc/{served}")).unwrap();
    daemon.signal("KILL");
    daemon.wait();
    eventually("the service ends with it", || {
        let gone = nix::fcntl::openat(&process, "stat", nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty());
        gone.is_err().then_some(())
    });
    assert!(!daemon.socket().exists(), "the socket file is left over");
    let log = daemon.log();
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn a_set_whose_holder_closes_while_nobody_serves_is_gone() {
    let cgroups = Cgroups::new();
    let a = cgroups.make("a");
    let daemon = Daemon::start_supervised(&behalf(&cgroups, "", ""));
    let (set, kept) = (set_in(&daemon, &a), set_in(&daemon, &a));
    set.session().unwrap().alloc_many(3, None).unwrap();
    kept.session().unwrap().alloc().unwrap();
    let served = daemon.served_by().unwrap().to_string();
    // Stopped it answers nobody, and killed it never will.
    assert!(std::process::Command::new("kill").args(["-STOP", &served]).status().unwrap().success());
    drop(set);
    daemon.kill_service();
    assert_eq!((daemon.sets().len(), daemon.current(&a)), (1, 1));
    drop(kept);
    daemon.finish();
}

#[test]
fn references_stay_with_their_session_and_go_with_it() {
    let cgroups = Cgroups::new();
    let a = cgroups.make("a");
    let daemon = Daemon::start_supervised(&behalf(&cgroups, "", ""));
    let set = set_in(&daemon, &a);
    let (mut one, mut other) = (set.session().unwrap(), set.session().unwrap());
    let id = one.alloc().unwrap();
    other.hold(id).unwrap();
    daemon.kill_service();
    assert_eq!(one.free(&[id]).unwrap().pending, [id]);
    daemon.kill_service();
    let busy = one.hold(id).unwrap_err();
    assert_eq!(busy.refusal(), Some(&Refusal::Busy { pasid: id, holders: 1 }));
    assert!(matches!(one.put(id).unwrap_err().refusal(), Some(Refusal::NotFound { .. })), "another's reference");
    assert_eq!(daemon.current(&a), 1);
    other.put(id).unwrap();
    assert_eq!(daemon.current(&a), 0);
    // A session that ends while nobody serves puts its references.
    let id = one.alloc().unwrap();
    other.hold(id).unwrap();
    one.free(&[id]).unwrap();
    let served = daemon.served_by().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-STOP", &served]).status().unwrap().success());
    drop(other);
    daemon.kill_service();
    eventually("the last reference goes", || (daemon.current(&a) == 0).then_some(()));
    drop((one, set));
    daemon.finish();
}

#[test]
fn a_set_that_is_closed_but_for_references_is_as_it_was() {
    let cgroups = Cgroups::new();
    let a = cgroups.make("a");
    let daemon = Daemon::start_supervised(&behalf(&cgroups, "", ""));
    let set = set_in(&daemon, &a);
    let mut holder = set.session().unwrap();
    let ids = holder.alloc_many(2, None).unwrap();
    holder.hold(ids[0]).unwrap();
    drop(set);
    eventually("the set drains", || (daemon.current(&a) == 1).then_some(()));
    // Something else is written down, and what was closed is taken out of the store with it.
    let other = set_in(&daemon, &a);
    daemon.kill_service();
    assert_eq!((daemon.current(&a), daemon.sets().len()), (1, 2));
    assert!(!daemon.log().contains("only one half"), "{}", daemon.log());
    holder.put(ids[0]).unwrap();
    assert_eq!((daemon.current(&a), daemon.sets().len()), (0, 1));
    drop((holder, other));
    daemon.finish();
}

#[test]
fn what_a_free_ended_on_an_id_that_others_hold_stays_ended() {
    let cgroups = Cgroups::new();
    let a = cgroups.make("a");
    let daemon = Daemon::start_supervised(&behalf(&cgroups, "", ""));
    let set = set_in(&daemon, &a);
    let (mut one, mut other) = (set.session().unwrap(), set.session().unwrap());
    let ids = one.alloc_many(2, None).unwrap();
    one.alias_add(ids[0], 7).unwrap();
    one.hold(ids[0]).unwrap();
    other.hold(ids[0]).unwrap();
    // The name goes, and the reference of who frees it; the id stays for the other one's.
    assert_eq!(one.free(&ids[..1]).unwrap().pending, ids[..1]);
    daemon.kill_service();
    assert!(matches!(one.alias_find(7).unwrap_err().refusal(), Some(Refusal::NotFound { .. })));
    one.alias_add(ids[1], 7).unwrap();
    other.put(ids[0]).unwrap();
    assert_eq!(daemon.current(&a), 1, "nobody holds it any more");
    drop((one, other, set));
    daemon.finish();
}

#[test]
fn what_a_free_ended_stays_ended_while_watchers_are_waited_for() {
    let cgroups = Cgroups::new();
    let a = cgroups.make("a");
    let daemon = Daemon::start_supervised(&behalf(&cgroups, "", ""));
    let set = set_in(&daemon, &a);
    let (mut one, mut watcher) = (set.session().unwrap(), set.session().unwrap());
    let ids = one.alloc_many(2, None).unwrap();
    one.alias_add(ids[0], 7).unwrap();
    one.hold(ids[0]).unwrap();
    watcher.watch(&[WatchKind::Free], Phase::Device, Duration::from_secs(10)).unwrap();
    assert_eq!(one.free(&ids[..1]).unwrap().pending, ids[..1]);
    // Told before the kill, and once more after it.
    watcher.next_event(Some(common::deadline())).unwrap().unwrap();
    daemon.kill_service();
    one.alias_add(ids[1], 7).unwrap();
    let told = watcher.next_event(Some(common::deadline())).unwrap().unwrap();
    watcher.ack(&told).unwrap();
    eventually("the id returns", || (daemon.current(&a) == 1).then_some(()));
    drop((one, watcher, set));
    daemon.finish();
}

#[test]
fn a_mapped_set_goes_on_while_nobody_serves_and_after() {
    let cgroups = Cgroups::new();
    let a = cgroups.make("a");
    let daemon = Daemon::start_supervised(&behalf(&cgroups, "quarantine = \"0s\"", ""));
    let set = set_in(&daemon, &a);
    let mapped = set.map().unwrap();
    let first = mapped.alloc().unwrap();
    let served = daemon.served_by().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-STOP", &served]).status().unwrap().success());
    let second = mapped.alloc().unwrap();
    daemon.kill_service();
    let mut session = set.session().unwrap();
    let used = session.info().unwrap().pasids.unwrap();
    let mut both = vec![first, second];
    both.sort_unstable();
    assert_eq!(used, both);
    assert!(session.trim().unwrap() > 0, "what was leased ahead is known");
    assert_eq!(daemon.current(&a), 2);
    mapped.free(first).unwrap();
    let mut ids: Vec<Pasid> = (0..30).map(|_| mapped.alloc().unwrap()).collect();
    ids.push(second);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 31);
    drop((session, mapped, set));
    daemon.finish();
}

#[test]
fn a_watch_goes_on_and_is_asked_before_an_id_goes() {
    let cgroups = Cgroups::new();
    let a = cgroups.make("a");
    let daemon = Daemon::start_supervised(&behalf(&cgroups, "", ""));
    let set = set_in(&daemon, &a);
    let (mut one, mut watcher) = (set.session().unwrap(), set.session().unwrap());
    let id = one.alloc().unwrap();
    watcher.watch(&[WatchKind::Free], Phase::Device, Duration::from_secs(10)).unwrap();
    daemon.kill_service();
    assert_eq!(one.free(&[id]).unwrap().pending, [id]);
    let event = watcher.next_event(Some(common::deadline())).unwrap().unwrap();
    assert_eq!((event.event, event.pasids.as_slice()), (WatchKind::Free, &[id][..]));
    // Killed while it waits: the phase begins anew.
    daemon.kill_service();
    let again = watcher.next_event(Some(common::deadline())).unwrap().unwrap();
    assert_eq!(again.pasids, [id]);
    assert_eq!(daemon.current(&a), 1);
    watcher.ack(&again).unwrap();
    eventually("the id returns", || (daemon.current(&a) == 0).then_some(()));
    drop((one, watcher, set));
    daemon.finish();
}

#[test]
fn revoked_sets_stay_revoked_and_new_sets_get_new_numbers() {
    let cgroups = Cgroups::new();
    let a = cgroups.make("a");
    let daemon = Daemon::start_supervised(&behalf(&cgroups, "", ""));
    let set = set_in(&daemon, &a);
    let mut session = set.session().unwrap();
    session.alloc_many(2, None).unwrap();
    let number = session.set();
    let revoke = ioasid::proto::RevokeSet { set: number.0, reason: "test".into() };
    daemon.connect().ask(&revoke).unwrap();
    daemon.kill_service();
    let revoked = Refusal::Revoked { set: number, reason: "test".into() };
    assert_eq!(set.session().unwrap_err().refusal(), Some(&revoked));
    assert_eq!(daemon.current(&a), 0);
    let another = set_in(&daemon, &a);
    assert!(another.session().unwrap().set() > number);
    drop((session, set, another));
    daemon.finish();
}

#[test]
fn a_passed_on_fd_and_a_second_fd_outlive_it_too() {
    let cgroups = Cgroups::new();
    let a = cgroups.make("a");
    let daemon = Daemon::start_supervised(&behalf(&cgroups, "", ""));
    let set = set_in(&daemon, &a);
    let number = set.session().unwrap().set();
    let (second, _) = daemon.service().open_set(number.0).unwrap();
    let copy = Set::from_fd(set.as_fd().try_clone_to_owned().unwrap()).unwrap();
    drop(set);
    daemon.kill_service();
    assert_eq!(daemon.service().identify(&copy).unwrap().set, number);
    drop(copy);
    daemon.kill_service();
    assert_eq!(second.session().unwrap().set(), number);
    drop(second);
    daemon.finish();
}

#[test]
fn a_cgroup_that_goes_meanwhile_is_dying_after() {
    let cgroups = Cgroups::new();
    let a = cgroups.make("a");
    let daemon = Daemon::start_supervised(&behalf(&cgroups, "", ""));
    let set = set_in(&daemon, &a);
    let mut session = set.session().unwrap();
    let id = session.alloc().unwrap();
    let served = daemon.served_by().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-STOP", &served]).status().unwrap().success());
    cgroups.remove("a");
    daemon.kill_service();
    assert!(matches!(session.alloc().unwrap_err().refusal(), Some(Refusal::Stale { .. })));
    assert!(daemon.cgroup(&a).dying);
    cgroups.make("a");
    assert_eq!(daemon.cgroup(&a).current, 0, "one made again is a new one");
    session.free(&[id]).unwrap();
    drop((session, set));
    daemon.finish();
}

/// A set without ids costs its cgroup nothing, and is its holder's all the same.
#[test]
fn a_set_without_ids_outlives_its_cgroup_and_restarts() {
    let cgroups = Cgroups::new();
    let [a, b] = ["a", "b"].map(|name| cgroups.make(name));
    let daemon = Daemon::start_supervised(&behalf(&cgroups, "", ""));
    let set = set_in(&daemon, &a);
    let mut session = set.session().unwrap();
    let id = session.alloc().unwrap();
    cgroups.remove("a");
    for _ in 0..3 {
        assert!(matches!(session.alloc().unwrap_err().refusal(), Some(Refusal::Stale { .. })));
        // Its last, the first time; again is no error.
        session.free(&[id]).unwrap();
        let above = daemon.cgroup(&cgroups.path(""));
        assert!(above.children.iter().all(|child| child.path != a), "nothing is charged there: {above:?}");
        // Whatever waits to be written is written with it.
        drop(set_in(&daemon, &b));
        daemon.kill_service();
    }
    drop((session, set));
    eventually("the set is gone", || daemon.sets().is_empty().then_some(()));
    daemon.finish();
}

#[test]
fn an_upgrade_under_load_refuses_nothing() {
    let cgroups = Cgroups::new();
    let a = cgroups.make("a");
    let daemon = Daemon::start_supervised(&behalf(&cgroups, "quarantine = \"0s\"", ""));
    let set = set_in(&daemon, &a);
    let (done, rounds) = (std::sync::atomic::AtomicBool::new(false), std::sync::atomic::AtomicU32::new(0));
    // ORDERING: Relaxed, as all here: one round more or less is no matter.
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut session = set.session().unwrap();
            while !done.load(relaxed) {
                let ids = session.alloc_many(2, None).unwrap();
                session.free(&ids).unwrap();
                drop(set_in(&daemon, &a));
                rounds.fetch_add(1, relaxed);
            }
        });
        for _ in 0..5 {
            let before = rounds.load(relaxed);
            common::eventually("the load goes on", || {
                (rounds.load(relaxed) > before || load.is_finished()).then_some(())
            });
            daemon.replace_service();
        }
        done.store(true, relaxed);
        load.join().unwrap();
    });
    assert_eq!(daemon.current(&a), 0);
    drop(set);
    daemon.finish();
}
