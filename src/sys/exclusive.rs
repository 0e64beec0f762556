//! A directory for one process at a time.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io;
use std::path::Path;

/// A directory that this process has for itself until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Exclusive {
    /// The lock is the open file's: nothing is written to the directory for it.
    _lock: Flock<File>,
}

/// Takes a directory. Never blocks: `None` where somebody has it. Source: flock(2).
pub fn try_take(directory: &Path) -> io::Result<Option<Exclusive>> {
    match Flock::lock(File::open(directory)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(Exclusive { _lock: lock })),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let first = try_take(directory.path()).unwrap();
        assert!(first.is_some() && try_take(directory.path()).unwrap().is_none());
        drop(first);
        assert!(try_take(directory.path()).unwrap().is_some());
    }
}
