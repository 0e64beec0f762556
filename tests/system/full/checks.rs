//! What only a machine with iommufd and PASID devices shows.

use super::WIDTHS;
use super::holder::FUNCTION;
use super::vfio_user::VENDOR;
use crate::common::daemon::IOASIDCTL;
use crate::common::{Daemon, eventually};
use ioasid::client::ClientError;
use ioasid::model::{PasidRange, Refusal, SetRequest};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const POLICY: &str = r#"
version = 1
[space]
bits = 20
reserved = ["0-15"]
quarantine = "0s"
[[rule]]
name = "all"
cgroup = "/**"
users = ["*"]
action = "allow"
quota = { default = 64, max = 1024 }
domains = ["global", "pci:*"]
"#;

fn directory_of(address: &str) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(address)
}

/// The address of the function whose PASIDs have `width` bits.
fn function(width: u8) -> String {
    let is_it = |address: &String| {
        let read = |name: &str| fs::read_to_string(directory_of(address).join(name)).unwrap();
        read("vendor").trim() == format!("{VENDOR:#06x}") && read("device").trim() == format!("{width:#06x}")
    };
    let entries = fs::read_dir("/sys/bus/pci/devices").unwrap();
    let mut addresses = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    addresses.find(is_it).unwrap()
}

fn in_domain(width: u8, quota: u32) -> SetRequest {
    let domain = format!("pci:{}", function(width)).parse().unwrap();
    SetRequest { domain, quota: Some(quota), ..SetRequest::default() }
}

#[test]
#[ignore = "runs in the virtual machine"]
fn doctor_tells_how_wide_the_devices_are() {
    let out = Command::new(IOASIDCTL).args(["--json", "doctor"]).output().unwrap();
    let diagnosis: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let findings = diagnosis["findings"].as_array().unwrap().iter().filter(|finding| finding["id"] == "pasid-width");
    let mut found: Vec<String> = findings.map(|finding| finding["found"].as_str().unwrap().to_owned()).collect();
    let mut expected = WIDTHS.map(|width| format!("{}: PASIDs of {width} bits", function(width)));
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
#[ignore = "runs in the virtual machine"]
fn ids_never_outgrow_their_device() {
    let daemon = Daemon::start(POLICY);
    let mut service = daemon.service();
    let (narrow, _) = service.create_set(in_domain(8, 300)).unwrap();
    let mut session = narrow.session().unwrap();
    let mut pasids = session.alloc_many(240, None).unwrap();
    pasids.sort_unstable();
    assert_eq!((pasids.first().unwrap().get(), pasids.last().unwrap().get()), (16, 255), "all that are not reserved");
    let refused = session.alloc().unwrap_err();
    assert!(matches!(refused.refusal(), Some(Refusal::NoSpace { free: 0, .. })), "{refused}");
    let beyond = session.alloc_in(PasidRange::new(256, 9999).unwrap());
    assert_eq!(beyond.map_err(|error: ClientError| error.errno()), Err(libc::ENOSPC));

    let (wide, _) = service.create_set(in_domain(20, 1)).unwrap();
    let last = wide.session().unwrap().alloc_in(PasidRange::new(0xF_FFFF, 0xF_FFFF).unwrap()).unwrap();
    assert_eq!(last.get(), 0xF_FFFF);
    drop((session, narrow, wide, service));
    daemon.finish();
}

#[test]
#[ignore = "runs in the virtual machine"]
fn a_leased_id_is_attached_through_the_iommufd_of_the_service() {
    let address = function(20);
    let directory = directory_of(&address);
    fs::write(directory.join("driver_override"), "vfio-pci").unwrap();
    fs::write("/sys/bus/pci/drivers_probe", &address).unwrap();
    eventually("the function has a device file", || directory.join("vfio-dev").exists().then_some(()));

    let daemon = Daemon::start(POLICY);
    let out = daemon
        .ctl()
        .args(["exec", "--domain", &format!("pci:{address}"), "--iommufd", "--", "/bin/checks"])
        .args(["--ignored", "--exact", "--nocapture", "full::holder::attaches_an_id_of_its_set"])
        .env(FUNCTION, &address)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}\n{}", String::from_utf8_lossy(&out.stderr));
    assert!(said.contains("1 passed"), "{said}");
    let sets = || daemon.sets().is_empty().then_some(());
    eventually("the set ends with its holder", sets);
    daemon.finish();
}
