//! All that the holders of a mapped set and the service share of it: leases, held flags, state.
//!
//! # Protocol
//!
//! Beside the [leases](super) there are two state flags, *revoked* and *watched*, and a *held* flag for each id. The
//! service alone writes them, holders look:
//!
//! 1. **Revoked, then cleared.** The service sets the flag before it ends the leases. So a holder that finds no lease
//!    left because the set was revoked is told so by its next call.
//! 2. **Look, release, look again.** A free that others have an interest in takes the service: where the id is held, or
//!    somebody watches. The service sets its flag and then looks at the used bit; a holder clears the used bit and then
//!    looks at the flags. Each stores before it looks, in one total order, so one of the two sees the other: either the
//!    service finds the id free, or the holder takes it again and frees it through the service.
//! 3. **What was taken by another meanwhile stays with him.** Between its release and its second look a holder's id may
//!    be claimed by another of the set. It is in use then, as the service found it, and *that* free takes the service.

use super::{Lease, LeaseMap, Snapshot};
use crate::bitmap::Flags;
use crate::sync::AtomicU64;
use std::ops::Deref;

const REVOKED: u32 = 0;
const WATCHED: u32 = 1;

/// The set was revoked: nothing can be allocated or freed in it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the set was revoked")]
pub struct Revoked;

/// What became of an id that a holder freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Free {
    /// It is available again.
    Done,
    /// It was not in use: a double free, or none of the set's. Nothing changed.
    NotInUse,
    /// It is in use still: it is to be freed through the service, for somebody holds it or watches.
    TakesService,
}

/// Leases, held flags and state of one set over borrowed words. The protocol is at the top of this file.
///
/// Total over any content of the words, as everything here.
#[derive(Debug)]
pub struct SetMap<S> {
    state: Flags<S>,
    held: Flags<S>,
    leases: LeaseMap<S>,
}

impl<S: Deref<Target = [AtomicU64]>> SetMap<S> {
    /// A set over a word of state flags, held flags for each id, and a lease map. Nothing is written here.
    pub fn new(state: S, held: S, leases: LeaseMap<S>) -> Self {
        Self { state: Flags::new(state), held: Flags::new(held), leases }
    }

    /// Holder: takes an available id; `None` if there is none, so that the service is to be asked for more.
    #[inline]
    pub fn alloc(&self) -> Result<Option<u32>, Revoked> {
        if self.is_revoked() { Err(Revoked) } else { Ok(self.leases.claim()) }
    }

    /// Holder: takes an available id of `lo..=hi`; as [`SetMap::alloc`].
    pub fn alloc_in(&self, lo: u32, hi: u32) -> Result<Option<u32>, Revoked> {
        if self.is_revoked() { Err(Revoked) } else { Ok(self.leases.claim_in(lo, hi)) }
    }

    /// Holder: puts an id back, unless that takes the service.
    #[inline]
    pub fn free(&self, id: u32) -> Result<Free, Revoked> {
        if self.state.any() {
            return self.free_in_state(id);
        }
        if self.held.test(id) {
            return Ok(self.leave_to_service(id));
        }
        if self.leases.release(id).is_err() {
            return Ok(Free::NotInUse);
        }
        if (self.held.test(id) || self.state.any()) && self.leases.claim_at(id) {
            return self.free_in_state(id);
        }
        Ok(Free::Done)
    }

    /// A free while a state flag is set.
    #[cold]
    fn free_in_state(&self, id: u32) -> Result<Free, Revoked> {
        if self.is_revoked() { Err(Revoked) } else { Ok(self.leave_to_service(id)) }
    }

    /// A double free is one here, too: the service could not tell.
    #[cold]
    fn leave_to_service(&self, id: u32) -> Free {
        if self.is_used(id) { Free::TakesService } else { Free::NotInUse }
    }

    /// Whether the set was revoked.
    #[inline]
    pub fn is_revoked(&self) -> bool {
        self.state.test(REVOKED)
    }

    /// Service: flags the set as revoked, before its leases are ended. There is no way back.
    pub fn revoke(&self) {
        self.state.set(REVOKED);
    }

