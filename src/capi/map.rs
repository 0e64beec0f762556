//! Mapped sets: ids taken and given without a system call.

use super::answer::answer;
use super::ids::put;
use super::set::{SetHandle, freed, handle, null, pasid_of};
use super::settings::range_of;
use crate::client::MappedSet;
use crate::model::Refusal;
use std::ffi::c_int;
use std::ptr;

/// A set's bitmap, mapped into this process. Threads share it, and children of fork(2).
pub struct MapHandle(MappedSet);

unsafe fn mapped<'a>(at: *const MapHandle) -> Result<&'a MappedSet, Refusal> {
    // SAFETY: null, or by the room's contract a mapping that ioasid_map gave and nobody unmapped.
    unsafe { at.as_ref() }.map(|map| &map.0).ok_or_else(|| null("map"))
}

/// Maps the set: from then on ids are taken from leases ahead with one atomic instruction, and only every batch is asked
/// for. The mapping stands beside the handle; either can be closed first, but without any FD of the set open the set
/// ends.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_map(out: *mut *mut MapHandle, set: *const SetHandle) -> c_int {
    answer(|| {
        if out.is_null() {
            return Err(null("out").into());
        }
        // SAFETY: not null, so by the room's contract room for a pointer.
        unsafe { out.write(ptr::null_mut()) };
        // SAFETY: the caller's pointer, as the room's contract has it.
        let map = Box::new(MapHandle(unsafe { handle(set) }?.set().map()?));
        // SAFETY: as above.
        unsafe { out.write(Box::into_raw(map)) };
        Ok(0)
    })
}

/// Takes an id; the errors are those of ioasid_alloc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_map_alloc(map: *const MapHandle, pasid: *mut u32) -> c_int {
    // SAFETY: the caller's pointers, as the room's contract has them.
    unsafe { ioasid_map_alloc_range(map, 0, 0, pasid) }
}

/// Takes an id from min up to max, both included. 0, 0: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_map_alloc_range(map: *const MapHandle, min: u32, max: u32, pasid: *mut u32) -> c_int {
    answer(|| {
        // SAFETY: the caller's pointer, as the room's contract has it.
        let map = unsafe { mapped(map) }?;
        if pasid.is_null() {
            return Err(null("pasid").into());
        }
        let taken = match range_of(min, max)? {
            None => map.alloc()?,
            Some(range) => map.alloc_in(range)?,
        };
        // SAFETY: not null, and the caller's.
        unsafe { put(pasid, taken) };
        Ok(0)
    })
}

/// Puts an id back: 0, or 1 where others hold it. It stays leased to the set, and charged, until it is trimmed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_map_free(map: *const MapHandle, pasid: u32) -> c_int {
    answer(|| {
        let pasid = pasid_of(pasid)?;
        // SAFETY: the caller's pointer, as the room's contract has it.
        Ok(freed(unsafe { mapped(map) }?.free(pasid)?))
    })
}

/// Ends the mapping. Ids that are in use stay the set's. NULL does nothing. No call may be under way on it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_unmap(map: *mut MapHandle) {
    if !map.is_null() {
        answer(|| {
            // SAFETY: not null, so a mapping that ioasid_map made with Box and that is unmapped once.
            drop(unsafe { Box::from_raw(map) });
            Ok(0)
        });
    }
}
