//! Handles of sets: opened, passed on, closed.

use super::answer::answer;
use super::settings::{SetOptions, SetStatus, request_of, tell};
use crate::client::{ClientError, DEFAULT_SOCKET, FreeOutcome, Service, Session, Set};
use crate::model::{Pasid, Refusal};
use crate::sys::seqpacket::{self, Received};
use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::{Mutex, PoisonError};

/// A set that this process holds: a set FD, and a session on it that is opened when it is first needed.
pub struct SetHandle {
    set: Set,
    session: Mutex<Option<Session>>,
}

impl SetHandle {
    fn new(set: Set) -> Box<Self> {
        Box::new(Self { set, session: Mutex::new(None) })
    }

    /// The set.
    pub(super) fn set(&self) -> &Set {
        &self.set
    }

    /// Runs a call on the session; threads take turns.
    pub(super) fn with_session<T>(
        &self,
        call: impl FnOnce(&mut Session) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut slot = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let session = match &mut *slot {
            Some(session) => session,
            none => none.insert(self.set.session()?),
        };
        call(session)
    }
}

/// The handle at `at`.
pub(super) unsafe fn handle<'a>(at: *const SetHandle) -> Result<&'a SetHandle, Refusal> {
    // SAFETY: null, or by the room's contract a handle that an open call gave and nobody closed.
    unsafe { at.as_ref() }.ok_or_else(|| null("set"))
}

/// The number that C passed, as a PASID.
pub(super) fn pasid_of(number: u32) -> Result<Pasid, Refusal> {
    Pasid::try_from(number).map_err(|malformed| Refusal::malformed("pasid", &malformed))
}

/// What a free is in C.
pub(super) fn freed(outcome: FreeOutcome) -> c_int {
    c_int::from(outcome == FreeOutcome::Pending)
}

/// Refuses a null pointer.
pub(super) fn null(field: &str) -> Refusal {
    Refusal::invalid(field, "NULL", "a pointer")
}

/// Hands what an open call made to C.
unsafe fn give(out: *mut *mut SetHandle, make: impl FnOnce() -> Result<Set, ClientError>) -> c_int {
    answer(|| {
        if out.is_null() {
            return Err(null("out").into());
        }
        // SAFETY: not null, so by the room's contract room for a pointer.
        unsafe { out.write(ptr::null_mut()) };
        let handle = SetHandle::new(make()?);
        // SAFETY: as above.
        unsafe { out.write(Box::into_raw(handle)) };
        Ok(0)
    })
}

/// Opens the set that this process was started with: the descriptor in IOASID_SET_FD, else the one that is called
/// "ioasid" under the LISTEN_FDS protocol (sd_listen_fds(3)). The descriptor itself stays open beside the handle.
///
/// -ENOENT where there is none, -EINVAL where it is no set FD.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_open_env(out: *mut *mut SetHandle) -> c_int {
    // SAFETY: the caller's pointer, as the room's contract has it.
    unsafe { give(out, Set::from_env) }
}

/// Opens the set whose FD this process has under a number. The handle has a copy: close yours when you like.
///
/// -EINVAL where it is no SEQPACKET socket; whether it is a set FD shows with the first call that needs the service.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_open_fd(out: *mut *mut SetHandle, fd: c_int) -> c_int {
    // SAFETY: the caller's pointer, as the room's contract has it.
    unsafe { give(out, || Set::from_number(fd)) }
}

/// Asks the service for a new set, which is charged to the caller's cgroup unless the options say otherwise.
///
/// socket: the service's; NULL: /run/ioasidd/ioasid.sock. options: NULL: what the policy gives.
/// -EPERM where no rule of the policy allows it, -EMFILE where a bound on sets is reached.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_create(
    out: *mut *mut SetHandle,
    socket: *const c_char,
    options: *const SetOptions,
) -> c_int {
    let make = || {
        let path = if socket.is_null() {
            OsStr::new(DEFAULT_SOCKET)
        } else {
            // SAFETY: not null, so by the room's contract a string with its NUL.
            OsStr::from_bytes(unsafe { CStr::from_ptr(socket) }.to_bytes())
        };
        // SAFETY: the caller's pointer, as the room's contract has it.
        let request = unsafe { request_of(options) }?;
        Ok(Service::connect(path)?.create_set(request)?.0)
    };
    // SAFETY: the caller's pointer, as the room's contract has it.
    unsafe { give(out, make) }
}

