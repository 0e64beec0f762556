//! The region of a mapped set: its layout, and what either side does in it.
//!
//! # Layout, version 1
//!
//! All words are 64 bits, in the machine's byte order, for both sides are on one machine:
//!
//! | bytes | what |
//! |---|---|
//! | 0 | magic: `IOASIDR` and the version, 1 |
//! | 8 | how many ids the domain has, id 0 included |
//! | 16 | the number of the set |
//! | 64 | state flags: 0 revoked, 1 watched |
//! | 4096 | held flags, one bit an id: freeing it takes the service |
//! | then | the [lease map](crate::bitmap::leases), begun on a line of its own |
//!
//! A region of another version is refused; what is appended later stays behind what is here.

use super::Region;
use crate::bitmap::leases::{LeaseMap, lease_words_needed};
use crate::bitmap::{Flags, NotClaimed};
use crate::model::{Pasid, PasidRange, SetId};
use crate::sync::AtomicU64;
use std::io;
use std::ops::{Deref, Range};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// `IOASIDR` and the version.
const MAGIC: u64 = u64::from_le_bytes(*b"IOASIDR\x01");
const STATE_AT: usize = 8;
const HELD_AT: usize = 512;
const REVOKED: u32 = 0;
const WATCHED: u32 = 1;

/// Some of the words of a region that several parts share.
#[derive(Clone, Debug)]
struct Words {
    region: Arc<Region>,
    range: Range<usize>,
}

impl Deref for Words {
    type Target = [AtomicU64];
    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // Within the region since it was made: `map` checked the size, and seals keep it.
        self.region.words().get(self.range.clone()).unwrap_or_default()
    }
}

/// A set's region, made by the service or mapped by a holder.
///
/// The service's calls believe nothing that holders may have written: each is total and says at most what the words say.
#[derive(Debug)]
pub struct SetRegion {
    region: Arc<Region>,
    state: Flags<Words>,
    held: Flags<Words>,
    leases: LeaseMap<Words>,
}

impl SetRegion {
    /// Service: a region for a set in a domain of `ids` ids (id 0 included), nothing leased.
    pub fn create(set: SetId, ids: u32) -> io::Result<Self> {
        let Some((_, words)) = layout(ids) else { return Err(io::ErrorKind::InvalidInput.into()) };
        let region = Region::create(words * size_of::<AtomicU64>(), &format!("ioasid-set-{set}"))?;
        if let [magic, count, number, ..] = region.words() {
            crate::sync::publish(count, ids.into());
            crate::sync::publish(number, set.0);
            crate::sync::publish(magic, MAGIC);
        }
        Self::map(region, ids)
    }

    /// Service: maps a region that it made before a restart for a domain of `ids` ids, whatever holders wrote to it.
    pub fn reopen(file: OwnedFd, ids: u32) -> io::Result<Self> {
        let region = Region::open(file)?;
        match layout(ids) {
            Some((_, words)) if words * size_of::<AtomicU64>() <= region.bytes() => Self::map(region, ids),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a region of another size")),
        }
    }

