//! Notices of cgroups that appear and disappear (inotify).
//!
//! The kernel tells nothing on a removed cgroup itself: neither IN_DELETE_SELF nor IN_IGNORED, nor a wake-up of who polls
//! its files. Only the parent's watch says IN_DELETE. So every directory is watched for its children, and a watch whose
//! directory went is dropped when its parent says so.

use super::{Directory, Root};
use crate::model::CgroupPath;
use crate::sys::{counted, done};
use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What happened in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A cgroup was made. It may be gone again, or have been replaced, by now.
    Made(CgroupPath),
    /// A cgroup was removed. Another may have its path by now: compare ids.
    Removed(CgroupPath),
    /// Notices were lost: look at the whole tree.
    Lost,
}

/// A watch over the whole tree. Its descriptor is readable when there is something to take.
#[derive(Debug)]
pub struct Watch {
    inotify: OwnedFd,
    paths: HashMap<libc::c_int, CgroupPath>,
    numbers: HashMap<CgroupPath, libc::c_int>,
}

impl Watch {
    /// Watches every cgroup below `root`, and those that come. ENOSPC when the user's inotify watches are used up.
    pub fn new(root: &Root) -> io::Result<Self> {
        // SAFETY: no pointers.
        let number = done(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) })?;
        // SAFETY: the call succeeded: the number is open and nobody else owns it.
        let inotify = unsafe { OwnedFd::from_raw_fd(number) };
        let mut watch = Self { inotify, paths: HashMap::new(), numbers: HashMap::new() };
        let top = CgroupPath::root();
        watch.add_tree(&top, &root.open(&top)?, &mut Vec::new())?;
        Ok(watch)
    }

    /// The changes since the last call, oldest first; empty when there is nothing. Never blocks.
    pub fn take(&mut self, root: &Root) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        let mut buffer = [0_u64; 1024];
        loop {
            let size = size_of_val(&buffer);
            // SAFETY: `buffer` has room for `size` bytes.
            let read = counted(unsafe { libc::read(self.inotify.as_raw_fd(), buffer.as_mut_ptr().cast(), size) });
            let len = match read {
                Ok(0) => return Ok(changes),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            // SAFETY: the kernel wrote `len` bytes at the buffer's beginning; bytes have no alignment.
            let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), len.min(size)) };
            for (number, mask, name) in events(bytes) {
                self.note(root, number, mask, name, &mut changes);
            }
        }
    }

    fn note(&mut self, root: &Root, number: libc::c_int, mask: u32, name: &[u8], changes: &mut Vec<Change>) {
        if mask & libc::IN_Q_OVERFLOW != 0 {
            changes.push(Change::Lost);
            return;
        }
        if mask & libc::IN_ISDIR == 0 {
            return;
        }
        let name = str::from_utf8(name).ok();
        let Some(path) = self.paths.get(&number).zip(name).and_then(|(above, name)| above.child(name).ok()) else {
            return;
        };
        if mask & libc::IN_DELETE != 0 {
            self.forget(&path);
            changes.push(Change::Removed(path));
        } else if mask & libc::IN_CREATE != 0 {
            changes.push(Change::Made(path.clone()));
            // Children made before the watch stood are found by looking; one made in between may be told twice.
            match root.open(&path).and_then(|directory| self.add_tree(&path, &directory, changes)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => changes.push(Change::Lost),
                _ => {}
            }
        }
    }

    /// Watches `directory`, then what is in it, which is told as made.
    fn add_tree(&mut self, path: &CgroupPath, directory: &Directory, changes: &mut Vec<Change>) -> io::Result<()> {
        let mut waiting = vec![(path.clone(), directory.child(".")?)];
        while let Some((path, directory)) = waiting.pop() {
            // The open directory, whatever has its path now; the kernel resolves the link.
            let link = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
            let link = CString::new(link).map_err(|_| io::ErrorKind::InvalidInput)?;
            let mask = libc::IN_CREATE | libc::IN_DELETE | libc::IN_ONLYDIR;
            // SAFETY: `link` ends with NUL and outlives the call.
            let added = done(unsafe { libc::inotify_add_watch(self.inotify.as_raw_fd(), link.as_ptr(), mask) });
            let number = match added {
                Ok(number) => number,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            self.forget(&path);
            self.paths.insert(number, path.clone());
            self.numbers.insert(path.clone(), number);
            for name in directory.children().unwrap_or_default() {
                if let (Ok(path), Ok(child)) = (path.child(&name), directory.child(&name)) {
                    changes.push(Change::Made(path.clone()));
                    waiting.push((path, child));
                }
            }
        }
        Ok(())
    }

    /// Drops the watch on a directory that went; the kernel keeps it otherwise.
    fn forget(&mut self, path: &CgroupPath) {
        if let Some(number) = self.numbers.remove(path) {
            self.paths.remove(&number);
            // SAFETY: no pointers. An unknown number is refused, which is as good.
            unsafe { libc::inotify_rm_watch(self.inotify.as_raw_fd(), number) };
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// Takes inotify's records apart: watch number, mask, name. Source: inotify(7).
fn events(mut bytes: &[u8]) -> Vec<(libc::c_int, u32, &[u8])> {
    let mut found = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<16>() {
        let word = |at: usize| head.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes);
        let size = usize::try_from(word(12)).unwrap_or(usize::MAX);
        let Some((name, after)) = rest.split_at_checked(size) else { break };
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        found.push((word(0).cast_signed(), word(4), name));
        bytes = after;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;
    use crate::sys::readiness;
    use std::time::{Duration, Instant};

    /// The changes below `scratch`, until `last` is among them.
    fn until(watch: &mut Watch, scratch: &Scratch, last: &Change) -> Vec<Change> {
        let deadline = Some(Instant::now() + Duration::from_secs(10));
        let mut seen = Vec::new();
        while !seen.contains(last) {
            readiness::wait(watch.as_fd(), readiness::Interest::Read, deadline).unwrap();
            let changes = watch.take(&scratch.root).unwrap();
            seen.extend(changes.into_iter().filter(|change| match change {
                Change::Made(path) | Change::Removed(path) => scratch.path.contains(path),
                Change::Lost => panic!("lost"),
            }));
        }
        seen
    }

    #[test]
    fn children_of_new_cgroups_are_watched_too() {
        let scratch = Scratch::new();
        let mut watch = Watch::new(&scratch.root).unwrap();
        let a = scratch.child("a");
        let b = scratch.path.child("a").unwrap().child("b").unwrap();
        std::fs::create_dir(scratch.directory(&b)).unwrap();
        let made = until(&mut watch, &scratch, &Change::Made(b.clone()));
        assert!(made.contains(&Change::Made(a.clone())));
        std::fs::remove_dir(scratch.directory(&b)).unwrap();
        std::fs::remove_dir(scratch.directory(&a)).unwrap();
        let removed = until(&mut watch, &scratch, &Change::Removed(a.clone()));
        assert!(removed.contains(&Change::Removed(b)));
        scratch.child("a");
        until(&mut watch, &scratch, &Change::Made(a));
    }
}
