//! Lock-free bitmaps over a borrowed slice of atomic words.
//!
//! Lives here: [`Bitmap`], the pool of a domain, and [`leases::LeaseMap`], the bitmap of a set that its holders map.
//! Both know indices only: neither PASIDs, nor where the words lie, nor who shares them; so the service, the client
//! and the loom models run one code. Called by `shm` and `client` (mapped sets) and by `controller` (pools).
//!
//! # Protocol
//!
//! A *leaf* word holds 64 ids, a bit is 1 while its id is claimed. Level 1 and root hold one bit per word below: a
//! *mark*, "seen full". One *watch* word says whether a searcher wants to hear of releases.
//!
//! 1. **The leaf decides.** An id changes hands by one compare-and-swap on its leaf and by nothing else. A claim sets
//!    bits that were clear, a release clears bits that were set; so no id is given twice, and of two racing releases
//!    exactly one succeeds. There is no ABA: a swap compares all 64 bits, and claiming a clear bit is right whatever
//!    happened in between.
//! 2. **Claim acquires, release releases.** What an owner did before it released happens before what the next owner
//!    does after its claim.
//! 3. **Marks are hints.** They say where not to look first. No claim is refused on their word, and none is granted:
//!    a stale mark costs time, never an id. Filling a word sets no mark; a searcher that has passed six full words does,
//!    so a pair of claim and release is two compare-and-swaps and a few loads at any occupancy (1.1 of a bare bit set and
//!    bit clear, from 50 to 99 % full).
//! 4. **Mark, then look again.** A searcher sets the mark and then loads the leaf again; a release clears its bit and
//!    then loads the mark. Each stores before it loads, in one total order, so one of the two sees the other and takes
//!    the mark away. The same one level up. At rest no mark stands on a word with room.
//! 5. **A refusal is proven by the leaves, under watch.** A searcher arms the watch word, loads every leaf, and lets
//!    the full state stand only if the watch word is as it was. A release clears its bit and then, before it returns,
//!    looks at the watch word, and opens it with a new stamp if it is armed or full. So when `full` stands, every
//!    release that returned has been claimed again: a refusal is exact, and the next one costs one load.
//!    (Why not marks alone: without the second look up to 43 % of claims failed falsely, with it 0 to 14 %, for a
//!    searcher that is preempted between mark and look leaves the mark standing. Why not a counter of what is free:
//!    exact too, but it adds an atomic operation on a shared line to every claim and release; 2 threads then pay 67 ns
//!    a pair instead of 7. The watch word is written only around a refusal, and read from a shared line.)
//! 6. **Bits beyond the length are claimed from the start**, at every level: full is the same word everywhere.
//!
//! # Progress
//!
//! [`Bitmap::claim`] is lock-free: a failed swap, and each further look of a proof, means that another thread claimed
//! or released. [`Bitmap::release`] is wait-free. No thread ever waits for one
//! that is preempted or dead: one that dies in a claim loses at most the id it was taking.
//!
//! # Where threads search
//!
//! ANY starts where this thread found or released an id last; threads start spread out, and one that loses a swap to
//! another moves away (a pair of 2 threads costs 61 ns in one word, 34 in words of one line, 7.5 apart). ROUND goes
//! round the window from a shared cursor, so a released id rests until all others that are free have been handed out;
//! the price is a line that every claim writes.
//!
//! # What is proven, and what is argued
//!
//! | race | models (`ci/loom` runs them, each says what it rules out) |
//! |---|---|
//! | alloc/alloc | `one_free_id_goes_to_one_of_two_claimers`, `two_round_claimers_…`, `run_and_single_claim_…`; of a set: `one_available_id_…`, `holders_that_meet_…` |
//! | alloc/free | `release_ends_the_full_state`, `release_of_a_run_…`, the moving holes, `next_owner_…_sees_…`; of a set: the same names |
//! | free/free | `one_of_two_releases_succeeds`, in both |
//! | summary | `no_mark_stays_…`, `old_ticket_proves_nothing`; of a set: `no_word_stays_closed_over_a_release` |
//! | shrink/alloc | `an_id_is_withheld_or_handed_out`; of a set: `shrinking_takes_back_only_what_no_holder_got` |
//! | lease/alloc, take-back/alloc | `lease_during_a_search_is_not_lost`, `take_back_and_claim_…`, `release_then_take_back_…` |
//! | revoke, hold, watch against alloc and free | `leases/set_models.rs` |
//!
//! They fail when any second look, any comparison of the watch word, or the acquire of a claim or the release half of a
//! release is taken away. Loom has no total order of `SeqCst` loads: a read-modify-write stands in for them, which is
//! stronger, so the models cannot tell `SeqCst` from weaker on the read-modify-writes of handshakes: the watch word, marks,
//! open and touched bits, flags. Those rest on the argument at each `// ORDERING:`, and on x86 cost nothing.

mod dense;
mod flags;
mod geometry;
mod hint;
pub mod leases;
#[cfg(not(ioasid_loom))]
pub mod limits;
mod search;
mod summary;
mod watch;

#[cfg(all(test, ioasid_loom))]
mod loom_models;
#[cfg(all(test, not(ioasid_loom)))]
mod model_tests;
#[cfg(all(test, not(ioasid_loom)))]
mod tests;
#[cfg(all(test, not(ioasid_loom)))]
mod thread_tests;

pub use dense::Bitmap;
pub use flags::Flags;
pub use geometry::{Geometry, MAX_LEN, words_needed};

/// In what order ids are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Any free id, from where this thread was last: the fastest, and an id may be reused at once.
    Any,
    /// Next fit: the free id after the last one handed out in this window, so that a released one rests longest.
    Round,
}

/// The id was free already, or is none of the bitmap's: a double free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("id {0} is not claimed")]
pub struct NotClaimed(pub u32);
