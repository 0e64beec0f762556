//! Delegation: who may set `max` where, and what stands over what.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, Wire, max, policy};
use ioasid::model::{Limit, Refusal};
use ioasid::proto::{CgroupInfo, GetCgroup, Recharge, Reload, SetCgroupMax};

const SPACE: &str = "bits = 12\nquarantine = \"0s\"";
const USER: u32 = 65534;

fn set_max(wire: &Wire, cgroups: &Cgroups, below: &str, max: &str) -> Result<(), Refusal> {
    let cgroup = String::from(cgroups.path(below));
    wire.ask(&SetCgroupMax { cgroup, max: max.into(), persist: false }).map(drop)
}

fn show(wire: &Wire, cgroups: &Cgroups, below: &str) -> CgroupInfo {
    wire.ask(&GetCgroup { path: Some(cgroups.path(below)), recurse: false }).unwrap()
}

fn administrators_only(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::NotPermitted { rule, bound } if rule == "administrators only" && !bound.is_empty())
}

#[test]
fn the_owner_of_a_delegated_cgroup_sets_max_below_it_and_not_on_it() {
    let cgroups = Cgroups::new();
    for below in ["mine/a/deep", "other"] {
        cgroups.make(below);
    }
    cgroups.delegate("mine", USER);
    let daemon = Daemon::start(&policy(&cgroups, SPACE, ""));
    let actor = Actor::of_user(&cgroups, "mine/a", USER);
    let wire = actor.connect(&daemon);
    set_max(&wire, &cgroups, "mine/a", "7").unwrap();
    set_max(&wire, &cgroups, "mine/a/deep", "9").unwrap();
    assert_eq!(show(&wire, &cgroups, "mine/a").max, Limit::Count(7));
    let deep = show(&wire, &cgroups, "mine/a/deep");
    assert_eq!((deep.max, deep.effective_max), (Limit::Count(9), Limit::Count(7)));
    for below in ["mine", "other", ""] {
        let refusal = set_max(&wire, &cgroups, below, "1").unwrap_err();
        assert!(administrators_only(&refusal), "{below}: {refusal:?}");
        assert_eq!(show(&wire, &cgroups, below).max, Limit::Max);
    }
    let refusal =
        wire.ask(&SetCgroupMax { cgroup: cgroups.path("mine/a").into(), max: "3".into(), persist: true }).unwrap_err();
    assert!(administrators_only(&refusal), "{refusal:?}");
    assert_eq!(show(&wire, &cgroups, "mine/a").max, Limit::Count(7));
    // Another user's process in there owns nothing.
    let stranger = Actor::of_user(&cgroups, "mine/a", USER - 1);
    let refusal = stranger.connect_and(&daemon, |wire| set_max(wire, &cgroups, "mine/a", "1")).unwrap_err();
    assert!(administrators_only(&refusal));
    drop((wire, actor));
    daemon.finish();
}

#[test]
fn a_delegate_never_lifts_a_policy_line() {
    let cgroups = Cgroups::new();
    cgroups.make("mine/a");
    cgroups.delegate("mine", USER);
    let rest = max(&cgroups, "mine/a", 5);
    let daemon = Daemon::start(&policy(&cgroups, SPACE, &rest));
    let actor = Actor::of_user(&cgroups, "mine/a", USER);
    let wire = actor.connect(&daemon);
    for text in ["100", "max"] {
        // Refused or kept at the line: never above it.
        let _ = set_max(&wire, &cgroups, "mine/a", text);
        assert_eq!(show(&wire, &cgroups, "mine/a").effective_max, Limit::Count(5), "{text}");
    }
    set_max(&wire, &cgroups, "mine/a", "2").unwrap();
    assert_eq!(show(&wire, &cgroups, "mine/a").max, Limit::Count(2));
    set_max(&wire, &cgroups, "mine/a", "policy").unwrap();
    assert_eq!(show(&wire, &cgroups, "mine/a").max, Limit::Count(5));
    let (set, _) = wire.create_set_of(64).unwrap();
    let error = set.session().unwrap().alloc_many(6, None).unwrap_err();
    let cgroup = cgroups.path("mine/a");
    assert_eq!(error.refusal(), Some(&Refusal::LimitExceeded { cgroup, max: Limit::Count(5), current: 0, asked: 6 }));
    drop((set, wire, actor));
    daemon.finish();
}

