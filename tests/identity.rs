//! Who asks: cgroups with odd names, processes that move and die, containers, pure v2 and hybrid hosts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, Options, Order, eventually_equal, policy};
use ioasid::model::{CgroupPath, Refusal, SetRequest};
use ioasid::proto::{GetCgroup, ListSets};
use std::os::fd::AsFd;

const SPACE: &str = "bits = 12\nquarantine = \"0s\"";
const USER: u32 = 65534;

#[test]
fn cgroups_with_odd_names_are_who_they_are() {
    let cgroups = Cgroups::new();
    let deep = vec!["d".repeat(200); 19].join("/");
    let names = ["a b", "c:d", "x (deleted)", "..e", "naïve-ü", "machine-qemu\\x2d1\\x2dtiny.scope", "0::", &deep];
    let daemon = Daemon::start(&policy(&cgroups, SPACE, ""));
    for name in names {
        let path = cgroups.make(name);
        let actor = Actor::new(&cgroups, name);
        let (set, info) = actor.connect(&daemon).create_set_of(2).unwrap();
        assert_eq!((&info.cgroup, info.cgroup_id), (&path, cgroups.id(name)), "{name}");
        set.session().unwrap().alloc().unwrap();
        assert_eq!(daemon.current(&path), 1, "{name}");
        assert_eq!(daemon.connect().ask(&ListSets { cgroup: Some(path) }).unwrap().len(), 1);
    }
    assert!(cgroups.path(&deep).as_str().len() > 3_800);
    daemon.finish();
}

#[test]
fn paths_that_cannot_be_are_refused_before_anything_is_looked_at() {
    let cgroups = Cgroups::new();
    let daemon = Daemon::start(&policy(&cgroups, SPACE, ""));
    let long = format!("/{}", vec!["x"; 3000].join("/"));
    for path in ["", "relative", "/a/../b", "/..", "/a//b", "/a\nb", "/a\0b", &long] {
        for field in ["cgroup", "path"] {
            let body = serde_json::json!({ field: path }).to_string();
            let op = if field == "path" { 23 } else { 25 };
            let frame = [&[1, 1, op, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0][..], body.as_bytes()].concat();
            let wire = daemon.connect();
            wire.send_bytes(&frame, &[]).unwrap();
            let refusal = wire.receive().unwrap().refusal();
            assert!(matches!(refusal, Refusal::InvalidArgument { .. }), "{path:?}: {refusal:?}");
        }
    }
    daemon.finish();
}

#[test]
fn a_peer_that_died_is_told_nothing_and_one_that_moved_is_where_it_is() {
    let cgroups = Cgroups::new();
    ["a", "b"].iter().for_each(|below| drop(cgroups.make(below)));
    let daemon = Daemon::start(&policy(&cgroups, SPACE, ""));
    let actor = Actor::new(&cgroups, "a");
    let wire = actor.connect(&daemon);
    assert_eq!(wire.create_set_of(1).unwrap().1.cgroup, cgroups.path("a"));
    cgroups.join("b", actor.pid());
    assert_eq!(wire.create_set_of(1).unwrap().1.cgroup, cgroups.path("b"));
    // The connection was handed on and outlives who made it.
    actor.kill();
    let refusal = wire.create_set_of(1).map(drop).unwrap_err();
    assert!(
        matches!(&refusal, Refusal::NotFound { .. } | Refusal::Stale { .. } | Refusal::NotPermitted { .. }),
        "{refusal:?}"
    );
    assert!(!daemon.sets().iter().any(|set| set.leased > 0));
    drop(wire);
    daemon.finish();
}

