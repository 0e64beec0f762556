//! Where each word of a bitmap lies, as offsets from the first: the layout knows no address.

/// The most ids one bitmap may have: 2^20, the width of a PASID.
pub const MAX_LEN: u32 = 1 << 20;

/// Words on one cache line of 64 bytes. Loom models one word a line: it has no false sharing, and fewer words to track.
pub(super) const LINE: usize = if cfg!(ioasid_loom) { 1 } else { 8 };

/// Next-fit cursors: the first for the whole space, the second for runs, the others shared by windows.
pub(super) const CURSORS: usize = if cfg!(ioasid_loom) { 2 } else { 8 };

/// The offsets of a bitmap's parts in its words.
///
/// | words | what |
/// |---|---|
/// | first line | the watch word (invariant 5 of [`crate::bitmap`]) |
/// | one line each | the next-fit cursors |
/// | one line | root: one bit per level-1 word, at most 4 words |
/// | whole lines | level 1: one bit per leaf word, at most 256 words |
/// | whole lines | leaves: one bit per id, at most 16,384 words |
///
/// Words that are written often stand 64 bytes apart, so they share no line wherever the storage begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    len: u32,
    root: usize,
    level1: usize,
    leaves: usize,
    end: usize,
}

impl Geometry {
    /// The layout for `len` ids; `None` unless `len` is 1 to [`MAX_LEN`].
    pub fn new(len: u32) -> Option<Self> {
        if len == 0 || len > MAX_LEN {
            return None;
        }
        let root = LINE + CURSORS * LINE;
        let level1 = root + lines(words(words(words(len as usize))));
        let leaves = level1 + lines(words(words(len as usize)));
        let end = leaves + lines(words(len as usize));
        Some(Self { len, root, level1, leaves, end })
    }

    /// How many ids it has.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Never true: a bitmap has one id at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// How many words of storage it takes: 16,720 (131 KiB) for 2^20 ids.
    pub fn words(&self) -> usize {
        self.end
    }

    pub(super) fn cursor(&self, slot: usize) -> usize {
        LINE + slot % CURSORS * LINE
    }

    /// The offset of root word `index`, below [`Geometry::root_words`].
    #[inline]
    pub(super) fn root(&self, index: u32) -> usize {
        self.root + index as usize
    }

    /// The offset of level-1 word `index`, below [`Geometry::level1_words`].
    #[inline]
    pub(super) fn level1(&self, index: u32) -> usize {
        self.level1 + index as usize
    }

    /// The offset of leaf word `index`, below [`Geometry::leaf_words`].
    #[inline]
    pub(super) fn leaf(&self, index: u32) -> usize {
        self.leaves + index as usize
    }

    #[inline]
    pub(super) fn leaf_words(&self) -> u32 {
        self.len.div_ceil(64)
    }

    #[inline]
    pub(super) fn level1_words(&self) -> u32 {
        self.leaf_words().div_ceil(64)
    }

    #[inline]
    pub(super) fn root_words(&self) -> u32 {
        self.level1_words().div_ceil(64)
    }
}

/// How many words of storage a [`Bitmap`](super::Bitmap) of `len` ids takes; `None` unless `len` is 1 to [`MAX_LEN`].
pub fn words_needed(len: u32) -> Option<usize> {
    Geometry::new(len).map(|geometry| geometry.words())
}

/// The lowest bit that is set, alone.
#[inline]
pub(super) fn lowest_one(bits: u64) -> u64 {
    bits & bits.wrapping_neg()
}

/// Words that hold `bits` bits.
pub(super) const fn words(bits: usize) -> usize {
    bits.div_ceil(64)
}

/// `words` rounded up to whole lines.
pub(super) const fn lines(words: usize) -> usize {
    words.next_multiple_of(LINE)
}

/// The bits of word `word` that stand for ids in `lo..=hi`.
#[inline]
pub(super) fn mask_within(word: u32, lo: u32, hi: u32) -> u64 {
    let mut mask = u64::MAX;
    if word == lo / 64 {
        mask &= u64::MAX << (lo % 64);
    }
    if word == hi / 64 {
        mask &= u64::MAX >> (63 - hi % 64);
    }
    mask
}

#[cfg(all(test, not(ioasid_loom)))]
mod tests {
    use super::*;

    #[test]
    fn lengths_out_of_bounds_have_no_layout() {
        assert_eq!(words_needed(0), None);
        assert_eq!(words_needed(MAX_LEN + 1), None);
        assert!(words_needed(1).is_some() && words_needed(MAX_LEN).is_some());
    }

    #[test]
    fn full_space_takes_256_and_4_summary_words() {
        let geometry = Geometry::new(MAX_LEN).unwrap();
        assert_eq!((geometry.leaf_words(), geometry.level1_words(), geometry.root_words()), (16_384, 256, 4));
        assert_eq!(geometry.words(), 16_720);
    }

    #[test]
    fn parts_share_no_line() {
        for len in [1, 63, 64, 65, 4_095, 4_096, 4_097, MAX_LEN] {
            let geometry = Geometry::new(len).unwrap();
            assert!(geometry.cursor(CURSORS - 1) + LINE <= geometry.root(0));
            assert!(geometry.root(geometry.root_words()) <= geometry.level1(0));
            assert!(geometry.level1(geometry.level1_words()) <= geometry.leaf(0));
            assert!(geometry.leaf(geometry.leaf_words()) <= geometry.words());
            for start in [geometry.root(0), geometry.level1(0), geometry.leaf(0)] {
                assert_eq!(start % LINE, 0);
            }
        }
    }

    #[test]
    fn mask_covers_both_ends_of_one_word() {
        assert_eq!(mask_within(0, 3, 5), 0b111000);
        assert_eq!(mask_within(1, 3, 64), 1);
        assert_eq!(mask_within(1, 3, 200), u64::MAX);
    }
}
