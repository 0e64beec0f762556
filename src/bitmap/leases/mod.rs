//! The bitmap of a mapped set: which ids are leased to it, and which of those are in use.
//!
//! One word covers 32 ids: the low half says *leased*, the high half *used*, for the two must change together: a
//! holder claims an id only while it is leased, the service takes a lease back only while it is unused, and one
//! compare-and-swap on the word settles which of them came first.
//!
//! # Protocol
//!
//! Invariants 1, 2 and 5 of [`crate::bitmap`] hold as they stand. Instead of 3, 4 and 6:
//!
//! 1. An id is *available* while leased and not used. Holders set and clear used bits; only the service sets or clears
//!    leased bits. A claim swaps the whole word, so it fails if the lease went meanwhile.
//! 2. **Open bits are hints**: 1 says "this word may have an available id". Who makes an id available sets it (after
//!    the leaf, if it is not set); a searcher that finds none clears it and looks again. So a zeroed map is an empty
//!    one, and pages of a sparse map that nobody leased in are never touched.
//! 3. **Touched bits are for the proof**: 1 says "ids were leased here once"; set by the service before the lease,
//!    never cleared. A refusal is proven over the touched words, so it does not read 256 KiB of zeroes.
//! 4. **Neighbours lie apart**: consecutive words are on different cache lines, so that two threads in one batch of 64
//!    ids do not share one (34 ns a pair instead of 7).
//!
//! # Hostile memory
//!
//! Everybody who holds the set can write every word. So each function is total: any content of the words gives some
//! answer, no offset is computed from it, and no loop runs longer than a number known from the length. The service
//! believes nothing it reads here: what is leased and charged stands in its own memory.

mod claim;
mod layout;
#[cfg(all(test, ioasid_loom))]
mod loom_models;
mod map;
mod open;
mod set_map;
#[cfg(all(test, ioasid_loom))]
mod set_models;
#[cfg(all(test, not(ioasid_loom)))]
mod tests;

pub use map::{Lease, LeaseMap, Snapshot, lease_words_needed};
pub use set_map::{Free, Revoked, SetMap};

/// Ids that one word covers.
pub const IDS_PER_WORD: u32 = 32;

/// The available ids in a word: leased, not used.
#[inline]
pub(super) fn available(word: u64) -> u32 {
    let snapshot = Snapshot::from(word);
    snapshot.leased & !snapshot.used
}
