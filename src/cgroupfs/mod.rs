//! The cgroup files: a FUSE tree shaped like the cgroup tree, with `ioasids.*` in each directory.
//!
//! Lives here: what the tree holds, how it is read and written, who is woken when events change. Nothing but a handful
//! of descriptors is kept for a directory or a file that nobody has open: names and numbers come from the cgroup2 file
//! system at each request, values from the controller. So the tree costs nothing while nobody looks, directories come and go with their
//! cgroups, and another process can serve the same mount after this one ([`Tree::new`] with the channel it left).
//!
//! One task serves the channel; no request waits for anything. It must never touch its own mount.

mod attributes;
mod content;
mod interest;
mod node;
mod open;
mod pollers;
mod recent;
mod tree;

pub use pollers::Pollers;
pub use tree::Tree;

use crate::sys::fuse::{Channel, Message, Request, parse, send, try_receive};
use crate::sys::readiness::Registered;
use std::io;
use std::os::fd::AsFd;

/// Answers every request of `channel` until the tree is unmounted; then returns. `waiting` are woken first: pollers whom
/// the last server cannot wake any more.
///
/// Cancel safe: dropped, it leaves the channel as it is for the next server. Faults: what reading and writing the
/// channel gives, `ENODEV` excepted.
pub async fn serve(mut tree: Tree, channel: Channel, waiting: &[u64]) -> io::Result<()> {
    // What the last server read and did not answer.
    if let Err(error) = channel.resend() {
        tracing::debug!(%error, "the kernel does not send requests again");
    }
    for wake in waiting {
        channel.send(&Message::wake(*wake))?;
    }
    let channel = Registered::for_reading(channel.into())?;
    let interest = tree.interest();
    let mut buffer = vec![0; Channel::BUFFER];
    loop {
        let received = tokio::select! {
            received = channel.read(|fd| try_receive(fd, &mut buffer)) => received,
            () = interest.changed() => {
                for message in tree.wake_pollers() {
                    send(channel.as_fd(), &message)?;
                }
                continue;
            }
        };
        let length = match received {
            Ok(length) => length,
            // ENODEV: unmounted.
            Err(error) if error.raw_os_error() == Some(19) => return Ok(()),
            Err(error) => return Err(error),
        };
        let message = buffer.get(..length).unwrap_or_default();
        if matches!(parse(message), Ok((_, Request::Destroy))) {
            return Ok(());
        }
        if let Some(reply) = tree.answer(message) {
            send(channel.as_fd(), &reply)?;
        }
    }
}
