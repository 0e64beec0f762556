//! Loom models of the mapped set: holders against holders, and holders against the service.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::sync::{AtomicU64, Ordering};
use loom::thread;
use std::sync::Arc;

type Map = Arc<LeaseMap<Vec<AtomicU64>>>;

/// A map of two words, with `leased` leased.
fn map(leased: &[u32]) -> Map {
    let words = (0..lease_words_needed(64).unwrap()).map(|_| AtomicU64::new(0)).collect();
    let map = LeaseMap::new(64, words).unwrap();
    assert!(leased.iter().all(|&id| map.lease(id)));
    Arc::new(map)
}

fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// Rules out: one available id claimed by two holders, or by none.
#[test]
fn one_available_id_goes_to_one_of_two_holders() {
    model(3, || {
        let map = map(&[40]);
        let other = map.clone();
        let theirs = thread::spawn(move || other.claim());
        let ours = map.claim();
        assert!(ours.is_some() != theirs.join().unwrap().is_some());
    });
}

/// Rules out: an id that a holder took and did not return, when two meet in a word.
#[test]
fn holders_that_meet_take_one_id_each() {
    model(4, || {
        let map = map(&[3, 4, 5]);
        let other = map.clone();
        let theirs = thread::spawn(move || other.claim().unwrap());
        let ours = map.claim().unwrap();
        assert_ne!(ours, theirs.join().unwrap());
        assert_eq!(map.count(0, 63), (3, 2));
    });
}

/// Rules out: a lease that no holder finds, because a search closed the word meanwhile or a refusal still stands.
#[test]
fn lease_during_a_search_is_not_lost() {
    model(3, || {
        let map = map(&[]);
        let other = map.clone();
        let holder = thread::spawn(move || other.claim());
        assert!(map.lease(40));
        let later = map.claim();
        assert!(holder.join().unwrap().is_some() != later.is_some());
    });
}

/// Rules out: an id both claimed and taken back, or neither: leased and used change in one word.
#[test]
fn take_back_and_claim_do_not_both_win() {
    model(4, || {
        let map = map(&[3]);
        let other = map.clone();
        let holder = thread::spawn(move || other.claim());
        let taken = map.take_back(0, u32::MAX);
        let claimed = holder.join().unwrap();
        assert!((taken == 1 << 3) != (claimed == Some(3)), "{taken} {claimed:?}");
        assert_eq!(map.state(3), Lease { leased: claimed.is_some(), used: claimed.is_some() });
    });
}

/// Rules out: an id taken back while its release is half done, and a release that revives a lease.
#[test]
fn release_then_take_back_leaves_nothing() {
    model(4, || {
        let map = map(&[]);
        assert!(map.lease_used(3));
        let other = map.clone();
        let holder = thread::spawn(move || other.release(3).unwrap());
        let during = map.take_back(0, u32::MAX);
        holder.join().unwrap();
        let after = map.take_back(0, u32::MAX);
        assert_eq!((during | after, during & after), (1 << 3, 0));
        assert_eq!(map.snapshot(0), Snapshot::default());
    });
}

/// Rules out: a release and the end of its lease leaving a used bit behind.
#[test]
fn clear_during_release_leaves_nothing() {
    model(4, || {
        let map = map(&[]);
        assert!(map.lease_used(3));
        let other = map.clone();
        let holder = thread::spawn(move || other.release(3).is_ok());
        let was = map.clear(3);
        assert_eq!(holder.join().unwrap(), !was.used);
        assert_eq!(map.snapshot(0), Snapshot::default());
    });
}

/// Rules out: a double free by two holders that both succeed.
#[test]
fn one_of_two_releases_succeeds() {
    model(4, || {
        let map = map(&[]);
        assert!(map.lease_used(3));
        let other = map.clone();
        let theirs = thread::spawn(move || other.release(3).is_ok());
        assert!(map.release(3).is_ok() != theirs.join().unwrap());
    });
}

/// Rules out: an open bit that stays clear on a word with an available id, when a search closed it meanwhile.
#[test]
fn no_word_stays_closed_over_a_release() {
    model(4, || {
        let map = map(&[3]);
        assert_eq!(map.claim(), Some(3));
        let other = map.clone();
        let searcher = thread::spawn(move || other.close_if_empty(0));
        map.release(3).unwrap();
        searcher.join().unwrap();
        assert!(!map.hides());
    });
}

/// Rules out: a refusal while an id is available at every moment.
#[test]
fn moving_hole_is_no_refusal() {
    model(3, || {
        let map = map(&[40]);
        assert!(map.lease_used(3));
        let other = map.clone();
        let mover = thread::spawn(move || {
            other.release(3).unwrap();
            other.claim_in(40, 40)
        });
        let (ours, _) = map.prove(0, 63).expect("3 is available before 40 is taken");
        assert_eq!(mover.join().unwrap().is_some(), ours != 40);
    });
}

/// Rules out: the same in a window.
#[test]
fn moving_hole_in_a_window_is_no_refusal() {
    model(3, || {
        let map = map(&[40]);
        assert!(map.lease_used(3));
        let other = map.clone();
        let mover = thread::spawn(move || {
            other.release(3).unwrap();
            other.claim_in(40, 40)
        });
        let (ours, _) = map.prove(3, 40).expect("3 is available before 40 is taken");
        assert_eq!(mover.join().unwrap().is_some(), ours != 40);
    });
}

/// Rules out: the next holder of an id not seeing what the last one wrote before it released.
#[test]
fn next_holder_sees_what_the_last_one_wrote() {
    model(4, || {
        let map = map(&[]);
        assert!(map.lease_used(3));
        let note = Arc::new(AtomicU64::new(0));
        let (other, their_note) = (map.clone(), note.clone());
        let owner = thread::spawn(move || {
            // ORDERING: Relaxed: the release and the claim are to carry it over.
            their_note.store(1, Ordering::Relaxed);
            other.release(3).unwrap();
        });
        if map.claim().is_some() {
            // ORDERING: Relaxed: as above.
            assert_eq!(note.load(Ordering::Relaxed), 1);
        }
        owner.join().unwrap();
    });
}
