//! `ioasidctl doctor`: this host and recordings of others, with and without a service.
#![allow(clippy::unwrap_used)]

mod common;

use common::daemon::IOASIDCTL;
use common::{Cgroups, Daemon};
use serde_json::Value;
use std::process::Command;

/// The diagnosis of a recording below `tests/doctor`.
fn recorded(tree: &str) -> Value {
    let root = format!("{}/tests/doctor/{tree}", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(IOASIDCTL).args(["--json", "doctor", "--root", &root]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// `severity id` of each finding, in order.
fn marks(diagnosis: &Value) -> Vec<String> {
    let findings = diagnosis["findings"].as_array().unwrap();
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    findings.iter().map(|finding| format!("{} {}", word(finding, "severity"), word(finding, "id"))).collect()
}

/// What was found under this id.
fn found<'a>(diagnosis: &'a Value, id: &str) -> Vec<&'a str> {
    let findings = diagnosis["findings"].as_array().unwrap().iter();
    findings.filter(|finding| finding["id"] == id).map(|finding| finding["found"].as_str().unwrap()).collect()
}

fn state<'a>(diagnosis: &'a Value, class: &str) -> &'a str {
    diagnosis["enforcement"][class]["state"].as_str().unwrap()
}

#[test]
fn a_guest_with_nothing_is_told_what_it_lacks() {
    let bare = recorded("bare");
    let expected = [
        "problem iommu",
        "note pasid-width",
        "note work-queues",
        "problem cgroups",
        "note bus",
        "note polkit",
        "note fuse",
        "note cuse",
        "warning service",
        "warning policy",
        "ok way-round",
        "ok way-round",
        "ok way-round",
        "ok way-round",
        "ok holders",
    ];
    assert_eq!(marks(&bare), expected);
    assert_eq!(found(&bare, "iommu"), ["no IOMMU is in use: the kernel command line says iommu=off"]);
    assert_eq!(state(&bare, "iommufd"), "enforced");
    for finding in bare["findings"].as_array().unwrap() {
        let mends = matches!(finding["severity"].as_str(), Some("warning" | "problem"));
        assert!(!mends || finding["remedy"].is_string(), "no remedy: {finding}");
    }
}

#[test]
fn ways_round_the_service_and_who_goes_them_are_found() {
    let server = recorded("spr");
    assert_eq!(found(&server, "scalable-mode"), ["scalable mode, PASIDs of 20 bits"]);
    assert_eq!(found(&server, "pasid-width"), ["0000:6a:01.0: PASIDs of 20 bits", "0000:6a:02.0: PASIDs of 16 bits"]);
    let queues = found(&server, "work-queues");
    assert_eq!(queues.len(), 2, "{queues:?}");
    assert!(queues[0].starts_with("dsa2 works without PASIDs"));
    assert_eq!(queues[1], "wq0.0: shared, type user");
    let holders = ["/dev/dsa/wq0.0 is held by dsa_perf (pid 99)", "/dev/iommu is held by qemu-system-x86 (pid 4711)"];
    assert_eq!(found(&server, "holders"), holders, "the service itself is left out");
    let states = ["sets", "iommufd", "vfio", "idxd", "iaa"].map(|class| state(&server, class));
    assert_eq!(states, ["enforced", "open", "observed", "open", "enforced"]);
    let findings = server["findings"].as_array().unwrap();
    let iommufd =
        findings.iter().find(|finding| finding["found"].as_str().unwrap().starts_with("iommufd: open")).unwrap();
    let remedy = iommufd["remedy"].as_str().unwrap();
    assert!(remedy.contains("KERNEL==\"iommu\"") && remedy.contains("DevicePolicy=closed"), "{remedy}");
    assert!(marks(&server).contains(&"warning polkit".to_owned()));
}

#[test]
fn a_host_that_is_as_it_should_be_has_no_warning() {
    let server = recorded("epyc");
    let bad: Vec<_> =
        marks(&server).into_iter().filter(|mark| !mark.starts_with("ok") && !mark.starts_with("note")).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!(state(&server, "iommufd"), "observed");
    assert_eq!(found(&server, "policy"), ["/etc/ioasidd/policy.d/50-guests.toml"]);
}

#[test]
fn what_an_ordinary_user_cannot_see_is_said() {
    let host = recorded("hybrid");
    assert_eq!(found(&host, "scalable-mode"), ["1 of 2 IOMMU(s) have no scalable mode with PASIDs"]);
    assert!(found(&host, "pasid-width")[0].contains("first 64 bytes"));
    assert_eq!(found(&host, "cgroups"), ["hybrid: cgroup2 at /sys/fs/cgroup/unified, beside cgroup v1"]);
    assert_eq!(found(&host, "cuse"), ["CUSE is not loaded, so there is no /dev/ioasid"]);
}

#[test]
fn this_host_is_looked_at_with_and_without_a_service_and_status_says_the_same() {
    let nobody = Command::new(IOASIDCTL).args(["--json", "--socket", "/nonexistent", "doctor"]).output().unwrap();
    assert!(nobody.status.success());
    let without: Value = serde_json::from_slice(&nobody.stdout).unwrap();
    assert!(found(&without, "service")[0].starts_with("ioasidd does not answer"));
    let _cgroups = Cgroups::new();
    let daemon = Daemon::start("version = 1");
    let policy_file = daemon.status().policy;
    let with: Value = serde_json::from_slice(&daemon.run_ctl(&["--json", "doctor"]).stdout).unwrap();
    assert_eq!(found(&with, "service"), [format!("ioasidd {} answers", env!("CARGO_PKG_VERSION"))]);
    assert_eq!(found(&with, "policy"), [&*policy_file[0]], "the service's own policy, not the host's");
    let status = daemon.status().enforcement;
    // The service knows one class more: who answers at /dev/ioasid.
    for (class, how) in with["enforcement"].as_object().unwrap() {
        assert_eq!(status[class], *how, "{class}");
    }
    let text = daemon.run_ctl(&["doctor"]);
    assert!(text.status.success());
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.lines().any(|line| line.starts_with("ok       service")), "{text}");
    let mut daemon = daemon;
    daemon.may_warn();
    daemon.finish();
}
