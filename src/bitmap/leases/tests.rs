//! The lease map against a plain model, under threads, and over words full of rubbish.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::bitmap::NotClaimed;
use crate::sync::AtomicU64;
use std::collections::BTreeSet;

fn map(len: u32) -> LeaseMap<Vec<AtomicU64>> {
    LeaseMap::new(len, (0..lease_words_needed(len).unwrap()).map(|_| AtomicU64::new(0)).collect()).unwrap()
}

#[test]
fn only_leased_ids_are_claimed_each_once() {
    for len in [1, 31, 32, 33, 4_095, 4_097, 1 << 20] {
        let map = map(len);
        assert_eq!(map.claim(), None);
        let leased: BTreeSet<u32> = (0..len).step_by(37).collect();
        assert!(leased.iter().all(|&id| map.lease(id)));
        assert!(!map.lease(0) && !map.lease(len));
        let claimed: BTreeSet<u32> = std::iter::from_fn(|| map.claim()).collect();
        assert_eq!(claimed, leased, "len {len}");
        assert_eq!(map.count(0, len), (leased.len() as u32, leased.len() as u32));
    }
}

#[test]
fn fresh_id_goes_before_one_freed_a_moment_ago() {
    let map = map(64);
    map.lease_mask(1, u32::MAX);
    let first = map.claim().unwrap();
    map.release(first).unwrap();
    for _ in 1..32 {
        let next = map.claim().unwrap();
        assert_ne!(next, first);
        map.release(next).unwrap();
    }
    assert_eq!(map.claim(), Some(first));
}

#[test]
fn double_free_and_foreign_free_are_refused() {
    let map = map(100);
    assert_eq!(map.release(5), Err(NotClaimed(5)));
    map.lease(5);
    assert_eq!(map.release(5), Err(NotClaimed(5)));
    assert_eq!(map.claim(), Some(5));
    assert_eq!(map.release(5), Ok(()));
    assert_eq!(map.release(5), Err(NotClaimed(5)));
    assert_eq!(map.release(100), Err(NotClaimed(100)));
}

#[test]
fn used_ids_are_not_taken_back() {
    let map = map(100);
    map.lease_mask(1, 0b111);
    assert!(map.lease_used(40));
    assert_eq!(map.claim_in(33, 33), Some(33));
    let mut taken = Vec::new();
    assert_eq!(map.take_back_in(0, 99, 9, |id| taken.push(id)), 2);
    assert_eq!(taken, [32, 34]);
    assert_eq!(map.clear(33), Lease { leased: true, used: true });
    assert_eq!(map.release(33), Err(NotClaimed(33)));
    assert_eq!(map.snapshot(1), Snapshot { leased: 1 << 8, used: 1 << 8 });
    assert_eq!(map.claim(), None);
}
