//! The searches: ANY, ROUND and runs, and the proof that nothing is left.

use super::dense::{Bitmap, run_bits};
use super::geometry::{lowest_one, mask_within};
use super::summary::TAKEN;
use super::{Search, hint};
use crate::sync::{AtomicU64, Ordering, load_total};
use std::ops::Deref;

/// How often a window of several words is looked through again because ids were released anywhere meanwhile.
/// The whole space has no such bound: there each further look means that an id was released to look for.
const WINDOW_LOOKS: u32 = 16;

/// Full words that one search passes before it begins to mark: passing one costs a load, a mark and its removal cost
/// two locked instructions. In long walks the marks pay, for every later search.
const UNMARKED: u32 = 6;

/// The cursor of the whole space, and the one of runs.
const WHOLE: usize = 0;
const RUNS: usize = 1;

/// What one leaf word answered to a search.
enum Try {
    /// An id, and whether another thread was met on the way.
    Claimed(u32, bool),
    Nothing,
}

impl<S: Deref<Target = [AtomicU64]>> Bitmap<S> {
    /// Claims one free id of `lo..=hi` (cut to the ids there are); `None` if there is none.
    ///
    /// `None` is exact for the whole space, for a window within one word (64 ids), and for one in which no id was
    /// released during the call: there was a moment in the call when every id of it was claimed. Under releases that
    /// never pause (anywhere), a wider window is looked through 17 times, then refused: each word was seen full.
    #[inline]
    pub fn claim(&self, mode: Search, lo: u32, hi: u32) -> Option<u32> {
        // In the caller: a refusal of the full space is this one load.
        if self.watch().is_full() {
            return None;
        }
        let hi = hi.min(self.len() - 1);
        match mode {
            _ if lo > hi => None,
            Search::Any => {
                let at = hint::at(self.key()).filter(|at| (lo / 64..=hi / 64).contains(at));
                at.and_then(|at| self.claim_guessed(at, lo, hi)).or_else(|| self.claim_any(lo, hi))
            }
            Search::Round => self.claim_round(lo, hi),
        }
    }

    /// Claims the run `start..start + n`, with `start` a multiple of `n` rounded up to a power of two, all within
    /// `lo..=hi`; `None` if `n` is not 1 to 64 or each word was seen without such a run during the call.
    ///
    /// Next fit, as [`Search::Round`]. One compare-and-swap: nobody ever sees half a run. Given back by
    /// [`release_run`](Self::release_run) or id by id.
    pub fn claim_run(&self, n: u32, lo: u32, hi: u32) -> Option<u32> {
        let hi = hi.min(self.len() - 1);
        if !(1..=64).contains(&n) || lo > hi || self.watch().is_full() {
            return None;
        }
        let cursor = self.cursor(RUNS);
        let step = n.next_power_of_two();
        let start = self.next_fit(cursor, lo, hi, n, |word, mask| {
            let (seen, starts) = (self.leaf(word), aligned_starts(step));
            loop {
                // ORDERING: Relaxed: the compare-and-swap of the claim decides.
                let free = !seen.load(Ordering::Relaxed) & mask;
                let fits = folded(free, n) & starts;
                if fits == 0 {
                    return Try::Nothing;
                }
                let start = word * 64 + fits.trailing_zeros();
                if run_bits(start, n).is_some_and(|bits| self.claim_bits(word, bits)) {
                    return Try::Claimed(start, false);
                }
            }
        })?;
        Some(start)
    }

    #[inline(never)]
    fn claim_any(&self, lo: u32, hi: u32) -> Option<u32> {
        let (first, last) = (lo / 64, hi / 64);
        let word = match hint::at(self.key()) {
            Some(at) if (first..=last).contains(&at) => {
                if let Try::Claimed(id, met) = self.claim_in(at, mask_within(at, lo, hi)) {
                    if met {
                        self.move_away(first, last);
                    }
                    return Some(id);
                }
                at + 1
            }
            // Not seen from here: if the marks call all of it full, the search would end in the proof anyway.
            _ if self.summary().open_words(first, last).next().is_none() => {
                return self.prove(1, lo, hi, false, &|word, mask| self.claim_in(word, mask)).map(|(id, _)| id);
            }
            _ => first + hint::spread(last - first + 1),
        };
        self.claim_elsewhere(word, lo, hi)
    }

