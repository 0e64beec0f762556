//! A runtime directory that is full, at each kind of request: it is done, or nothing of it is; and a restart finds what
//! was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, Options, policy, small_state, supervised};
use ioasid::client::{ClientError, Service, Session, Set};
use ioasid::model::{CgroupPath, Pasid, PasidRange, Refusal, SetRequest};
use ioasid::proto::{CgroupInfo, Phase, Recharge, ResetPeak, RevokeSet, SetCgroupMax, SetInfo, WatchKind};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

#[test]
fn a_full_runtime_directory_refuses_and_nothing_is_half_done() {
    let cgroups = Cgroups::new();
    let a = cgroups.make("a");
    let mut daemon = small_state::start(&policy(&cgroups, "", ""), Options::default());
    daemon.may_warn();
    let actor = Actor::new(&cgroups, "a");
    let set = actor.create_set(&daemon, SetRequest { quota: Some(256), ..SetRequest::default() });
    let mut session = set.session().unwrap();
    let ids = session.alloc_many(2, None).unwrap();
    let ballast = small_state::fill(&daemon);
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

/// A set with something of everything, and who asks.
struct Scene {
    cgroups: Cgroups,
    daemon: Daemon,
    service: Service,
    set: Set,
    /// One to be revoked.
    victim: Set,
    one: Session,
    other: Session,
    ids: Vec<Pasid>,
}

/// What must not change where a request fails.
#[derive(Debug, PartialEq)]
struct Book {
    sets: Vec<SetInfo>,
    info: SetInfo,
    aliases: Vec<Option<Pasid>>,
    cgroup: CgroupInfo,
}

impl Scene {
    fn new() -> Self {
        let cgroups = Cgroups::new();
        let scratch = cgroups.path("");
        let rest = format!(
            "[[rule]]\nname = \"behalf\"\ncgroup = \"/**\"\nusers = [\"root\"]\naction = \"allow\"\n\
             quota = {{ default = 64, max = 256 }}\nsets_per_cgroup = 64\non_behalf_of = [\"{scratch}/**\"]\n"
        );
        let mut daemon = small_state::start(&policy(&cgroups, "quarantine = \"0s\"", &rest), supervised());
        daemon.may_warn();
        let [a, ..] = ["a", "b", "c"].map(|below| cgroups.make(below));
        let mut service = daemon.service().with_patience(Duration::from_secs(60));
        let large = SetRequest { quota: Some(256), ..request(&a) };
        let set = service.create_set(large).unwrap().0.with_patience(Duration::from_secs(60));
        let victim = service.create_set(request(&a)).unwrap().0.with_patience(Duration::from_secs(60));
        victim.session().unwrap().alloc().unwrap();
        let (mut one, mut other) = (set.session().unwrap(), set.session().unwrap());
        let ids = one.alloc_many(8, None).unwrap();
        one.alias_add(ids[0], 1).unwrap();
        one.alias_add(ids[1], 2).unwrap();
        other.hold(ids[2]).unwrap();
        Self { cgroups, daemon, service, set, victim, one, other, ids }
    }

    /// Leaves no room: in the directory, nor in the file of the records, which has some in itself until that is used up.
    fn fill(&mut self) -> PathBuf {
        let ballast = small_state::fill(&self.daemon);
        let named = (100..).map_while(|alias| self.one.alias_add(self.ids[7], alias).ok()).count();
        assert!(named < 1000, "{named} names found room");
        ballast
    }

    fn book(&mut self) -> Book {
        let mut sets = self.daemon.sets();
        sets.sort_by_key(|set| set.set);
        let aliases = (0..8).map(|alias| self.one.alias_find(alias).ok()).collect();
        let cgroup = self.daemon.cgroup(&self.cgroups.path(""));
        Book { sets, info: self.one.info().unwrap(), aliases, cgroup }
    }
}

fn request(cgroup: &CgroupPath) -> SetRequest {
    SetRequest { cgroup: Some(cgroup.clone()), ..SetRequest::default() }
}

/// A request, and whether it works without room.
type Asking = (&'static str, bool, fn(&mut Scene) -> Result<(), ClientError>);

const REQUESTS: [Asking; 20] = [
    ("create a set", false, |it| it.service.create_set(request(&it.cgroups.path("a"))).map(drop)),
    ("create a set in a new cgroup", false, |it| it.service.create_set(request(&it.cgroups.path("c"))).map(drop)),
    ("open a set", false, |it| it.service.open_set(it.one.set().0).map(drop)),
    ("allocate", false, |it| it.one.alloc_in(PasidRange::new(10_000, 10_999).unwrap()).map(drop)),
    ("name", false, |it| it.one.alias_add(it.ids[3], 3)),
    ("hold", false, |it| it.other.hold(it.ids[4])),
    ("watch", false, |it| it.other.watch(&[WatchKind::Alloc], Phase::Cpu, Duration::from_secs(1)).map(drop)),
    ("set the quota", false, |it| it.one.set_quota(200).map(drop)),
    ("set a limit", false, |it| {
        let call = SetCgroupMax { cgroup: it.cgroups.path("a").to_string(), max: "77".into(), persist: false };
        it.service.call(&call, &[]).map(drop)
    }),
    ("recharge", false, |it| {
        let call = Recharge { set: it.one.set().0, cgroup: it.cgroups.path("b").to_string() };
        it.service.call(&call, &[]).map(drop)
    }),
    ("revoke", false, |it| {
        let set = it.service.identify(&it.victim)?.set.0;
        let call = RevokeSet { set, reason: "test".into() };
        it.service.call(&call, &[]).map(drop)
    }),
    ("map", true, |it| it.set.map().map(drop)),
    ("open a session", true, |it| it.set.session().map(drop)),
    ("reset a peak", true, |it| {
        it.service.call(&ResetPeak { cgroup: it.cgroups.path("a").to_string() }, &[]).map(drop)
    }),
    ("unname", false, |it| it.one.alias_del(2)),
    ("put", false, |it| it.other.put(it.ids[2])),
    ("free", true, |it| it.one.free(&it.ids[5..6]).map(drop)),
    ("free what is named", true, |it| it.one.free(&it.ids[..1]).map(drop)),
    ("trim", true, |it| it.one.trim().map(drop)),
    ("free all but one", true, |it| it.one.free(&it.ids[..7]).map(drop)),
];

#[test]
fn each_request_is_done_or_nothing_of_it_is_and_a_restart_agrees() {
    let mut scene = Scene::new();
    let mut failed = 0;
    let ballast = scene.fill();
    for (what, without_room, ask) in REQUESTS {
        let before = scene.book();
        match ask(&mut scene) {
            Ok(()) => {}
            Err(ClientError::Fault(message)) => {
                failed += 1;
                assert!(!without_room, "{what} takes no room: {message}");
                // Asked for again: as little is done as the first time.
                assert!(ask(&mut scene).is_err(), "{what}");
                assert_eq!(scene.book(), before, "{what}: {message}");
            }
            Err(other) => panic!("{what}: {other:?}"),
        }
    }
    assert!(failed > 6, "{failed} requests found no room");
    // Killed when all is full, it comes back with what was answered: at once, or when there is room.
    let before = scene.book();
    let old = scene.daemon.served_by().unwrap();
    assert!(std::process::Command::new("kill").args(["-KILL", &old.to_string()]).status().unwrap().success());
    fs::remove_file(&ballast).unwrap();
    common::eventually("another serves", || scene.daemon.served_by().filter(|pid| *pid != old));
    let after = scene.book();
    assert_eq!((&after.sets, &after.info, &after.aliases), (&before.sets, &before.info, &before.aliases));
    assert_eq!(after.cgroup, before.cgroup);
    // And with room everything works.
    let ids = scene.one.alloc_many(2, None).unwrap();
    scene.one.alias_add(ids[0], 5).unwrap();
    scene.other.hold(ids[1]).unwrap();
    let before = scene.book();
    scene.daemon.kill_service();
    assert_eq!(scene.book(), before);
    let Scene { cgroups, mut daemon, service, set, victim, one, other, .. } = scene;
    drop((service, one, other, set, victim));
    common::eventually("all is gone", || daemon.sets().is_empty().then_some(()));
    assert!(daemon.terminate().success());
    drop(cgroups);
}

/// As a client does that lost the answer to a restart: it is not refused for what was done.
#[test]
fn what_was_done_takes_no_room_when_it_is_asked_for_again() {
    let mut scene = Scene::new();
    let [a, b] = ["a", "b"].map(|below| scene.cgroups.path(below).to_string());
    let recharge = Recharge { set: scene.one.set().0, cgroup: b };
    let limit = SetCgroupMax { cgroup: a, max: "77".into(), persist: false };
    scene.service.call(&recharge, &[]).unwrap();
    scene.service.call(&limit, &[]).unwrap();
    scene.one.set_quota(200).unwrap();
    let ballast = scene.fill();
    let before = scene.book();
    scene.service.call(&recharge, &[]).unwrap();
    scene.service.call(&limit, &[]).unwrap();
    scene.one.set_quota(200).unwrap();
    assert_eq!(scene.book(), before);
    assert!(scene.one.set_quota(201).is_err());
    fs::remove_file(&ballast).unwrap();
}

/// A put that was answered and not written would be a reference again after a kill, of somebody who put it.
#[test]
fn a_put_that_finds_no_room_is_refused_and_one_that_was_answered_stays_put() {
    let mut scene = Scene::new();
    let ballast = scene.fill();
    let held = scene.ids[2];
    let refused = scene.other.put(held).unwrap_err();
    assert!(matches!(refused, ClientError::Fault(_)), "{refused:?}");
    assert_eq!(scene.one.free(&[held]).unwrap().pending, [held], "the reference is still there");
    fs::remove_file(&ballast).unwrap();
    scene.other.put(held).unwrap();
    scene.daemon.kill_service();
    assert!(!scene.one.verify(held).unwrap(), "it returned with its last reference");
    assert!(matches!(scene.other.put(held).unwrap_err().refusal(), Some(Refusal::NotFound { .. })));
    // Nor does one come back that goes with its session.
    let other = scene.ids[3];
    scene.other.hold(other).unwrap();
    let ballast = small_state::fill(&scene.daemon);
    scene.other = scene.set.session().unwrap();
    scene.daemon.kill_service();
    assert_eq!(scene.one.free(&[other]).unwrap().pending, []);
    fs::remove_file(&ballast).unwrap();
}
