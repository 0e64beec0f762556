//! A mapped set: claim and free without a system call.

use super::{ClientError, Session};
use crate::bitmap::leases::{Free, Revoked};
use crate::model::{Pasid, PasidRange, Refusal, SetId};
use crate::proto::{Map, Refill};
use crate::shm::SetRegion;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What became of an id that was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeOutcome {
    /// It is available again, to this set.
    Freed,
    /// Others hold it: it returns when the last of them puts it.
    Pending,
    /// It was not in use: freed already, or never taken. Nothing changed.
    NotInUse,
}

/// A set whose bitmap is mapped. Threads share it, and so does a child of fork(2): its session opens anew when it needs
/// the service, which takes the [`Set`](super::Set) it came from.
///
/// [`MappedSet::alloc`] takes an id that is leased ahead, with one compare-and-swap; only when none is left it asks the
/// service for more. Dropping it leaves its ids with the set, as a closed session does.
#[derive(Debug)]
pub struct MappedSet {
    region: SetRegion,
    set: SetId,
    /// For what takes the service: more leases, ids that others hold.
    session: Mutex<Session>,
}

impl MappedSet {
    pub(super) fn of(mut session: Session) -> Result<Self, ClientError> {
        let (mapped, mut fds) = session.call_with_fds(&Map {})?;
        let file = fds.pop().ok_or_else(|| ClientError::Protocol("a region without a descriptor".to_owned()))?;
        let region = SetRegion::open(file).map_err(ClientError::Unreachable)?;
        Ok(Self { region, set: mapped.set, session: Mutex::new(session) })
    }

    /// The set.
    pub fn set(&self) -> SetId {
        self.set
    }

    /// The session behind it, for everything that is no allocation. Blocks while another thread asks the service.
    pub fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an id of the set.
    ///
    /// Without a system call while one is leased ahead; else the service leases up to a batch more, or refuses:
    /// `Revoked`, `Stale`, `QuotaExceeded`, `LimitExceeded`, `NoSpace`.
    #[inline]
    pub fn alloc(&self) -> Result<Pasid, ClientError> {
        match self.region.alloc() {
            Ok(Some(pasid)) => Ok(pasid),
            Ok(None) => self.refill_until(None, || self.region.alloc()),
            Err(Revoked) => Err(self.revoked()),
        }
    }

    /// Takes an id of `range`, both ends included.
    pub fn alloc_in(&self, range: PasidRange) -> Result<Pasid, ClientError> {
        match self.region.alloc_in(range) {
            Ok(Some(pasid)) => Ok(pasid),
            Ok(None) => self.refill_until(Some(range), || self.region.alloc_in(range)),
            Err(Revoked) => Err(self.revoked()),
        }
    }

    /// Takes `count` ids: all of them or none.
    pub fn alloc_many(&self, count: usize) -> Result<Vec<Pasid>, ClientError> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            match self.alloc() {
                Ok(pasid) => taken.push(pasid),
                Err(refused) => {
                    for pasid in taken {
                        // They were in use by this call alone.
                        let _ = self.free(pasid);
                    }
                    return Err(refused);
                }
            }
        }
        Ok(taken)
    }

    /// Puts an id back.
    ///
    /// Without a system call, unless somebody holds the id, it has an alias, or somebody watches the set: then the
    /// service frees it. Refused with `ForeignPasid` where another set leases it.
    #[inline]
    pub fn free(&self, pasid: Pasid) -> Result<FreeOutcome, ClientError> {
        match self.region.free(pasid) {
            Ok(Free::Done) => Ok(FreeOutcome::Freed),
            Ok(Free::NotInUse) => self.not_in_use(pasid),
            Ok(Free::TakesService) => self.free_through_service(pasid),
            Err(Revoked) => Err(self.revoked()),
        }
    }

    /// Whose it is the service knows; asked for a reference, not to free it, for by now it may be leased to this set again.
    #[cold]
    fn not_in_use(&self, pasid: Pasid) -> Result<FreeOutcome, ClientError> {
        let mut session = self.session();
        match session.hold(pasid) {
            Ok(_) => session.put(pasid).map(|_| FreeOutcome::NotInUse),
            Err(ClientError::Refused(Refusal::NotFound { .. } | Refusal::Busy { .. })) => Ok(FreeOutcome::NotInUse),
            Err(error) => Err(error),
        }
    }

    #[cold]
    fn free_through_service(&self, pasid: Pasid) -> Result<FreeOutcome, ClientError> {
        let freed = self.session().free(&[pasid])?;
        Ok(if freed.pending.contains(&pasid) { FreeOutcome::Pending } else { FreeOutcome::Freed })
    }

    /// Asks for more leases until `claim` gets an id: another thread may take what came.
    #[cold]
    fn refill_until(
        &self,
        range: Option<PasidRange>,
        alloc: impl Fn() -> Result<Option<Pasid>, Revoked>,
    ) -> Result<Pasid, ClientError> {
        let mut session = self.session();
        loop {
            // Somebody else may have asked while this thread waited for the session.
            match alloc() {
                Ok(Some(pasid)) => return Ok(pasid),
                Ok(None) => {}
                Err(Revoked) => {
                    drop(session);
                    return Err(self.revoked());
                }
            }
            session.call(&Refill { count: u32::MAX, range })?;
        }
    }

    /// The service's refusal, with the reason of the revocation.
    #[cold]
    fn revoked(&self) -> ClientError {
        match self.session().info() {
            Err(error) => error,
            Ok(_) => {
                let reason = "the region says so, the service does not: a holder wrote to it".to_owned();
                Refusal::Revoked { set: self.set, reason }.into()
            }
        }
    }
}