#[test]
fn the_first_rule_that_matches_decides_and_no_rule_is_a_refusal() {
    let cgroups = Cgroups::new();
    ["a", "denied", "asks"].iter().for_each(|below| drop(cgroups.make(below)));
    let scratch = cgroups.path("");
    let text = policy(&cgroups, SPACE, "").replace(
        "[[rule]]\nname = \"tests\"",
        &format!(
            r#"[[rule]]
name = "never"
cgroup = "{scratch}/denied"
users = ["*"]
action = "deny"
[[rule]]
name = "ask"
cgroup = "{scratch}/asks"
users = ["*"]
action = "polkit"
[[rule]]
name = "tests""#
        ),
    );
    let daemon = Daemon::start(&text);
    let ask = |below: &str, request: SetRequest| {
        let actor = Actor::of_user(&cgroups, below, USER);
        actor.connect_and(&daemon, |wire| wire.create_set(request).map(|(_, info)| info.rule))
    };
    let refused = |below: &str, request: SetRequest| match ask(below, request).unwrap_err() {
        Refusal::NotPermitted { rule, bound } => (rule, bound),
        other => panic!("{other:?}"),
    };
    let plain = SetRequest::default;
    assert_eq!(ask("a", plain()), Ok("tests".to_owned()));
    assert_eq!(refused("denied", plain()).0, "never");
    assert_eq!(refused("asks", plain()).0, "ask", "nobody to ask");
    let elsewhere = Cgroups::new();
    let actor = Actor::of_user(&elsewhere, "", USER);
    let refusal = actor.connect_and(&daemon, |wire| wire.create_set(plain()).map(drop)).unwrap_err();
    assert_eq!(refusal, Refusal::NotPermitted { rule: "no rule matches".into(), bound: String::new() });
    daemon.finish();
}

#[test]
fn what_is_out_of_the_rules_bounds_is_named() {
    let cgroups = Cgroups::new();
    ["a", "b", "friend"].iter().for_each(|below| drop(cgroups.make(below)));
    let scratch = cgroups.path("");
    let text = policy(&cgroups, SPACE, "").replace(
        "domains = [\"global\", \"pci:*\"]",
        &format!("range = \"1024-2047\"\non_behalf_of = [\"{scratch}/friend\"]"),
    );
    let daemon = Daemon::start(&text);
    let actor = Actor::of_user(&cgroups, "a", USER);
    let wire = actor.connect(&daemon);
    let refused = |request: SetRequest| match wire.create_set(request).map(drop).unwrap_err() {
        Refusal::NotPermitted { rule, bound } => {
            assert_eq!(rule, "tests");
            bound
        }
        other => panic!("{other:?}"),
    };
    let plain = SetRequest::default;
    let bound = refused(SetRequest { quota: Some(257), ..plain() });
    assert!(bound.contains("257") && bound.contains("256"), "{bound}");
    let bound = refused(SetRequest { range: ioasid::model::PasidRange::new(1024, 2048), ..plain() });
    assert!(bound.contains("1024-2048") && bound.contains("1024-2047"), "{bound}");
    let bound = refused(SetRequest { domain: "pci:0000:00:01.0".parse().unwrap(), ..plain() });
    assert!(bound.contains("pci:0000:00:01.0"), "{bound}");
    let bound = refused(SetRequest { cgroup: Some(cgroups.path("b")), ..plain() });
    assert!(bound.contains(cgroups.path("b").as_str()), "{bound}");
    for label in ["x".repeat(65), "a\nb".to_owned()] {
        let refusal = wire.create_set(SetRequest { label, ..plain() }).map(drop).unwrap_err();
        assert!(matches!(&refusal, Refusal::InvalidArgument { field, .. } if field == "label"), "{refusal:?}");
    }
    let (set, info) = wire.create_set(SetRequest { cgroup: Some(cgroups.path("friend")), ..plain() }).unwrap();
    assert_eq!((&info.cgroup, info.owner_uid), (&cgroups.path("friend"), USER));
    let id = set.session().unwrap().alloc().unwrap().get();
    assert!((1024..=2047).contains(&id));
    assert_eq!((daemon.current(&cgroups.path("friend")), daemon.current(&cgroups.path("a"))), (1, 0));
    drop((set, wire, actor));
    daemon.finish();
}

