//! Open bits: which words may have an available id. Hints (invariant 2 of the room); the leaves are the proof.

use super::available;
use super::map::LeaseMap;
use crate::sync::{AtomicU64, Ordering, load_total};
use std::ops::Deref;

impl<S: Deref<Target = [AtomicU64]>> LeaseMap<S> {
    /// The first word in `from..=last` that is said to have an available id.
    pub(super) fn next_open(&self, from: u32, last: u32) -> Option<u32> {
        let (tops, groups) = (&self.words[self.layout.top()], &self.words[self.layout.open()]);
        let mut group = from / 64;
        let mut above = u64::MAX << (from % 64);
        while group <= last / 64 {
            // ORDERING: Relaxed, as all of this search: hints; what is found is claimed by a swap on its leaf.
            let bits = groups[group as usize].load(Ordering::Relaxed);
            if bits & above != 0 {
                let word = group * 64 + (bits & above).trailing_zeros();
                return (word <= last).then_some(word);
            }
            if bits == 0 {
                self.close_group(group);
            }
            above = u64::MAX;
            group += 1;
            let mut top = group / 64;
            let mut higher = u64::MAX << (group % 64);
            loop {
                // ORDERING: Relaxed: as above.
                let bits = tops.get(top as usize)?.load(Ordering::Relaxed) & higher;
                if bits != 0 {
                    group = top * 64 + bits.trailing_zeros();
                    break;
                }
                top += 1;
                higher = u64::MAX;
            }
        }
        None
    }

    /// Whether `word` is said to be open.
    #[inline]
    pub(super) fn is_open(&self, word: u32) -> bool {
        load_total(&self.words[self.layout.open_group(word / 64)]) >> (word % 64) & 1 != 0
    }

    /// Sets the open bits of `word` where they are not set.
    pub(super) fn open(&self, word: u32) {
        if self.is_open(word) {
            return;
        }
        let group = word / 64;
        // ORDERING: SeqCst, before the look at the upper level; pairs with `close_group`.
        self.words[self.layout.open_group(group)].fetch_or(1 << (word % 64), Ordering::SeqCst);
        self.open_group(group);
    }

    fn open_group(&self, group: u32) {
        let bit = 1 << (group % 64);
        let bits = &self.words[self.layout.top()][group as usize / 64];
        if load_total(bits) & bit == 0 {
            // ORDERING: SeqCst: as the lower level.
            bits.fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// A searcher found nothing available in `word`: clears its open bit, then looks again.
    pub(super) fn close_if_empty(&self, word: u32) {
        if available(load_total(self.leaf(word))) != 0 {
            return;
        }
        let group = word / 64;
        let bit = 1 << (word % 64);
        // ORDERING: SeqCst, before the second look; pairs with `became_available`, which changes the leaf and then
        // looks at this bit. One of the two sees the other.
        let before = self.words[self.layout.open_group(group)].fetch_and(!bit, Ordering::SeqCst);
        if available(load_total(self.leaf(word))) != 0 {
            self.open(word);
        } else if before & !bit == 0 {
            self.close_group(group);
        }
    }

    /// The same one level up.
    fn close_group(&self, group: u32) {
        let bit = 1 << (group % 64);
        let bits = &self.words[self.layout.top()][group as usize / 64];
        // ORDERING: Relaxed: saves the write when it is clear already.
        if bits.load(Ordering::Relaxed) & bit == 0 {
            return;
        }
        // ORDERING: SeqCst, before the second look at the lower level; pairs with `open`.
        bits.fetch_and(!bit, Ordering::SeqCst);
        if load_total(&self.words[self.layout.open_group(group)]) != 0 {
            self.open_group(group);
        }
    }

    /// Whether an open bit is clear, at either level, over something available. True at rest would hide an id.
    #[cfg(test)]
    pub(super) fn hides(&self) -> bool {
        let (tops, groups) = (&self.words[self.layout.top()], &self.words[self.layout.open()]);
        // ORDERING: SeqCst: a test's look at rest.
        let clear = |words: &[AtomicU64], bit: usize| words[bit / 64].load(Ordering::SeqCst) >> (bit % 64) & 1 == 0;
        let word_hidden = (0..self.word_count())
            .any(|word| clear(groups, word as usize) && available(load_total(self.leaf(word))) != 0);
        word_hidden || groups.iter().enumerate().any(|(at, group)| clear(tops, at) && load_total(group) != 0)
    }
}
