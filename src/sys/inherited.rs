//! Descriptors by their number: those that a process was started with, and those that it leaves to its successor.

use super::done;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Another descriptor of the open file that has this number, close-on-exec. The number itself stays open.
///
/// Faults: EBADF where nothing has the number.
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the kernel checks the number.
    let copy = done(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the call succeeded: `copy` is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Makes `fd` the descriptor `number` of the program that this process executes next.
///
/// What had the number is closed, whoever owns it: call it last before execve(2), and end the process where that fails.
pub fn leave_as(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        // SAFETY: no pointers.
        let flags = done(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
        // SAFETY: no pointers.
        return done(unsafe { libc::fcntl(number, libc::F_SETFD, flags & !libc::FD_CLOEXEC) }).map(drop);
    }
    // SAFETY: no pointers; dup2's copy is not close-on-exec.
    done(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
}

/// The same for two descriptors, which may have each other's number now.
pub fn leave_two_as(fds: [BorrowedFd<'_>; 2], numbers: [RawFd; 2]) -> io::Result<()> {
    // Copies that are neither of the two numbers: closing what has a number does not close the other.
    let above = numbers.into_iter().max().unwrap_or(0).saturating_add(1);
    for (fd, number) in
        fds.into_iter().map(|fd| duplicate_above(fd, above)).collect::<io::Result<Vec<_>>>()?.iter().zip(numbers)
    {
        leave_as(fd.as_fd(), number)?;
    }
    Ok(())
}

/// Another descriptor of the open file with a number of at least `least`, close-on-exec.
fn duplicate_above(fd: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let copy = done(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) })?;
    // SAFETY: the call succeeded: `copy` is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{seqpacket, socket_option};

    #[test]
    fn a_duplicate_is_the_same_open_file() {
        let (a, _b) = seqpacket::pair().unwrap();
        let copy = duplicate(a.as_raw_fd()).unwrap();
        assert_ne!(copy.as_raw_fd(), a.as_raw_fd());
        assert_eq!(socket_option::cookie(copy.as_fd()).unwrap(), socket_option::cookie(a.as_fd()).unwrap());
        for bad in [-1, RawFd::MAX] {
            assert_eq!(duplicate(bad).unwrap_err().raw_os_error(), Some(libc::EBADF));
        }
    }
}
