//! The bitmap against a plain model, and under threads.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::sync::AtomicU64;
use std::collections::BTreeSet;

const GEOMETRIES: [u32; 8] = [1, 63, 64, 65, 4_095, 4_096, 4_097, MAX_LEN];

fn bitmap(len: u32) -> Bitmap<Vec<AtomicU64>> {
    let words = (0..words_needed(len).unwrap()).map(|_| AtomicU64::new(0)).collect();
    Bitmap::new(len, words).unwrap()
}

#[test]
fn too_few_words_are_no_bitmap() {
    let words: Vec<AtomicU64> = (1..words_needed(65).unwrap()).map(|_| AtomicU64::new(0)).collect();
    assert!(Bitmap::new(65, words).is_none());
}

/// Two views of one bitmap, as two processes have them: what each remembers of a leaf is wrong whenever the other wrote.
#[test]
fn a_wrong_guess_gives_no_id_twice_and_loses_none() {
    let words: Vec<AtomicU64> = (0..words_needed(256).unwrap()).map(|_| AtomicU64::new(0)).collect();
    let [one, other] = [&words[..]; 2].map(|words| Bitmap::new(256, words).unwrap());
    for mode in [Search::Any, Search::Round] {
        let id = one.claim(mode, 0, 63).unwrap();
        assert_eq!((other.release(id), one.release(id)), (Ok(()), Err(NotClaimed(id))), "thought to be claimed");
        let next = other.claim(mode, id, id).unwrap();
        assert_eq!((one.claim(mode, next, next), one.release(next)), (None, Ok(())), "thought to be free");
        let all: BTreeSet<u32> =
            (0..256).map(|turn| if turn % 3 == 0 { &one } else { &other }.claim(mode, 0, 255).unwrap()).collect();
        assert_eq!((all.len(), one.claim(mode, 0, 255), other.claim(mode, 0, 63)), (256, None, None));
        assert!((0..256).all(|id| if id % 3 == 0 { &other } else { &one }.release(id).is_ok()));
        assert_eq!(one.free(), 256);
        assert!(!one.summary().lies());
    }
}

/// As two threads do: each finds the word changed by the other, though no swap of its own after a look ever fails.
#[test]
fn who_meets_another_in_a_word_moves_away() {
    let words: Vec<AtomicU64> = (0..words_needed(4_096).unwrap()).map(|_| AtomicU64::new(0)).collect();
    let [one, other] = [&words[..]; 2].map(|words| Bitmap::new(4_096, words).unwrap());
    for view in [&one, &other] {
        let id = view.claim(Search::Any, 640, 703).unwrap();
        view.release(id).unwrap();
    }
    let parted = (0..64).any(|_| {
        let ids = [&one, &other].map(|view| view.claim(Search::Any, 0, 4_095).unwrap());
        one.release(ids[0]).unwrap();
        other.release(ids[1]).unwrap();
        ids[0] / 64 != ids[1] / 64
    });
    assert!(parted, "they stay in one word");
}

#[test]
fn every_id_is_handed_out_once_then_refused() {
    for len in GEOMETRIES {
        for mode in [Search::Any, Search::Round] {
            let bitmap = bitmap(len);
            let mut seen = vec![false; len as usize];
            for _ in 0..len {
                let id = bitmap.claim(mode, 0, len - 1).expect("free ids are left");
                assert!(!std::mem::replace(&mut seen[id as usize], true), "{id} given twice, len {len}");
            }
            assert_eq!(bitmap.free(), 0);
            assert_eq!(bitmap.claim(mode, 0, u32::MAX), None);
            assert_eq!(bitmap.claim(mode, 0, u32::MAX), None);
            bitmap.release(len / 2).unwrap();
            assert_eq!(bitmap.claim(mode, 0, u32::MAX), Some(len / 2));
            assert!(!bitmap.summary().lies());
        }
    }
}

#[test]
fn double_free_changes_nothing() {
    let bitmap = bitmap(65);
    assert_eq!(bitmap.release(64), Err(NotClaimed(64)));
    assert!(bitmap.claim_at(64));
    assert!(!bitmap.claim_at(64));
    assert_eq!(bitmap.release(64), Ok(()));
    assert_eq!(bitmap.release(64), Err(NotClaimed(64)));
    assert_eq!(bitmap.release(65), Err(NotClaimed(65)));
    assert!(!bitmap.claim_at(65));
    assert_eq!(bitmap.free(), 65);
}

#[test]
fn window_of_one_word_and_of_several_is_exhausted_exactly() {
    for (lo, hi) in [(3, 3), (0, 63), (10, 20), (60, 70), (64, 127), (63, 200), (4_000, 4_096)] {
        for mode in [Search::Any, Search::Round] {
            let bitmap = bitmap(4_097);
            let got: BTreeSet<u32> = std::iter::from_fn(|| bitmap.claim(mode, lo, hi)).collect();
            assert_eq!(got, (lo..=hi).collect());
            assert_eq!(bitmap.free(), 4_097 - (hi - lo + 1));
            assert_eq!(bitmap.count_free(lo, hi), 0);
        }
    }
}

#[test]
fn round_hands_out_all_others_before_a_released_id() {
    for len in [65, 4_097] {
        let bitmap = bitmap(len);
        bitmap.withhold(10, 20);
        let free = len - 11;
        let first = bitmap.claim(Search::Round, 0, len - 1).unwrap();
        let mut distance = 0;
        bitmap.release(first).unwrap();
        loop {
            let id = bitmap.claim(Search::Round, 0, len - 1).unwrap();
            distance += 1;
            if id == first {
                break;
            }
            bitmap.release(id).unwrap();
        }
        assert_eq!(distance, free, "len {len}");
    }
}

#[test]
fn run_is_aligned_whole_and_refused_when_none_fits() {
    let bitmap = bitmap(256);
    assert_eq!(bitmap.claim_run(0, 0, 255), None);
    assert_eq!(bitmap.claim_run(65, 0, 255), None);
    assert!(bitmap.claim_at(1));
    assert_eq!(bitmap.claim_run(3, 0, 255), Some(4));
    assert_eq!(bitmap.claim_run(64, 0, 255), Some(64));
    assert_eq!(bitmap.claim_run(64, 0, 255), Some(128));
    assert_eq!(bitmap.claim_run(64, 0, 254), None);
    assert_eq!(bitmap.claim_run(33, 0, 255), Some(192));
    assert_eq!(bitmap.claim_run(8, 192, 232), None);
    assert_eq!(bitmap.claim_run(8, 192, 239), Some(232));
    assert_eq!(bitmap.free(), 256 - 1 - 3 - 64 - 64 - 33 - 8);
    bitmap.release_run(4, 3).unwrap();
    assert_eq!(bitmap.release_run(4, 3), Err(NotClaimed(4)));
    bitmap.release(192 + 5).unwrap();
    assert_eq!(bitmap.release_run(192, 33), Err(NotClaimed(197)));
    assert!(bitmap.is_claimed(192));
    // A refused run is no proof that single ids are gone.
    assert!(bitmap.claim(Search::Any, 0, 255).is_some());
}
