//! Flags that one side sets and another looks at.

use crate::sync::{AtomicU64, Ordering, load_total};
use std::ops::Deref;

/// One bit an index over borrowed words, all operations in one total order.
///
/// For handshakes in which each side stores to one word and then looks at another: of two that do so at once, one
/// sees the other. [`SetMap`](super::leases::SetMap) has two of them. Total over any content of the words; an index
/// beyond them is never set.
#[derive(Debug)]
pub struct Flags<S>(S);

impl<S: Deref<Target = [AtomicU64]>> Flags<S> {
    /// Flags over `words`; zeroed words are clear flags. Nothing is written here.
    pub fn new(words: S) -> Self {
        Self(words)
    }

    /// Sets the flag; whether it was set before. Wait-free.
    pub fn set(&self, index: u32) -> bool {
        let Some((word, bit)) = self.place(index) else { return false };
        // ORDERING: SeqCst: the store of a handshake, before the look that follows it; pairs with `test`.
        word.fetch_or(bit, Ordering::SeqCst) & bit != 0
    }

    /// Clears the flag; whether it was set before. Wait-free.
    pub fn clear(&self, index: u32) -> bool {
        let Some((word, bit)) = self.place(index) else { return false };
        // ORDERING: SeqCst: as `set`.
        word.fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    /// Whether the flag is set. One load.
    #[inline]
    pub fn test(&self, index: u32) -> bool {
        self.place(index).is_some_and(|(word, bit)| load_total(word) & bit != 0)
    }

    /// Whether any of the first 64 flags is set. One load.
    #[inline]
    pub fn any(&self) -> bool {
        self.0.first().is_some_and(|word| load_total(word) != 0)
    }

    #[inline]
    fn place(&self, index: u32) -> Option<(&AtomicU64, u64)> {
        Some((self.0.get(index as usize / 64)?, 1 << (index % 64)))
    }
}

#[cfg(all(test, not(ioasid_loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_flag_is_its_own() {
        let flags = Flags::new(vec![AtomicU64::new(0), AtomicU64::new(0)]);
        for index in [0, 63, 64, 127] {
            assert!(!flags.set(index) && flags.set(index) && flags.test(index));
        }
        assert!(!flags.test(1) && !flags.test(65));
        assert!(flags.clear(64) && !flags.clear(64) && !flags.test(64) && flags.test(63) && flags.any());
        assert!(flags.clear(0) && flags.clear(63) && !flags.any() && flags.test(127));
    }

    #[test]
    fn an_index_beyond_the_words_is_never_set() {
        let flags = Flags::new(vec![AtomicU64::new(u64::MAX)]);
        assert!(!flags.test(64) && !flags.set(64) && !flags.clear(u32::MAX));
    }
}
