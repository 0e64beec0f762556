//! The holder's side: claim, release, and where to look.

use super::super::geometry::lowest_one;
use super::super::{NotClaimed, hint};
use super::map::{LeaseMap, mask_within, used};
use super::{IDS_PER_WORD, available};
use crate::sync::{AtomicU64, Ordering, load_total};
use std::ops::Deref;

/// Swaps tried on one word before a search goes on: only somebody who writes it without pause makes them fail.
const TRIES: u32 = 64;

/// What one word answered to a search.
enum Try {
    /// An id, and whether somebody else was met in the word.
    Claimed(u32, bool),
    Nothing,
}

impl<S: Deref<Target = [AtomicU64]>> LeaseMap<S> {
    /// Holder: claims an available id; `None` if there is none, so that the session is to be asked for more.
    ///
    /// Begins behind the id this thread claimed last, so that a fresh id goes before one freed a moment ago. `None` is
    /// exact while all who share the map keep the protocol: every id that was leased was in use at one moment in the
    /// call. In words that somebody scribbles on it is returned at the latest after as many looks as there are words.
    #[inline]
    pub fn claim(&self) -> Option<u32> {
        self.claim_guessed().or_else(|| self.claim_looking())
    }

    /// The same from what this thread left in the word that it is at. Nothing is proven by a `None`.
    #[inline]
    fn claim_guessed(&self) -> Option<u32> {
        let at = hint::at(self.key()).filter(|at| *at < self.len())?;
        let word = at / IDS_PER_WORD;
        let guess = hint::guess(self.key(), word)?;
        let (bit, left) = next_claim(guess, at % IDS_PER_WORD, u32::MAX)?;
        let id = word * IDS_PER_WORD + bit;
        // ORDERING: AcqRel, as in `claim_in_word`.
        if id >= self.len()
            || self.leaf(word).compare_exchange(guess, left, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            return None;
        }
        hint::guessed(self.key(), left);
        hint::move_to(self.key(), behind(id));
        Some(id)
    }

    #[inline(never)]
    fn claim_looking(&self) -> Option<u32> {
        let words = self.word_count();
        let at = match hint::at(self.key()) {
            Some(at) if at < self.len() => at,
            _ => hint::spread(words) * IDS_PER_WORD,
        };
        match self.claim_in_word(at / IDS_PER_WORD, at % IDS_PER_WORD, u32::MAX) {
            // An id beyond the length is rubbish that somebody wrote; it stays used.
            Try::Claimed(id, met) if id < self.len() => {
                if met {
                    self.move_away(id);
                }
                return Some(id);
            }
            _ => {}
        }
        self.claim_elsewhere(at, 0, self.len() - 1)
    }

    /// Holder: claims an available id of `lo..=hi` (cut to the ids there are); as [`LeaseMap::claim`].
    pub fn claim_in(&self, lo: u32, hi: u32) -> Option<u32> {
        let hi = hi.min(self.len() - 1);
        if lo > hi {
            return None;
        }
        let at = hint::at(self.key()).filter(|at| (lo..=hi).contains(at)).unwrap_or(lo);
        self.claim_elsewhere(at, lo, hi)
    }

    /// Holder: gives `id` back to the set; it stays leased. Wait-free.
    ///
    /// # Errors
    /// [`NotClaimed`] if it was not in use (a double free, or its lease was ended), or is none of the map's; nothing
    /// changed then.
    #[inline]
    pub fn release(&self, id: u32) -> Result<(), NotClaimed> {
        if id >= self.len() {
            return Err(NotClaimed(id));
        }
        let word = id / IDS_PER_WORD;
        // ORDERING: SeqCst. Release half: what the holder did with the id is done before its next claim or take-back.
        // As a whole it stands before the looks at the open bits and the watch word.
        if !hint::clear_guessed(self.key(), word, self.leaf(word), used(id))
            && self.leaf(word).fetch_and(!used(id), Ordering::SeqCst) & used(id) == 0
        {
            return Err(NotClaimed(id));
        }
        self.became_available(word);
        Ok(())
    }

    #[inline]
    fn key(&self) -> usize {
        hint::key_of(self)
    }

