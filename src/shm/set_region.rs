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
use crate::bitmap::leases::{Free, LeaseMap, Revoked, SetMap, lease_words_needed};
use crate::model::{Pasid, PasidRange, SetId};
use crate::sync::AtomicU64;
use std::io;
use std::ops::{Deref, Range};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// `IOASIDR` and the version.
const MAGIC: u64 = u64::from_le_bytes(*b"IOASIDR\x01");
const STATE_AT: usize = 8;
const HELD_AT: usize = 512;

/// Some of the words of a region that several parts share: found without a look at the region, for each allocation comes
/// through here.
#[derive(Clone, Debug)]
struct Words {
    at: NonNull<[AtomicU64]>,
    /// Keeps the mapping.
    _region: Arc<Region>,
}

// SAFETY: it is a shared reference to atomics in a mapping that it keeps alive, and those are Sync.
unsafe impl Send for Words {}
// SAFETY: as for Send.
unsafe impl Sync for Words {}

impl Words {
    /// Nothing where the region is shorter.
    fn of(region: &Arc<Region>, range: Range<usize>) -> Self {
        Self { at: NonNull::from(region.words().get(range).unwrap_or_default()), _region: Arc::clone(region) }
    }
}

impl Deref for Words {
    type Target = [AtomicU64];
    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: a part of the region's words, or the empty slice. They lie in a mapping that never moves and lives until
        // the Region is dropped, which `_region` prevents; only atomics ever reach it.
        unsafe { self.at.as_ref() }
    }
}

/// A set's region, made by the service or mapped by a holder.
///
/// The service's calls believe nothing that holders may have written: each is total and says at most what the words say.
#[derive(Debug)]
pub struct SetRegion {
    region: Arc<Region>,
    map: SetMap<Words>,
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
        for word in 0..self.map.word_count() {
            let seen = self.map.snapshot(word);
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
        let part = |range| Words::of(&region, range);
        let leases = LeaseMap::new(ids, part(leases_at..end)).ok_or(io::ErrorKind::InvalidInput)?;
        let map = SetMap::new(part(STATE_AT..STATE_AT + 1), part(HELD_AT..leases_at), leases);
        Ok(Self { map, region })
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.region.bytes()
    }

    /// Holder: takes an available id; `None` if there is none, so that the session is to be asked for more.
    #[inline]
    pub fn alloc(&self) -> Result<Option<Pasid>, Revoked> {
        Ok(self.map.alloc()?.and_then(Pasid::new))
    }

    /// Holder: takes an available id of `range`.
    pub fn alloc_in(&self, range: PasidRange) -> Result<Option<Pasid>, Revoked> {
        Ok(self.map.alloc_in(range.min(), range.max())?.and_then(Pasid::new))
    }

    /// Holder: puts an id back among those the set leases, unless that takes the service.
    #[inline]
    pub fn free(&self, pasid: Pasid) -> Result<Free, Revoked> {
        self.map.free(pasid.get())
    }

    /// Service: flags the set as revoked. There is no way back.
    pub fn flag_revoked(&self) {
        self.map.revoke();
    }

    /// Service: says whether somebody watches, so that every free takes the service.
    pub fn set_watched(&self, watched: bool) {
        self.map.set_watched(watched);
    }

    /// Service: says whether freeing the id takes the service.
    pub fn set_held(&self, pasid: Pasid, held: bool) {
        self.map.set_held(pasid.get(), held);
    }

    /// Service: sees to it that freeing the id takes the service; false if nobody uses it, so that it may not.
    pub fn hold(&self, pasid: Pasid) -> bool {
        self.map.hold(pasid.get())
    }

    /// Service: leases an id, used at once or not.
    pub fn lease(&self, pasid: Pasid, used: bool) {
        self.map.lease(pasid.get(), used);
    }

    /// Service: ends the lease of an id that nobody uses at this moment; whether it did.
    pub fn take_back(&self, pasid: Pasid) -> bool {
        self.map.take_back(pasid.get())
    }

    /// Service: ends the lease of an id, used or not.
    pub fn clear(&self, pasid: Pasid) {
        self.map.clear(pasid.get());
    }

    /// Whether the id is in use, as the holders say. Untrusted; in one order with the flags.
    pub fn is_used(&self, pasid: Pasid) -> bool {
        self.map.is_used(pasid.get())
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
        assert_eq!(holder.alloc(), Ok(None));
        service.lease(pasid(2000), false);
        service.lease(pasid(0xF_FFFF), true);
        assert_eq!(holder.alloc(), Ok(Some(pasid(2000))));
        assert!(service.is_used(pasid(2000)) && !service.take_back(pasid(2000)));
        assert_eq!(holder.free(pasid(2000)), Ok(Free::Done));
        assert_eq!(holder.free(pasid(2000)), Ok(Free::NotInUse));
        assert!(service.take_back(pasid(2000)) && holder.alloc() == Ok(None));
        assert_eq!(holder.free(pasid(0xF_FFFF)), Ok(Free::Done));
    }

    #[test]
    fn flags_cross_over() {
        let service = SetRegion::create(SetId(1), 4096).unwrap();
        let holder = SetRegion::open(service.as_fd().try_clone_to_owned().unwrap()).unwrap();
        [8, 9].into_iter().for_each(|id| service.lease(pasid(id), true));
        assert!(service.hold(pasid(9)) && !service.hold(pasid(10)));
        assert_eq!(holder.free(pasid(9)), Ok(Free::TakesService));
        service.set_watched(true);
        assert_eq!(holder.free(pasid(8)), Ok(Free::TakesService));
        service.set_watched(false);
        assert_eq!(holder.free(pasid(8)), Ok(Free::Done));
        service.flag_revoked();
        assert_eq!((holder.free(pasid(9)), holder.alloc()), (Err(Revoked), Err(Revoked)));
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
