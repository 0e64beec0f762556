//! Flags that one side sets and another looks at.

use crate::sync::{AtomicU64, Ordering, load_total};
use std::ops::Deref;

/// One bit an index over borrowed words, all operations in one total order.
///
/// For handshakes in which each side stores to one word and then looks at another: of two that do so at once, one
/// sees the other. A release of a mapped id clears its used bit and then looks at its held flag; a hold sets the
/// held flag and then looks at the used bit. Total over any content of the words; an index beyond them is never set.
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
        assert!(flags.clear(64) && !flags.clear(64) && !flags.test(64) && flags.test(63));
    }

    #[test]
    fn an_index_beyond_the_words_is_never_set() {
        let flags = Flags::new(vec![AtomicU64::new(u64::MAX)]);
        assert!(!flags.test(64) && !flags.set(64) && !flags.clear(u32::MAX));
    }
}

#[cfg(all(test, ioasid_loom))]
mod loom_models {
    use super::*;
    use crate::bitmap::leases::{LeaseMap, lease_words_needed};
    use loom::sync::Arc;

    /// Hold against release, of an id in use. Rules out: the holder's release sees no hold and the service's hold sees
    /// the id in use, so that an id is held and available at once.
    #[test]
    fn of_hold_and_release_one_sees_the_other() {
        loom::model(|| {
            let words: Vec<AtomicU64> = (0..lease_words_needed(4).unwrap()).map(|_| AtomicU64::new(0)).collect();
            let map = Arc::new(LeaseMap::new(4, words).unwrap());
            let held = Arc::new(Flags::new(vec![AtomicU64::new(0)]));
            map.lease_used(2);
            let holder = {
                let (map, held) = (Arc::clone(&map), Arc::clone(&held));
                loom::thread::spawn(move || {
                    map.release(2).unwrap();
                    held.test(2)
                })
            };
            held.set(2);
            let service_sees_use = map.state_total(2).used;
            let holder_sees_hold = holder.join().unwrap();
            assert!(holder_sees_hold || !service_sees_use, "held by one, free for the other");
        });
    }
}
