//! Loom models of a mapped set's flags: revocation, holds and watches against allocating and freeing.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::sync::AtomicU64;
use loom::thread;
use std::sync::Arc;

type Set = Arc<SetMap<Vec<AtomicU64>>>;

/// A set over one word of ids with `unused` leased, and `used` leased and in use.
fn set(unused: &[u32], used: &[u32]) -> Set {
    let words = |count| (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    let leases = LeaseMap::new(32, words(lease_words_needed(32).unwrap())).unwrap();
    let set = SetMap::new(words(1), words(1), leases);
    unused.iter().for_each(|id| set.lease(*id, false));
    used.iter().for_each(|id| set.lease(*id, true));
    Arc::new(set)
}

fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// Rules out: an id handed out in a set whose leases are ended and still believed in use there; a holder that finds
/// nothing left because the set was revoked and is not told so by its next call.
#[test]
fn allocation_under_revocation_is_before_it_or_told() {
    model(4, || {
        let set = set(&[3], &[]);
        let other = set.clone();
        let holder = thread::spawn(move || (other.alloc(), other.alloc()));
        set.revoke();
        let was = set.clear(3);
        let (first, second) = holder.join().unwrap();
        // The service saw in use exactly what a holder was given.
        assert_eq!(was.used, first == Ok(Some(3)));
        assert!(first != Ok(None) || second == Err(Revoked), "{first:?} {second:?}");
        assert_ne!(second, Ok(Some(3)));
        assert_eq!((set.alloc(), set.snapshot(0)), (Err(Revoked), Snapshot::default()));
    });
}

/// Rules out: a used bit that a free under revocation leaves behind or brings back, in the lease that ends.
#[test]
fn free_under_revocation_leaves_nothing() {
    model(4, || {
        let set = set(&[], &[3]);
        let other = set.clone();
        let holder = thread::spawn(move || other.free(3));
        set.revoke();
        set.clear(3);
        assert_ne!(holder.join().unwrap(), Ok(Free::TakesService));
        assert_eq!((set.free(3), set.snapshot(0)), (Err(Revoked), Snapshot::default()));
    });
}

/// Hold against free, of an id in use. Rules out: an id that is held for one and available for the other, so that a
/// second user gets it while a device still has it.
#[test]
fn of_hold_and_free_one_sees_the_other() {
    model(4, || {
        let set = set(&[], &[3]);
        let other = set.clone();
        let holder = thread::spawn(move || other.free(3).unwrap());
        let granted = set.hold(3);
        match holder.join().unwrap() {
            Free::Done => assert!(!granted, "held, and freed without the service"),
            Free::TakesService => assert!(set.is_used(3)),
            Free::NotInUse => panic!("nobody else freed it"),
        }
    });
}

/// Watch against free, of an id in use. Rules out: an id that the snapshot calls in use and of whose free the watcher is
/// never told, because the holder looked before the flag and released after the snapshot.
#[test]
fn of_watch_and_free_one_sees_the_other() {
    model(4, || {
        let set = set(&[], &[3]);
        let other = set.clone();
        let holder = thread::spawn(move || other.free(3).unwrap());
        set.set_watched(true);
        let in_snapshot = set.is_used(3);
        match holder.join().unwrap() {
            Free::Done => assert!(!in_snapshot, "told in use, and freed without the service"),
            Free::TakesService => assert!(set.is_used(3)),
            Free::NotInUse => panic!("nobody else freed it"),
        }
    });
}

/// The same while another of the set allocates. Rules out: that the id is free and untold after all, because it went
/// from one holder to another in between.
#[test]
fn an_id_that_changes_holders_under_a_new_watch_stays_in_use() {
    model(3, || {
        let set = set(&[], &[3]);
        let (one, two) = (set.clone(), set.clone());
        let one = thread::spawn(move || one.free(3).unwrap());
        let two = thread::spawn(move || two.alloc().unwrap());
        set.set_watched(true);
        let in_snapshot = set.is_used(3);
        let (freed, taken) = (one.join().unwrap(), two.join().unwrap());
        assert!(!in_snapshot || set.is_used(3), "{freed:?} {taken:?}");
        // One of them is who frees it through the service; not both.
        assert!(!(freed == Free::TakesService && taken == Some(3)), "one id in two hands");
    });
}
