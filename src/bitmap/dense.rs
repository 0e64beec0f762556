//! The bitmap itself: what is known by looking at one id or by counting. The searches are in `search.rs`.

use super::geometry::{Geometry, mask_within};
use super::summary::{Summary, TAKEN};
use super::watch::Watch;
use super::{NotClaimed, hint};
use crate::sync::{AtomicU64, Ordering, load_total};
use std::ops::Deref;

/// A lock-free set of claimed indices `0..len` over borrowed words.
///
/// `S` gives the words: a `Vec`, a slice, a mapping. Every process that shares the words builds its own `Bitmap` over
/// them; nothing but the words is shared. The protocol is at the top of [`crate::bitmap`].
///
/// ```
/// # #[cfg(not(ioasid_loom))] {
/// use ioasid::bitmap::{Bitmap, Search, words_needed};
/// use ioasid::sync::AtomicU64;
///
/// let words: Vec<AtomicU64> = (0..words_needed(100).unwrap()).map(|_| AtomicU64::new(0)).collect();
/// let bitmap = Bitmap::new(100, words).unwrap();
/// assert_eq!(bitmap.claim(Search::Round, 10, 19), Some(10));
/// assert_eq!(bitmap.claim(Search::Round, 10, 19), Some(11));
/// assert!(bitmap.release(10).is_ok());
/// assert!(bitmap.release(10).is_err());
/// assert_eq!(bitmap.free(), 99);
/// # }
/// ```
#[derive(Debug)]
pub struct Bitmap<S> {
    geometry: Geometry,
    words: S,
}

impl<S: Deref<Target = [AtomicU64]>> Bitmap<S> {
    /// A bitmap of `len` ids over `words`; `None` if `len` is not 1 to 2^20 or the words are fewer than
    /// [`words_needed`](super::words_needed).
    ///
    /// Zeroed words are an empty bitmap; words that held one of the same length keep what was claimed in it.
    pub fn new(len: u32, words: S) -> Option<Self> {
        let geometry = Geometry::new(len)?;
        if words.len() < geometry.words() {
            return None;
        }
        let bitmap = Self { geometry, words };
        bitmap.summary().close_tails();
        Some(bitmap)
    }

    /// How many ids it has, claimed or not.
    pub fn len(&self) -> u32 {
        self.geometry.len()
    }

    /// Never true: a bitmap has one id at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Claims `index` itself; false if it is claimed already or not below [`Bitmap::len`].
    pub fn claim_at(&self, index: u32) -> bool {
        index < self.len() && self.claim_bits(index / 64, 1 << (index % 64))
    }

    /// Gives `index` back. Wait-free: one swap, at most two and a locked bit clear, and a look at the mark and at the watch
    /// word.
    ///
    /// # Errors
    /// [`NotClaimed`] if it was free already (a double free, seen by exactly one of two racing callers) or is not below
    /// [`Bitmap::len`]; nothing changed then.
    #[inline]
    pub fn release(&self, index: u32) -> Result<(), NotClaimed> {
        if index >= self.len() {
            return Err(NotClaimed(index));
        }
        let (word, bit) = (index / 64, 1 << (index % 64));
        let leaf = self.leaf(word);
        if !hint::clear_guessed(self.key(), word, leaf, bit) && !self.release_looking(word, leaf, bit) {
            return Err(NotClaimed(index));
        }
        self.became_free(word);
        Ok(())
    }

