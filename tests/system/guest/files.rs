//! The cgroup files where cgroup2 is the only hierarchy.

use super::device::with_device;
use crate::common::{Cgroups, Daemon};
use std::fs;

#[test]
#[ignore = "runs in the virtual machine"]
fn the_files_stand_beside_the_kernels_own() {
    let cgroups = Cgroups::new();
    cgroups.make("a/b");
    let daemon = Daemon::start_with("version = 1\n", &with_device());
    let top = daemon.runtime_dir().join("cgroup");
    let ours = top.join(cgroups.path("a/b").relative());
    assert_eq!(fs::read_to_string(ours.join("ioasids.max")).unwrap(), "max\n");
    fs::write(ours.join("ioasids.max"), "3\n").unwrap();
    assert_eq!(fs::read_to_string(ours.join("ioasids.max")).unwrap(), "3\n");
    assert_eq!(fs::read_to_string(top.join("ioasids.capacity")).unwrap(), "1047552\n");
    cgroups.remove("a/b");
    assert!(!ours.exists());
    let mut daemon = daemon;
    daemon.may_warn();
    daemon.finish();
}
