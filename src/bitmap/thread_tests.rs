//! The bitmap under real threads: as many as there are cores, and twice as many, so that some are preempted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use std::sync::Barrier;

fn bitmap(len: u32) -> Bitmap<Vec<AtomicU64>> {
    Bitmap::new(len, (0..words_needed(len).unwrap()).map(|_| AtomicU64::new(0)).collect()).unwrap()
}

/// Who owns what, checked at every claim and release.
struct Owners(Vec<AtomicBool>);

impl Owners {
    fn new(len: u32) -> Self {
        Self((0..len).map(|_| AtomicBool::new(false)).collect())
    }
    fn take(&self, id: u32) {
        // ORDERING: Relaxed: the claim orders it; a duplicate shows whichever way it falls.
        assert!(!self.0[id as usize].swap(true, Ordering::Relaxed), "id {id} has two owners");
    }
    fn give(&self, id: u32) {
        // ORDERING: Relaxed: as above.
        assert!(self.0[id as usize].swap(false, Ordering::Relaxed));
    }
}

/// `threads` threads claim and release at once, each holding one id at a time; none may ever be refused.
fn turn_over(bitmap: &Bitmap<Vec<AtomicU64>>, threads: usize, turns: u32, lo: u32, hi: u32) {
    let (owners, start) = (Owners::new(bitmap.len()), Barrier::new(threads));
    std::thread::scope(|scope| {
        let spawn = |thread| {
            let (owners, start) = (&owners, &start);
            scope.spawn(move || {
                start.wait();
                for turn in 0..turns {
                    let mode = if (turn + thread as u32).is_multiple_of(2) { Search::Any } else { Search::Round };
                    let id = bitmap.claim(mode, lo, hi).expect("as many ids as threads");
                    owners.take(id);
                    owners.give(id);
                    bitmap.release(id).unwrap();
                }
            })
        };
        // Joined by hand, as all threads here: ThreadSanitizer does not see the scope's own wait.
        let threads: Vec<_> = (0..threads).map(spawn).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn four_threads_on_four_free_ids_are_never_refused_and_share_none() {
    for len in [256, 4_097, 70_000] {
        let bitmap = bitmap(len);
        bitmap.withhold(0, len - 1);
        let free = [0, len / 3, len / 2, len - 1];
        free.into_iter().for_each(|id| bitmap.release(id).unwrap());
        turn_over(&bitmap, 4, 4_000_000 / len.max(400), 0, len - 1);
        assert_eq!(bitmap.free(), 4);
        assert!(!bitmap.summary().lies(), "a mark stayed on a word with room");
        assert!(free.into_iter().all(|id| !bitmap.is_claimed(id)));
    }
}

#[test]
fn window_with_an_id_for_each_thread_is_never_refused() {
    let bitmap = bitmap(4_097);
    bitmap.withhold(0, 4_096);
    [100, 130, 131, 199].into_iter().for_each(|id| bitmap.release(id).unwrap());
    turn_over(&bitmap, 4, 20_000, 100, 199);
    assert_eq!(bitmap.count_free(100, 199), 4);
    assert!(!bitmap.summary().lies());
}

#[test]
fn two_threads_fill_the_space_without_a_duplicate_or_a_gap() {
    let bitmap = bitmap(70_000);
    let owners = Owners::new(70_000);
    let counts: Vec<u32> = std::thread::scope(|scope| {
        let fill = |mode| {
            let (bitmap, owners) = (&bitmap, &owners);
            move || std::iter::from_fn(|| bitmap.claim(mode, 0, u32::MAX)).inspect(|id| owners.take(*id)).count() as u32
        };
        let threads = [scope.spawn(fill(Search::Any)), scope.spawn(fill(Search::Round))];
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(counts.iter().sum::<u32>(), 70_000);
    assert_eq!(bitmap.free(), 0);
}

#[test]
fn runs_and_single_ids_never_overlap() {
    let bitmap = bitmap(2_048);
    let owners = Owners::new(2_048);
    std::thread::scope(|scope| {
        let threads = [1, 3, 8, 64].map(|n| {
            let (bitmap, owners) = (&bitmap, &owners);
            scope.spawn(move || {
                for _ in 0..20_000 {
                    // 64 + 8 + 4 + 1 ids at most are out: 27 whole words are free, so a run always fits.
                    let start = bitmap.claim_run(n, 0, 2_047).expect("a run fits");
                    (start..start + n).for_each(|id| owners.take(id));
                    (start..start + n).for_each(|id| owners.give(id));
                    bitmap.release_run(start, n).unwrap();
                }
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(bitmap.free(), 2_048);
}
