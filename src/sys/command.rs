//! ioctl(2) with an argument in memory.

use super::done;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sends `command` with the address of `argument` and returns what the driver returns, which is not negative.
///
/// The driver must touch no memory beyond `argument`: say only commands whose argument is as long. May block, as the
/// driver pleases.
pub fn send<const N: usize>(fd: BorrowedFd<'_>, command: u32, argument: &mut [u8; N]) -> io::Result<u32> {
    // SAFETY: the descriptor is open, it is borrowed; `argument` outlives the call, and the caller of this function says
    // only commands whose argument is as long as it.
    let returned = done(unsafe { libc::ioctl(fd.as_raw_fd(), command.into(), argument.as_mut_ptr()) })?;
    Ok(returned.unsigned_abs())
}