    /// The part of ANY after the hint's word was found full.
    #[cold]
    #[inline(never)]
    fn claim_elsewhere(&self, word: u32, lo: u32, hi: u32) -> Option<u32> {
        let from = if word > hi / 64 { lo } else { (word * 64).max(lo) };
        let (id, met) = self.search(1, from, lo, hi, |word, mask| self.claim_in(word, mask))?;
        if met {
            self.move_away(lo / 64, hi / 64);
        } else {
            hint::move_to(self.key(), id / 64);
        }
        Some(id)
    }

    /// Another thread was met: this one searches anywhere in `first..=last` next.
    #[cold]
    fn move_away(&self, first: u32, last: u32) {
        hint::move_to(self.key(), first + hint::spread(last - first + 1));
    }

    fn claim_round(&self, lo: u32, hi: u32) -> Option<u32> {
        let whole = lo == 0 && hi == self.len() - 1;
        let cursor = self.cursor(if whole { WHOLE } else { 2 + (lo.wrapping_mul(31) ^ hi) as usize % 6 });
        let id = self.next_fit(cursor, lo, hi, 1, |word, mask| self.claim_in(word, mask))?;
        hint::move_to(self.key(), hint::NOWHERE);
        Some(id)
    }

    /// Searches upwards from the cursor, round the window, and moves the cursor behind what was found.
    fn next_fit(&self, cursor: &AtomicU64, lo: u32, hi: u32, n: u32, take: impl Fn(u32, u64) -> Try) -> Option<u32> {
        // ORDERING: Relaxed: where to begin, nothing more.
        let seen = cursor.load(Ordering::Relaxed);
        let from = u32::try_from(seen).ok().filter(|at| (lo..=hi).contains(at)).unwrap_or(lo);
        let guessed = if n == 1 { self.claim_guessed(from / 64, from, hi) } else { None };
        let id = guessed.or_else(|| self.search(n, from, lo, hi, take).map(|(id, _)| id))?;
        // ORDERING: Relaxed. A cursor that another moved meanwhile stays: moving it back would shorten an id's rest. Not a
        // swap: that is a third locked operation, for what is a wish. A thread preempted between the two can move it back.
        if cursor.load(Ordering::Relaxed) == seen {
            cursor.store(u64::from(id + n), Ordering::Relaxed);
        }
        Some(id)
    }

    /// Claims the lowest free id of `lo..=hi` in leaf `word` without looking, if this thread swapped it last and it holds
    /// what was left there. Nothing is proven by a `None`.
    #[inline]
    fn claim_guessed(&self, word: u32, lo: u32, hi: u32) -> Option<u32> {
        let guess = hint::guess(self.key(), word)?;
        let free = !guess & mask_within(word, lo, hi);
        let left = guess | lowest_one(free);
        // ORDERING: AcqRel, as in `claim_in`.
        if free == 0 || self.leaf(word).compare_exchange(guess, left, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return None;
        }
        hint::guessed(self.key(), left);
        Some(word * 64 + free.trailing_zeros())
    }

