//! One cgroup's directory, held open: facts read through it belong to that cgroup and no other.

use crate::model::CgroupId;
use crate::sys::done;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::DirEntryExt;

/// What a cgroup says it is: `cgroup.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary cgroup, the root of a threaded subtree among them: it is charged itself.
    Domain,
    /// Threads of one process spread below a domain: its nearest domain ancestor is charged.
    Threaded,
}

/// An open directory of a cgroup. It can be removed while open; then what is read through it is NotFound or ENODEV.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// Takes an open directory of the cgroup2 filesystem.
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Opens the child `name`, one level down. Symbolic links are not followed (cgroup2 has none).
    pub fn child(&self, name: &str) -> io::Result<Self> {
        self.open_at(name, libc::O_PATH | libc::O_DIRECTORY).map(Self)
    }

    fn open_at(&self, name: &str, flags: libc::c_int) -> io::Result<OwnedFd> {
        if name.contains('/') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let name = CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
        let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW;
        // SAFETY: `name` ends with NUL and outlives the call.
        let number = done(unsafe { libc::openat(self.0.as_raw_fd(), name.as_ptr(), flags) })?;
        // SAFETY: the call succeeded: the number is open and nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }

    /// The text of one of its files. NotFound or ENODEV where the cgroup was removed.
    pub fn read(&self, name: &str) -> io::Result<String> {
        let mut text = String::new();
        File::from(self.open_at(name, libc::O_RDONLY)?).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Its id.
    pub fn id(&self) -> io::Result<CgroupId> {
        self.stat("").map(|stat| CgroupId(stat.st_ino))
    }

    /// The uid that owns the directory: who may make cgroups in it.
    pub fn owner(&self) -> io::Result<u32> {
        self.stat("").map(|stat| stat.st_uid)
    }

    /// Whether it still exists.
    pub fn exists(&self) -> bool {
        self.stat("cgroup.procs").is_ok()
    }

    /// Its type. The root has none and is a domain, and so is one that is `domain invalid`: no process can be in it.
    pub fn kind(&self) -> io::Result<Kind> {
        match self.read("cgroup.type") {
            Ok(text) if text.trim_end() == "threaded" => Ok(Kind::Threaded),
            Ok(_) => Ok(Kind::Domain),
            // The root has no such file.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.exists() => Ok(Kind::Domain),
            Err(error) => Err(error),
        }
    }

    /// The names of its children, in no order; those that are not UTF-8 are left out.
    pub fn children(&self) -> io::Result<Vec<String>> {
        Ok(self.children_with_ids()?.into_iter().map(|(_, name)| name).collect())
    }

    /// The ids and names of its children, likewise.
    pub fn children_with_ids(&self) -> io::Result<Vec<(CgroupId, String)>> {
        // The descriptor may be O_PATH; its name under /proc opens it for reading, whatever became of the path.
        let entries = std::fs::read_dir(format!("/proc/self/fd/{}", self.0.as_raw_fd()))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.extend(entry.file_name().into_string().map(|name| (CgroupId(entry.ino()), name)));
            }
        }
        Ok(names)
    }

    fn stat(&self, name: &str) -> io::Result<libc::stat> {
        let name = CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
        let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
        let mut stat = MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: `name` ends with NUL; `stat` has room for what the call writes.
        done(unsafe { libc::fstatat(self.0.as_raw_fd(), name.as_ptr(), stat.as_mut_ptr(), flags) })?;
        // SAFETY: zeroed, then written by the kernel.
        Ok(unsafe { stat.assume_init() })
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
