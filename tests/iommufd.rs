//! The iommufd hand-over: with the set, or neither.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Actor, Cgroups, Daemon};
use ioasid::model::{Refusal, SetRequest};
use ioasid::proto::{CreateSet, OpenIommufd};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

fn policy(cgroups: &Cgroups) -> String {
    format!(
        r#"
        version = 1
        [[rule]]
        name = "tests"
        cgroup = "{scratch}/**"
        users = ["*"]
        action = "allow"
        quota = {{ default = 8, max = 64 }}
        "#,
        scratch = cgroups.path("")
    )
}

/// On a host with iommufd (few kernels of distributions have it) both come, on another neither.
#[test]
fn it_comes_with_the_set_or_neither_comes() {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let daemon = Daemon::start(&policy(&cgroups));
    let before = daemon.snapshot();
    let actor = Actor::new(&cgroups, "guest");
    let wire = actor.connect(&daemon);
    let created = wire.call(&CreateSet { request: SetRequest { iommufd: true, ..SetRequest::default() } }, &[]);
    let (set, _) = wire.create_set(SetRequest::default()).unwrap();
    let opened = wire.call(&OpenIommufd {}, &[set.as_fd()]);
    if Path::new("/dev/iommu").exists() {
        let (_, of_set) = created.unwrap();
        let (_, alone) = opened.unwrap();
        for iommufd in [&of_set[1], &alone[0]] {
            let path = fs::read_link(format!("/proc/self/fd/{}", iommufd.as_raw_fd())).unwrap();
            assert_eq!(path, Path::new("/dev/iommu"));
        }
    } else {
        for refused in [created.map(drop), opened.map(drop)] {
            let refusal = refused.unwrap_err();
            let Refusal::Unsupported { what, why } = &refusal else { panic!("{refusal}") };
            assert!(what == "iommufd" && why.contains("/dev/iommu"), "{refusal}");
        }
        assert_eq!(daemon.sets().len(), 1, "it fails closed");
    }
    let (forged, _kept) = ioasid::sys::seqpacket::pair().unwrap();
    let refused = wire.call(&OpenIommufd {}, &[forged.as_fd()]).unwrap_err();
    assert!(matches!(refused, Refusal::NotFound { .. }), "only a set FD is an authority: {refused}");
    drop((set, wire, actor));
    daemon.settles_to(&before);
    daemon.finish();
}

#[test]
fn exec_hands_it_to_the_command_or_says_why_and_does_not_run_it() {
    let cgroups = Cgroups::new();
    let daemon = Daemon::start(
        "version = 1\n[[rule]]\nname = \"root\"\ncgroup = \"/**\"\nusers = [\"root\"]\n\
        action = \"allow\"\nquota = { default = 8, max = 64 }",
    );
    let ran = daemon.run_ctl(&["--json", "exec", "--iommufd", "--", "echo", "ran"]);
    if Path::new("/dev/iommu").exists() {
        assert!(ran.status.success() && ran.stdout == b"ran\n", "{ran:?}");
        drop(cgroups);
        return daemon.finish();
    }
    assert_eq!(ran.status.code(), Some(1));
    let refusal: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((&refusal["error"], &refusal["errno"]), (&"Unsupported".into(), &"EOPNOTSUPP".into()));
    drop(cgroups);
    daemon.finish();
}
