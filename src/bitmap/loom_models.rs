//! Loom models of the pool: two or three threads, every interleaving, every value a load may return.
//!
//! Run: `RUSTFLAGS="--cfg ioasid_loom" cargo test --release --target-dir target/loom --lib bitmap::`
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::sync::{AtomicU64, Ordering};
use loom::thread;
use std::sync::Arc;

type Pool = Arc<Bitmap<Vec<AtomicU64>>>;

/// A pool of `len` ids in which only `free` are free.
fn pool(len: u32, free: &[u32]) -> Pool {
    let words = (0..words_needed(len).unwrap()).map(|_| AtomicU64::new(0)).collect();
    let pool = Bitmap::new(len, words).unwrap();
    pool.withhold(0, len - 1);
    for &id in free {
        pool.release(id).unwrap();
    }
    Arc::new(pool)
}

fn any(pool: &Pool) -> Option<u32> {
    pool.claim(Search::Any, 0, u32::MAX)
}

fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// Rules out: one free id given to two claimers, or to none (invariants 1 and 5).
#[test]
fn one_free_id_goes_to_one_of_two_claimers() {
    model(4, || {
        let pool = pool(2, &[1]);
        let other = pool.clone();
        let theirs = thread::spawn(move || any(&other));
        let ours = any(&pool);
        let theirs = theirs.join().unwrap();
        assert!(ours.is_some() != theirs.is_some(), "{ours:?} {theirs:?}");
    });
}

/// Rules out: two ROUND claimers given the same id, or one refused while the other's id was not the last.
#[test]
fn two_round_claimers_get_different_ids() {
    model(4, || {
        let pool = pool(3, &[0, 2]);
        let other = pool.clone();
        let theirs = thread::spawn(move || other.claim(Search::Round, 0, 2).unwrap());
        let ours = pool.claim(Search::Round, 0, 2).unwrap();
        assert_ne!(ours, theirs.join().unwrap());
    });
}

/// Rules out: a double free by two threads that both succeed, or both fail (invariant 1).
#[test]
fn one_of_two_releases_succeeds() {
    model(4, || {
        let pool = pool(2, &[]);
        let other = pool.clone();
        let theirs = thread::spawn(move || other.release(0).is_ok());
        let ours = pool.release(0).is_ok();
        assert!(ours != theirs.join().unwrap());
        assert_eq!(pool.free(), 1);
    });
}

/// In which the last owner of an id writes before it releases, and the next one looks after its claim.
fn handed_over(prepare: fn(&Pool), claim: fn(&Pool) -> bool) {
    model(4, move || {
        let pool = pool(1, &[]);
        let note = Arc::new(AtomicU64::new(0));
        let (other, their_note) = (pool.clone(), note.clone());
        prepare(&pool);
        let owner = thread::spawn(move || {
            // ORDERING: Relaxed: the release and the claim are to carry it over.
            their_note.store(1, Ordering::Relaxed);
            other.release(0).unwrap();
        });
        if claim(&pool) {
            // ORDERING: Relaxed: as above.
            assert_eq!(note.load(Ordering::Relaxed), 1);
        }
        owner.join().unwrap();
    });
}

/// Rules out: the next owner of an id not seeing what the last one did before it released (invariant 2).
#[test]
fn next_owner_sees_what_the_last_one_wrote() {
    handed_over(|_| (), |pool| pool.claim_at(0) || any(pool).is_some());
}

/// Rules out: the same where the next owner claims it from what it left there before (it is back to that by then).
#[test]
fn next_owner_by_a_guess_sees_what_the_last_one_wrote() {
    let prepare = |pool: &Pool| {
        pool.release(0).unwrap();
        assert!(pool.claim_at(0), "which is not remembered");
    };
    handed_over(prepare, |pool| any(pool).is_some());
}

/// Rules out: a release by a guess that gives back what another owns, or that nobody can claim (invariants 1 and 4).
#[test]
fn release_by_a_guess_gives_back_one_id() {
    model(4, || {
        let pool = pool(2, &[0, 1]);
        let ours = any(&pool).unwrap();
        let other = pool.clone();
        let theirs = thread::spawn(move || any(&other).unwrap());
        pool.release(ours).unwrap();
        let again = any(&pool);
        let theirs = theirs.join().unwrap();
        assert!(again.is_some_and(|again| again != theirs), "{again:?} {theirs}");
        assert!(pool.release(theirs).is_ok() && pool.release(theirs).is_err());
        assert_eq!(pool.free(), 1);
        assert!(!pool.summary().lies());
    });
}

/// Rules out: a mark that stays, at either level, on a word in which an id was released (invariant 4).
#[test]
fn no_mark_stays_on_a_word_with_room() {
    model(4, || {
        let pool = pool(2, &[]);
        let other = pool.clone();
        let searcher = thread::spawn(move || other.summary().mark(0));
        pool.release(1).unwrap();
        searcher.join().unwrap();
        assert!(!pool.summary().lies());
    });
}

/// Rules out: the same with two releases in one word, where only the first sees it full.
#[test]
fn no_mark_stays_after_two_releases() {
    model(3, || {
        let pool = pool(2, &[]);
        let (searcher, releaser) = (pool.clone(), pool.clone());
        let searcher = thread::spawn(move || searcher.summary().mark(0));
        let releaser = thread::spawn(move || releaser.release(0).unwrap());
        pool.release(1).unwrap();
        searcher.join().unwrap();
        releaser.join().unwrap();
        assert!(!pool.summary().lies());
    });
}