/// Receives a set FD over a connected AF_UNIX socket, as ioasid_send sends it, and proves that it is one by opening a
/// session on it. Blocks until something comes, then for the 10 seconds that a service may take to answer.
///
/// -EINVAL where what comes is none, -EPIPE where the other side closed or the set was revoked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_receive(out: *mut *mut SetHandle, socket: c_int) -> c_int {
    let make = || {
        // SAFETY: the caller's number, open for the call; one that is not gives EBADF.
        let socket = unsafe { borrow(socket) }?;
        let mut byte = [0; 1];
        let mut fds = match seqpacket::receive(socket, &mut byte, None).map_err(ClientError::Unreachable)? {
            Received::Message { fds, .. } => fds,
            Received::Truncated(_) => return Err(Refusal::invalid("message", "a longer one", "one byte").into()),
            Received::Closed => return Err(ClientError::Unreachable(std::io::ErrorKind::BrokenPipe.into())),
        };
        let count = fds.len();
        match fds.pop() {
            Some(fd) if count == 1 => {
                let set = Set::from_fd(fd)?;
                set.session()?;
                Ok(set)
            }
            _ => Err(Refusal::invalid("message", format!("{count} descriptors"), "one set FD").into()),
        }
    };
    // SAFETY: the caller's pointer, as the room's contract has it.
    unsafe { give(out, make) }
}

/// Sends a copy of the set FD over a connected AF_UNIX socket: one byte with it as SCM_RIGHTS. Blocks while the queue is
/// full. Who gets it has the authority over the set, as the sender has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_send(set: *const SetHandle, socket: c_int) -> c_int {
    answer(|| {
        // SAFETY: the caller's pointer, as the room's contract has it.
        let fd = unsafe { handle(set) }?.set().as_fd();
        // SAFETY: the caller's number, open for the call; one that is not gives EBADF.
        let socket = unsafe { borrow(socket) }?;
        seqpacket::send(socket, &[0], &[fd], None).map_err(ClientError::Unreachable)?;
        Ok(0)
    })
}

unsafe fn borrow<'a>(number: c_int) -> Result<BorrowedFd<'a>, Refusal> {
    if number < 0 {
        return Err(Refusal::invalid("socket", number, "a descriptor"));
    }
    // SAFETY: not -1; that it stays open for the call is the caller's.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

/// The number of the handle's set FD: to inherit it (it is close-on-exec: dup2(2) it), to pass it, to identify it. Do not
/// read, write or close it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_fd(set: *const SetHandle) -> c_int {
    // SAFETY: the caller's pointer, as the room's contract has it.
    answer(|| Ok(unsafe { handle(set) }?.set().as_fd().as_raw_fd()))
}

/// Closes the handle: its copy of the set FD, its session with the references that it holds. With the last copy, in
/// whatever process, the set ends and its ids return. NULL does nothing. No call may be under way on it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_close(set: *mut SetHandle) {
    if !set.is_null() {
        answer(|| {
            // SAFETY: not null, so a handle that an open call made with Box and that is closed once.
            drop(unsafe { Box::from_raw(set) });
            Ok(0)
        });
    }
}

/// Asks about the set. Set info->size before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_get_info(set: *const SetHandle, info: *mut SetStatus) -> c_int {
    answer(|| {
        // SAFETY: the caller's pointer, as the room's contract has it.
        let set = unsafe { handle(set) }?;
        if info.is_null() {
            return Err(null("info").into());
        }
        let found = set.with_session(Session::info)?;
        // SAFETY: not null, and the caller's.
        unsafe { tell(info, &found) }?;
        Ok(0)
    })
}

/// Changes the set's quota, within the max of the rule that allowed the set (-EPERM beyond it).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_set_quota(set: *const SetHandle, quota: u32) -> c_int {
    answer(|| {
        // SAFETY: the caller's pointer, as the room's contract has it.
        unsafe { handle(set) }?.with_session(|session| session.set_quota(quota))?;
        Ok(0)
    })
}

/// Gives unused leases of a mapped set back; returns how many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioasid_trim(set: *const SetHandle) -> c_int {
    answer(|| {
        // SAFETY: the caller's pointer, as the room's contract has it.
        let returned = unsafe { handle(set) }?.with_session(Session::trim)?;
        Ok(c_int::try_from(returned).unwrap_or(c_int::MAX))
    })
}
