//! Where each word of a lease map lies.

use super::super::geometry::{LINE, MAX_LEN, lines, words};
use super::IDS_PER_WORD;
use std::ops::Range;

/// The offsets of a lease map's parts: watch word, two levels of open bits, touched bits, leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    len: u32,
    open: usize,
    touched: usize,
    leaves: usize,
    /// Consecutive leaf words are dealt over two to the power of this many lines.
    line_bits: u32,
}

impl Layout {
    pub fn new(len: u32) -> Option<Self> {
        if len == 0 || len > MAX_LEN {
            return None;
        }
        let leaf_words = len.div_ceil(IDS_PER_WORD) as usize;
        let middle = words(leaf_words);
        let open = LINE + lines(words(middle));
        let touched = open + lines(middle);
        let leaves = touched + lines(middle);
        let line_bits = leaf_words.div_ceil(LINE).next_power_of_two().trailing_zeros();
        Some(Self { len, open, touched, leaves, line_bits })
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    /// Leaf words.
    #[inline]
    pub fn leaf_words(&self) -> u32 {
        self.len.div_ceil(IDS_PER_WORD)
    }

    /// All words.
    pub fn words(&self) -> usize {
        self.leaves + (LINE << self.line_bits)
    }

    /// Upper level of open bits: one per word of the lower level; at most 8 words.
    pub fn top(&self) -> Range<usize> {
        LINE..LINE + words(words(self.leaf_words() as usize))
    }

    /// Lower level of open bits: one per leaf word; at most 512 words.
    pub fn open(&self) -> Range<usize> {
        self.open..self.open + words(self.leaf_words() as usize)
    }

    /// The offset of the open bits of `group`, 64 leaf words.
    #[inline]
    pub fn open_group(&self, group: u32) -> usize {
        self.open + group as usize
    }

    /// Touched bits: one per leaf word; at most 512 words.
    pub fn touched(&self) -> Range<usize> {
        self.touched..self.touched + words(self.leaf_words() as usize)
    }

    /// The offset of leaf `word`, below [`Layout::leaf_words`].
    #[inline]
    pub fn leaf(&self, word: u32) -> usize {
        let word = word as usize;
        let line = word & ((1 << self.line_bits) - 1);
        self.leaves + line * LINE + (word >> self.line_bits)
    }
}

#[cfg(all(test, not(ioasid_loom)))]
mod tests {
    use super::*;

    #[test]
    fn leaves_lie_at_different_offsets_and_neighbours_on_different_lines() {
        for len in [1, 32, 33, 63, 64, 65, 4_095, 4_096, 4_097, MAX_LEN] {
            let layout = Layout::new(len).unwrap();
            let mut taken = vec![false; layout.words()];
            for word in 0..layout.leaf_words() {
                let at = layout.leaf(word);
                assert!(at >= layout.touched().end && at < layout.words(), "len {len} word {word}");
                assert!(!std::mem::replace(&mut taken[at], true), "len {len} word {word}");
                assert!(len <= 256 || word == 0 || at / LINE != layout.leaf(word - 1) / LINE, "len {len} word {word}");
            }
        }
    }

    #[test]
    fn full_space_takes_33808_words() {
        assert_eq!(Layout::new(MAX_LEN).unwrap().words(), 33_808);
        assert!(Layout::new(0).is_none() && Layout::new(MAX_LEN + 1).is_none());
    }
}
