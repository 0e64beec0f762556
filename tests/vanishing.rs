//! What the service leans on goes away or hangs, at the worst moment: cgroups, the bus, polkit. Nothing is lost by it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::bus::{Polkit, PrivateBus};
use common::{Actor, Cgroups, Daemon, Options, eventually, policy, supervised};
use ioasid::client::{ClientError, Set};
use ioasid::model::{CgroupPath, Refusal, SetRequest};
use ioasid::proto::{Phase, Recharge, SetCgroupMax, WatchKind};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The tests' policy, and rules by which this process charges scratch cgroups; in `asked` polkit has the last word.
fn behalf(cgroups: &Cgroups) -> String {
    let scratch = cgroups.path("");
    let text = policy(cgroups, "quarantine = \"0s\"", "");
    let asked = format!(
        "[[rule]]\nname = \"asked\"\ncgroup = \"{scratch}/asked\"\nusers = [\"nobody\"]\naction = \"polkit\"\n\
         quota = {{ default = 4, max = 8 }}\n[[rule]]\nname = \"tests\"\n"
    );
    // Before the rule that lets everybody.
    let text = text.replacen("[[rule]]\nname = \"tests\"\n", &asked, 1);
    format!(
        "{text}[[rule]]\nname = \"behalf\"\ncgroup = \"/**\"\nusers = [\"root\"]\naction = \"allow\"\n\
         quota = {{ default = 8, max = 256 }}\nsets_per_cgroup = 64\non_behalf_of = [\"{scratch}/**\"]\n"
    )
}

fn request(cgroup: &CgroupPath) -> SetRequest {
    SetRequest { cgroup: Some(cgroup.clone()), ..SetRequest::default() }
}

fn set_in(daemon: &Daemon, cgroup: &CgroupPath) -> Set {
    daemon.service().create_set(request(cgroup)).unwrap().0
}

#[test]
fn a_cgroup_that_goes_at_each_step_leaves_nothing_over_a_kill_either() {
    let cgroups = Cgroups::new();
    let b = cgroups.make("b");
    let daemon = Daemon::start_supervised(&behalf(&cgroups));
    for step in 0..9 {
        let path = cgroups.make("a");
        let set = set_in(&daemon, &path);
        let mut session = set.session().unwrap();
        let mut watcher = set.session().unwrap();
        let ids = session.alloc_many(3, None).unwrap();
        if step > 1 {
            session.alias_add(ids[0], 1).unwrap();
        }
        if step > 2 {
            session.hold(ids[0]).unwrap();
        }
        if step > 3 {
            session.free(&ids[1..]).unwrap();
        }
        let mapped = (step > 4).then(|| set.map().unwrap());
        if step > 5 {
            watcher.watch(&[WatchKind::Alloc], Phase::Cpu, Duration::from_secs(1)).unwrap();
        }
        if step > 6 {
            let max = SetCgroupMax { cgroup: path.to_string(), max: "50".into(), persist: false };
            daemon.connect().ask(&max).unwrap();
        }
        cgroups.remove("a");
        if step > 7 {
            daemon.kill_service();
        }
        let stale = Some(Refusal::Stale { cgroup: path.clone() });
        assert_eq!(session.alloc().unwrap_err().refusal(), stale.as_ref(), "step {step}");
        if let Some(mapped) = &mapped {
            assert_eq!(mapped.alloc().unwrap_err().refusal(), stale.as_ref(), "step {step}");
        }
        assert!(daemon.cgroup(&path).dying);
        let refusal = daemon.service().create_set(request(&path)).map(drop).unwrap_err();
        assert!(matches!(refusal.refusal(), Some(Refusal::NotFound { .. })), "{refusal:?}");
        // Its charge can be moved to a cgroup that lives.
        if step % 2 == 0 {
            daemon.connect().ask(&Recharge { set: session.set().0, cgroup: b.to_string() }).unwrap();
            session.alloc().unwrap();
        }
        session.free(&ids).unwrap();
        drop((mapped, session, watcher, set));
        eventually("it is forgotten", || {
            let get = ioasid::proto::GetCgroup { path: Some(path.clone()), recurse: false };
            daemon.connect().ask(&get).is_err().then_some(())
        });
    }
    daemon.finish();
}

#[test]
fn cgroups_that_come_and_go_under_requests_leave_nothing() {
    let cgroups = Cgroups::new();
    let path = cgroups.path("a");
    let daemon = Daemon::start(&behalf(&cgroups));
    let done = AtomicBool::new(false);
    let made = std::thread::scope(|scope| {
        scope.spawn(|| {
            // ORDERING: Relaxed: a round more or less is no matter.
            while !done.load(Ordering::Relaxed) {
                let _ = fs::create_dir(cgroups.directory("a"));
                std::thread::yield_now();
                let _ = fs::remove_dir(cgroups.directory("a"));
            }
        });
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut service = daemon.service();
            let mut made = 0;
            for _ in 0..400 {
                let refused = |error: ClientError| match error.refusal() {
                    Some(Refusal::NotFound { .. } | Refusal::Stale { .. }) => {}
                    other => panic!("{other:?} {error:?}"),
                };
                match service.create_set(request(&path)) {
                    Ok((set, _)) => {
                        made += 1;
                        let mut session = set.session().unwrap();
                        session.alloc_many(3, None).map(drop).unwrap_or_else(refused);
                        let max = SetCgroupMax { cgroup: path.to_string(), max: "50".into(), persist: false };
                        service.call(&max, &[]).map(drop).unwrap_or_else(refused);
                    }
                    Err(error) => refused(error),
                }
            }
            made
        }));
        done.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    assert!(made > 0, "no set was ever made");
    let _ = fs::remove_dir(cgroups.directory("a"));
    daemon.finish();
}

