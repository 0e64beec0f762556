//! The end of a set: the last close, a kill, a revocation, a hang-up that is no close.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::actor::SCRIPT_STEPS;
use common::{Actor, Cgroups, Daemon, Order, Wire, eventually, eventually_equal, policy};
use ioasid::client::{ClientError, Set};
use ioasid::model::{PasidRange, Refusal, SetRequest, SetState};
use ioasid::proto::{GetEvents, Happening, RevokeSet, ShowSet};
use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::{AsFd, AsRawFd};

const SPACE: &str = "bits = 12\nreserved = [\"0-1023\"]\nquarantine = \"0s\"";

fn start() -> (Cgroups, Daemon, Actor) {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let daemon = Daemon::start(&policy(&cgroups, SPACE, ""));
    let actor = Actor::new(&cgroups, "guest");
    (cgroups, daemon, actor)
}

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Refusal {
    result.unwrap_err().refusal().expect("a refusal").clone()
}

fn revoke(wire: &Wire, set: u64, reason: &str) -> Result<(), Refusal> {
    wire.ask(&RevokeSet { set, reason: reason.into() }).map(drop)
}

#[test]
fn the_last_copy_counts_in_whatever_process_it_is() {
    let (cgroups, daemon, actor) = start();
    let guest = cgroups.path("guest");
    let set = actor.create_set(&daemon, SetRequest::default());
    set.session().unwrap().alloc_many(5, None).unwrap();
    let (one, two) = (Actor::new(&cgroups, "guest"), Actor::in_container(&cgroups, "guest"));
    one.order(&Order::Keep, &[set.as_fd()]);
    two.order(&Order::Keep, &[set.as_fd()]);
    drop((set, actor));
    assert_eq!(daemon.current(&guest), 5);
    one.kill();
    assert_eq!((daemon.current(&guest), daemon.sets().len()), (5, 1));
    two.order(&Order::Release, &[]);
    eventually_equal("the charge", &0, || daemon.current(&guest));
    assert!(daemon.sets().is_empty());
    drop(two);
    daemon.finish();
}

#[test]
fn a_holder_that_is_killed_gives_back_the_same_as_one_that_closes() {
    let (cgroups, daemon, actor) = start();
    let before = daemon.snapshot();
    for killed in [false, true] {
        let holder = Actor::new(&cgroups, "guest");
        let set = actor.create_set(&daemon, SetRequest::default());
        holder.order(&Order::Alloc(7), &[set.as_fd()]);
        holder.order(&Order::Keep, &[set.as_fd()]);
        drop(set);
        assert_eq!(daemon.current(&cgroups.path("guest")), 7);
        if !killed {
            holder.order(&Order::Release, &[]);
            daemon.settles_to(&before);
        }
        holder.kill();
        daemon.settles_to(&before);
    }
    drop(actor);
    daemon.finish();
}

#[test]
fn a_client_killed_between_any_two_messages_leaves_nothing() {
    let (cgroups, daemon, actor) = start();
    drop(actor);
    let before = daemon.snapshot();
    for steps in 0..=SCRIPT_STEPS {
        let client = Actor::new(&cgroups, "guest");
        client.order(&Order::Walk { socket: daemon.socket(), steps }, &[]);
        client.kill();
        daemon.settles_to(&before);
    }
    daemon.finish();
}

#[test]
fn sessions_that_outlive_the_set_fd_are_told_and_what_they_hold_stays_charged() {
    let (cgroups, daemon, actor) = start();
    let guest = cgroups.path("guest");
    let (set, info) = actor.connect(&daemon).create_set_of(8).unwrap();
    let (ours, theirs) = ioasid::sys::seqpacket::pair().unwrap();
    let session = Wire::open_session(set.as_fd(), (ours, theirs)).unwrap();
    let pasids = session.ask(&ioasid::proto::Alloc { count: 4, range: None }).unwrap().pasids;
    session.ask(&ioasid::proto::Hold { pasid: pasids[0].get() }).unwrap();
    drop((set, actor));
    eventually_equal("the charge", &1, || daemon.current(&guest));
    let draining = daemon.sets();
    assert_eq!((draining[0].state, draining[0].leased), (SetState::Draining, 1));
    // The service may have said so by itself before it is asked.
    let revoked = Refusal::Revoked { set: info.set, reason: "closed".into() };
    let refusal = eventually("a refusal", || {
        session.send(&ioasid::proto::Alloc { count: 1, range: None }, &[]);
        Some(session.receive().expect("it answers; it does not just hang up").refusal())
    });
    assert_eq!(refusal, revoked);
    assert_eq!(daemon.current(&guest), 1);
    let put = session.send(&ioasid::proto::Put { pasid: pasids[0].get() }, &[]);
    eventually("the answer to the put", || {
        session.receive().filter(|frame| frame.header.id == put && frame.header.kind == ioasid::proto::Kind::Reply)
    });
    eventually_equal("the charge", &0, || daemon.current(&guest));
    drop(session);
    daemon.finish();
}

