//! The lease map against a plain model, under threads, and over words full of rubbish.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::bitmap::NotClaimed;
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Barrier;

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

/// Two views of one map, as two holders have them: what each remembers of a word is wrong whenever the other wrote, or
/// the service took a lease back.
#[test]
fn a_wrong_guess_gives_no_id_twice_and_loses_none() {
    let words: Vec<AtomicU64> = (0..lease_words_needed(64).unwrap()).map(|_| AtomicU64::new(0)).collect();
    let [one, other] = [&words[..]; 2].map(|words| LeaseMap::new(64, words).unwrap());
    one.lease_mask(0, u32::MAX);
    let id = one.claim().unwrap();
    assert_eq!((other.release(id), one.release(id)), (Ok(()), Err(NotClaimed(id))), "thought to be used");
    let id = one.claim().unwrap();
    assert!(one.release(id).is_ok() && other.take_back(0, u32::MAX).count_ones() == 32);
    assert_eq!(one.claim(), None, "thought to be leased");
    other.lease_mask(0, u32::MAX);
    let all: BTreeSet<u32> = (0..32).map(|turn| if turn % 3 == 0 { &one } else { &other }.claim().unwrap()).collect();
    assert_eq!((all.len(), one.claim(), other.claim()), (32, None, None));
    assert!((0..32).all(|id| if id % 3 == 0 { &other } else { &one }.release(id).is_ok()));
    assert_eq!(one.count(0, 63), (32, 0));
}

/// As two holders do: each finds the word changed by the other, though no swap of its own after a look ever fails.
#[test]
fn who_meets_another_in_a_word_moves_away() {
    let words: Vec<AtomicU64> = (0..lease_words_needed(128).unwrap()).map(|_| AtomicU64::new(0)).collect();
    let [one, other] = [&words[..]; 2].map(|words| LeaseMap::new(128, words).unwrap());
    assert!((0..128).all(|id| one.lease(id)));
    for view in [&one, &other] {
        let id = view.claim_in(32, 63).unwrap();
        view.release(id).unwrap();
    }
    let parted = (0..8).any(|_| {
        let ids = [&one, &other].map(|view| view.claim().unwrap());
        one.release(ids[0]).unwrap();
        other.release(ids[1]).unwrap();
        ids[0] / 32 != ids[1] / 32
    });
    assert!(parted, "they stay in one word");
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

#[test]
fn four_threads_on_four_leased_ids_are_never_refused_and_share_none() {
    let map = map(4_097);
    [3, 40, 41, 4_096].into_iter().for_each(|id| assert!(map.lease(id)));
    let owners: Vec<_> = (0..4_097).map(|_| AtomicBool::new(false)).collect();
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        let threads = [(); 4].map(|()| {
            scope.spawn(|| {
                start.wait();
                for _ in 0..20_000 {
                    let id = map.claim().expect("as many ids as threads");
                    // ORDERING: Relaxed: the claim orders it; a duplicate shows whichever way it falls.
                    assert!(!owners[id as usize].swap(true, Ordering::Relaxed), "id {id} has two owners");
                    owners[id as usize].store(false, Ordering::Relaxed);
                    map.release(id).unwrap();
                }
            })
        });
        // Joined by hand: ThreadSanitizer does not see the scope's own wait.
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(map.count(0, 4_096), (4, 0));
    assert!(!map.hides());
}

#[test]
fn leases_come_and_go_under_running_holders_without_a_loss() {
    let map = map(1_024);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let holders: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut turns = 0_u32;
                    // ORDERING: Relaxed: a stop sign.
                    while !done.load(Ordering::Relaxed) {
                        let ids: Vec<u32> = std::iter::from_fn(|| map.claim()).take(40).collect();
                        turns += ids.len() as u32;
                        ids.into_iter().for_each(|id| map.release(id).unwrap());
                    }
                    turns
                })
            })
            .collect();
        let mut leased = BTreeSet::new();
        for round in 0..3_000_u32 {
            let word = round % 32;
            let news = map.lease_mask(word, 0x0ff0_0ff0);
            (0..32).filter(|bit| news >> bit & 1 != 0).for_each(|bit| assert!(leased.insert(word * 32 + bit)));
            map.take_back_in(round * 7 % 900, 1_023, 20, |id| assert!(leased.remove(&id), "{id} taken back twice"));
        }
        done.store(true, Ordering::Relaxed);
        let turns: u32 = holders.into_iter().map(|holder| holder.join().unwrap()).sum();
        assert!(turns > 0, "the holders met the service");
        assert_eq!(map.count(0, 1_023), (leased.len() as u32, 0));
        assert!(!map.hides(), "an open bit stayed clear over an available id");
        map.take_back_in(0, 1_023, u32::MAX, |id| assert!(leased.remove(&id)));
        assert_eq!((leased.len(), map.claim()), (0, None));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every call returns, whatever the words say, and no id beyond the length comes out.
    #[test]
    fn hostile_words_make_no_call_panic_or_hang(
        len in prop::sample::select(vec![1_u32, 31, 32, 33, 2_047, 2_048, 2_049]),
        seed in any::<u64>(), dense in 0..4_u32, a in any::<u32>(), b in any::<u32>(),
    ) {
        let mut state = seed | 1;
        let mut rubbish = || {
            (0..=dense).fold(u64::MAX, |word, _| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word & state
            })
        };
        let map = LeaseMap::new(len, (0..lease_words_needed(len).unwrap()).map(|_| AtomicU64::new(rubbish())).collect::<Vec<_>>()).unwrap();
        for lo in [0, a, a % len] {
            for hi in [0, b, b % len, u32::MAX] {
                prop_assert!(map.claim_in(lo, hi).is_none_or(|id| id < len && (lo..=hi).contains(&id)));
                let most = b % 50;
                let mut taken = 0;
                let count = map.take_back_in(lo, hi, most, |id| { assert!(id < len); taken += 1; });
                prop_assert!(count <= most && count == taken);
                let (leased, used) = map.count(lo, hi);
                prop_assert!(used <= leased && leased <= len);
            }
        }
        for id in [a, b, a % len, len] {
            prop_assert!(map.release(id).is_err() || id < len);
            prop_assert!(!map.lease(id) || id < len);
            prop_assert!(!map.lease_used(id) || id < len);
            let was = map.clear(id);
            prop_assert!(id < len || !(was.leased || was.used));
            prop_assert_eq!(map.take_back(id, u32::MAX) == 0 || id < map.word_count(), true);
            map.snapshot(id);
            prop_assert!(map.lease_mask(id, b) & !b == 0);
        }
        // What can be claimed ends: each claim uses one.
        let claims = std::iter::from_fn(|| map.claim()).take(len as usize + 1).count();
        prop_assert!(claims <= len as usize);
    }
}
