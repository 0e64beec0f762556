//! The root of the cgroup2 tree: from paths to ids and back.

use super::mounts::{cgroup2_mounts, is_cgroup2};
use super::{Directory, Kind};
use crate::model::{CgroupId, CgroupPath, Fault};
use crate::sys::done;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// FILEID_KERNFS, `include/linux/exportfs.h`: a handle that is the 64-bit id.
const FILEID_KERNFS: libc::c_int = 0xfe;

/// The cgroup2 filesystem, held open at its root.
///
/// Paths are those of `/proc/PID/cgroup` in the service's own cgroup namespace.
#[derive(Debug)]
pub struct Root {
    directory: Directory,
    mount_point: PathBuf,
    /// Readable, where `directory` is O_PATH: handles are opened relative to it.
    mount: File,
}

impl Root {
    /// Finds it: at `chosen`, or by /proc/self/mountinfo, where /sys/fs/cgroup (pure version 2) goes before
    /// /sys/fs/cgroup/unified (hybrid) before any other.
    ///
    /// Faults, as clear sentences: no cgroup2 is mounted; `chosen` is not the root of a cgroup2 mount.
    pub fn find(chosen: Option<&Path>) -> Result<Self, Fault> {
        let mounts = fs::read("/proc/self/mountinfo")
            .map_err(|error| Fault::from(error).while_doing("read /proc/self/mountinfo"))?;
        let mut mounts = cgroup2_mounts(&mounts);
        if let Some(chosen) = chosen {
            let real = fs::canonicalize(chosen)
                .map_err(|error| Fault::from(error).while_doing(format!("find cgroup root {}", chosen.display())))?;
            mounts.retain(|mount| *mount == real);
            if mounts.is_empty() {
                return Err(Fault::new(format!(
                    "{} is not the root of a cgroup2 mount; `findmnt -t cgroup2` lists those there are",
                    chosen.display()
                )));
            }
        }
        let rank = |mount: &PathBuf| match mount.to_str() {
            Some("/sys/fs/cgroup") => 0,
            Some("/sys/fs/cgroup/unified") => 1,
            _ => 2,
        };
        mounts.sort_by_key(rank);
        // A mount may be hidden under a later one: the file system that answers decides.
        for mount_point in mounts {
            if let Ok(mount) = File::open(&mount_point)
                && is_cgroup2(&mount)
            {
                let directory = Directory::new(OwnedFd::from(mount.try_clone()?));
                return Ok(Self { directory, mount_point, mount });
            }
        }
        Err(Fault::new(
            "this host has no cgroup2 hierarchy mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`, \
             or boot with systemd.unified_cgroup_hierarchy=1; --cgroup-root names one elsewhere",
        ))
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Opens the directory of `path`, name by name. NotFound where it does not exist.
    pub fn open(&self, path: &CgroupPath) -> io::Result<Directory> {
        let mut found = Directory::new(self.directory.as_fd().try_clone_to_owned()?);
        for name in path.components() {
            found = found.child(name)?;
        }
        Ok(found)
    }

    /// The id that `path` has now. NotFound where it does not exist.
    pub fn id_of(&self, path: &CgroupPath) -> io::Result<CgroupId> {
        self.open(path)?.id()
    }

    /// Opens the directory of the cgroup with this id; `None` where it was removed.
    ///
    /// PermissionDenied without CAP_DAC_READ_SEARCH; EOPNOTSUPP before Linux 5.5.
    pub fn open_id(&self, id: CgroupId) -> io::Result<Option<Directory>> {
        // struct file_handle and its eight bytes, open_by_handle_at(2).
        #[repr(C)]
        struct Handle {
            bytes: libc::c_uint,
            kind: libc::c_int,
            id: [u8; 8],
        }
        let mut handle = Handle { bytes: 8, kind: FILEID_KERNFS, id: id.0.to_ne_bytes() };
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: `handle` has the layout of struct file_handle with `handle_bytes` bytes after it.
        let opened = done(unsafe { libc::open_by_handle_at(self.mount.as_raw_fd(), (&raw mut handle).cast(), flags) });
        match opened {
            // SAFETY: the call succeeded: the number is open and nobody else owns it.
            Ok(number) => Ok(Some(Directory::new(unsafe { OwnedFd::from_raw_fd(number) }))),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESTALE | libc::ENOENT)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The path of the cgroup with this id; `None` where it was removed. Faults as [`Root::open_id`].
    pub fn path_of(&self, id: CgroupId) -> io::Result<Option<CgroupPath>> {
        let Some(opened) = self.open_id(id)? else { return Ok(None) };
        let name = fs::read_link(format!("/proc/self/fd/{}", opened.as_fd().as_raw_fd()))?;
        let below = name.strip_prefix(&self.mount_point).map_err(io::Error::other)?;
        let path = below.to_str().and_then(|below| format!("/{below}").parse().ok());
        let Some(path): Option<CgroupPath> = path else { return Ok(None) };
        // A removed one is shown with " (deleted)" after its name, which could be a name: only the id tells.
        match self.id_of(&path) {
            Ok(found) if found == id => Ok(Some(path)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(None),
        }
    }

    /// The cgroup at `path` and its ancestors, near to far, up to the root, as they are at one moment.
    ///
    /// Opened level by level, each from the one above it, and the last one checked at the end: while it exists, none of
    /// the others can have been removed or renamed. NotFound where `path` does not exist.
    pub fn lineage(&self, path: &CgroupPath) -> io::Result<Vec<(CgroupId, CgroupPath)>> {
        self.levels(path).map(|levels| levels.into_iter().map(|(id, path, _)| (id, path)).collect())
    }

    /// The same for the cgroup that is charged for a process in `path`: the nearest that is not threaded.
    pub fn charged_lineage(&self, path: &CgroupPath) -> io::Result<Vec<(CgroupId, CgroupPath)>> {
        let levels = self.levels(path)?;
        let mut threaded = 0;
        for (_, _, directory) in &levels {
            if directory.kind()? == Kind::Domain {
                break;
            }
            threaded += 1;
        }
        Ok(levels.into_iter().skip(threaded).map(|(id, path, _)| (id, path)).collect())
    }

    /// Whether the cgroup at `path` is there and not threaded. By name, in one walk: for who knows that the path is pinned.
    pub fn is_domain(&self, path: &CgroupPath) -> bool {
        // The root has no type.
        path.is_root() || self.type_begins_with(path, b"domain").unwrap_or(false)
    }

    fn type_begins_with(&self, path: &CgroupPath, kind: &[u8]) -> io::Result<bool> {
        let mut file = File::open(self.mount_point.join(path.relative()).join("cgroup.type"))?;
        // One read: the kernel gives the file's text whole.
        let mut text = [0; 32];
        let len = file.read(&mut text)?;
        Ok(text.get(..len).is_some_and(|text| text.starts_with(kind)))
    }

    fn levels(&self, path: &CgroupPath) -> io::Result<Vec<(CgroupId, CgroupPath, Directory)>> {
        let top = Directory::new(self.directory.as_fd().try_clone_to_owned()?);
        let mut levels = vec![(top.id()?, CgroupPath::root(), top)];
        for name in path.components() {
            if let Some((_, above, parent)) = levels.last() {
                let directory = parent.child(name)?;
                let path =
                    above.child(name).map_err(|malformed| io::Error::new(io::ErrorKind::InvalidInput, malformed))?;
                levels.push((directory.id()?, path, directory));
            }
        }
        if levels.last().is_some_and(|(_, _, nearest)| !nearest.exists()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        levels.reverse();
        Ok(levels)
    }
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    #[test]
    fn a_directory_elsewhere_is_no_root() {
        let dir = tempfile::tempdir().unwrap();
        let fault = Root::find(Some(dir.path())).unwrap_err();
        assert!(fault.to_string().contains("is not the root of a cgroup2 mount"), "{fault}");
        assert!(Root::find(Some(Path::new("/nonexistent"))).is_err());
        let found = Root::find(None).unwrap();
        Root::find(Some(found.mount_point())).unwrap();
    }

    #[test]
    fn ids_and_paths_name_each_other_until_removed() {
        let scratch = Scratch::new();
        let path = scratch.child("a b (deleted)");
        let id = scratch.root.id_of(&path).unwrap();
        assert_eq!(scratch.root.path_of(id).unwrap(), Some(path.clone()));
        fs::remove_dir(scratch.directory(&path)).unwrap();
        assert_eq!(scratch.root.path_of(id).unwrap(), None);
        assert_eq!(scratch.root.id_of(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::create_dir(scratch.directory(&path)).unwrap();
        assert_ne!(scratch.root.id_of(&path).unwrap(), id, "made again, it is another");
    }

    #[test]
    fn lineage_goes_from_near_to_the_root() {
        let scratch = Scratch::new();
        let a = scratch.child("a");
        let lineage = scratch.root.lineage(&a).unwrap();
        let paths: Vec<_> = lineage.iter().map(|(_, path)| path.clone()).collect();
        assert_eq!(paths, a.lineage().collect::<Vec<_>>());
        assert!(lineage.iter().all(|(id, path)| scratch.root.id_of(path).unwrap() == *id));
        assert!(scratch.root.lineage(&a.child("none").unwrap()).is_err());
    }

    #[test]
    fn threaded_cgroups_are_charged_to_their_domain() {
        let scratch = Scratch::new();
        let a = scratch.child("a");
        let b = scratch.path.child("a").unwrap().child("b").unwrap();
        fs::create_dir(scratch.directory(&b)).unwrap();
        fs::write(scratch.directory(&b).join("cgroup.type"), "threaded").unwrap();
        let charged = scratch.root.charged_lineage(&b).unwrap();
        assert_eq!(charged.first().map(|(_, path)| path), Some(&a));
        assert_eq!(scratch.root.lineage(&b).unwrap().len(), charged.len() + 1);
        assert_eq!(scratch.root.charged_lineage(&CgroupPath::root()).unwrap().len(), 1);
    }

    #[test]
    fn the_owner_is_that_of_the_directory() {
        let scratch = Scratch::new();
        let a = scratch.child("a");
        std::os::unix::fs::chown(scratch.directory(&a), Some(65534), None).unwrap();
        let owner = |path| scratch.root.open(path).unwrap().owner().unwrap();
        assert_eq!((owner(&scratch.path), owner(&a)), (0, 65534));
    }
}