    /// Claims the lowest free id of `mask` in leaf `word`.
    #[inline]
    fn claim_in(&self, word: u32, mask: u64) -> Try {
        let leaf = self.leaf(word);
        // ORDERING: Relaxed: the compare-and-swap below decides.
        let mut seen = leaf.load(Ordering::Relaxed);
        let mut met = hint::is_wrong(self.key(), word, seen);
        loop {
            let free = !seen & mask;
            if free == 0 {
                return Try::Nothing;
            }
            let left = seen | lowest_one(free);
            // ORDERING: Acquire, pairs with `release`: what the last owner did is done. Release, for `is_claimed`.
            match leaf.compare_exchange(seen, left, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    hint::remember(self.key(), word, left);
                    return Try::Claimed(word * 64 + free.trailing_zeros(), met);
                }
                Err(now) => (seen, met) = (now, true),
            }
        }
    }

    /// Follows the marks from `from` round `lo..=hi`, then has the leaves prove a refusal.
    fn search(&self, n: u32, from: u32, lo: u32, hi: u32, take: impl Fn(u32, u64) -> Try) -> Option<(u32, bool)> {
        let mut passed = 0;
        self.follow_marks(from, hi, &mut passed, &take)
            .or_else(|| if from > lo { self.follow_marks(lo, from - 1, &mut passed, &take) } else { None })
            .or_else(|| self.prove(n, lo, hi, passed > 0, &take))
    }

    /// Tries the words of `lo..=hi` that no mark calls full, and marks those it finds full after the first few.
    fn follow_marks(&self, lo: u32, hi: u32, passed: &mut u32, take: &impl Fn(u32, u64) -> Try) -> Option<(u32, bool)> {
        for word in self.summary().open_words(lo / 64, hi / 64) {
            if let Try::Claimed(id, met) = take(word, mask_within(word, lo, hi)) {
                return Some((id, met));
            }
            *passed += 1;
            if *passed > UNMARKED && self.leaf_is_taken(word) {
                self.summary().mark(word);
            }
        }
        None
    }

    /// Looks through every leaf of `lo..=hi`, some of them full but `unmarked`, until one gives an id or none was released during a look (invariant 5).
    #[cold]
    #[inline(never)]
    fn prove(&self, n: u32, lo: u32, hi: u32, unmarked: bool, take: &impl Fn(u32, u64) -> Try) -> Option<(u32, bool)> {
        if lo / 64 == hi / 64 {
            // One load is a look at all of it at one moment.
            return match take(lo / 64, mask_within(lo / 64, lo, hi)) {
                Try::Claimed(id, met) => Some((id, met)),
                Try::Nothing => None,
            };
        }
        // Only a search for a single id over all there are proves that nothing is left.
        let whole = n == 1 && lo == 0 && hi == self.len() - 1;
        let mut looks = 0;
        loop {
            let ticket = self.watch().arm();
            let leaves = self.leaves(lo, hi);
            let mut at = 0;
            while let Some(step) = leaves[at..].iter().position(|leaf| load_total(leaf) != TAKEN) {
                let word = lo / 64 + (at + step) as u32;
                if let Try::Claimed(id, met) = take(word, mask_within(word, lo, hi)) {
                    return Some((id, met));
                }
                at += step + 1;
            }
            let proven = if whole { self.watch().confirm_full(ticket) } else { self.watch().still(ticket) };
            if proven || (!whole && looks == WINDOW_LOOKS) {
                if unmarked && !whole {
                    self.mark_all(lo, hi);
                }
                return None;
            }
            looks += 1;
        }
    }

    /// The proof alone, so that a model need not run through the search before it.
    #[cfg(all(test, ioasid_loom))]
    pub(super) fn claim_by_proof(&self, lo: u32, hi: u32) -> Option<u32> {
        self.prove(1, lo, hi, false, &|word, mask| self.claim_in(word, mask)).map(|(id, _)| id)
    }

    /// A window was refused: marks its full words, so that the next refusal need not pass them one by one.
    fn mark_all(&self, lo: u32, hi: u32) {
        for word in self.summary().open_words(lo / 64, hi / 64) {
            if self.leaf_is_taken(word) {
                self.summary().mark(word);
            }
        }
    }
}

/// A bit at each position from which `n` bits of `free` are set.
fn folded(free: u64, n: u32) -> u64 {
    let (mut fits, mut done) = (free, 1);
    while done < n {
        let step = done.min(n - done);
        fits &= fits >> step;
        done += step;
    }
    fits
}

/// A bit at each multiple of `step`, a power of two up to 64.
fn aligned_starts(step: u32) -> u64 {
    // 2^64 - 1 divided by 2^step - 1 is the number with a one at each multiple of `step`.
    if step == 64 { 1 } else { u64::MAX / ((1 << step) - 1) }
}