#[test]
fn a_delegate_shares_out_what_an_administrator_gave_where_unset_is_zero() {
    let cgroups = Cgroups::new();
    cgroups.make("mine/a");
    cgroups.delegate("mine", USER);
    let daemon = Daemon::start(&policy(&cgroups, &format!("{SPACE}\nprofile = \"rfc-v4\""), ""));
    let (admin, actor) = (daemon.connect(), Actor::of_user(&cgroups, "mine/a", USER));
    let wire = actor.connect(&daemon);
    for below in ["", "mine"] {
        set_max(&admin, &cgroups, below, "9").unwrap();
    }
    let parent = cgroups.path("").parent();
    for level in std::iter::successors(parent, |path| path.parent()).filter(|path| !path.is_root()) {
        admin.ask(&SetCgroupMax { cgroup: level.to_string(), max: "9".into(), persist: false }).unwrap();
    }
    // No line of the policy says 0, so there is none to lift.
    set_max(&wire, &cgroups, "mine/a", "7").unwrap();
    assert_eq!(show(&wire, &cgroups, "mine/a").effective_max, Limit::Count(7));
    let (set, _) = wire.create_set_of(64).unwrap();
    set.session().unwrap().alloc_many(7, None).unwrap();
    drop((set, wire, actor, admin));
    daemon.finish();
}

#[test]
fn what_an_administrator_writes_stands_over_what_a_delegate_wrote() {
    let cgroups = Cgroups::new();
    cgroups.make("mine/a");
    cgroups.delegate("mine", USER);
    let daemon = Daemon::start(&policy(&cgroups, SPACE, ""));
    let (actor, admin) = (Actor::of_user(&cgroups, "mine/a", USER), daemon.connect());
    let wire = actor.connect(&daemon);
    set_max(&wire, &cgroups, "mine/a", "5").unwrap();
    set_max(&admin, &cgroups, "mine/a", "30").unwrap();
    let shown = show(&admin, &cgroups, "mine/a");
    assert_eq!((shown.max, shown.set_by.as_str()), (Limit::Count(30), "administrator"));
    // The delegate tightens it again, and lifts nothing.
    for (text, max) in [("20", 20), ("40", 30), ("policy", 30)] {
        set_max(&wire, &cgroups, "mine/a", text).unwrap();
        assert_eq!(show(&admin, &cgroups, "mine/a").max, Limit::Count(max), "{text}");
    }
    drop((wire, actor, admin));
    daemon.finish();
}

#[test]
fn a_threaded_cgroup_is_no_way_to_the_limit_of_its_domain() {
    let cgroups = Cgroups::new();
    cgroups.make("mine/thread");
    std::fs::write(cgroups.directory("mine/thread").join("cgroup.type"), "threaded").unwrap();
    cgroups.delegate("mine", USER);
    let daemon = Daemon::start(&policy(&cgroups, SPACE, ""));
    let actor = Actor::of_user(&cgroups, "mine", USER);
    let wire = actor.connect(&daemon);
    let refusal = set_max(&wire, &cgroups, "mine/thread", "3").unwrap_err();
    assert!(matches!(&refusal, Refusal::Unsupported { .. }), "{refusal:?}");
    assert_eq!(show(&wire, &cgroups, "mine").max, Limit::Max);
    drop((wire, actor));
    daemon.finish();
}

