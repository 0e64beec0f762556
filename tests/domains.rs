//! Number spaces: one for the host and one for each PCI function, and one counter over all of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, Options, policy};
use ioasid::model::{Domain, PasidRange, Refusal, SetRequest};
use std::collections::BTreeSet;

/// The configuration space of a function whose PASIDs are so wide; none has no such capability.
fn configuration(width: Option<u32>) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let id: u32 = if width.is_some() { 0x1b } else { 0x0f };
    bytes[0x100..0x104].copy_from_slice(&(id | 1 << 16).to_le_bytes());
    bytes[0x104..0x108].copy_from_slice(&(width.unwrap_or(0) << 8).to_le_bytes());
    bytes
}

/// A service that sees these functions on its PCI bus, in a mount namespace of its own.
fn start(cgroups: &Cgroups, functions: &[(&str, Option<u32>)]) -> (Daemon, tempfile::TempDir) {
    let bus = common::daemon::scratch_directory();
    for (address, width) in functions {
        std::fs::create_dir(bus.path().join(address)).unwrap();
        std::fs::write(bus.path().join(address).join("config"), configuration(*width)).unwrap();
    }
    let plug = r#"mount -t tmpfs tmpfs /sys/bus && mkdir -p /sys/bus/pci/devices && cp -r "$0"/. /sys/bus/pci/devices && exec "$@""#;
    let shell = ["unshare", "-m", "--propagation", "private", "sh", "-c", plug].map(str::to_owned);
    let through = [&shell[..], &[bus.path().display().to_string()]].concat();
    let space = "bits = 10\nquarantine = \"0s\"";
    (Daemon::start_with(&policy(cgroups, space, ""), &Options { through, ..Options::default() }), bus)
}

fn in_domain(domain: &str) -> SetRequest {
    SetRequest { domain: domain.parse().unwrap(), quota: Some(64), ..SetRequest::default() }
}

#[test]
fn each_domain_has_ids_of_its_own_and_one_counter_counts_them_all() {
    let cgroups = Cgroups::new();
    let guest = cgroups.make("guest");
    let (daemon, _bus) = start(&cgroups, &[("0000:00:01.0", Some(4)), ("0000:00:02.0", Some(5))]);
    let actor = Actor::new(&cgroups, "guest");
    let one = actor.create_set(&daemon, in_domain("pci:0000:00:01.0"));
    let two = actor.create_set(&daemon, in_domain("pci:0000:00:02.0"));
    let global = actor.create_set(&daemon, in_domain("global"));
    let take = |set: &ioasid::client::Set, count| {
        let ids = set.session().unwrap().alloc_many(count, None).unwrap();
        ids.into_iter().map(|id| id.get()).collect::<BTreeSet<u32>>()
    };
    assert_eq!(take(&one, 15), (1..16).collect());
    assert_eq!(take(&two, 31), (1..32).collect(), "the same numbers: they are unique per requester");
    take(&global, 4);
    assert_eq!(daemon.current(&guest), 15 + 31 + 4);
    let domains = daemon.status().domains;
    let shown: Vec<_> = domains.iter().map(|d| (d.name.to_string(), d.bits, d.capacity, d.current)).collect();
    assert!(shown.contains(&("pci:0000:00:01.0".into(), 4, 15, 15)), "{shown:?}");
    assert!(shown.contains(&("pci:0000:00:02.0".into(), 5, 31, 31)), "{shown:?}");
    assert!(shown.contains(&("global".into(), 10, 1023, 4)), "{shown:?}");
    let refusal = one.session().unwrap().alloc().unwrap_err();
    let domain: Domain = "pci:0000:00:01.0".parse().unwrap();
    let full = Refusal::NoSpace { domain, range: PasidRange::new(0, 15).unwrap(), free: 0, asked: 1 };
    assert_eq!(refusal.refusal(), Some(&full));
    drop((one, two, global));
    common::eventually_equal("domains that are left", &1, || daemon.status().domains.len());
    drop(actor);
    daemon.finish();
}

#[test]
fn a_function_that_is_not_there_or_has_no_pasids_has_no_domain() {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let (daemon, _bus) = start(&cgroups, &[("0000:00:03.0", None)]);
    let actor = Actor::new(&cgroups, "guest");
    let wire = actor.connect(&daemon);
    let refused = |domain: &str| wire.create_set(in_domain(domain)).map(drop).unwrap_err();
    assert_eq!(refused("pci:0000:00:01.0"), Refusal::NotFound { what: "PCI function 0000:00:01.0".into() });
    let none =
        Refusal::Unsupported { what: "domain pci:0000:00:03.0".into(), why: "it has no PASID capability".into() };
    assert_eq!(refused("pci:0000:00:03.0"), none);
    drop((wire, actor));
    daemon.finish();
}
