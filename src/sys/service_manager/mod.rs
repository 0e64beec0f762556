//! The service manager's protocol: readiness, the descriptor store, passed descriptors. Both of its sides, because
//! `ioasidd --supervise` is a small parent that speaks it where there is no systemd.
//!
//! Source: sd_notify(3), sd_listen_fds(3), systemd.service(5) on FileDescriptorStoreMax=.

mod listen;
mod notify;
mod supervisor;

pub use listen::{FIRST_FD, Inherited, find_listen_fd, take_listen_fds};
pub use notify::Notifier;
pub use supervisor::{FdStore, Notice, NoticeSocket};