/// A service that reads the host's policy files, in a mount namespace where `/etc/ioasidd` is its own and has this
/// policy in it.
fn start_with_etc(policy: &str) -> (Daemon, tempfile::TempDir) {
    // What is started is `ioasidd --policy FILE …`; the file becomes the host's.
    let script = r#"mount -t tmpfs tmpfs "$0" && mkdir "$0/up" "$0/work" &&
        mount -t overlay overlay -o "lowerdir=/etc,upperdir=$0/up,workdir=$0/work" /etc &&
        rm -rf /etc/ioasidd && mkdir /etc/ioasidd && cp "$3" /etc/ioasidd/policy.toml && program=$1 && shift 3 && exec "$program" "$@""#;
    let scratch = common::daemon::scratch_directory();
    let shell = ["unshare", "-m", "--propagation", "private", "sh", "-c", script].map(str::to_owned);
    let through = [&shell[..], &[scratch.path().display().to_string()]].concat();
    (Daemon::start_with(policy, &common::Options { through, ..common::Options::default() }), scratch)
}

#[test]
fn a_persisted_max_is_in_its_file_until_policy_is_persisted() {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let (daemon, _scratch) = start_with_etc(&policy(&cgroups, SPACE, &max(&cgroups, "a", 5)));
    let admin = daemon.connect();
    let file = format!("/proc/{}/root/etc/ioasidd/policy.d/90-set-max.toml", daemon.pid());
    let persist = |max: &str| {
        let cgroup = cgroups.path("a").into();
        admin.ask(&SetCgroupMax { cgroup, max: max.into(), persist: true }).unwrap();
        std::fs::read_to_string(&file).unwrap()
    };
    let shown = || {
        let shown = show(&admin, &cgroups, "a");
        (shown.max, shown.source.map(|source| source.file))
    };
    let written = format!("path = '{}'\nmax = 9\n", cgroups.path("a"));
    let text = persist("9");
    assert!(text.ends_with(&written), "{text}");
    assert_eq!(shown(), (Limit::Count(9), None));
    // Read again, it is a line of the policy: what an administrator takes back.
    admin.ask(&Reload {}).unwrap();
    set_max(&admin, &cgroups, "a", "policy").unwrap();
    assert_eq!(shown(), (Limit::Count(9), Some("/etc/ioasidd/policy.d/90-set-max.toml".into())));
    let text = persist("policy");
    assert!(!text.contains("max = 9"), "{text}");
    let line = (Limit::Count(5), Some("/etc/ioasidd/policy.toml".to_owned()));
    assert_eq!(shown(), line, "the line that is gone from the file is no policy any more");
    admin.ask(&Reload {}).unwrap();
    assert_eq!(shown(), line);
    drop(admin);
    daemon.finish();
}

#[test]
fn an_administrators_max_stands_over_the_policy_line_through_reloads_until_policy() {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let daemon = Daemon::start(&policy(&cgroups, SPACE, &max(&cgroups, "a", 5)));
    let admin = daemon.connect();
    set_max(&admin, &cgroups, "a", "50").unwrap();
    assert_eq!(show(&admin, &cgroups, "a").max, Limit::Count(50));
    std::fs::write(daemon.policy_file(), policy(&cgroups, SPACE, &max(&cgroups, "a", 6))).unwrap();
    admin.ask(&Reload {}).unwrap();
    let shown = show(&admin, &cgroups, "a");
    assert_eq!((shown.max, shown.set_by.as_str(), shown.source), (Limit::Count(50), "administrator", None));
    set_max(&admin, &cgroups, "a", "policy").unwrap();
    let shown = show(&admin, &cgroups, "a");
    assert_eq!((shown.max, shown.set_by.as_str()), (Limit::Count(6), "policy"));
    assert!(shown.source.is_some());
    // It goes with the cgroup.
    set_max(&admin, &cgroups, "a", "70").unwrap();
    cgroups.remove("a");
    cgroups.make("a");
    assert_eq!(show(&admin, &cgroups, "a").max, Limit::Count(6));
    drop(admin);
    daemon.finish();
}