#[test]
fn a_revoked_set_refuses_with_the_reason_and_its_ids_are_back() {
    let (cgroups, daemon, actor) = start();
    let guest = cgroups.path("guest");
    let wire = actor.connect(&daemon);
    let (set, info) = wire.create_set_of(8).unwrap();
    let mut session = set.session().unwrap();
    session.alloc_many(4, None).unwrap();
    let stranger =
        Actor::of_user(&cgroups, "guest", 65534).connect_and(&daemon, |wire| revoke(wire, info.set.0, "mine now"));
    assert!(
        matches!(stranger, Err(Refusal::NotPermitted { rule, bound }) if rule == "administrators only" && !bound.is_empty())
    );
    for junk in ["a\nb", &"x".repeat(257)] {
        let refusal = revoke(&wire, info.set.0, junk).unwrap_err();
        assert!(matches!(refusal, Refusal::InvalidArgument { field, .. } if field == "reason"));
    }
    revoke(&wire, info.set.0, "maintenance").unwrap();
    let revoked = Refusal::Revoked { set: info.set, reason: "maintenance".into() };
    assert_eq!(refused(session.alloc()), revoked);
    assert_eq!(refused(set.session()), revoked, "a new session is told why, too");
    assert_eq!(daemon.current(&guest), 0);
    assert_eq!(revoke(&wire, info.set.0, "again"), Err(revoked.clone()));
    assert_eq!(wire.open_set(info.set.0).map(drop), Err(revoked));
    assert_eq!(wire.ask(&ShowSet { set: info.set.0 }).unwrap().state, SetState::Revoked);
    let events = daemon.connect().ask(&GetEvents { follow: false }).unwrap();
    let told = Happening::SetRevoked { set: info.set, reason: "maintenance".into(), by_uid: Some(0) };
    assert!(events.iter().any(|event| event.what == told), "{events:?}");
    drop((set, session));
    eventually("the set is gone", || daemon.sets().is_empty().then_some(()));
    assert_eq!(
        wire.ask(&ShowSet { set: info.set.0 }).unwrap_err(),
        Refusal::NotFound { what: format!("set {}", info.set) }
    );
    drop((wire, actor));
    daemon.finish();
}

#[test]
fn a_holders_shutdown_revokes_the_set_but_no_id_goes_on_while_the_fd_exists() {
    let (cgroups, daemon, actor) = start();
    let guest = cgroups.path("guest");
    let (set, info) = actor.connect(&daemon).create_set_of(64).unwrap();
    let mut session = set.session().unwrap();
    let pasid = session.alloc().unwrap();
    shutdown(set.as_fd().as_raw_fd(), Shutdown::Both).unwrap();
    eventually("the set is revoked", || (daemon.sets().first()?.state == SetState::Revoked).then_some(()));
    assert!(matches!(refused(session.info()), Refusal::Revoked { set, .. } if set == info.set));
    assert_eq!(daemon.current(&guest), 1, "the other end still exists");
    let other = actor.create_set(&daemon, SetRequest::default());
    let same = PasidRange::new(pasid.get(), pasid.get()).unwrap();
    assert!(matches!(refused(other.session().unwrap().alloc_in(same)), Refusal::NoSpace { free: 0, .. }));
    drop((set, session));
    eventually_equal("the charge", &0, || daemon.current(&guest));
    assert_eq!(other.session().unwrap().alloc_in(same).unwrap(), pasid);
    drop((other, actor));
    daemon.finish();
}

#[test]
fn half_a_shutdown_is_no_close_either() {
    for how in [Shutdown::Read, Shutdown::Write] {
        let (cgroups, daemon, actor) = start();
        let guest = cgroups.path("guest");
        let set = actor.create_set(&daemon, SetRequest::default());
        set.session().unwrap().alloc_many(3, None).unwrap();
        shutdown(set.as_fd().as_raw_fd(), how).unwrap();
        assert_eq!(daemon.current(&guest), 3, "{how:?}");
        drop((set, actor));
        eventually_equal("the charge", &0, || daemon.current(&guest));
        daemon.finish();
    }
}

#[test]
fn a_set_that_was_opened_again_ends_with_the_last_of_its_fds() {
    let (cgroups, daemon, actor) = start();
    let guest = cgroups.path("guest");
    let wire = actor.connect(&daemon);
    let (first, info) = wire.create_set_of(8).unwrap();
    let (second, again) = wire.open_set(info.set.0).unwrap();
    assert_eq!(again.set, info.set);
    let pasid = first.session().unwrap().alloc().unwrap();
    drop(first);
    let mut session = second.session().unwrap();
    assert!(session.verify(pasid).unwrap());
    assert_eq!(daemon.current(&guest), 1);
    drop((second, session));
    eventually_equal("the charge", &0, || daemon.current(&guest));
    assert_eq!(wire.open_set(info.set.0).map(drop), Err(Refusal::NotFound { what: format!("set {}", info.set) }));
    drop((wire, actor));
    daemon.finish();
}

/// A set FD in flight, in the queue of a socket that nobody reads, is a copy like any other.
#[test]
fn a_set_fd_in_a_queue_keeps_the_set() {
    let (cgroups, daemon, actor) = start();
    let guest = cgroups.path("guest");
    let set = actor.create_set(&daemon, SetRequest::default());
    set.session().unwrap().alloc().unwrap();
    let (here, there) = ioasid::sys::seqpacket::pair().unwrap();
    ioasid::sys::seqpacket::send(here.as_fd(), b"x", &[set.as_fd()], None).unwrap();
    drop((set, actor));
    assert_eq!((daemon.current(&guest), daemon.sets().len()), (1, 1));
    let mut buffer = [0; 8];
    let ioasid::sys::seqpacket::Received::Message { mut fds, .. } =
        ioasid::sys::seqpacket::receive(there.as_fd(), &mut buffer, None).unwrap()
    else {
        panic!("nothing came")
    };
    let set = Set::from_fd(fds.remove(0)).unwrap();
    assert_eq!(set.session().unwrap().info().unwrap().leased, 1);
    drop(set);
    eventually_equal("the charge", &0, || daemon.current(&guest));
    daemon.finish();
}
