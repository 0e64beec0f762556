//! The cgroup2 tree as files: where it is mounted, ids and paths, membership, delegation, watching.
//!
//! A cgroup's id is `st_ino` of its directory, on 64-bit hosts the same number as name_to_handle_at(2)'s and
//! PIDFD_GET_INFO's. A rename of a cgroup is refused by the kernel, and one with children or a living process cannot be
//! removed: so whoever finds the last directory of a path alive knows that all those before it are.

mod directory;
#[cfg(feature = "daemon")]
mod members;
mod membership;
mod mounts;
mod root;
mod watch;

pub use directory::{Directory, Kind};
pub use membership::{membership, parse_membership};
pub use root::Root;
pub use watch::{Change, Watch};

#[cfg(test)]
pub(crate) mod scratch;