#[test]
fn unused_leases_are_no_obstacle_to_a_recharge() {
    let cgroups = Cgroups::new();
    for below in ["a", "full"] {
        cgroups.make(below);
    }
    let daemon = Daemon::start(&policy(&cgroups, SPACE, &max(&cgroups, "full", 3)));
    let (actor, admin) = (Actor::new(&cgroups, "a"), daemon.connect());
    let (set, info) = actor.connect(&daemon).create_set_of(64).unwrap();
    let mapped = set.map().unwrap();
    let used = [mapped.alloc().unwrap(), mapped.alloc().unwrap()];
    let current = |below: &str| show(&admin, &cgroups, below).current;
    assert_eq!(current("a"), 64, "leased ahead");
    let recharge = || admin.ask(&Recharge { set: info.set.0, cgroup: cgroups.path("full").into() });
    recharge().unwrap();
    assert_eq!((current("a"), current("full"), show(&admin, &cgroups, "full").events.max), (0, 3, 0));
    // What is used stands in the way.
    admin.ask(&Recharge { set: info.set.0, cgroup: cgroups.path("a").into() }).unwrap();
    set_max(&admin, &cgroups, "full", "1").unwrap();
    let refused = Refusal::LimitExceeded { cgroup: cgroups.path("full"), max: Limit::Count(1), current: 0, asked: 2 };
    assert_eq!(recharge().unwrap_err(), refused);
    assert_eq!((current("a"), current("full"), show(&admin, &cgroups, "full").events.max), (2, 0, 1));
    mapped.free(used[0]).unwrap();
    recharge().unwrap();
    assert_eq!((current("a"), current("full")), (0, 1));
    drop((mapped, set, actor, admin));
    daemon.finish();
}

#[test]
fn a_recharge_moves_the_charge_and_only_an_administrator_does_it() {
    let cgroups = Cgroups::new();
    for below in ["slice/a", "slice/b", "full"] {
        cgroups.make(below);
    }
    let daemon = Daemon::start(&policy(&cgroups, SPACE, &max(&cgroups, "full", 3)));
    let admin = daemon.connect();
    let actor = Actor::of_user(&cgroups, "slice/a", USER);
    let wire = actor.connect(&daemon);
    let (set, info) = wire.create_set_of(64).unwrap();
    let mut session = set.session().unwrap();
    session.alloc_many(4, None).unwrap();
    let to = |wire: &Wire, below: &str| wire.ask(&Recharge { set: info.set.0, cgroup: cgroups.path(below).into() });
    assert!(administrators_only(&to(&wire, "slice/b").unwrap_err()));
    let full = Refusal::LimitExceeded { cgroup: cgroups.path("full"), max: Limit::Count(3), current: 0, asked: 4 };
    assert_eq!(to(&admin, "full").unwrap_err(), full);
    let missing = Refusal::NotFound { what: format!("cgroup {}", cgroups.path("none")) };
    assert_eq!(to(&admin, "none").unwrap_err(), missing);
    let current = |below: &str| show(&admin, &cgroups, below).current;
    assert_eq!((current("slice/a"), current("slice/b"), current("slice"), current("full")), (4, 0, 4, 0));
    to(&admin, "slice/b").unwrap();
    assert_eq!((current("slice/a"), current("slice/b"), current("slice")), (0, 4, 4));
    assert_eq!(show(&admin, &cgroups, "slice").peak, 4, "the common level was not charged twice");
    session.alloc().unwrap();
    assert_eq!((current("slice/a"), current("slice/b")), (0, 5));
    assert_eq!(session.info().unwrap().cgroup, cgroups.path("slice/b"));
    drop((set, session, wire, actor));
    common::eventually_equal("the charge", &0, || current("slice"));
    drop(admin);
    daemon.finish();
}