    /// Claims the first available id of `mask` in `word` from bit `from` on, round the word, and has this thread search
    /// behind it next.
    #[inline]
    fn claim_in_word(&self, word: u32, from: u32, mask: u32) -> Try {
        let leaf = self.leaf(word);
        // ORDERING: Relaxed: the compare-and-swap below decides.
        let mut seen = leaf.load(Ordering::Relaxed);
        let mut met = hint::is_wrong(self.key(), word, seen);
        for _ in 0..TRIES {
            let Some((bit, left)) = next_claim(seen, from, mask) else { break };
            let id = word * IDS_PER_WORD + bit;
            // ORDERING: Acquire, pairs with `release` and `lease`: what came before the id was available is done.
            // Release, for the service's snapshot.
            match leaf.compare_exchange(seen, left, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    hint::remember(self.key(), word, left);
                    hint::move_to(self.key(), behind(id));
                    return Try::Claimed(id, met);
                }
                Err(now) => (seen, met) = (now, true),
            }
        }
        Try::Nothing
    }

    /// The rest of a claim: the words that are said to be open, then the proof.
    #[cold]
    #[inline(never)]
    fn claim_elsewhere(&self, at: u32, lo: u32, hi: u32) -> Option<u32> {
        if self.watch().is_full() {
            return None;
        }
        let word = at / IDS_PER_WORD;
        let (id, met) = self
            .follow_open(word, hi / IDS_PER_WORD, at, lo, hi)
            .or_else(|| self.follow_open(lo / IDS_PER_WORD, word, at, lo, hi))
            .or_else(|| self.prove(lo, hi))?;
        if met {
            self.move_away(id);
        }
        Some(id)
    }

    /// Somebody else claims in the word of `id` too: the next search begins at another open one.
    #[cold]
    fn move_away(&self, id: u32) {
        let (word, last) = (id / IDS_PER_WORD, self.word_count() - 1);
        let next = if word < last { self.next_open(word + 1, last) } else { None }.or_else(|| self.next_open(0, last));
        hint::move_to(self.key(), next.unwrap_or(word) * IDS_PER_WORD);
    }

    /// Tries the open words of `first..=last`; those it finds empty it closes.
    fn follow_open(&self, first: u32, last: u32, at: u32, lo: u32, hi: u32) -> Option<(u32, bool)> {
        let mut word = first;
        while let Some(open) = self.next_open(word, last) {
            let from = if open == at / IDS_PER_WORD { at % IDS_PER_WORD } else { 0 };
            if let Try::Claimed(id, met) = self.claim_in_word(open, from, mask_within(open, lo, hi)) {
                return Some((id, met));
            }
            self.close_if_empty(open);
            word = open + 1;
            if word > last {
                break;
            }
        }
        None
    }

    /// Looks through every touched word until one gives an id or none became available during a look.
    pub(super) fn prove(&self, lo: u32, hi: u32) -> Option<(u32, bool)> {
        let whole = lo == 0 && hi == self.len() - 1;
        for _ in 0..=self.word_count() {
            let ticket = self.watch().arm();
            for word in self.touched_words() {
                let mask =
                    if (lo / IDS_PER_WORD..=hi / IDS_PER_WORD).contains(&word) { mask_within(word, lo, hi) } else { 0 };
                if available(load_total(self.leaf(word))) & mask != 0
                    && let Try::Claimed(id, met) = self.claim_in_word(word, 0, mask)
                {
                    return Some((id, met));
                }
            }
            if if whole { self.watch().confirm_full(ticket) } else { self.watch().still(ticket) } {
                break;
            }
        }
        None
    }
}

/// The first available id of `mask` in a word from bit `from` on, round the word, and the word with it in use.
#[inline]
fn next_claim(word: u64, from: u32, mask: u32) -> Option<(u32, u64)> {
    // As used bits, so that what is found need not be moved there.
    let there = u64::from(available(word) & mask) << IDS_PER_WORD;
    let behind = there & u64::MAX << (IDS_PER_WORD + from);
    let first = if behind != 0 { behind } else { there };
    let left = word | lowest_one(first);
    (there != 0).then(|| (first.trailing_zeros() - IDS_PER_WORD, left))
}

/// Behind `id` in its word, round it.
#[inline]
fn behind(id: u32) -> u32 {
    (id & !(IDS_PER_WORD - 1)) | ((id + 1) % IDS_PER_WORD)
}
