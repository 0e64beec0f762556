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

/// What one thread writes before it hands an id on, and the next is to see.
#[derive(Clone)]
struct Note(Arc<AtomicU64>);

impl Default for Note {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(0)))
    }
}

impl Note {
    fn write(&self) {
        // ORDERING: Relaxed: what is looked at is to carry it over.
        self.0.store(1, Ordering::Relaxed);
    }

    fn is_seen(&self) -> bool {
        // ORDERING: Relaxed: as above.
        self.0.load(Ordering::Relaxed) == 1
    }
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

/// Rules out: an id taken back while its release is half done, or before what its holder did with it is seen; and a
/// release that revives a lease.
#[test]
fn release_then_take_back_leaves_nothing() {
    model(4, || {
        let map = map(&[]);
        assert!(map.lease_used(3));
        let (note, other) = (Note::default(), map.clone());
        let theirs = note.clone();
        let holder = thread::spawn(move || {
            theirs.write();
            other.release(3).unwrap();
        });
        let during = map.take_back(0, u32::MAX);
        assert!(during == 0 || note.is_seen());
        holder.join().unwrap();
        let after = map.take_back(0, u32::MAX);
        assert_eq!((during | after, during & after), (1 << 3, 0));
        assert_eq!(map.snapshot(0), Snapshot::default());
    });
}

/// Rules out: a release and the end of its lease leaving a used bit behind; a lease that ends as unused before what its
/// holder did with the id is seen.
#[test]
fn clear_during_release_leaves_nothing() {
    model(4, || {
        let map = map(&[]);
        assert!(map.lease_used(3));
        let (note, other) = (Note::default(), map.clone());
        let theirs = note.clone();
        let holder = thread::spawn(move || {
            theirs.write();
            other.release(3).is_ok()
        });
        let was = map.clear(3);
        assert!(was.used || note.is_seen());
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
        // Its word stays open, so that the look at the watch word is all that tells of the release.
        assert!(map.lease(3) && map.claim_at(3));
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

/// In which the last holder of an id writes before it releases, and the next one looks after its claim. Id 3 is leased,
/// and in use once it is prepared.
fn handed_over(prepare: fn(&Map)) {
    model(4, move || {
        let (map, note) = (map(&[]), Note::default());
        prepare(&map);
        let (other, theirs) = (map.clone(), note.clone());
        let owner = thread::spawn(move || {
            theirs.write();
            other.release(3).unwrap();
        });
        assert!(map.claim().is_none() || note.is_seen());
        owner.join().unwrap();
    });
}

/// Rules out: the next holder of an id not seeing what the last one wrote before it released.
#[test]
fn next_holder_sees_what_the_last_one_wrote() {
    handed_over(|map| assert!(map.lease_used(3)));
}

/// Rules out: the same where the next holder claims it from what it left in the word before.
#[test]
fn next_holder_by_a_guess_sees_what_the_last_one_wrote() {
    handed_over(|map| {
        assert!(map.lease(3));
        assert_eq!(map.claim(), Some(3));
        map.release(3).unwrap();
        map.lease_used(3); // which this thread does not remember
    });
}

/// Rules out: a lease taken back from a holder that claims or releases by a guess, and an id lost to a wrong one.
#[test]
fn take_back_and_a_claim_by_a_guess_do_not_both_win() {
    model(3, || {
        let map = map(&[0]);
        let id = map.claim().unwrap();
        map.release(id).unwrap();
        let service = map.clone();
        let taken = thread::spawn(move || service.take_back(0, u32::MAX) != 0);
        let claimed = map.claim().is_some();
        let released = claimed && map.release(id).is_ok();
        let taken = taken.join().unwrap();
        assert!(claimed || taken);
        assert_eq!(released, claimed);
        assert_eq!(map.state(id), crate::bitmap::leases::Lease { leased: !taken, used: false });
    });
}

/// Rules out: a holder not seeing what the service set up for an id before it leased it.
#[test]
fn who_claims_a_lease_sees_what_came_before_it() {
    model(4, || {
        let (map, note) = (map(&[]), Note::default());
        let (other, theirs) = (map.clone(), note.clone());
        let service = thread::spawn(move || {
            theirs.write();
            assert!(other.lease(3));
        });
        assert!(map.claim().is_none() || note.is_seen());
        service.join().unwrap();
    });
}

/// Rules out: the service seeing an id in use before what its holder wrote ahead of the claim.
#[test]
fn who_sees_an_id_in_use_sees_what_came_before_the_claim() {
    model(4, || {
        let (map, note) = (map(&[3]), Note::default());
        let (other, theirs) = (map.clone(), note.clone());
        // The thread looks, not this one: loom finds the order that matters only so.
        let service = thread::spawn(move || assert!(!other.state(3).used || theirs.is_seen()));
        note.write();
        map.claim().unwrap();
        service.join().unwrap();
    });
}

/// Shrink against alloc: the service takes back what is unused, one at most, while a holder takes all it can. Rules out:
/// an id in both hands or in none, and more taken back than was asked for.
#[test]
fn shrinking_takes_back_only_what_no_holder_got() {
    model(3, || {
        let map = map(&[3, 4]);
        let other = map.clone();
        let holder = thread::spawn(move || [other.claim(), other.claim()]);
        let mut taken = Vec::new();
        let count = map.take_back_in(0, 63, 1, |id| taken.push(id));
        let claimed = holder.join().unwrap();
        let in_use = claimed.iter().flatten().count() as u32;
        assert!(count <= 1 && count as usize == taken.len());
        assert!(taken.iter().all(|id| !claimed.contains(&Some(*id))), "{taken:?} {claimed:?}");
        // A holder is refused for what was taken back, and for nothing else.
        assert_eq!((map.count(0, 63), in_use), ((2 - count, in_use), 2 - count));
    });
}
