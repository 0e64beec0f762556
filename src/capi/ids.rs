//! Ids through the service: allocated, freed, aliased, held, verified.

use super::answer::answer;
use super::set::{SetHandle, handle, null, pasid_of};
use super::settings::range_of;
use crate::model::Pasid;
use std::ffi::c_int;

/// Writes one number to C.
pub(super) unsafe fn put(at: *mut u32, pasid: Pasid) {
    // SAFETY: the caller looked that it is not null.
    unsafe { at.write(pasid.get()) };
}

/// Allocates one id.
///
/// -EAGAIN where a cgroup's limit is reached, -EDQUOT at the set's quota, -ENOSPC where no id is free, -ESTALE where the
/// set's cgroup is gone, -EPIPE where the set was revoked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_alloc(set: *const SetHandle, pasid: *mut u32) -> c_int {
    // SAFETY: the caller's pointers, as the room's contract has them.
    unsafe { ioasid_alloc_range(set, 0, 0, pasid) }
}

/// Allocates one id from min up to max, both included; the set's own range bounds it further. 0, 0: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_alloc_range(set: *const SetHandle, min: u32, max: u32, pasid: *mut u32) -> c_int {
    // SAFETY: the caller's pointers, as the room's contract has them.
    unsafe { ioasid_alloc_many(set, min, max, pasid, 1) }
}

/// Allocates count ids from min up to max (0, 0: any): all of them or none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_alloc_many(
    set: *const SetHandle,
    min: u32,
    max: u32,
    pasids: *mut u32,
    count: u32,
) -> c_int {
    answer(|| {
        // SAFETY: the caller's pointer, as the room's contract has it.
        let set = unsafe { handle(set) }?;
        if pasids.is_null() {
            return Err(null("pasids").into());
        }
        let range = range_of(min, max)?;
        let taken = set.with_session(|session| session.alloc_many(count, range))?;
        for (n, pasid) in taken.into_iter().take(count as usize).enumerate() {
            // SAFETY: not null, and by the room's contract room for `count` numbers, of which `n` is one.
            unsafe { put(pasids.add(n), pasid) };
        }
        Ok(0)
    })
}

/// Gives an id back. Again is no error. Returns 0, or 1 where others hold the id: it returns when the last of them puts
/// it. -EACCES where another set has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_free(set: *const SetHandle, pasid: u32) -> c_int {
    answer(|| {
        let pasid = pasid_of(pasid)?;
        // SAFETY: the caller's pointer, as the room's contract has it.
        let freed = unsafe { handle(set) }?.with_session(|session| session.free(&[pasid]))?;
        Ok(c_int::from(!freed.pending.is_empty()))
    })
}

/// The ids of the set that are allocated, in order: at most `room` of them are written. Returns how many there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_pasids(set: *const SetHandle, pasids: *mut u32, room: usize) -> c_int {
    answer(|| {
        // SAFETY: the caller's pointer, as the room's contract has it.
        let set = unsafe { handle(set) }?;
        if pasids.is_null() && room > 0 {
            return Err(null("pasids").into());
        }
        let there = set.with_session(|session| session.info())?.pasids.unwrap_or_default();
        for (n, pasid) in there.iter().take(room).enumerate() {
            // SAFETY: not null as `room` is above 0, and by the room's contract `room` numbers long.
            unsafe { put(pasids.add(n), *pasid) };
        }
        Ok(c_int::try_from(there.len()).unwrap_or(c_int::MAX))
    })
}

/// Gives an id another name in this set, such as the one that a guest knows it by. -EEXIST where the set has the alias.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_alias_add(set: *const SetHandle, pasid: u32, alias: u64) -> c_int {
    answer(|| {
        let pasid = pasid_of(pasid)?;
        // SAFETY: the caller's pointer, as the room's contract has it.
        unsafe { handle(set) }?.with_session(|session| session.alias_add(pasid, alias))?;
        Ok(0)
    })
}

/// The id behind an alias. -ENOENT where the set has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_alias_find(set: *const SetHandle, alias: u64, pasid: *mut u32) -> c_int {
    answer(|| {
        // SAFETY: the caller's pointer, as the room's contract has it.
        let set = unsafe { handle(set) }?;
        if pasid.is_null() {
            return Err(null("pasid").into());
        }
        let found = set.with_session(|session| session.alias_find(alias))?;
        // SAFETY: not null, and the caller's.
        unsafe { put(pasid, found) };
        Ok(0)
    })
}

/// Forgets an alias. -ENOENT where the set has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_alias_del(set: *const SetHandle, alias: u64) -> c_int {
    answer(|| {
        // SAFETY: the caller's pointer, as the room's contract has it.
        unsafe { handle(set) }?.with_session(|session| session.alias_del(alias))?;
        Ok(0)
    })
}

/// Takes a reference on an id: freed by whomever, it does not go to another set before the reference is put. It is this
/// handle's, and goes with it. -EBUSY where the id is being freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_hold(set: *const SetHandle, pasid: u32) -> c_int {
    answer(|| {
        let pasid = pasid_of(pasid)?;
        // SAFETY: the caller's pointer, as the room's contract has it.
        unsafe { handle(set) }?.with_session(|session| session.hold(pasid))?;
        Ok(0)
    })
}

/// Puts one reference that this handle took. -ENOENT where it has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_put(set: *const SetHandle, pasid: u32) -> c_int {
    answer(|| {
        let pasid = pasid_of(pasid)?;
        // SAFETY: the caller's pointer, as the room's contract has it.
        unsafe { handle(set) }?.with_session(|session| session.put(pasid))?;
        Ok(0)
    })
}

/// Whether the service has the id leased to this set: 1 or 0. What counts for who grants access to a device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_verify(set: *const SetHandle, pasid: u32) -> c_int {
    answer(|| {
        let pasid = pasid_of(pasid)?;
        // SAFETY: the caller's pointer, as the room's contract has it.
        Ok(c_int::from(unsafe { handle(set) }?.with_session(|session| session.verify(pasid))?))
    })
}
