//! Sealed anonymous files.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Refuses to be executed, and SEAL_EXEC with it; Linux 6.3.
const MFD_NOEXEC_SEAL: libc::c_uint = 8;

/// The seals a region has. Without F_SEAL_SEAL any holder could add F_SEAL_WRITE once nobody has it mapped.
pub(super) const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
/// Those that a region must not have: it has to be written.
const UNWANTED: libc::c_int = libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE;

fn done(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned == -1 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// Makes a file of `bytes` zeros, sealed. `name` is shown in /proc/PID/fd and /proc/PID/maps.
pub(super) fn create(name: &CStr, bytes: usize) -> io::Result<OwnedFd> {
    let size = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: `name` ends with NUL and outlives the call.
    let make = |flags| done(unsafe { libc::memfd_create(name.as_ptr(), flags) });
    let number = match make(flags | MFD_NOEXEC_SEAL) {
        // An older kernel.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => make(flags)?,
        other => other?,
    };
    // SAFETY: the call succeeded: the number is open and nobody else owns it.
    let file = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: no pointers.
    done(unsafe { libc::ftruncate(file.as_raw_fd(), size) })?;
    // SAFETY: no pointers.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS) })?;
    Ok(file)
}

/// The size of a file that is one of ours by its seals: a memfd that keeps its size, is writable, and takes no more
/// seals. `InvalidData` for every other kind.
pub(super) fn size_of_sealed(file: BorrowedFd<'_>) -> io::Result<usize> {
    let unlike = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("the descriptor is {what}"));
    // SAFETY: no pointers. EINVAL for what has no seals: everything but memfds (and hugetlbfs, tmpfs without them).
    let seals = done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) }).map_err(|_| unlike("no memfd"))?;
    if seals & SEALS != SEALS || seals & UNWANTED != 0 {
        return Err(unlike("a memfd with other seals"));
    }
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `stat` has room for what the call writes.
    done(unsafe { libc::fstat(file.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: zeroed, then written by the kernel.
    usize::try_from(unsafe { stat.assume_init() }.st_size).map_err(|_| unlike("of no usable size"))
}
