//! A character device served from here: `/dev/cuse`.
//!
//! The protocol is FUSE's, without nodes: after INIT come OPEN, RELEASE, IOCTL, POLL, READ, WRITE and INTERRUPT.
//! An ioctl of a device is *unrestricted*: it comes with a pointer of the caller's, the server names the memory it
//! wants ([`Message::ioctl_retry`]) and the request comes again with that memory, or the caller gets EFAULT and the
//! server hears no more of it. So the first phase must have no side effect.

use super::fuse::{Channel, Message, Request, abi, parse};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

const DEVICE: &str = "/dev/cuse";
/// The kernel answers from a work queue of its own; this much later something is broken.
const DEADLINE: Duration = Duration::from_secs(5);

/// Whether the kernel offers CUSE (the module may still have to be loaded by opening it).
pub fn is_offered() -> bool {
    Path::new(DEVICE).exists()
}

/// Whether the device at `path` is served by CUSE: by a program, which may have stopped answering.
pub fn serves(path: &Path) -> bool {
    path.file_name().is_some_and(|name| Path::new("/sys/class/cuse").join(name).exists())
}

/// Makes the device `/dev/<name>` and returns the channel that its requests come from.
///
/// Blocks until the kernel has asked its one question; devtmpfs shows the node shortly after, 0600 root.
/// Faults: `ENOENT`, `ENODEV`, `ENXIO` where there is no CUSE, `EACCES` without the right to open it, `EPROTO` where
/// the kernel's protocol is too old.
pub fn create(name: &str) -> io::Result<Channel> {
    let channel = Channel::open(Path::new(DEVICE))?;
    let mut buffer = vec![0; Channel::BUFFER];
    let deadline = Instant::now() + DEADLINE;
    loop {
        let Some(message) = channel.receive(&mut buffer)? else {
            wait(&channel, deadline)?;
            continue;
        };
        return match parse(message) {
            Ok((header, Request::CuseInit(offer))) if offer.major == abi::MAJOR && offer.minor >= abi::MINOR_LEAST => {
                channel.send(&Message::cuse_init(header.unique, offer, name))?;
                Ok(channel)
            }
            _ => Err(Errno::EPROTO.into()),
        };
    }
}

fn wait(channel: &Channel, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::ZERO);
    match poll(&mut [PollFd::new(channel.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(0) => Err(Errno::ETIMEDOUT.into()),
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
