//! The device edge: `/dev/ioasid` with the RFC's ioctls.
//!
//! Lives here: the uAPI ([`uapi`]) the server of a CUSE device ([`Device`]), and the client of a
//! kernel that has the device itself ([`kernel`]). One open file is one set, charged to who
//! opened it: the handle that the kernel keeps for us *is* the set's number, so an open file needs no record of its own
//! and is served on by the next process. A file that was passed on works for its receiver: holding it is the authority.
//!
//! One task serves the channel. An ioctl with an argument takes two rounds: the first only names the memory, and
//! does nothing else, for the second may never come.

mod edge;
pub mod kernel;
pub mod uapi;

pub use edge::Device;

use crate::sys::fuse::{Channel, send, try_receive};
use crate::sys::readiness::Registered;
use std::io;
use std::os::fd::AsFd;

/// Answers every request of `channel` until the device is gone.
///
/// Cancel safe: dropped, it leaves the channel as it is for the next server. Faults: what reading and writing the
/// channel gives.
pub async fn serve(mut device: Device, channel: Channel) -> io::Result<()> {
    // What the last server read and did not answer.
    if let Err(error) = channel.resend() {
        tracing::debug!(%error, "the kernel does not send requests again");
    }
    let channel = Registered::for_reading(channel.into())?;
    let mut buffer = vec![0; Channel::BUFFER];
    loop {
        let length = channel.read(|fd| try_receive(fd, &mut buffer)).await?;
        if let Some(reply) = device.answer(buffer.get(..length).unwrap_or_default()) {
            send(channel.as_fd(), &reply)?;
        }
    }
}
