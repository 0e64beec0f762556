//! This process: who it is, and what it may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;

/// The effective uid.
pub fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// How many descriptors this process may have open: the soft limit.
pub fn max_files() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
}

/// Raises the soft limit of open descriptors to the hard one.
pub fn raise_max_files() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}
