//! The descriptor that requests come from and replies go to.

use super::Message;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

/// A channel to the kernel: an open `/dev/fuse` or `/dev/cuse`. Reading never blocks.
///
/// The connection lives as long as any copy of the descriptor does, so a copy that somebody keeps lets the next
/// process go on where this one ended: what was not read yet is still there, what was read and not answered comes
/// again after [`Channel::resend`].
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

impl Channel {
    /// The least buffer for [`Channel::receive`]. The kernel wants 8 KiB, and a whole WRITE.
    pub const BUFFER: usize = 16 * 1024;

    /// Opens `device`. The first request on it is an INIT.
    pub fn open(device: &Path) -> io::Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        Ok(Self { fd: nix::fcntl::open(device, flags, nix::sys::stat::Mode::empty())? })
    }

    /// Takes over a channel that another process opened and negotiated.
    ///
    /// Refused (`ENOTCONN`) where the connection is gone: unmounted, aborted, or never made.
    pub fn resume(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let channel = Self { fd };
        let mut ready = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::ZERO)?;
        let [ready] = ready;
        match ready.revents() {
            Some(events) if !events.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL) => Ok(channel),
            _ => Err(Errno::ENOTCONN.into()),
        }
    }

    /// The next request, as bytes for [`parse`](super::parse); `None` where none waits. As [`try_receive`].
    pub fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
        match try_receive(self.as_fd(), buffer) {
            Ok(length) => Ok(Some(buffer.get(..length).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a reply or a notice. As [`send`].
    pub fn send(&self, message: &Message) -> io::Result<()> {
        send(self.as_fd(), message)
    }

    /// Has the kernel send again what was read and not answered, marked with [`UNIQUE_RESEND`](super::abi::UNIQUE_RESEND).
    ///
    /// `EINVAL` before Linux 6.9: those callers then wait until they are killed or the connection ends.
    pub fn resend(&self) -> io::Result<()> {
        self.send(&Message::resend())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.fd
    }
}

/// Reads the next request of the channel `fd` into `buffer`; how many bytes it has.
///
/// `WouldBlock` where none waits, `ENODEV` where the connection is over. `buffer` has [`Channel::BUFFER`] bytes at least.
pub fn try_receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match nix::unistd::read(fd, buffer) {
            Ok(length) => return Ok(length),
            // ENOENT: the caller was gone before the request could be read.
            Err(Errno::EINTR | Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sends a reply or a notice on the channel `fd`. Does not block. A caller that is gone already (`ENOENT`) is no error.
pub fn send(fd: BorrowedFd<'_>, message: &Message) -> io::Result<()> {
    loop {
        match nix::unistd::write(fd, message.as_bytes()) {
            Ok(_) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