    /// Service: says whether somebody watches. After it was set, what [`SetMap::is_used`] says of an id holds until the
    /// service itself frees it.
    pub fn set_watched(&self, watched: bool) {
        if watched {
            self.state.set(WATCHED)
        } else {
            self.state.clear(WATCHED)
        };
    }

    /// Service: sees to it that freeing the id takes the service; false if nobody uses it, and then it may be freed.
    pub fn hold(&self, id: u32) -> bool {
        self.held.set(id);
        self.is_used(id)
    }

    /// Service: says whether freeing the id takes the service.
    pub fn set_held(&self, id: u32, held: bool) {
        if held {
            self.held.set(id)
        } else {
            self.held.clear(id)
        };
    }

    /// Service: leases an id, used at once or not.
    pub fn lease(&self, id: u32, used: bool) {
        if used {
            self.leases.lease_used(id)
        } else {
            self.leases.lease(id)
        };
    }

    /// Service: ends the lease of an id that nobody uses at this moment; whether it did.
    pub fn take_back(&self, id: u32) -> bool {
        self.leases.take_back(id / super::IDS_PER_WORD, 1 << (id % super::IDS_PER_WORD)) != 0
    }

    /// Service: ends the lease of an id, used or not, and clears its held flag; what the map said of it.
    pub fn clear(&self, id: u32) -> Lease {
        let was = self.leases.clear(id);
        self.held.clear(id);
        was
    }

    /// Whether the id is in use, as the holders say. Untrusted; in one order with the flags.
    pub fn is_used(&self, id: u32) -> bool {
        self.leases.state_total(id).used
    }

    /// Words of 32 ids.
    pub fn word_count(&self) -> u32 {
        self.leases.word_count()
    }

    /// What word `word` says at this moment. Untrusted.
    pub fn snapshot(&self, word: u32) -> Snapshot {
        self.leases.snapshot(word)
    }
}

#[cfg(all(test, not(ioasid_loom)))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::lease_words_needed;
    use super::*;

    fn set(leased: &[u32]) -> SetMap<Vec<AtomicU64>> {
        let words = |count| (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let leases = LeaseMap::new(64, words(lease_words_needed(64).unwrap())).unwrap();
        leased.iter().for_each(|id| assert!(leases.lease(*id)));
        SetMap::new(words(1), words(1), leases)
    }

    #[test]
    fn held_or_watched_ids_are_left_in_use_for_the_service() {
        let set = set(&[3, 4]);
        assert_eq!((set.alloc_in(3, 3), set.alloc_in(4, 4)), (Ok(Some(3)), Ok(Some(4))));
        assert!(set.hold(3) && !set.hold(9));
        assert_eq!(set.free(3), Ok(Free::TakesService));
        assert_eq!(set.free(4), Ok(Free::Done));
        set.set_held(3, false);
        set.set_watched(true);
        assert_eq!(set.free(3), Ok(Free::TakesService));
        assert!(set.is_used(3));
        set.set_watched(false);
        assert_eq!(set.free(3), Ok(Free::Done));
    }

    #[test]
    fn a_double_free_is_one_whatever_flags_are_set() {
        let set = set(&[3]);
        assert_eq!(set.free(3), Ok(Free::NotInUse));
        set.set_held(3, true);
        assert_eq!(set.free(3), Ok(Free::NotInUse));
        set.set_watched(true);
        assert_eq!(
            (set.free(3), set.free(64), set.free(u32::MAX)),
            (Ok(Free::NotInUse), Ok(Free::NotInUse), Ok(Free::NotInUse))
        );
    }

    #[test]
    fn a_revoked_set_says_so_before_all_else() {
        let set = set(&[3, 4]);
        assert_eq!(set.alloc_in(3, 3), Ok(Some(3)));
        set.set_watched(true);
        set.revoke();
        assert_eq!((set.alloc(), set.alloc_in(0, 63), set.free(3)), (Err(Revoked), Err(Revoked), Err(Revoked)));
        assert_eq!(set.clear(3), Lease { leased: true, used: true });
    }
}
