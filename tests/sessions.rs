//! Sessions: frees, references and aliases; what belongs to the set and what to the session.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, Order, eventually_equal, policy};
use ioasid::client::{ClientError, Set};
use ioasid::model::{Domain, Pasid, PasidRange, Refusal, SetId, SetRequest};
use ioasid::proto::{AliasAdd, Free, Hold, Put, Refill};
use std::os::fd::AsFd;

const SPACE: &str = "bits = 12\nreserved = [\"0-1023\"]\nquarantine = \"0s\"";

/// A service with one guest and its connection.
struct Host {
    cgroups: Cgroups,
    daemon: Daemon,
    actor: Actor,
}

impl Host {
    fn new() -> Self {
        let cgroups = Cgroups::new();
        cgroups.make("guest");
        let daemon = Daemon::start(&policy(&cgroups, SPACE, ""));
        let actor = Actor::new(&cgroups, "guest");
        Self { cgroups, daemon, actor }
    }

    fn set(&self, quota: u32) -> (Set, SetId) {
        let (set, info) = self.actor.connect(&self.daemon).create_set_of(quota).unwrap();
        (set, info.set)
    }

    fn current(&self) -> u64 {
        self.daemon.current(&self.cgroups.path("guest"))
    }

    fn finish(self) {
        drop(self.actor);
        self.daemon.finish();
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Refusal {
    result.unwrap_err().refusal().expect("a refusal").clone()
}

fn not_found(what: impl Into<String>) -> Refusal {
    Refusal::NotFound { what: what.into() }
}

#[test]
fn free_is_idempotent_and_nobodys_ids_are_freed_with_success() {
    let host = Host::new();
    let (set, _) = host.set(8);
    let mut session = set.session().unwrap();
    let pasids = session.alloc_many(3, None).unwrap();
    for _ in 0..3 {
        assert!(session.free(&pasids[..1]).unwrap().pending.is_empty());
        assert_eq!(host.current(), 2);
    }
    // Never leased, reserved, and the same one twice in one request.
    let twice = pasids[1].get();
    session.call(&Free { pasids: vec![4095, 5, twice, twice] }).unwrap();
    assert_eq!(host.current(), 1);
    session.call(&Free { pasids: vec![] }).unwrap();
    for junk in [0, 1 << 20, u32::MAX] {
        let refusal = refused(session.call(&Free { pasids: vec![pasids[2].get(), junk] }));
        assert!(matches!(&refusal, Refusal::InvalidArgument { field, value, expected }
            if field == "pasid" && *value == junk.to_string() && !expected.is_empty()));
        assert_eq!(host.current(), 1, "with {junk} in it nothing was freed");
    }
    drop((set, session));
    host.finish();
}

#[test]
fn what_is_leased_to_another_set_is_foreign_to_every_call() {
    let host = Host::new();
    let ((ours, _), (theirs, _)) = (host.set(8), host.set(8));
    let (mut session, mut other) = (ours.session().unwrap(), theirs.session().unwrap());
    let own = session.alloc().unwrap();
    let pasid = other.alloc().unwrap();
    let foreign = Refusal::ForeignPasid { pasid };
    assert_eq!(refused(session.free(&[own, pasid])), foreign);
    assert!(session.verify(own).unwrap(), "with a foreign one in it nothing was freed");
    assert_eq!(refused(session.hold(pasid)), foreign);
    assert_eq!(refused(session.alias_add(pasid, 1)), foreign);
    assert_eq!(refused(session.put(pasid)), foreign);
    assert!(!session.verify(pasid).unwrap());
    assert!(other.verify(pasid).unwrap());
    // Nobody's: not found, but for freeing.
    other.free(&[pasid]).unwrap();
    let nobodys = not_found(format!("pasid {pasid}"));
    assert_eq!(refused(session.hold(pasid)), nobodys);
    assert_eq!(refused(session.alias_add(pasid, 1)), nobodys);
    session.free(&[pasid]).unwrap();
    drop((ours, theirs, session, other));
    host.finish();
}

#[test]
fn an_id_with_other_holders_waits_for_their_last_put() {
    let host = Host::new();
    let (set, _) = host.set(8);
    let (mut owner, mut one, mut two) = (set.session().unwrap(), set.session().unwrap(), set.session().unwrap());
    let pasid = owner.alloc().unwrap();
    owner.hold(pasid).unwrap();
    one.hold(pasid).unwrap();
    one.hold(pasid).unwrap();
    two.hold(pasid).unwrap();
    // The own reference of who frees is put with it.
    assert_eq!(owner.free(&[pasid]).unwrap().pending, [pasid]);
    let busy = Refusal::Busy { pasid, holders: 3 };
    for session in [&mut owner, &mut one, &mut two] {
        assert_eq!(refused(session.hold(pasid)), busy, "no new references");
        assert_eq!(refused(session.alias_add(pasid, 9)), busy);
        assert!(!session.verify(pasid).unwrap(), "being freed");
    }
    assert_eq!(refused(owner.put(pasid)), not_found(format!("a reference of this session on pasid {pasid}")));
    assert_eq!(owner.free(&[pasid]).unwrap().pending, [pasid], "freeing again is no error");
    one.put(pasid).unwrap();
    two.put(pasid).unwrap();
    assert_eq!(refused(two.put(pasid)), not_found(format!("a reference of this session on pasid {pasid}")));
    assert_eq!(host.current(), 1, "charged until the last put");
    one.put(pasid).unwrap();
    assert_eq!(host.current(), 0);
    assert_eq!(refused(one.hold(pasid)), not_found(format!("pasid {pasid}")));
    drop((set, owner, one, two));
    host.finish();
}

#[test]
fn a_reference_goes_with_its_session_and_an_id_stays_with_its_set() {
    let host = Host::new();
    let (set, _) = host.set(8);
    let pasid = set.session().unwrap().alloc().unwrap();
    assert_eq!(host.current(), 1, "the session that allocated it has ended");
    let mut owner = set.session().unwrap();
    assert_eq!(owner.info().unwrap().pasids, Some(vec![pasid]));
    let mut holder = set.session().unwrap();
    holder.hold(pasid).unwrap();
    assert_eq!(owner.free(&[pasid]).unwrap().pending, [pasid]);
    drop(holder);
    eventually_equal("the charge", &0, || host.current());

    // The same when the holder is a process that is killed with -9.
    let pasid = owner.alloc().unwrap();
    let killed = Actor::new(&host.cgroups, "guest");
    killed.order(&Order::Hold(vec![pasid.get()]), &[set.as_fd()]);
    assert_eq!(owner.free(&[pasid]).unwrap().pending, [pasid]);
    assert_eq!(host.current(), 1);
    killed.kill();
    eventually_equal("the charge", &0, || host.current());
    drop((set, owner));
    host.finish();
}

#[test]
fn an_alias_is_unique_in_its_set_and_free_across_sets_until_its_id_is_freed() {
    let host = Host::new();
    let ((set, id), (other_set, _)) = (host.set(8), host.set(8));
    let (mut session, mut other) = (set.session().unwrap(), other_set.session().unwrap());
    let pasids = session.alloc_many(2, None).unwrap();
    session.alias_add(pasids[0], 0).unwrap();
    session.alias_add(pasids[0], u64::MAX).unwrap();
    let exists = Refusal::Exists { what: format!("alias 0 in set {id}") };
    assert_eq!(refused(session.alias_add(pasids[1], 0)), exists);
    assert_eq!(refused(session.alias_add(pasids[0], 0)), exists);
    let theirs = other.alloc().unwrap();
    other.alias_add(theirs, 0).unwrap();
    assert_eq!((session.alias_find(0).unwrap(), other.alias_find(0).unwrap()), (pasids[0], theirs));
    let gone = |alias: u64| not_found(format!("alias {alias} in set {id}"));
    session.alias_del(0).unwrap();
    assert_eq!(refused(session.alias_find(0)), gone(0));
    assert_eq!(refused(session.alias_del(0)), gone(0));
    session.alias_add(pasids[1], 0).unwrap();
    session.free(&pasids).unwrap();
    assert_eq!(refused(session.alias_find(0)), gone(0));
    assert_eq!(refused(session.alias_find(u64::MAX)), gone(u64::MAX));
    assert_eq!(other.alias_find(0).unwrap(), theirs);
    // Aliases cost the service memory: four an id of the quota.
    let pasid = session.alloc().unwrap();
    for alias in 0..32 {
        session.alias_add(pasid, alias).unwrap();
    }
    let many = Refusal::TooMany { limit: format!("aliases of set {id}"), value: 32 };
    assert_eq!(refused(session.alias_add(pasid, 32)), many);
    drop((set, other_set, session, other));
    host.finish();
}

#[test]
fn a_range_bounds_both_the_set_and_the_request_inclusively() {
    let host = Host::new();
    let range = |min, max| PasidRange::new(min, max).unwrap();
    let request = SetRequest { quota: Some(64), range: Some(range(2000, 2003)), ..SetRequest::default() };
    let set = host.actor.create_set(&host.daemon, request);
    let mut session = set.session().unwrap();
    assert_eq!(session.alloc_in(range(2003, 4095)).unwrap().get(), 2003);
    assert_eq!(session.alloc_in(range(0, 2000)).unwrap().get(), 2000);
    let none = |range, free| Refusal::NoSpace { domain: Domain::Global, range, free, asked: 1 };
    assert_eq!(refused(session.alloc_in(range(2003, 2003))), none(range(2003, 2003), 0));
    assert_eq!(refused(session.alloc_in(range(2003, 3000))), none(range(2003, 2003), 0));
    assert_eq!(refused(session.alloc_in(range(3000, 3001))), none(range(3000, 3001), 0));
    assert_eq!(host.current(), 2, "the charge is undone");
    let asked = Refusal::NoSpace { domain: Domain::Global, range: range(2000, 2003), free: 2, asked: 3 };
    assert_eq!(refused(session.alloc_many(3, None)), asked);
    let mut rest: Vec<u32> = session.alloc_many(2, None).unwrap().into_iter().map(Pasid::get).collect();
    rest.sort_unstable();
    assert_eq!(rest, [2001, 2002]);
    // A set whose range has nothing in common with the space.
    let request = SetRequest { range: Some(range(5000, 6000)), ..SetRequest::default() };
    let refusal = host.actor.connect(&host.daemon).create_set(request).unwrap_err();
    assert_eq!(refusal, Refusal::NoSpace { domain: Domain::Global, range: range(5000, 6000), free: 0, asked: 8 });
    drop((set, session));
    host.finish();
}

#[test]
fn zero_and_reserved_ids_are_never_handed_out() {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let space = "bits = 6\nreserved = [\"3-5\", \"60-63\"]\nquarantine = \"0s\"";
    let daemon = Daemon::start(&policy(&cgroups, space, ""));
    let actor = Actor::new(&cgroups, "guest");
    let set = actor.create_set(&daemon, SetRequest { quota: Some(256), ..SetRequest::default() });
    let mut session = set.session().unwrap();
    let mut all: Vec<u32> = session.alloc_many(56, None).unwrap().into_iter().map(Pasid::get).collect();
    all.sort_unstable();
    assert_eq!(all, (1..60).filter(|id| !(3..=5).contains(id)).collect::<Vec<_>>());
    assert!(matches!(refused(session.alloc()), Refusal::NoSpace { free: 0, .. }));
    let status = daemon.status();
    assert_eq!((status.domains[0].capacity, status.domains[0].reserved, status.domains[0].current), (56, 8, 56));
    drop((set, session, actor));
    daemon.finish();
}

#[test]
fn the_quota_moves_within_the_rules_max() {
    let host = Host::new();
    let (set, id) = host.set(2);
    let mut session = set.session().unwrap();
    session.alloc_many(2, None).unwrap();
    let full = |quota| Refusal::QuotaExceeded { set: id, quota, leased: 2, asked: 1 };
    assert_eq!(refused(session.alloc()), full(2));
    assert_eq!(session.set_quota(256).unwrap().quota, 256);
    let above = Refusal::NotPermitted { rule: "tests".into(), bound: "quota 257 is above its max 256".into() };
    assert_eq!(refused(session.set_quota(257)), above);
    assert!(matches!(refused(session.set_quota(0)), Refusal::InvalidArgument { field, .. } if field == "quota"));
    assert_eq!(session.set_quota(1).unwrap().leased, 2, "nothing is revoked");
    assert_eq!(refused(session.alloc()), full(1));
    drop((set, session));
    host.finish();
}

#[test]
fn any_number_of_processes_share_a_set_and_never_see_each_others_replies() {
    let host = Host::new();
    let (set, _) = host.set(256);
    let actors: Vec<Actor> = (0..4).map(|_| Actor::new(&host.cgroups, "guest")).collect();
    for actor in &actors {
        actor.begin(&Order::Alloc(16), &[set.as_fd()]);
    }
    let seen = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut session = set.session().unwrap();
                    (0..48).map(|_| session.alloc().unwrap().get()).collect::<Vec<u32>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<u32>>()
    });
    let theirs: Vec<Vec<u32>> = actors.iter().map(|actor| serde_json::from_value(actor.end().0).unwrap()).collect();
    let mut all: Vec<u32> = theirs.into_iter().flatten().chain(seen).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 256);
    assert_eq!(host.current(), 256);
    drop((set, actors));
    host.finish();
}

