//! Every interleaving of two or three threads, under loom. Run with
//! `RUSTFLAGS="--cfg ioasid_loom" CARGO_TARGET_DIR=target/loom cargo test --lib quota::`.
//!
//! The trees are built before the threads start: the structure is behind a lock and not what is looked at. Numbers in
//! parentheses are those of the protocol.

use super::*;
use crate::model::{CgroupId, CgroupPath, Limit, Refusal};
use ::loom::{model::Builder, thread};
use std::sync::Arc;

/// Explores all schedules with at most three preemptions: what is known to find nearly all there is to find.
fn explore(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

/// root / 2 / {3, 4}; `max` of the cgroup 2.
fn siblings(max: Limit) -> (Tree, Arc<Node>, Arc<Node>, Arc<Node>) {
    let tree = Tree::new(CgroupId(1));
    let path = |text: &str| text.parse::<CgroupPath>().unwrap();
    let one = tree.ensure(&[(CgroupId(2), path("/2")), (CgroupId(3), path("/2/3"))]);
    let other = tree.ensure(&[(CgroupId(2), path("/2")), (CgroupId(4), path("/2/4"))]);
    let parent = tree.find(CgroupId(2)).unwrap();
    parent.set_policy_limit(max);
    (tree, parent, one, other)
}

fn all_given_back(tree: &Tree) {
    assert!(tree.nodes().iter().all(|node| node.is_idle()), "something stayed");
}

/// Rules out that two charges both get the last id, and that both are refused it (1, 2, 4).
#[test]
fn of_two_charges_at_the_limit_exactly_one_is_granted() {
    explore(|| {
        let (tree, parent, one, other) = siblings(Limit::Count(1));
        let thread = thread::spawn(move || other.try_charge(1).ok());
        let mine = one.try_charge(1).ok();
        let theirs = thread.join().unwrap();
        assert!(mine.is_some() != theirs.is_some());
        assert_eq!((parent.current(), parent.peak(), parent.events_local()), (1, 1, 1));
        drop((mine, theirs));
        all_given_back(&tree);
    });
}

/// Rules out lost updates between giving back and charging, and a `current` above the limit in between (2, 6).
#[test]
fn a_charge_that_meets_an_uncharge_is_granted_or_refused_for_what_is_charged() {
    explore(|| {
        let (tree, parent, one, other) = siblings(Limit::Count(1));
        let held = one.try_charge(1).unwrap();
        let thread = thread::spawn(move || drop(held));
        let charge = other.try_charge(1);
        assert!(parent.current() <= 1 && parent.peak() <= 1);
        if let Err(refusal) = &charge {
            let Refusal::LimitExceeded { current, asked, .. } = refusal else { panic!("{refusal}") };
            assert_eq!((*current, *asked), (1, 1));
        }
        thread.join().unwrap();
        drop(charge);
        all_given_back(&tree);
    });
}

/// Rules out that the room a cgroup makes above is charged again in the same cgroup while it still counts the old: a peak
/// above the parent's limit (9).
#[test]
fn a_cgroup_never_counts_more_than_its_parent_may_have() {
    explore(|| {
        let (tree, parent, one, _) = siblings(Limit::Count(1));
        let held = one.try_charge(1).unwrap();
        let thread = thread::spawn(move || drop(held));
        let charge = one.try_charge(1);
        thread.join().unwrap();
        assert_eq!((one.peak(), parent.peak()), (1, 1));
        drop(charge);
        all_given_back(&tree);
    });
}

/// Rules out that a charge is refused at a cgroup for another that is refused above it: three ids never fit the parent,
/// one always does, and the cgroup itself has room for three (3, 4).
#[test]
fn a_charge_is_never_refused_for_one_that_is_refused_further_up() {
    explore(|| {
        let (tree, parent, one, _) = siblings(Limit::Count(2));
        one.set_policy_limit(Limit::Count(3));
        let node = Arc::clone(&one);
        let thread = thread::spawn(move || node.try_charge(3).is_err());
        let charge = one.try_charge(1).expect("there is room at every level");
        assert_eq!((one.current(), parent.current(), tree.root().current()), (1, 1, 1));
        assert!(thread.join().unwrap());
        assert_eq!((one.peak(), parent.peak(), tree.root().peak()), (1, 1, 1));
        // The three came first and met the parent's limit, or came second and met the cgroup's own.
        assert_eq!((one.events(), one.events_local() + parent.events_local()), (one.events_local(), 1));
        drop(charge);
        all_given_back(&tree);
    });
}

/// Rules out that a watcher ever sees a counter or a peak moved by a charge that is refused at the parent (3).
#[test]
fn a_refusal_at_the_parent_is_never_seen_in_a_counter() {
    explore(|| {
        let (tree, parent, one, _) = siblings(Limit::Count(0));
        let node = Arc::clone(&one);
        let thread = thread::spawn(move || node.try_charge(1).is_err());
        for node in [&one, &parent, &tree.root()] {
            assert_eq!((node.current(), node.peak()), (0, 0));
        }
        assert!(thread.join().unwrap());
        all_given_back(&tree);
    });
}

/// Rules out that a charge goes by anything but the old or the new limit, and that one which begins after the change
/// still goes by the old (2).
#[test]
fn a_charge_that_meets_a_change_of_max_goes_by_one_of_the_two() {
    explore(|| {
        let (tree, parent, one, other) = siblings(Limit::Count(2));
        let thread = thread::spawn(move || other.try_charge(2));
        parent.set_administrator_limit(Some(Limit::Count(1)));
        let after = one.try_charge(2).unwrap_err();
        let Refusal::LimitExceeded { max, .. } = after else { panic!("{after}") };
        assert_eq!(max, Limit::Count(1));
        let met = thread.join().unwrap();
        assert_eq!(parent.current(), if met.is_ok() { 2 } else { 0 });
        drop(met);
        all_given_back(&tree);
    });
}

/// Rules out that a transfer between siblings frees or takes anything on their parent, for an instant: a third charge
/// there is refused throughout, and the transfer is not (3, 4).
#[test]
fn a_transfer_under_a_full_parent_succeeds_and_makes_no_room() {
    explore(|| {
        let (tree, parent, one, other) = siblings(Limit::Count(1));
        let held = one.try_charge(1).unwrap();
        let node = Arc::clone(&other);
        let thread = thread::spawn(move || held.transfer(&node).expect("the parent holds it already"));
        let refusal = one.try_charge(1).unwrap_err();
        let Refusal::LimitExceeded { current, .. } = refusal else { panic!("{refusal}") };
        assert_eq!((current, parent.current()), (1, 1));
        let moved = thread.join().unwrap();
        assert_eq!((one.current(), other.current(), parent.peak()), (0, 1, 1));
        drop(moved);
        all_given_back(&tree);
    });
}

/// Rules out that a charge slips between the two halves of a reset, and leaves a peak below `current` (7).
#[test]
fn a_reset_of_the_peak_loses_no_charge() {
    explore(|| {
        let (tree, parent, one, other) = siblings(Limit::Max);
        drop(one.try_charge(5).unwrap());
        let thread = thread::spawn(move || other.try_charge(2).unwrap());
        parent.reset_peak();
        // Charged before the reset or after it, but charged: so it is the peak, and stays it when it is given back.
        drop(thread.join().unwrap());
        assert_eq!((parent.current(), parent.peak()), (0, 2));
        all_given_back(&tree);
    });
}

/// Rules out that waiting for marks ends in two charges that wait for each other, three threads at two limits (4, 5).
#[test]
fn charges_at_two_limits_all_end() {
    explore(|| {
        let (tree, parent, one, other) = siblings(Limit::Count(1));
        one.set_policy_limit(Limit::Count(1));
        let (near, far) = (Arc::clone(&one), other);
        let threads = [thread::spawn(move || drop(near.try_charge(1))), thread::spawn(move || drop(far.try_charge(1)))];
        drop(one.try_charge(1));
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(parent.peak() == 1 && one.peak() <= 1);
        all_given_back(&tree);
    });
}