#[test]
fn a_container_needs_nothing_but_the_fd() {
    let cgroups = Cgroups::new();
    ["host", "jail"].iter().for_each(|below| drop(cgroups.make(below)));
    let daemon = Daemon::start(&policy(&cgroups, SPACE, ""));
    let host = Actor::new(&cgroups, "host");
    let set = host.create_set(&daemon, SetRequest::default());
    let jailed = Actor::in_container(&cgroups, "jail");
    let (report, _) = jailed.order(&Order::Report, &[]);
    assert_eq!((report["pid"].as_u64(), report["uid"].as_u64()), (Some(1), Some(0)), "it is root in there");
    let (pasids, _) = jailed.order(&Order::Alloc(3), &[set.as_fd()]);
    assert_eq!(pasids.as_array().unwrap().len(), 3);
    let current = |below: &str| daemon.current(&cgroups.path(below));
    assert_eq!((current("host"), current("jail")), (3, 0), "charged to the set's cgroup, not the holder's");
    // By its own connection it is known by the host's names, and its root is an ordinary user.
    let wire = jailed.connect(&daemon);
    let (own, info) = wire.create_set_of(2).unwrap();
    assert_eq!(info.cgroup, cgroups.path("jail"));
    let refusal = wire
        .ask(&ioasid::proto::SetCgroupMax { cgroup: cgroups.path("host").into(), max: "1".into(), persist: false })
        .unwrap_err();
    assert!(matches!(&refusal, Refusal::NotPermitted { rule, .. } if rule == "administrators only"), "{refusal:?}");
    drop((set, own, wire, host, jailed));
    eventually_equal("the charge", &0, || current("host"));
    daemon.finish();
}

#[test]
fn only_the_creator_or_an_administrator_opens_a_set_again() {
    let cgroups = Cgroups::new();
    ["a", "b"].iter().for_each(|below| drop(cgroups.make(below)));
    let daemon = Daemon::start(&policy(&cgroups, SPACE, ""));
    let creator = Actor::of_user(&cgroups, "a", USER);
    let (set, info) = creator.connect(&daemon).create_set_of(2).unwrap();
    let open = |actor: Actor| actor.connect_and(&daemon, |wire| wire.open_set(info.set.0).map(drop));
    open(Actor::of_user(&cgroups, "a", USER)).unwrap();
    for stranger in [Actor::of_user(&cgroups, "b", USER), Actor::of_user(&cgroups, "a", USER - 1)] {
        let refusal = open(stranger).unwrap_err();
        assert!(matches!(&refusal, Refusal::NotPermitted { rule, .. } if rule == "administrators only"), "{refusal:?}");
    }
    open(Actor::new(&cgroups, "b")).unwrap();
    // Its ids are for its owner; that it exists is for all.
    set.session().unwrap().alloc().unwrap();
    let shown = |actor: Actor| {
        let show = ioasid::proto::ShowSet { set: info.set.0 };
        actor.connect_and(&daemon, |wire| wire.ask(&show).unwrap().pasids.map(|pasids| pasids.len()))
    };
    assert_eq!(shown(Actor::of_user(&cgroups, "b", USER)), Some(1));
    assert_eq!(shown(Actor::of_user(&cgroups, "b", USER - 1)), None);
    drop((set, creator));
    daemon.finish();
}

#[test]
fn a_host_with_cgroup2_alone_works_the_same() {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let pure = "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";
    let through = ["unshare", "-m", "--propagation", "private", "sh", "-c", pure, "sh"].map(str::to_owned).to_vec();
    let daemon = Daemon::start_with(&policy(&cgroups, SPACE, ""), &Options { through, ..Options::default() });
    let actor = Actor::new(&cgroups, "a");
    let (set, info) = actor.connect(&daemon).create_set_of(2).unwrap();
    assert_eq!((&info.cgroup, info.cgroup_id), (&cgroups.path("a"), cgroups.id("a")));
    set.session().unwrap().alloc().unwrap();
    assert_eq!(daemon.current(&cgroups.path("a")), 1);
    let root = daemon.connect().ask(&GetCgroup { path: None, recurse: false }).unwrap();
    assert_eq!((root.path, root.current), (CgroupPath::root(), 1));
    drop((set, actor));
    daemon.finish();
}

#[test]
fn a_host_without_cgroup2_gets_a_clear_error() {
    let directory = common::daemon::scratch_directory();
    let policy = directory.path().join("policy.toml");
    std::fs::write(&policy, "version = 1\n").unwrap();
    // The newest mounts first: some lie below others.
    let without = "tac /proc/self/mountinfo | sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \\([^ ]*\\) .* - cgroup2 .*/\\1/p' | \
        while read -r at; do umount -l \"$at\" || exit; done && exec \"$@\"";
    let output = std::process::Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", without, "sh", common::daemon::IOASIDD])
        .args(["--bus", "none", "--device", "none", "--cgroup-fs", "none", "--policy"])
        .arg(&policy)
        .arg("--runtime-dir")
        .arg(directory.path().join("run"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("cgroup2") && said.contains("ERROR"), "{said}");
}