    /// The rest of a release, where what was left in the leaf is not known or not right; `false` if the bit is clear.
    #[inline]
    fn release_looking(&self, word: u32, leaf: &AtomicU64, bit: u64) -> bool {
        // ORDERING: Relaxed: the compare-and-swap decides.
        let seen = leaf.load(Ordering::Relaxed);
        if let Some(left) = hint::clear(leaf, seen, bit) {
            if hint::at(self.key()) != Some(hint::NOWHERE) && !hint::is_wrong(self.key(), word, seen) {
                // The next claim begins here, and knows what it meets: nobody else, as far as can be seen.
                hint::remember(self.key(), word, left);
                hint::move_to(self.key(), word);
            }
            return true;
        }
        // ORDERING: SeqCst. Its release half pairs with the claim's acquire; as a whole it stands before the looks at
        // the mark and at the watch word (invariants 4 and 5).
        leaf.fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    /// Gives back the run `start..start + n` that [`claim_run`](Self::claim_run) claimed, in one step.
    ///
    /// # Errors
    /// [`NotClaimed`] with the first id that was not claimed, or with `start` if no such run exists; nothing changed.
    pub fn release_run(&self, start: u32, n: u32) -> Result<(), NotClaimed> {
        match run_bits(start, n) {
            Some(bits) if start.checked_add(n).is_some_and(|end| end <= self.len()) => self
                .release_bits(start / 64, bits)
                .map_err(|missing| NotClaimed(start / 64 * 64 + missing.trailing_zeros())),
            _ => Err(NotClaimed(start)),
        }
    }

    /// Claims all of `lo..=hi` that is free, for ids that are never to be handed out; how many were free.
    ///
    /// Each word in one step, not all of them: an id that is claimed at the moment is left to its owner.
    pub fn withhold(&self, lo: u32, hi: u32) -> u32 {
        self.over(lo, hi, |leaf, mask| {
            // ORDERING: Relaxed: nobody ever uses what is withheld, so there is nothing to hand over.
            (mask & !leaf.fetch_or(mask, Ordering::Relaxed)).count_ones()
        })
    }

    /// Whether `index` is claimed at this moment; true for one not below [`Bitmap::len`].
    pub fn is_claimed(&self, index: u32) -> bool {
        index >= self.len() || {
            // ORDERING: Acquire, pairs with the claim's release half: what the claimer wrote before is visible.
            self.leaf(index / 64).load(Ordering::Acquire) >> (index % 64) & 1 != 0
        }
    }

    /// How many of `lo..=hi` are free: exact at rest, else each word at the moment it was read. One load per 64 ids.
    pub fn count_free(&self, lo: u32, hi: u32) -> u32 {
        // ORDERING: Relaxed: a count carries nothing over.
        self.over(lo, hi, |leaf, mask| (!leaf.load(Ordering::Relaxed) & mask).count_ones())
    }

    /// How many ids are free; as [`Bitmap::count_free`] over all of them.
    pub fn free(&self) -> u32 {
        self.count_free(0, self.len() - 1)
    }

    /// The sum of `each(leaf, mask)` over the leaves of `lo..=hi`, cut to the ids there are.
    fn over(&self, lo: u32, hi: u32, mut each: impl FnMut(&AtomicU64, u64) -> u32) -> u32 {
        let hi = hi.min(self.len() - 1);
        if lo > hi {
            return 0;
        }
        (lo / 64..=hi / 64).map(|word| each(self.leaf(word), mask_within(word, lo, hi))).sum()
    }

    /// Claims all of `bits` in leaf `word`, or none.
    pub(super) fn claim_bits(&self, word: u32, bits: u64) -> bool {
        let leaf = self.leaf(word);
        // ORDERING: Relaxed: the compare-and-swap below decides.
        let mut seen = leaf.load(Ordering::Relaxed);
        while seen & bits == 0 {
            // ORDERING: Acquire, pairs with `release_bits`: what the last owner did is done. Release, for `is_claimed`.
            match leaf.compare_exchange_weak(seen, seen | bits, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Clears all of `bits` in leaf `word`, or none: then the bits that were clear already.
    fn release_bits(&self, word: u32, bits: u64) -> Result<(), u64> {
        let leaf = self.leaf(word);
        // ORDERING: Relaxed: the compare-and-swap below decides.
        let mut seen = leaf.load(Ordering::Relaxed);
        loop {
            if seen & bits != bits {
                return Err(bits & !seen);
            }
            // ORDERING: SeqCst. Its release half pairs with the claim's acquire; as a whole it stands before the looks
            // at the mark and at the watch word (invariants 4 and 5).
            match leaf.compare_exchange_weak(seen, seen & !bits, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        self.became_free(word);
        Ok(())
    }

    /// After a bit of leaf `word` was cleared: takes away its mark, and tells a proof that is under way.
    ///
    /// Whether the word was full before is not asked: a bit clear does not say, and the mark is on a line that is read
    /// only.
    #[inline]
    fn became_free(&self, word: u32) {
        if self.summary().is_marked(word) || self.watch().is_on() {
            self.tell_of(word);
        }
    }

    #[cold]
    #[inline(never)]
    fn tell_of(&self, word: u32) {
        self.summary().unmark(word);
        self.watch().released();
    }

    /// Whether leaf `word` holds no free id at this moment.
    #[inline]
    pub(super) fn leaf_is_taken(&self, word: u32) -> bool {
        load_total(self.leaf(word)) == TAKEN
    }

    #[inline]
    pub(super) fn leaf(&self, word: u32) -> &AtomicU64 {
        &self.words[self.geometry.leaf(word)]
    }

    /// The leaf words that ids `lo..=hi` lie in.
    pub(super) fn leaves(&self, lo: u32, hi: u32) -> &[AtomicU64] {
        &self.words[self.geometry.leaf(lo / 64)..=self.geometry.leaf(hi / 64)]
    }

    #[inline]
    pub(super) fn summary(&self) -> Summary<'_> {
        Summary { geometry: &self.geometry, words: &self.words }
    }

    #[inline]
    pub(super) fn watch(&self) -> Watch<'_> {
        Watch(&self.words[0])
    }

    #[inline]
    pub(super) fn cursor(&self, slot: usize) -> &AtomicU64 {
        &self.words[self.geometry.cursor(slot)]
    }

    #[inline]
    pub(super) fn key(&self) -> usize {
        hint::key_of(self)
    }
}

/// The bits of the run `start..start + n` in its word; `None` if it is empty or crosses a word.
pub(super) fn run_bits(start: u32, n: u32) -> Option<u64> {
    (1..=64 - start % 64).contains(&n).then(|| (u64::MAX >> (64 - n)) << (start % 64))
}