/// Nobody tells the service of a cgroup that goes while it is charged for nothing.
#[test]
fn hundreds_of_cgroups_that_were_used_and_removed_are_forgotten() {
    let cgroups = Cgroups::new();
    let daemon = Daemon::start(&behalf(&cgroups));
    let mut service = daemon.service();
    for round in 0..400 {
        let path = cgroups.make(&format!("passing-{round}"));
        let (set, _) = service.create_set(request(&path)).unwrap();
        set.session().unwrap().alloc().unwrap();
        if round % 2 == 0 {
            let max = SetCgroupMax { cgroup: path.to_string(), max: "50".into(), persist: false };
            service.call(&max, &[]).unwrap();
        }
        drop(set);
        eventually("the charge is gone", || daemon.sets().is_empty().then_some(()));
        cgroups.remove(&format!("passing-{round}"));
    }
    // One place of 32 bytes for each cgroup that is known, after a head of 128.
    let places = (fs::metadata(daemon.runtime_dir().join("state/counters")).unwrap().len() - 128) / 32;
    assert!(places < 300, "{places} cgroups have a place for their counters");
    drop(service);
    daemon.finish();
}

fn on(bus: &PrivateBus) -> Options {
    let arguments =
        ["--supervise", "--bus", &bus.address(), "--device", "none", "--cgroup-fs", "none"].map(str::to_owned);
    Options { arguments: Some(arguments.to_vec()), ..supervised() }
}

fn signal(pid: u32, name: &str) {
    assert!(
        std::process::Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success()
    );
}

#[test]
fn a_service_that_is_killed_while_the_bus_is_away_or_hangs_goes_on_and_is_back_on_it() {
    let cgroups = Cgroups::new();
    let a = cgroups.make("a");
    let mut bus = PrivateBus::start();
    let mut daemon = Daemon::start_with(&behalf(&cgroups), &on(&bus));
    // The parent says that its child was killed, the child that there is no bus.
    daemon.may_warn();
    let root = bus.connect();
    root.wait_for(common::bus::NAME);
    let (fd, _) = root.create_set(&[("cgroup", a.as_str().into()), ("label", "bus".into())]).unwrap();
    let over_bus = Set::from_fd(fd).unwrap();
    let over_socket = set_in(&daemon, &a);
    let ids = over_bus.session().unwrap().alloc_many(3, None).unwrap();
    drop(root);

    bus.stop();
    daemon.kill_service();
    let mut session = over_bus.session().unwrap();
    assert_eq!(session.info().unwrap().pasids.unwrap(), ids);
    over_socket.session().unwrap().alloc().unwrap();
    assert_eq!(daemon.current(&a), 4);
    bus.start_again();
    bus.connect().wait_for(common::bus::NAME);

    // It takes connections, and says nothing.
    signal(bus.pid(), "STOP");
    daemon.kill_service();
    let began = Instant::now();
    assert_eq!(session.info().unwrap().pasids.unwrap(), ids);
    assert_eq!(daemon.current(&a), 4);
    assert!(began.elapsed() < Duration::from_secs(4), "clients do not wait for the bus: {:?}", began.elapsed());
    signal(bus.pid(), "CONT");
    let root = bus.connect();
    root.wait_for(common::bus::NAME);
    type Row = (zbus::zvariant::OwnedObjectPath, String, String, u64, u32, u32, u32);
    let sets: Vec<Row> = root.manager("ListSets", &()).unwrap();
    let mut rows: Vec<_> = sets.iter().map(|row| (row.1.as_str(), row.5)).collect();
    rows.sort_unstable();
    assert_eq!(rows, [("", 1), ("bus", 3)]);
    drop((root, session, over_bus, over_socket));
    daemon.finish();
}

#[test]
fn a_request_that_waits_for_polkit_when_the_service_is_killed_is_done_once() {
    let cgroups = Cgroups::new();
    let asked = cgroups.make("asked");
    let bus = PrivateBus::start();
    let polkit = Polkit::start(&bus, "polkit.addRule(function(action, subject) { return polkit.Result.YES; });");
    let mut daemon = Daemon::start_with(&behalf(&cgroups), &on(&bus));
    daemon.may_warn();
    bus.connect().wait_for(common::bus::NAME);
    let a = cgroups.make("a");
    let other = set_in(&daemon, &a);
    // unshare is what was started; polkitd took its place.
    signal(polkit.pid(), "STOP");
    let actor = Actor::of_user(&cgroups, "asked", 65534);
    actor.begin(&common::Order::Take { socket: daemon.socket(), count: 2 }, &[]);
    // It is under way when others have been served for a while.
    for _ in 0..20 {
        other.session().unwrap().alloc().map(|id| other.session().unwrap().free(&[id])).unwrap().unwrap();
    }
    daemon.kill_service();
    assert_eq!((daemon.sets().len(), daemon.current(&asked)), (1, 0));
    signal(polkit.pid(), "CONT");
    let (taken, _) = actor.end();
    assert_eq!(taken.as_array().map(Vec::len), Some(2), "{taken}");
    assert_eq!((daemon.sets().len(), daemon.current(&asked)), (2, 2));
    drop((actor, other));
    daemon.finish();
}
