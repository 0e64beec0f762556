//! The lease map: what the service does to it, and looks at single ids.

use super::super::watch::Watch;
use super::layout::Layout;
use super::{IDS_PER_WORD, available};
use crate::sync::{AtomicU64, Ordering, load_total};
use std::ops::Deref;

/// Swaps tried on one word before the service lets it be: only somebody who writes it without pause makes them fail.
const TRIES: u32 = 64;

/// Which ids of a set are leased, and which of these are used, over borrowed words that several processes share.
///
/// The protocol and what hostile memory can do are told at the top of [`crate::bitmap::leases`].
///
/// ```
/// # #[cfg(not(ioasid_loom))] {
/// use ioasid::bitmap::leases::{LeaseMap, lease_words_needed};
/// use ioasid::sync::AtomicU64;
///
/// let words: Vec<AtomicU64> = (0..lease_words_needed(1000).unwrap()).map(|_| AtomicU64::new(0)).collect();
/// let map = LeaseMap::new(1000, words).unwrap();
/// assert_eq!(map.claim(), None); // nothing leased yet
/// map.lease(700); // the service's side
/// assert_eq!(map.claim(), Some(700)); // a holder's
/// assert_eq!(map.take_back(700 / 32, u32::MAX), 0); // used: stays leased
/// map.release(700).unwrap();
/// assert_eq!(map.take_back(700 / 32, u32::MAX), 1 << (700 % 32));
/// # }
/// ```
#[derive(Debug)]
pub struct LeaseMap<S> {
    pub(super) layout: Layout,
    pub(super) words: S,
}

/// One word's 32 ids at one moment: bit `i` stands for id `32 * word + i`. Untrusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Leased to the set.
    pub leased: u32,
    /// In use, as the holders say.
    pub used: u32,
}

impl From<u64> for Snapshot {
    #[inline]
    fn from(word: u64) -> Self {
        Self { leased: word as u32, used: (word >> 32) as u32 }
    }
}

/// How many words of storage a [`LeaseMap`] of `len` ids takes; `None` unless `len` is 1 to 2^20. 33,808 for 2^20.
pub fn lease_words_needed(len: u32) -> Option<usize> {
    Layout::new(len).map(|layout| layout.words())
}

impl<S: Deref<Target = [AtomicU64]>> LeaseMap<S> {
    /// A map of `len` ids over `words`; `None` if `len` is not 1 to 2^20 or the words are fewer than
    /// [`lease_words_needed`]. Zeroed words lease nothing; nothing is written here.
    pub fn new(len: u32, words: S) -> Option<Self> {
        let layout = Layout::new(len)?;
        (words.len() >= layout.words()).then_some(Self { layout, words })
    }

    /// How many ids it covers.
    pub fn len(&self) -> u32 {
        self.layout.len()
    }

    /// Never true: a map covers one id at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// How many words of 32 ids it has.
    pub fn word_count(&self) -> u32 {
        self.layout.leaf_words()
    }

    /// Service: leases `id` to the set; false if it was leased already or is none of the map's. Wait-free.
    pub fn lease(&self, id: u32) -> bool {
        id < self.len() && self.lease_mask(id / IDS_PER_WORD, 1 << (id % IDS_PER_WORD)) != 0
    }

    /// Service: leases the ids of `mask` in word `word`; those that were not leased before. Wait-free.
    pub fn lease_mask(&self, word: u32, mask: u32) -> u32 {
        let mask = mask & self.existing(word);
        if mask == 0 {
            return 0;
        }
        self.touch(word);
        // ORDERING: SeqCst. Release half: what was set up for the ids is seen by who claims them. As a whole it stands
        // before the looks at the open bits and the watch word.
        let before = self.leaf(word).fetch_or(u64::from(mask), Ordering::SeqCst);
        self.became_available(word);
        mask & !Snapshot::from(before).leased
    }

