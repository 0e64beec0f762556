//! A storm: 64 processes on one limit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, Order, max, policy};
use ioasid::proto::GetCgroup;
use std::sync::atomic::{AtomicBool, Ordering};

const LIMIT: u64 = 100;

#[test]
fn sixty_four_processes_never_have_more_ids_than_their_limit_and_end_at_zero() {
    let cgroups = Cgroups::new();
    let rest = format!("{}{}", max(&cgroups, "slice", LIMIT), max(&cgroups, "slice/guest0", 10));
    let daemon = Daemon::start(&policy(&cgroups, "bits = 10\nquarantine = \"1ms\"", &rest));
    let before = daemon.snapshot();
    let guests = 8;
    (0..guests).for_each(|n| drop(cgroups.make(&format!("slice/guest{n}"))));
    let actors: Vec<Actor> = (0..64).map(|n| Actor::new(&cgroups, &format!("slice/guest{}", n % guests))).collect();
    for actor in &actors {
        actor.begin(&Order::Storm { socket: daemon.socket(), rounds: 20 }, &[]);
    }
    // Somebody looks all the while, from outside: at the tree, and at every set.
    let slice = cgroups.path("slice");
    let done = AtomicBool::new(false);
    let (looks, refused) = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let wire = daemon.connect();
            let mut looks = 0_u32;
            // ORDERING: Relaxed: one look more or less is no matter.
            while !done.load(Ordering::Relaxed) {
                let tree = wire.ask(&GetCgroup { path: Some(slice.clone()), recurse: true }).unwrap();
                assert!(tree.current <= LIMIT && tree.peak <= LIMIT, "{tree:?}");
                let below: u64 = tree.children.iter().map(|child| child.current).sum();
                assert_eq!(tree.current, below, "{tree:?}");
                looks += 1;
            }
            looks
        });
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            actors.iter().map(|actor| actor.end().0["refused"].as_u64().unwrap()).sum::<u64>()
        }));
        done.store(true, Ordering::Relaxed);
        (looking.join().unwrap(), ended.unwrap())
    });
    assert!(looks > 0 && refused > 0, "{looks} looks, {refused} refusals: no storm");
    drop(actors);
    daemon.settles_to(&before);
    let tree = daemon.cgroup(&slice);
    assert_eq!((tree.current, tree.events.max), (0, refused), "every refusal is one event");
    assert!(tree.peak > LIMIT / 2, "the limit was near");
    assert!(tree.children.iter().all(|child| child.current == 0));
    daemon.finish();
}
