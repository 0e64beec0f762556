//! The processes of a cgroup, through cgroups-rs.
//!
//! Behind a hierarchy of our own: the crate's looks for version 2 at /sys/fs/cgroup alone, and on a hybrid host takes
//! the tmpfs there for it. Only its reading of processes, and killing them, is used: making cgroups with it would enable
//! every controller on the way, and its `clone` forgets the hierarchy.

use super::Root;
use crate::model::CgroupPath;
use cgroups_rs::fs::freezer::FreezerController;
use cgroups_rs::fs::{Cgroup, Hierarchy, Subsystem};
use std::io;
use std::path::PathBuf;

/// The cgroup2 tree where it was found.
#[derive(Clone, Debug)]
struct Unified(PathBuf);

impl Hierarchy for Unified {
    fn subsystems(&self) -> Vec<Subsystem> {
        // The crate reads cgroup.procs through its first controller. This one needs none to be enabled.
        vec![Subsystem::Freezer(FreezerController::new(self.0.clone(), PathBuf::new(), true))]
    }

    fn root(&self) -> PathBuf {
        self.0.clone()
    }

    fn root_control_group(&self) -> Cgroup {
        Cgroup::load(Box::new(self.clone()), "")
    }

    fn parent_control_group(&self, path: &str) -> Cgroup {
        let parent = std::path::Path::new(path).parent().unwrap_or(std::path::Path::new(""));
        Cgroup::load(Box::new(self.clone()), parent)
    }

    fn v2(&self) -> bool {
        true
    }
}

impl Root {
    fn cgroup(&self, path: &CgroupPath) -> io::Result<Cgroup> {
        // The crate answers "no processes" for what is not there.
        self.open(path)?;
        Ok(Cgroup::load(Box::new(Unified(self.mount_point().to_owned())), path.relative()))
    }

    /// The pids in `path` itself, not below it, as they are now: for people. Zombies are not among them.
    ///
    /// NotFound where the cgroup does not exist. One without read access, and a threaded one, reads empty.
    pub fn processes(&self, path: &CgroupPath) -> io::Result<Vec<u32>> {
        let pids = self.cgroup(path)?.procs();
        Ok(pids.into_iter().filter_map(|pid| u32::try_from(pid.pid).ok()).collect())
    }

    /// Kills every process in `path` and below it: `cgroup.kill`, Linux 5.14. They are gone some time later.
    pub fn kill(&self, path: &CgroupPath) -> io::Result<()> {
        self.cgroup(path)?.kill().map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use std::process::Command;

    #[test]
    fn members_are_those_of_the_cgroup_alone_until_killed() {
        let scratch = Scratch::new();
        let path = scratch.child("a b:c");
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        scratch.join(&path, child.id());
        assert_eq!(scratch.root.processes(&path).unwrap(), [child.id()]);
        assert!(scratch.root.processes(&scratch.path).unwrap().is_empty());
        assert!(scratch.root.processes(&path.child("none").unwrap()).is_err());
        scratch.root.kill(&scratch.path).unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(scratch.root.processes(&path).unwrap().is_empty());
    }
}
