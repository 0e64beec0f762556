//! Domains of PCI functions: as wide as the device says, gone with the device.
//!
//! No emulated device has the capability; a configuration space with it is mounted over one's own.

use crate::common::{Cgroups, Daemon, eventually};
use ioasid::client::ClientError;
use ioasid::model::{Domain, PasidRange, Refusal, SetRequest};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::path::PathBuf;

const POLICY: &str = r#"
version = 1
[space]
reserved = ["0-15"]
quarantine = "0s"
[[rule]]
name = "all"
cgroup = "/**"
users = ["*"]
action = "allow"
quota = { default = 64, max = 64 }
domains = ["global", "pci:*"]
"#;

/// The machine's virtio functions, which nothing here needs: their addresses, and where sysfs has them.
fn functions() -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = fs::read_dir("/sys/bus/pci/devices")
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path().canonicalize().unwrap()))
        .filter(|(_, path)| fs::read_to_string(path.join("vendor")).unwrap().trim() == "0x1af4")
        .collect();
    found.sort();
    found
}

#[test]
#[ignore = "runs in the virtual machine"]
fn a_domain_is_as_wide_as_its_device_and_goes_with_it() {
    let cgroups = Cgroups::new();
    let functions = functions();
    let [(wide, directory), (plain, _)] = &functions[..] else { panic!("{functions:?}") };
    let mut config = fs::read(directory.join("config")).unwrap();
    config.resize(4096, 0);
    config[0x100..0x108].copy_from_slice(&[0x1b, 0, 1, 0, 0, 12, 0, 0]);
    fs::write("/tmp/config", config).unwrap();
    mount(Some("/tmp/config"), &directory.join("config"), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();

    let daemon = Daemon::start(POLICY);
    assert_eq!(daemon.status().domains[0].bits, 12, "bits = auto: the least of the devices that have one");
    let mut service = daemon.service();
    let in_domain = |name: &str| SetRequest { domain: format!("pci:{name}").parse().unwrap(), ..SetRequest::default() };
    let refusal = |result: Result<_, ClientError>| result.map(drop).unwrap_err().refusal().cloned().unwrap();
    assert!(matches!(refusal(service.create_set(in_domain(plain))), Refusal::Unsupported { .. }));
    assert!(matches!(refusal(service.create_set(in_domain("0000:7f:00.0"))), Refusal::NotFound { .. }));

    let (set, info) = service.create_set(in_domain(wide)).unwrap();
    assert!(matches!(info.domain, Domain::Pci(_)));
    let (other, _) = service.create_set(SetRequest::default()).unwrap();
    let mut session = set.session().unwrap();
    assert_eq!(session.alloc_in(PasidRange::new(4096, 9999).unwrap()).map_err(|e| e.errno()), Err(libc::ENOSPC));
    let last = session.alloc_in(PasidRange::new(4095, 9999).unwrap()).unwrap();
    assert_eq!(last.get(), 4095);

    fs::write(directory.join("remove"), "1").unwrap();
    let reason = eventually("the set is revoked", || match session.alloc() {
        Err(ClientError::Refused(Refusal::Revoked { reason, .. })) => Some(reason),
        _ => None,
    });
    assert!(reason.contains("removed"), "{reason}");
    other.session().unwrap().alloc().unwrap();
    assert_eq!(daemon.status().domains.iter().map(|domain| domain.current).sum::<u64>(), 1, "its ids are back");
    assert!(matches!(refusal(service.create_set(in_domain(wide))), Refusal::NotFound { .. }));
    drop((session, set, other, service, cgroups));
    daemon.finish();
}
