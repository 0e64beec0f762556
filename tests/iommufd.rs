//! The iommufd hand-over: with the set, or neither.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Actor, Cgroups, Daemon};
use ioasid::model::{Refusal, SetRequest};
use ioasid::proto::OpenIommufd;
use std::os::fd::AsFd;
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

#[test]
fn where_the_host_has_none_it_is_unsupported_and_no_set_is_made() {
    if Path::new("/dev/iommu").exists() {
        return;
    }
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let daemon = Daemon::start(&policy(&cgroups));
    let before = daemon.snapshot();
    let actor = Actor::new(&cgroups, "guest");
    let wire = actor.connect(&daemon);
    let unsupported = |refusal: Refusal| match refusal {
        Refusal::Unsupported { what, why } => {
            assert_eq!(what, "iommufd");
            assert!(why.contains("/dev/iommu"), "{why}");
        }
        other => panic!("{other}"),
    };
    unsupported(wire.create_set(SetRequest { iommufd: true, ..SetRequest::default() }).unwrap_err());
    assert!(daemon.sets().is_empty(), "it fails closed");
    let (set, _) = wire.create_set(SetRequest::default()).unwrap();
    unsupported(wire.call(&OpenIommufd {}, &[set.as_fd()]).unwrap_err());
    let (forged, _kept) = ioasid::sys::seqpacket::pair().unwrap();
    let refused = wire.call(&OpenIommufd {}, &[forged.as_fd()]).unwrap_err();
    assert!(matches!(refused, Refusal::NotFound { .. }), "only a set FD is an authority: {refused}");
    drop((set, wire, actor));
    daemon.settles_to(&before);
    daemon.finish();
}

#[test]
fn exec_says_why_there_is_none_and_does_not_run_the_command() {
    if Path::new("/dev/iommu").exists() {
        return;
    }
    let cgroups = Cgroups::new();
    let daemon = Daemon::start(
        "version = 1\n[[rule]]\nname = \"root\"\ncgroup = \"/**\"\nusers = [\"root\"]\n\
        action = \"allow\"\nquota = { default = 8, max = 64 }",
    );
    let ran = daemon.run_ctl(&["--json", "exec", "--iommufd", "--", "echo", "ran"]);
    assert_eq!(ran.status.code(), Some(1));
    let refusal: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((&refusal["error"], &refusal["errno"]), (&"Unsupported".into(), &"EOPNOTSUPP".into()));
    drop(cgroups);
    daemon.finish();
}
