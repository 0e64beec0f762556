//! A kernel with a `/dev/ioasid` of its own: another service's CUSE device stands for it.

use super::device::with_device;
use crate::common::{Cgroups, Daemon, Options, eventually_equal};
use ioasid::client::ClientError;
use ioasid::model::{PasidRange, Refusal, SetRequest};

/// What "the kernel" hands out: 1024 to 1055, to one that may have 24 of them.
const KERNEL: &str = r#"
version = 1
[space]
bits = 11
reserved = ["0-1023", "1056-2047"]
quarantine = "0s"
[[rule]]
name = "all"
cgroup = "/**"
users = ["*"]
action = "allow"
quota = { default = 24, max = 24 }
"#;

const OURS: &str = r#"
version = 1
[space]
reserved = ["0-99"]
quarantine = "0s"
[[rule]]
name = "all"
cgroup = "/**"
users = ["*"]
action = "allow"
quota = { default = 64, max = 64 }
"#;

fn on_kernel() -> Options {
    let arguments = ["--bus", "none", "--device", "kernel", "--cgroup-fs", "none"].map(str::to_owned).to_vec();
    Options { arguments: Some(arguments), ..Options::default() }
}

#[test]
#[ignore = "runs in the virtual machine"]
fn ids_come_from_the_kernels_device_and_go_back_there() {
    let cgroups = Cgroups::new();
    let kernel = Daemon::start_with(KERNEL, &with_device());
    let taken = |expected: u32| {
        eventually_equal("ids taken from the kernel", &expected, || kernel.sets().iter().map(|set| set.leased).sum());
    };
    let daemon = Daemon::start_with(OURS, &on_kernel());
    let status = daemon.status();
    assert_eq!(status.backend, "kernel");
    assert_eq!(status.enforcement["ioasid"]["state"], "open", "its node is for everybody: {}", status.enforcement);
    assert_eq!(daemon.status().domains[0].bits, 11, "the kernel's width");
    assert_eq!(kernel.sets().len(), 1, "the device is opened once");
    let mut service = daemon.service();
    let (first, _) = service.create_set(SetRequest::default()).unwrap();
    let (second, _) = service.create_set(SetRequest::default()).unwrap();
    let (mut one, mut two) = (first.session().unwrap(), second.session().unwrap());
    let pasids = one.alloc_many(10, None).unwrap();
    assert!(pasids.iter().all(|pasid| (1024..1056).contains(&pasid.get())), "{pasids:?}");
    let more = two.alloc_many(14, None).unwrap();
    assert!(more.iter().all(|pasid| !pasids.contains(pasid)), "sets of our own over its one");
    taken(24);
    let refused = two.alloc().unwrap_err();
    assert!(matches!(refused, ClientError::Refused(Refusal::NoSpace { .. })), "its EINVAL is told apart: {refused:?}");
    assert_eq!(two.alloc_in(PasidRange::new(1, 99).unwrap()).map_err(|e| e.errno()), Err(libc::ENOSPC));
    one.free(&pasids).unwrap();
    taken(14);
    two.alloc_many(3, None).unwrap();
    taken(17);
    drop((one, two, first, second, service));
    taken(0);
    daemon.finish();
    kernel.finish();
    drop(cgroups);
}

#[test]
#[ignore = "runs in the virtual machine"]
fn a_device_that_is_not_there_is_said() {
    let directory = crate::common::daemon::scratch_directory();
    let policy = directory.path().join("policy.toml");
    std::fs::write(&policy, OURS).unwrap();
    let out = std::process::Command::new(crate::common::daemon::IOASIDD)
        .args(["--bus", "none", "--device", "kernel", "--cgroup-fs", "none", "--runtime-dir", "/tmp/none", "--policy"])
        .arg(policy)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("take ids from /dev/ioasid"), "{out:?}");
}