#[test]
fn a_session_serves_sessions_alone() {
    let host = Host::new();
    let (set, _) = host.set(8);
    let mut session = set.session().unwrap();
    let refusal = refused(session.call(&ioasid::proto::GetStatus {}));
    assert!(matches!(&refusal, Refusal::Unsupported { what, why } if what.contains("GetStatus") && !why.is_empty()));
    let refusal = refused(session.call(&Refill { count: 4, range: None }));
    assert!(matches!(&refusal, Refusal::Unsupported { what, .. } if what == "refill"), "{refusal:?}");
    let refusal = host.actor.connect(&host.daemon).ask(&Hold { pasid: 1 }).unwrap_err();
    assert!(matches!(&refusal, Refusal::Unsupported { what, .. } if what.contains("Hold")));
    for junk in [0, 1 << 20, u32::MAX] {
        assert!(
            matches!(refused(session.call(&Hold { pasid: junk })), Refusal::InvalidArgument { field, .. } if field == "pasid")
        );
        assert!(matches!(refused(session.call(&Put { pasid: junk })), Refusal::NotFound { .. }));
        assert!(matches!(refused(session.call(&AliasAdd { pasid: junk, alias: 1 })), Refusal::InvalidArgument { .. }));
    }
    drop((set, session));
    host.finish();
}
