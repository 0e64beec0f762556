//! The FUSE protocol, spoken by ourselves: requests, replies, the channel, the mount.
//!
//! Lives here: what the kernel and a server say to each other over `/dev/fuse` and `/dev/cuse`, and the mount that a
//! channel serves. What the files hold is for `cgroupfs` and `device` to say.
//!
//! A library is not used, for one reason above all: a channel here can be taken over by the next process (it stays
//! open in the service manager's store) without a second INIT, which never comes. So nothing that was agreed in INIT
//! may be needed later: both servers agree to the same things with every kernel, and the kernel adapts.
//! No buffer here is cast to a structure, so there is nothing unsafe either.

pub mod abi;
mod channel;
mod mount;
mod reply;
mod request;

pub use channel::{Channel, send, try_receive};
pub use mount::{is_mounted, mount, unmount};
pub use reply::{Attributes, Entries, Message};
pub use request::{BadRequest, Header, Ioctl, Offer, Request, Window, parse};
