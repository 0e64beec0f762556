//! Sets of open device files: alive as long as the file is open, with or without set FDs beside it.

use super::parking::Parked;
use super::request::request_tag;
use super::{Caller, Controller, Permit};
use crate::model::{Failure, Pasid, PasidRange, SetId};
use crate::proto::message_ids::FAULT;

/// What stands for a session's key in the tags of requests on device files; no session has it.
const KEY: u64 = 0;

impl Controller {
    /// Makes a set for an open device file; `opening` is the number of the request that opens it.
    ///
    /// Refused as [`Controller::create_set`].
    pub fn create_device_set(&self, caller: &Caller, permit: Permit, opening: u64) -> Result<SetId, Failure> {
        // Its FD goes nowhere: the file is what holds the set.
        let made = self.create_set(caller, permit)?;
        let (id, cookie) = (made.info.set, made.end.name.cookie);
        let mut state = self.lock();
        state.by_cookie.remove(&cookie);
        let set = state.set_mut(id)?;
        set.ends.retain(|end| end.name.cookie != cookie);
        set.device_file = Some(opening);
        let record = set.record();
        state.unpark(Parked::End(id, made.end.serial));
        if let Err(fault) = state.record_set(id, record) {
            state.last_close(id);
            return Err(fault.into());
        }
        Ok(id)
    }

    /// The set that was made for the request `opening`, where its file was not closed since.
    pub fn device_set_of(&self, opening: u64) -> Option<SetId> {
        let state = self.lock();
        state.sets.values().find(|set| set.device_file == Some(opening)).map(|set| set.id)
    }

    /// Leases one id for the request `unique` on a device file. Sent again after a restart, it gets the id that it got.
    ///
    /// Refused as [`Controller::alloc`].
    pub fn device_alloc(&self, id: SetId, unique: u64, range: PasidRange) -> Result<Option<Pasid>, Failure> {
        let mut state = self.lock();
        let pasids = self.alloc_as(&mut state, id, request_tag(id, KEY, unique), 1, Some(range))?;
        Ok(pasids.first().copied())
    }

    /// Gives an id back for the request `unique` on a device file. Sent again after a restart, it takes no other's.
    ///
    /// Refused as [`Controller::free`].
    pub fn device_free(&self, id: SetId, unique: u64, pasid: u32) -> Result<(), Failure> {
        self.lock().free_as(id, None, request_tag(id, KEY, unique), &[pasid]).map(drop)
    }

    /// Says that a device file was closed for the last time. Its set ends unless it has FDs too; said again, or of a
    /// set that is gone, it changes nothing.
    pub fn device_file_closed(&self, id: SetId) {
        let mut state = self.lock();
        let Some(set) = state.sets.get_mut(&id) else { return };
        if set.device_file.take().is_none() {
            return;
        }
        if set.ends.is_empty() {
            state.last_close(id);
            // Nobody says it again once it is answered: unlike an FD's, this close leaves no trace to be found.
            state.settle();
            return;
        }
        let record = set.record();
        if let Err(fault) = state.record_set(id, record) {
            tracing::error!(MESSAGE_ID = FAULT, set = id.0, %fault, "a closed device file is still on record");
        }
    }
}