    /// Holder: maps a region that the service sent.
    ///
    /// `InvalidData` where it is none of this version, or its size does not fit what it says.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        let region = Region::open(file)?;
        let (magic, ids) = match region.words() {
            [magic, ids, ..] => (crate::sync::observe(magic), crate::sync::observe(ids)),
            _ => (0, 0),
        };
        let ids = u32::try_from(ids).ok().filter(|_| magic == MAGIC);
        match ids.and_then(|ids| layout(ids).map(|(_, words)| (ids, words))) {
            Some((ids, words)) if words * size_of::<AtomicU64>() <= region.bytes() => Self::map(region, ids),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not a set's region of version 1")),
        }
    }

    /// Service: brings the leases in line with its own book after a restart. `leased` says of an id whether the set
    /// leases it and, where it does and the region does not say so, whether it is used.
    pub fn reconcile(&self, leased: impl Fn(Pasid) -> Option<bool>) {
        for word in 0..self.leases.word_count() {
            let seen = self.leases.snapshot(word);
            for pasid in (0..32).filter_map(|bit| Pasid::new(32 * word + bit)) {
                let marked = seen.leased >> (pasid.get() % 32) & 1 == 1;
                match leased(pasid) {
                    Some(used) if !marked => self.lease(pasid, used),
                    None if seen.leased | seen.used != 0 => self.clear(pasid),
                    _ => {}
                }
            }
        }
    }

    fn map(region: Region, ids: u32) -> io::Result<Self> {
        let region = Arc::new(region);
        let (leases_at, end) = layout(ids).ok_or(io::ErrorKind::InvalidInput)?;
        let part = |range| Words { region: Arc::clone(&region), range };
        let leases = LeaseMap::new(ids, part(leases_at..end)).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            state: Flags::new(part(STATE_AT..STATE_AT + 1)),
            held: Flags::new(part(HELD_AT..leases_at)),
            leases,
            region,
        })
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.region.bytes()
    }

    /// Holder: takes an available id; `None` if there is none, so that the session is to be asked for more.
    #[inline]
    pub fn claim(&self) -> Option<Pasid> {
        self.leases.claim().and_then(Pasid::new)
    }

    /// Holder: takes an available id of `range`.
    pub fn claim_in(&self, range: PasidRange) -> Option<Pasid> {
        self.leases.claim_in(range.min(), range.max()).and_then(Pasid::new)
    }

    /// Holder: takes `pasid` and no other; false if it is not available.
    pub fn claim_at(&self, pasid: Pasid) -> bool {
        self.leases.claim_at(pasid.get())
    }

    /// Holder: puts an id back among those the set leases. An error where it was not in use.
    #[inline]
    pub fn release(&self, pasid: Pasid) -> Result<(), NotClaimed> {
        self.leases.release(pasid.get())
    }

    /// Whether freeing the id takes the service: somebody holds it, or it has an alias.
    #[inline]
    pub fn is_held(&self, pasid: Pasid) -> bool {
        self.held.test(pasid.get())
    }

    /// Whether the set was revoked.
    #[inline]
    pub fn is_revoked(&self) -> bool {
        self.state.test(REVOKED)
    }

    /// Whether somebody watches the set, so that every free takes the service.
    #[inline]
    pub fn is_watched(&self) -> bool {
        self.state.test(WATCHED)
    }

    /// Service: flags the set as revoked. There is no way back.
    pub fn flag_revoked(&self) {
        self.state.set(REVOKED);
    }

    /// Service: says whether somebody watches.
    pub fn set_watched(&self, watched: bool) {
        if watched {
            self.state.set(WATCHED)
        } else {
            self.state.clear(WATCHED)
        };
    }

    /// Service: says whether freeing the id takes the service.
    pub fn set_held(&self, pasid: Pasid, held: bool) {
        if held {
            self.held.set(pasid.get())
        } else {
            self.held.clear(pasid.get())
        };
    }

    /// Service: leases an id, used at once or not.
    pub fn lease(&self, pasid: Pasid, used: bool) {
        if used {
            self.leases.lease_used(pasid.get())
        } else {
            self.leases.lease(pasid.get())
        };
    }

    /// Service: ends the lease of an id that nobody uses at this moment; whether it did.
    pub fn take_back(&self, pasid: Pasid) -> bool {
        self.leases.take_back(pasid.get() / 32, 1 << (pasid.get() % 32)) != 0
    }

    /// Service: ends the lease of an id, used or not.
    pub fn clear(&self, pasid: Pasid) {
        self.leases.clear(pasid.get());
        self.held.clear(pasid.get());
    }

    /// Whether the id is in use, as the holders say. Untrusted; in one order with the flags.
    pub fn is_used(&self, pasid: Pasid) -> bool {
        self.leases.state_total(pasid.get()).used
    }
}

impl AsFd for SetRegion {
    /// The memfd: to send to a holder, or to park.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.region.as_fd()
    }
}

/// Where the lease map begins, and how many words there are in all; `None` for a size that no domain has.
fn layout(ids: u32) -> Option<(usize, usize)> {
    let leases_at = HELD_AT + (ids as usize).div_ceil(64).next_multiple_of(8);
    Some((leases_at, leases_at + lease_words_needed(ids)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::publish;

    fn pasid(number: u32) -> Pasid {
        Pasid::new(number).unwrap()
    }

    #[test]
    fn what_the_service_leases_a_holder_claims() {
        let service = SetRegion::create(SetId(7), 1 << 20).unwrap();
        let holder = SetRegion::open(service.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(holder.claim(), None);
        service.lease(pasid(2000), false);
        service.lease(pasid(0xF_FFFF), true);
        assert_eq!(holder.claim(), Some(pasid(2000)));
        assert!(service.is_used(pasid(2000)) && !service.take_back(pasid(2000)));
        holder.release(pasid(2000)).unwrap();
        assert!(holder.release(pasid(2000)).is_err());
        assert!(service.take_back(pasid(2000)) && holder.claim().is_none());
        assert!(holder.release(pasid(0xF_FFFF)).is_ok());
    }

    #[test]
    fn flags_cross_over() {
        let service = SetRegion::create(SetId(1), 4096).unwrap();
        let holder = SetRegion::open(service.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert!(!holder.is_revoked() && !holder.is_watched() && !holder.is_held(pasid(9)));
        service.set_held(pasid(9), true);
        service.set_watched(true);
        service.flag_revoked();
        assert!(holder.is_revoked() && holder.is_watched() && holder.is_held(pasid(9)) && !holder.is_held(pasid(8)));
        service.set_watched(false);
        assert!(!holder.is_watched() && holder.is_revoked());
    }

    #[test]
    fn what_is_no_region_of_this_version_is_refused() {
        let region = |first: u64, ids: u64| {
            let region = Region::create(64 * 1024, "ioasid-test").unwrap();
            publish(&region.words()[0], first);
            publish(&region.words()[1], ids);
            SetRegion::open(region.as_fd().try_clone_to_owned().unwrap()).map(drop)
        };
        assert!(region(MAGIC, 1024).is_ok());
        for (first, ids) in [(0, 1024), (MAGIC + (1 << 56), 1024), (MAGIC, 0), (MAGIC, 1 << 20), (MAGIC, u64::MAX)] {
            assert_eq!(region(first, ids).unwrap_err().kind(), io::ErrorKind::InvalidData, "{first:x} {ids}");
        }
    }
}
