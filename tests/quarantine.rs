//! Rest: a returned id waits before another set gets it, allocation goes round, nothing is refused while one rests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, eventually_equal, policy};
use ioasid::client::Set;
use ioasid::model::{Pasid, PasidRange, Refusal, SetRequest};

fn start(space: &str) -> (Cgroups, Daemon, Actor) {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let daemon = Daemon::start(&policy(&cgroups, space, ""));
    let actor = Actor::new(&cgroups, "guest");
    (cgroups, daemon, actor)
}

fn set(daemon: &Daemon, actor: &Actor) -> Set {
    actor.create_set(daemon, SetRequest { quota: Some(256), ..SetRequest::default() })
}

#[test]
fn a_returned_id_is_the_last_that_anybody_gets_again() {
    // 32 numbers less zero.
    let (_cgroups, daemon, actor) = start("bits = 5\nquarantine = \"1h\"");
    let (first, second) = (set(&daemon, &actor), set(&daemon, &actor));
    let (mut one, mut two) = (first.session().unwrap(), second.session().unwrap());
    let given = one.alloc_many(10, None).unwrap();
    one.free(&given).unwrap();
    let status = &daemon.status().domains[0];
    assert_eq!((status.current, status.peak, status.resting), (0, 10, 10));
    let fresh = two.alloc_many(21, None).unwrap();
    assert!(fresh.iter().all(|id| !given.contains(id)), "{given:?} rest, {fresh:?} were given");
    // Nothing free: now the oldest rests end early, in the order in which they were returned.
    let woken: Vec<Pasid> = (0..3).map(|_| two.alloc().unwrap()).collect();
    assert_eq!(woken, given[..3]);
    assert_eq!(two.alloc_many(7, None).unwrap().len(), 7, "never refused while something rests");
    assert!(matches!(two.alloc().unwrap_err().refusal(), Some(Refusal::NoSpace { free: 0, asked: 1, .. })));
    assert_eq!(daemon.status().domains[0].resting, 0);
    drop((first, second, actor));
    daemon.finish();
}

#[test]
fn a_refused_batch_ends_no_rest() {
    let (_cgroups, daemon, actor) = start("bits = 4\nquarantine = \"1h\"");
    let set = set(&daemon, &actor);
    let mut session = set.session().unwrap();
    let ids = session.alloc_many(15, None).unwrap();
    session.free(&ids[..6]).unwrap();
    let refusal = session.alloc_many(7, None).unwrap_err().refusal().cloned();
    assert!(matches!(refusal, Some(Refusal::NoSpace { free: 6, asked: 7, .. })), "{refusal:?}");
    assert_eq!(daemon.status().domains[0].resting, 6);
    // A limit that refuses ends none either.
    let within = PasidRange::new(ids[0].get(), ids[0].get()).unwrap();
    assert_eq!(session.alloc_in(within).unwrap(), ids[0], "in its range it is all there is");
    assert_eq!(daemon.status().domains[0].resting, 5);
    drop((set, session, actor));
    daemon.finish();
}

#[test]
fn a_rest_ends_when_its_time_is_over() {
    let (_cgroups, daemon, actor) = start("bits = 8\nquarantine = \"50ms\"");
    let set = set(&daemon, &actor);
    let mut session = set.session().unwrap();
    let ids = session.alloc_many(5, None).unwrap();
    session.free(&ids).unwrap();
    eventually_equal("ids that rest", &0, || daemon.status().domains[0].resting);
    drop((set, session, actor));
    daemon.finish();
}

#[test]
fn allocation_goes_round_even_without_rest() {
    let (_cgroups, daemon, actor) = start("bits = 6\nquarantine = \"0s\"");
    let set = set(&daemon, &actor);
    let mut session = set.session().unwrap();
    let mut seen: Vec<u32> = (0..63)
        .map(|_| {
            let id = session.alloc().unwrap();
            session.free(&[id]).unwrap();
            id.get()
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..64).collect::<Vec<_>>(), "each once before any twice");
    drop((set, session, actor));
    daemon.finish();
}
