//! Faults of the host: no room for the records, no descriptors, cgroups that go at the wrong moment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, Options, policy};
use ioasid::client::ClientError;
use ioasid::model::{Refusal, SetRequest};
use std::fs;
use std::path::PathBuf;

/// Fills a directory's file system with one file, to the last byte.
fn fill(directory: &std::path::Path) -> PathBuf {
    use std::io::Write;
    let path = directory.join("ballast");
    let mut file = fs::File::create(&path).unwrap();
    for size in [1 << 16, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    path
}

#[test]
fn a_full_runtime_directory_refuses_and_nothing_is_half_done() {
    let cgroups = Cgroups::new();
    let a = cgroups.make("a");
    let mut daemon = start_with_small_state(&policy(&cgroups, "", ""));
    daemon.may_warn();
    let actor = Actor::new(&cgroups, "a");
    let set = actor.create_set(&daemon, SetRequest { quota: Some(256), ..SetRequest::default() });
    let mut session = set.session().unwrap();
    let ids = session.alloc_many(2, None).unwrap();
    let state = PathBuf::from(format!("/proc/{}/root", daemon.pid()))
        .join(daemon.runtime_dir().join("state").strip_prefix("/").unwrap());
    let ballast = fill(&state);
    // Lines of the ledger that have their page can still be written; then there is no more.
    let mut had = ids.clone();
    let error = loop {
        match session.alloc_many(64, None) {
            Ok(more) => had.extend(more),
            Err(error) => break error,
        }
    };
    match &error {
        // The quota came first: one page of lines was room enough for it.
        ClientError::Refused(refusal) => assert!(matches!(refusal, Refusal::QuotaExceeded { .. }), "{refusal}"),
        ClientError::Fault(message) => assert!(message.contains("ids-global"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(session.alias_add(ids[0], 5).unwrap_err(), ClientError::Fault(_)));
    assert!(matches!(session.alias_find(5).unwrap_err().refusal(), Some(Refusal::NotFound { .. })));
    let info = session.info().unwrap();
    had.sort_unstable();
    assert_eq!(info.pasids.unwrap(), had, "no id more, none less");
    assert_eq!(daemon.current(&a), had.len() as u64);
    // Giving back takes no room.
    session.free(&had[1..]).unwrap();
    assert_eq!(daemon.current(&a), 1);
    fs::remove_file(ballast).unwrap();
    // And with room again it goes on.
    session.alias_add(had[0], 5).unwrap();
    assert_eq!(session.alias_find(5).unwrap(), had[0]);
    let again = actor.create_set(&daemon, SetRequest::default());
    again.session().unwrap().alloc().unwrap();
    drop((again, session, set, actor));
    common::eventually("all is gone", || daemon.sets().is_empty().then_some(()));
    assert!(daemon.terminate().success());
}

/// A service whose state directory is a file system of 2 MiB of its own; this test reaches it by the service's root.
fn start_with_small_state(policy: &str) -> Daemon {
    // The directory is known when the service starts, so the script finds it among the arguments.
    let script = r#"d=; for w in "$@"; do [ "$d" = --runtime-dir ] && STATE=$w/state; d=$w; done
        mkdir -p "$STATE" && mount -t tmpfs -o size=2m,mode=0700 tmpfs "$STATE" && exec "$@""#;
    let through = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"].map(str::to_owned);
    Daemon::start_with(policy, &Options { through: through.to_vec(), ..Options::default() })
}

#[test]
fn a_service_without_descriptors_refuses_and_recovers() {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let through = ["prlimit", "--nofile=96:96"].map(str::to_owned).to_vec();
    let policy = policy(&cgroups, "", "").replace("sets_per_cgroup = 16", "sets_per_cgroup = 500");
    let daemon = Daemon::start_with(&policy, &Options { through, ..Options::default() });
    let actor = Actor::new(&cgroups, "a");
    let wire = actor.connect(&daemon);
    let mut sets = Vec::new();
    let refusal = loop {
        match wire.create_set(SetRequest::default()) {
            Ok((set, _)) => sets.push(set),
            Err(refusal) => break refusal,
        }
    };
    assert!(matches!(refusal, Refusal::TooMany { .. }), "{refusal}");
    assert!(sets.len() > 30);
    let count = sets.len();
    sets.truncate(10);
    common::eventually("the sets are gone", || (daemon.sets().len() == 10).then_some(()));
    let more = (10..count - 2).map(|_| wire.create_set(SetRequest::default()).unwrap()).collect::<Vec<_>>();
    drop((more, sets, wire, actor));
    daemon.finish();
}

#[test]
fn a_cgroup_that_goes_at_each_step_leaves_nothing() {
    let cgroups = Cgroups::new();
    let daemon = Daemon::start(&policy(&cgroups, "", ""));
    for step in 0..6 {
        let path = cgroups.make("a");
        let actor = Actor::new(&cgroups, "a");
        let wire = actor.connect(&daemon);
        let gone = |actor: Actor| {
            drop(actor);
            common::eventually("the cgroup is empty", || fs::remove_dir(cgroups.directory("a")).is_ok().then_some(()));
        };
        if step == 0 {
            gone(actor);
            let refusal = wire.create_set(SetRequest::default()).map(drop).unwrap_err();
            assert!(
                matches!(refusal, Refusal::Stale { .. } | Refusal::NotPermitted { .. } | Refusal::NotFound { .. }),
                "{refusal}"
            );
            continue;
        }
        let set = actor.create_set(&daemon, SetRequest::default());
        let mut session = set.session().unwrap();
        let ids = session.alloc_many(2, None).unwrap();
        if step > 1 {
            session.alias_add(ids[0], 1).unwrap();
        }
        if step > 2 {
            session.hold(ids[0]).unwrap();
        }
        if step > 3 {
            session.free(&ids[1..]).unwrap();
        }
        gone(actor);
        assert!(matches!(session.alloc().unwrap_err().refusal(), Some(Refusal::Stale { .. })));
        assert!(daemon.cgroup(&path).dying);
        session.free(&ids[..1]).unwrap();
        drop((session, set, wire));
        common::eventually("it is forgotten", || daemon.connect().ask(&get(&path)).is_err().then_some(()));
    }
    daemon.finish();
}

fn get(path: &ioasid::model::CgroupPath) -> ioasid::proto::GetCgroup {
    ioasid::proto::GetCgroup { path: Some(path.clone()), recurse: false }
}