    /// Service: leases `id` as used at once, for an id allocated through the service; false as [`LeaseMap::lease`].
    pub fn lease_used(&self, id: u32) -> bool {
        if id >= self.len() {
            return false;
        }
        let word = id / IDS_PER_WORD;
        self.touch(word);
        // ORDERING: AcqRel, as a claim and a lease in one.
        let before = self.leaf(word).fetch_or(both(id), Ordering::AcqRel);
        before & leased(id) == 0
    }

    /// Service: takes back the leases of `mask` in word `word` that are unused at this moment; the ids it took.
    ///
    /// Under running holders: an id is either taken back or claimed, never both. 0 as well if the word was written by
    /// others all the while, 64 times.
    pub fn take_back(&self, word: u32, mask: u32) -> u32 {
        let mask = mask & self.existing(word);
        if mask == 0 {
            return 0;
        }
        let leaf = self.leaf(word);
        // ORDERING: Relaxed: the compare-and-swap below decides.
        let mut seen = leaf.load(Ordering::Relaxed);
        for _ in 0..TRIES {
            let taken = available(seen) & mask;
            if taken == 0 {
                return 0;
            }
            // ORDERING: Acquire, pairs with `release`: what a holder did with the id before is done.
            match leaf.compare_exchange(seen, seen & !u64::from(taken), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return taken,
                Err(now) => seen = now,
            }
        }
        0
    }

    /// Service: takes back up to `most` unused leases of `lo..=hi`, telling each to `taken`; how many.
    pub fn take_back_in(&self, lo: u32, hi: u32, most: u32, mut taken: impl FnMut(u32)) -> u32 {
        let hi = hi.min(self.len() - 1);
        let mut count = 0;
        for word in lo / IDS_PER_WORD..=hi / IDS_PER_WORD {
            if lo > hi || count == most {
                break;
            }
            // ORDERING: Relaxed: which ids to ask for; `take_back` decides.
            let there = available(self.leaf(word).load(Ordering::Relaxed)) & mask_within(word, lo, hi);
            let mut got = self.take_back(word, lowest(there, most - count));
            count += got.count_ones();
            while got != 0 {
                taken(word * IDS_PER_WORD + got.trailing_zeros());
                got &= got - 1;
            }
        }
        count
    }

    /// Service: ends the lease of `id`, used or not; what the word's bits for it were. Wait-free.
    pub fn clear(&self, id: u32) -> Lease {
        if id >= self.len() {
            return Lease { leased: false, used: false };
        }
        // ORDERING: AcqRel, as a release (for the next lease of it) and a take-back in one.
        let before = self.leaf(id / IDS_PER_WORD).fetch_and(!both(id), Ordering::AcqRel);
        Lease::of(before, id)
    }

    /// What word `word` says at this moment; nothing for one that is none of the map's.
    pub fn snapshot(&self, word: u32) -> Snapshot {
        if word >= self.word_count() {
            return Snapshot::default();
        }
        // ORDERING: Acquire, pairs with claims and releases.
        Snapshot::from(self.leaf(word).load(Ordering::Acquire))
    }

    /// What the map says of `id` at this moment; neither for one that is none of the map's.
    pub fn state(&self, id: u32) -> Lease {
        let Snapshot { leased, used } = self.snapshot(id / IDS_PER_WORD);
        let bit = 1 << (id % IDS_PER_WORD);
        Lease { leased: leased & bit != 0 && id < self.len(), used: used & bit != 0 && id < self.len() }
    }

    /// As [`LeaseMap::state`], in the one total order: for who set a [flag](crate::bitmap::Flags) on the id before.
    pub fn state_total(&self, id: u32) -> Lease {
        if id >= self.len() {
            return Lease { leased: false, used: false };
        }
        Lease::of(load_total(self.leaf(id / IDS_PER_WORD)), id)
    }

    /// Holder: claims `id` and no other; false if it is not available.
    pub fn claim_at(&self, id: u32) -> bool {
        id < self.len() && self.claim_in(id, id).is_some()
    }

