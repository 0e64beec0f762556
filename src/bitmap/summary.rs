//! The levels above the leaves: where not to look. A hint (invariants 3 and 4); the leaves are the proof.

use super::geometry::Geometry;
use crate::sync::{AtomicU64, Ordering, load_total};

/// A word whose ids, or whose children, are all taken.
pub(super) const TAKEN: u64 = u64::MAX;

/// A view of root, level 1 and leaves.
#[derive(Clone, Copy)]
pub(super) struct Summary<'a> {
    pub geometry: &'a Geometry,
    pub words: &'a [AtomicU64],
}

impl<'a> Summary<'a> {
    #[inline]
    fn root(self, index: u32) -> &'a AtomicU64 {
        &self.words[self.geometry.root(index)]
    }

    #[inline]
    fn level1(self, index: u32) -> &'a AtomicU64 {
        &self.words[self.geometry.level1(index)]
    }

    #[inline]
    fn leaf(self, index: u32) -> &'a AtomicU64 {
        &self.words[self.geometry.leaf(index)]
    }

    /// Marks what does not exist as taken, so that a mask of 64 ones means full at every level.
    pub fn close_tails(self) {
        let geometry = self.geometry;
        let (leaves, groups) = (geometry.leaf_words(), geometry.level1_words());
        let levels = [
            (geometry.len(), self.leaf(leaves - 1)),
            (leaves, self.level1(groups - 1)),
            (groups, self.root(geometry.root_words() - 1)),
        ];
        for (bits, last) in levels.into_iter().filter(|(bits, _)| !bits.is_multiple_of(64)) {
            // ORDERING: Relaxed: the bitmap is not shared yet; sharing it carries this over.
            last.fetch_or(TAKEN << (bits % 64), Ordering::Relaxed);
        }
    }

    /// The leaf words of `from..=last` that no mark calls full, each group's marks as they are when it is come to.
    #[inline]
    pub fn open_words(self, from: u32, last: u32) -> OpenWords<'a> {
        let group = from / 64;
        OpenWords { summary: self, group, bits: self.open_bits(group) & (TAKEN << (from % 64)), last }
    }

    /// A bit for each leaf word of a group that no mark calls full.
    #[inline]
    fn open_bits(self, group: u32) -> u64 {
        // ORDERING: Relaxed: a hint only, whatever is found is claimed by a compare-and-swap on its leaf.
        let marks = self.level1(group).load(Ordering::Relaxed);
        if marks == TAKEN {
            self.mark_group(group);
        }
        !marks
    }

    /// The first level-1 word from `from` on that the root does not call full.
    fn next_open_group(self, from: u32) -> Option<u32> {
        let mut above = TAKEN << (from % 64);
        for index in from / 64..self.geometry.root_words() {
            // ORDERING: Relaxed: as in `open_bits`.
            let open = !self.root(index).load(Ordering::Relaxed) & above;
            if open != 0 {
                return Some(index * 64 + open.trailing_zeros());
            }
            above = TAKEN;
        }
        None
    }

    /// A searcher found leaf `word` full: says so, then looks again.
    pub fn mark(self, word: u32) {
        let group = word / 64;
        let bit = 1 << (word % 64);
        // ORDERING: SeqCst, before the second look at the leaf; pairs with `release`, which clears its bit and then
        // looks at this mark in `unmark`. One of the two sees the other, so no mark stays on a word with a free id.
        let before = self.level1(group).fetch_or(bit, Ordering::SeqCst);
        if load_total(self.leaf(word)) != TAKEN {
            self.unmark(word);
        } else if before | bit == TAKEN {
            self.mark_group(group);
        }
    }

    /// The same one level up: level-1 word `group` was seen full of marks.
    fn mark_group(self, group: u32) {
        let root = self.root(group / 64);
        let bit = 1 << (group % 64);
        // ORDERING: Relaxed: saves the write when the mark stands already.
        if root.load(Ordering::Relaxed) & bit != 0 {
            return;
        }
        // ORDERING: SeqCst, before the second look at level 1; pairs with `unmark`, which clears there and looks here.
        root.fetch_or(bit, Ordering::SeqCst);
        if load_total(self.level1(group)) != TAKEN {
            // ORDERING: SeqCst: as the mark.
            root.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// Whether a mark calls leaf `word` full.
    #[inline]
    pub fn is_marked(self, word: u32) -> bool {
        load_total(self.level1(word / 64)) >> (word % 64) & 1 != 0
    }

    /// A release cleared a bit in leaf `word`: takes the marks away that searchers may have set.
    pub fn unmark(self, word: u32) {
        if !self.is_marked(word) {
            return;
        }
        let group = word / 64;
        let level1 = self.level1(group);
        let bit = 1 << (word % 64);
        // ORDERING: SeqCst, before the look at the root; pairs with `mark_group`.
        if level1.fetch_and(!bit, Ordering::SeqCst) == TAKEN {
            let root = self.root(group / 64);
            let bit = 1 << (group % 64);
            if load_total(root) & bit != 0 {
                // ORDERING: SeqCst: as above. A late one leaves a full group unmarked, which the next search repairs.
                root.fetch_and(!bit, Ordering::SeqCst);
            }
        }
    }

    /// Whether any mark stands on a word or group that has room. True at rest would be a lost id.
    #[cfg(test)]
    pub fn lies(self) -> bool {
        // ORDERING: SeqCst throughout: a test's look at rest.
        let set = |word: &AtomicU64, bit: u32| word.load(Ordering::SeqCst) >> (bit % 64) & 1 != 0;
        let room = |word: &AtomicU64| word.load(Ordering::SeqCst) != TAKEN;
        let word_lies = (0..self.geometry.leaf_words()).any(|w| room(self.leaf(w)) && set(self.level1(w / 64), w));
        let group_lies = (0..self.geometry.level1_words()).any(|g| room(self.level1(g)) && set(self.root(g / 64), g));
        word_lies || group_lies
    }
}

/// The words that are worth a look, in order.
pub(super) struct OpenWords<'a> {
    summary: Summary<'a>,
    group: u32,
    /// Those of the group that were not come to yet.
    bits: u64,
    last: u32,
}

impl Iterator for OpenWords<'_> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        while self.bits == 0 {
            let group = self.summary.next_open_group(self.group + 1)?;
            if group > self.last / 64 {
                return None;
            }
            (self.group, self.bits) = (group, self.summary.open_bits(group));
        }
        let word = self.group * 64 + self.bits.trailing_zeros();
        self.bits &= self.bits - 1;
        (word <= self.last).then_some(word)
    }
}
