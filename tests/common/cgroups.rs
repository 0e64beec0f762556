//! A cgroup tree of its own for one test, removed at the end with what is in it.

use super::deadline;
use ioasid::model::{CgroupId, CgroupPath};
use ioasid::sys::cgroup::Root;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// A scratch cgroup below the cgroup2 root, with a name that no other test has.
pub struct Cgroups {
    root: Root,
    path: CgroupPath,
}

impl Cgroups {
    /// Makes it. Takes root and a cgroup2 hierarchy, as all flow tests do.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // ORDERING: a counter; nothing else is read with it.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ioasid-test-{}-{count}.slice", std::process::id());
        let root = Root::find(None).expect("flow tests take a cgroup2 hierarchy");
        let cgroups = Self { root, path: CgroupPath::root().child(&name).unwrap() };
        fs::create_dir(cgroups.directory("")).expect("flow tests run as root");
        cgroups
    }

    /// The path of the scratch cgroup (`""`), or of one below it.
    pub fn path(&self, below: &str) -> CgroupPath {
        format!("{}/{below}", self.path).trim_end_matches('/').parse().unwrap()
    }

    /// Its directory.
    pub fn directory(&self, below: &str) -> PathBuf {
        self.root.mount_point().join(self.path(below).relative())
    }

    /// Makes one below the scratch cgroup, ancestors included; gives its path.
    pub fn make(&self, below: &str) -> CgroupPath {
        fs::create_dir_all(self.directory(below)).unwrap();
        self.path(below)
    }

    /// Removes one; what was killed in it may take a moment to leave.
    pub fn remove(&self, below: &str) {
        remove_dir(&self.directory(below));
    }

    /// Its id.
    pub fn id(&self, below: &str) -> CgroupId {
        self.root.id_of(&self.path(below)).unwrap()
    }

    /// Moves a process there.
    pub fn join(&self, below: &str, pid: u32) {
        fs::write(self.directory(below).join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// Makes `below` a delegated cgroup of `uid`, the way a service manager does.
    pub fn delegate(&self, below: &str, uid: u32) {
        let directory = self.directory(below);
        std::os::unix::fs::chown(&directory, Some(uid), Some(uid)).unwrap();
        for file in ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            std::os::unix::fs::chown(directory.join(file), Some(uid), Some(uid)).unwrap();
        }
    }

    /// The hierarchy it is in.
    pub fn mount_point(&self) -> &Path {
        self.root.mount_point()
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let top = self.directory("");
        let _ = fs::write(top.join("cgroup.kill"), "1");
        remove_tree(&top);
        if !std::thread::panicking() {
            assert!(!top.exists(), "a cgroup is left over: {}", top.display());
        }
    }
}

fn remove_tree(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    remove_dir(directory);
}

fn remove_dir(directory: &Path) {
    let deadline = deadline();
    while fs::remove_dir(directory).is_err_and(|e| e.kind() == ErrorKind::ResourceBusy) && Instant::now() < deadline {
        std::thread::yield_now();
    }
}