    /// How many ids of `lo..=hi` are leased, and how many of these used, each word at the moment it was read.
    pub fn count(&self, lo: u32, hi: u32) -> (u32, u32) {
        let hi = hi.min(self.len() - 1);
        let (mut leased, mut used) = (0, 0);
        for word in self.touched_words().filter(|word| lo <= hi && (lo / 32..=hi / 32).contains(word)) {
            let snapshot = self.snapshot(word);
            let mask = mask_within(word, lo, hi) & snapshot.leased;
            leased += mask.count_ones();
            used += (mask & snapshot.used).count_ones();
        }
        (leased, used)
    }

    /// The words in which ids were ever leased.
    pub(super) fn touched_words(&self) -> impl Iterator<Item = u32> + '_ {
        let last = self.word_count();
        self.words[self.layout.touched()].iter().enumerate().flat_map(move |(group, bits)| {
            let mut left = load_total(bits);
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(group as u32 * 64 + bit)
            })
            .take_while(move |&word| word < last)
        })
    }

    fn touch(&self, word: u32) {
        let bits = &self.words[self.layout.touched()][word as usize / 64];
        let bit = 1 << (word % 64);
        // ORDERING: Relaxed: saves the write when it is set already.
        if bits.load(Ordering::Relaxed) & bit == 0 {
            // ORDERING: SeqCst, before the lease; pairs with the proof, which reads these bits while armed.
            bits.fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// An id of `word` became available: opens the word for searchers and tells a proof that is under way.
    #[inline]
    pub(super) fn became_available(&self, word: u32) {
        if !self.is_open(word) || self.watch().is_on() {
            self.tell_of(word);
        }
    }

    #[cold]
    #[inline(never)]
    fn tell_of(&self, word: u32) {
        self.open(word);
        self.watch().released();
    }

    #[inline]
    pub(super) fn watch(&self) -> Watch<'_> {
        Watch(&self.words[0])
    }

    #[inline]
    pub(super) fn leaf(&self, word: u32) -> &AtomicU64 {
        &self.words[self.layout.leaf(word)]
    }

    /// The bits of word `word` that stand for ids of the map.
    fn existing(&self, word: u32) -> u32 {
        if word >= self.word_count() { 0 } else { mask_within(word, 0, self.len() - 1) }
    }
}

/// What a map says of one id. Untrusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// It is leased to the set.
    pub leased: bool,
    /// It is in use, as the holders say.
    pub used: bool,
}

impl Lease {
    fn of(word: u64, id: u32) -> Self {
        Self { leased: word & leased(id) != 0, used: word & used(id) != 0 }
    }
}

/// The bit that says `id` is leased, in its word.
#[inline]
pub(super) fn leased(id: u32) -> u64 {
    1 << (id % IDS_PER_WORD)
}

/// The bit that says `id` is used, in its word.
#[inline]
pub(super) fn used(id: u32) -> u64 {
    // One shift, by which the compiler knows a single bit: clearing it is one locked bit instruction then.
    1 << (IDS_PER_WORD + id % IDS_PER_WORD)
}

fn both(id: u32) -> u64 {
    leased(id) | used(id)
}

/// The bits of word `word` that stand for ids in `lo..=hi`.
#[inline]
pub(super) fn mask_within(word: u32, lo: u32, hi: u32) -> u32 {
    let mut mask = u32::MAX;
    if word == lo / IDS_PER_WORD {
        mask &= u32::MAX << (lo % IDS_PER_WORD);
    }
    if word == hi / IDS_PER_WORD {
        mask &= u32::MAX >> (IDS_PER_WORD - 1 - hi % IDS_PER_WORD);
    }
    mask
}

/// The lowest `n` bits of `mask`.
fn lowest(mut mask: u32, n: u32) -> u32 {
    while mask.count_ones() > n {
        mask &= !(1 << (31 - mask.leading_zeros()));
    }
    mask
}