/// Rules out: a refusal while an id is free at every moment: the hole that moves behind the search (invariant 5).
#[test]
fn moving_hole_is_no_refusal() {
    model(3, || {
        let pool = pool(66, &[64]);
        let other = pool.clone();
        let mover = thread::spawn(move || {
            other.release(1).unwrap();
            other.claim_at(64)
        });
        let ours = pool.claim_by_proof(0, 65).expect("1 is free before 64 is taken");
        assert_eq!(mover.join().unwrap(), ours != 64);
    });
}

/// Rules out: a proven refusal that stands after a release returned, and a claim of what was not released.
#[test]
fn release_ends_the_full_state() {
    model(2, || {
        let pool = pool(66, &[]);
        let (first, second) = (pool.clone(), pool.clone());
        let first = thread::spawn(move || any(&first));
        let second = thread::spawn(move || any(&second));
        pool.release(65).unwrap();
        let got = [any(&pool), first.join().unwrap(), second.join().unwrap()];
        assert_eq!(got.iter().flatten().collect::<Vec<_>>(), [&65], "{got:?}");
        assert_eq!(any(&pool), None);
    });
}

/// Rules out: a proof under a ticket from before a release, because another searcher armed the word again meanwhile.
#[test]
fn old_ticket_proves_nothing() {
    model(3, || {
        let pool = pool(66, &[64]);
        let (mover, searcher) = (pool.clone(), pool.clone());
        let mover = thread::spawn(move || {
            mover.release(1).unwrap();
            mover.claim_at(64)
        });
        let searcher = thread::spawn(move || _ = searcher.watch().arm());
        let ours = pool.claim_by_proof(0, 65).expect("1 is free before 64 is taken");
        assert_eq!(mover.join().unwrap(), ours != 64);
        searcher.join().unwrap();
    });
}

/// Rules out: a window refused while it has room throughout.
#[test]
fn moving_hole_in_a_window_is_no_refusal() {
    model(3, || {
        let pool = pool(130, &[64]);
        let other = pool.clone();
        let mover = thread::spawn(move || {
            other.release(1).unwrap();
            other.claim_at(64)
        });
        let ours = pool.claim_by_proof(1, 65).expect("1 is free before 64 is taken");
        assert_eq!(mover.join().unwrap(), ours != 64);
    });
}

/// Rules out: half a run seen by a single claim in the same word, or a run over a claimed id.
#[test]
fn run_and_single_claim_do_not_overlap() {
    model(4, || {
        let pool = pool(8, &[4, 5, 6, 7]);
        let other = pool.clone();
        let run = thread::spawn(move || other.claim_run(2, 0, 7).unwrap());
        let one = any(&pool).unwrap();
        let run = run.join().unwrap();
        assert!(one < run || one > run + 1);
        assert_eq!(pool.free(), 1);
    });
}

/// Shrink against alloc. Rules out: an id that is handed out and withheld at once, or neither.
#[test]
fn an_id_is_withheld_or_handed_out() {
    model(4, || {
        let pool = pool(2, &[0, 1]);
        let other = pool.clone();
        let theirs = thread::spawn(move || any(&other));
        let withheld = pool.withhold(0, 1);
        let theirs = theirs.join().unwrap();
        assert_eq!(withheld, 2 - u32::from(theirs.is_some()));
        assert_eq!((pool.free(), any(&pool)), (0, None));
    });
}

/// Rules out: the same as for single ids, for runs: the next owner not seeing what the last one wrote (invariant 2).
#[test]
fn next_owner_of_a_run_sees_what_the_last_one_wrote() {
    model(4, || {
        let pool = pool(2, &[]);
        let note = Arc::new(AtomicU64::new(0));
        let (other, their_note) = (pool.clone(), note.clone());
        let owner = thread::spawn(move || {
            // ORDERING: Relaxed: the release and the claim are to carry it over.
            their_note.store(1, Ordering::Relaxed);
            other.release_run(0, 2).unwrap();
        });
        if pool.claim_run(2, 0, 1).is_some() {
            // ORDERING: Relaxed: as above.
            assert_eq!(note.load(Ordering::Relaxed), 1);
        }
        owner.join().unwrap();
    });
}

/// Rules out: a refusal that stands after a run was given back (invariant 5).
#[test]
fn release_of_a_run_ends_the_full_state() {
    model(3, || {
        let pool = pool(66, &[]);
        let other = pool.clone();
        let searcher = thread::spawn(move || any(&other));
        pool.release_run(64, 2).unwrap();
        let ours = any(&pool).expect("of two ids the other took one at most");
        assert_ne!(searcher.join().unwrap(), Some(ours));
    });
}

/// Rules out: an id that is seen claimed before what its owner wrote ahead of the claim is.
#[test]
fn who_sees_a_claim_sees_what_came_before_it() {
    model(4, || {
        let pool = pool(1, &[0]);
        let note = Arc::new(AtomicU64::new(0));
        let (other, their_note) = (pool.clone(), note.clone());
        // The thread looks, not this one: loom finds the order that matters only so.
        let looker = thread::spawn(move || {
            // ORDERING: Relaxed: as below.
            assert!(!other.is_claimed(0) || their_note.load(Ordering::Relaxed) == 1);
        });
        // ORDERING: Relaxed: the claim is to carry it over.
        note.store(1, Ordering::Relaxed);
        any(&pool).unwrap();
        looker.join().unwrap();
    });
}
