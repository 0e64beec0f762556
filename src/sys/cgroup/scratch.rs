//! Cgroups for tests, removed at the end with what is in them.

use super::Root;
use crate::model::CgroupPath;
use std::path::PathBuf;
use std::sync::Mutex;

/// A cgroup of its own for one test.
pub(crate) struct Scratch {
    pub root: Root,
    pub path: CgroupPath,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: Mutex<u32> = Mutex::new(0);
        let count = {
            let mut count = COUNT.lock().unwrap();
            *count += 1;
            *count
        };
        let root = Root::find(None).unwrap();
        let path = CgroupPath::root().child(&format!("ioasidd-unit-{}-{count}", std::process::id())).unwrap();
        let scratch = Self { root, path };
        std::fs::create_dir(scratch.directory(&scratch.path)).unwrap();
        scratch
    }

    pub(crate) fn directory(&self, path: &CgroupPath) -> PathBuf {
        self.root.mount_point().join(path.relative())
    }

    pub(crate) fn child(&self, name: &str) -> CgroupPath {
        let path = self.path.child(name).unwrap();
        std::fs::create_dir(self.directory(&path)).unwrap();
        path
    }

    /// Only the service looks at who is in a cgroup.
    #[cfg(feature = "daemon")]
    pub(crate) fn join(&self, path: &CgroupPath, pid: u32) {
        std::fs::write(self.directory(path).join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fn remove(dir: &std::path::Path) {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&entry.path());
                }
            }
            // A killed process leaves its cgroup a moment after it was reaped.
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
            while std::fs::remove_dir(dir).is_err_and(|e| e.kind() == std::io::ErrorKind::ResourceBusy)
                && std::time::Instant::now() < deadline
            {
                std::thread::yield_now();
            }
        }
        remove(&self.directory(&self.path));
    }
}
