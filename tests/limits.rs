//! Limits: what each counter says, what each refusal names, and that nothing else moved.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, Wire, max, policy};
use ioasid::client::Set;
use ioasid::model::{CgroupPath, Limit, PasidRange, Refusal, SetRequest};
use ioasid::proto::{CgroupInfo, Done, GetCgroup, ListSets, ResetPeak, SetCgroupMax};

const SPACE: &str = "bits = 12\nreserved = [\"0-1023\"]\nquarantine = \"0s\"";

/// A service, and an administrator's connection to it.
struct Host {
    cgroups: Cgroups,
    daemon: Daemon,
    admin: Wire,
}

impl Host {
    fn new(space: &str, limits: &[(&str, u64)]) -> Self {
        let cgroups = Cgroups::new();
        let limits: Vec<String> = limits.iter().map(|(below, limit)| max(&cgroups, below, *limit)).collect();
        let daemon = Daemon::start(&policy(&cgroups, space, &limits.concat()));
        let admin = daemon.connect();
        Self { cgroups, daemon, admin }
    }

    fn guest(&self, below: &str, quota: u32) -> (Actor, Set) {
        self.cgroups.make(below);
        let actor = Actor::new(&self.cgroups, below);
        let set = actor.create_set(&self.daemon, SetRequest { quota: Some(quota), ..SetRequest::default() });
        (actor, set)
    }

    fn cgroup(&self, below: &str) -> CgroupInfo {
        self.admin.ask(&GetCgroup { path: Some(self.cgroups.path(below)), recurse: false }).unwrap()
    }

    fn set_max(&self, below: &str, max: &str) -> Result<Done, Refusal> {
        let cgroup = String::from(self.cgroups.path(below));
        self.admin.ask(&SetCgroupMax { cgroup, max: max.into(), persist: false })
    }

    /// `current`, `peak`, `events.max`, `events.local.max`.
    fn counters(&self, below: &str) -> (u64, u64, u64, u64) {
        let info = self.cgroup(below);
        (info.current, info.peak, info.events.max, info.events_local.max)
    }

    fn finish(self) {
        drop(self.admin);
        self.daemon.finish();
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ioasid::client::ClientError>) -> Refusal {
    result.unwrap_err().refusal().expect("a refusal").clone()
}

#[test]
fn a_cgroup_without_a_limit_reads_max_and_the_root_has_the_capacity() {
    let host = Host::new(SPACE, &[]);
    host.cgroups.make("a");
    let a = host.cgroup("a");
    assert_eq!((a.max, a.effective_max, a.current, a.peak, a.dying), (Limit::Max, Limit::Max, 0, 0, false));
    assert_eq!((a.source, a.capacity, a.id), (None, None, host.cgroups.id("a")));
    let root = host.admin.ask(&GetCgroup { path: None, recurse: false }).unwrap();
    assert_eq!((root.path, root.capacity), (CgroupPath::root(), Some(4096 - 1024)));
    let refusal = host.admin.ask(&SetCgroupMax { cgroup: "/".into(), max: "5".into(), persist: false }).unwrap_err();
    assert!(matches!(&refusal, Refusal::InvalidArgument { field, value, .. } if field == "cgroup" && value == "/"));
    let what = format!("cgroup {}", host.cgroups.path("none"));
    let path = Some(host.cgroups.path("none"));
    assert_eq!(host.admin.ask(&GetCgroup { path, recurse: false }).unwrap_err(), Refusal::NotFound { what });
    host.finish();
}

#[test]
fn a_path_that_leads_through_a_file_is_no_cgroup_and_no_fault() {
    let host = Host::new(SPACE, &[]);
    host.cgroups.make("a");
    // Anybody can ask for any path: `finish` finds a line in the log for none of them.
    let anybody = Actor::of_user(&host.cgroups, "a", 65534);
    let wire = anybody.connect(&host.daemon);
    for below in ["a/cgroup.procs", "a/cgroup.procs/x", "a/cgroup.type/x/y"] {
        let path = host.cgroups.path(below);
        for recurse in [false, true] {
            let refusal = wire.ask(&GetCgroup { path: Some(path.clone()), recurse }).unwrap_err();
            assert_eq!(refusal, Refusal::NotFound { what: format!("cgroup {path}") });
        }
        // As of any cgroup that is gone.
        assert!(wire.ask(&ListSets { cgroup: Some(path.clone()) }).unwrap().is_empty());
        let refusal = host.set_max(below, "5").unwrap_err();
        assert_eq!(refusal, Refusal::NotFound { what: format!("cgroup {path}") });
    }
    drop((wire, anybody));
    host.finish();
}

#[test]
fn with_the_rfc_profile_unset_is_zero() {
    let host = Host::new("bits = 12\nprofile = \"rfc-v4\"", &[]);
    let (_actor, set) = host.guest("a", 4);
    assert_eq!(host.cgroup("a").max, Limit::Count(0));
    let refusal = refused(set.session().unwrap().alloc());
    let cgroup = host.cgroups.path("a");
    assert_eq!(refusal, Refusal::LimitExceeded { cgroup, max: Limit::Count(0), current: 0, asked: 1 });
    drop(set);
    host.finish();
}

#[test]
fn max_takes_what_the_kernel_takes_and_nothing_else() {
    let host = Host::new(SPACE, &[]);
    host.cgroups.make("a");
    for (text, limit) in [
        ("5", Limit::Count(5)),
        ("5", Limit::Count(5)),
        ("0x10", Limit::Count(16)),
        ("010", Limit::Count(8)),
        (" \t7\n", Limit::Count(7)),
        ("\x0b0X1f\x0c\r", Limit::Count(31)),
        ("18446744073709551615", Limit::Count(u64::MAX)),
        ("99999999", Limit::Count(99_999_999)),
        ("max", Limit::Max),
        ("0", Limit::Count(0)),
    ] {
        host.set_max("a", text).unwrap();
        assert_eq!(host.cgroup("a").max, limit, "{text:?}");
    }
    for text in [
        "-1",
        "junk",
        "",
        "  ",
        "\u{a0}5",
        "0b1",
        "08",
        "5\0",
        "1 2",
        "5x",
        "0x",
        "1e3",
        "+",
        "99999999999999999999999999",
    ] {
        let refusal = host.set_max("a", text).unwrap_err();
        match &refusal {
            Refusal::InvalidArgument { field, value, expected } => {
                assert_eq!((field.as_str(), value.as_str()), ("max", text));
                assert!(!expected.is_empty());
            }
            other => panic!("{text:?}: {other:?}"),
        }
        assert_eq!(host.cgroup("a").max, Limit::Count(0), "{text:?} changed it");
    }
    host.finish();
}

#[test]
fn more_than_one_request_may_take_is_refused_by_what_refuses_it_anyhow() {
    let host = Host::new(SPACE, &[("a", 10)]);
    let (_actor, set) = host.guest("a", 64);
    let mut session = set.session().unwrap();
    for count in [8193, u32::MAX] {
        let Refusal::QuotaExceeded { quota, leased, asked, .. } = refused(session.alloc_many(count, None)) else {
            panic!("not the quota")
        };
        assert_eq!((quota, leased, asked), (64, 0, count));
    }
    assert_eq!(host.counters("a"), (0, 0, 0, 0));
    session.set_quota(1).unwrap();
    session.alloc().unwrap();
    let nothing = refused(session.alloc_many(0, None));
    assert!(
        matches!(&nothing, Refusal::InvalidArgument { field, value, .. } if field == "count" && value == "0"),
        "{nothing:?}"
    );
    drop((session, set));
    host.finish();
}

#[test]
fn more_ids_than_there_are_is_no_space_however_many() {
    let host = Host::new("bits = 4\nquarantine = \"0s\"", &[]);
    let text = std::fs::read_to_string(host.daemon.policy_file()).unwrap().replace("max = 256", "max = 20000");
    std::fs::write(host.daemon.policy_file(), text).unwrap();
    host.admin.ask(&ioasid::proto::Reload {}).unwrap();
    let (_actor, set) = host.guest("a", 20_000);
    let refusal = refused(set.session().unwrap().alloc_many(9000, None));
    assert!(matches!(refusal, Refusal::NoSpace { free: 15, asked: 9000, .. }), "{refusal:?}");
    drop(set);
    host.finish();
}

#[test]
fn refused_at_the_parent_names_it_and_leaves_every_counter() {
    let host = Host::new(SPACE, &[("slice", 5), ("slice/a", 4)]);
    let (_a, set_a) = host.guest("slice/a", 64);
    let (_b, set_b) = host.guest("slice/b", 64);
    let (mut session_a, mut session_b) = (set_a.session().unwrap(), set_b.session().unwrap());
    session_a.alloc_many(3, None).unwrap();
    // limit - 1 and limit are fine.
    session_b.alloc().unwrap();
    session_b.alloc().unwrap();
    let slice = host.cgroups.path("slice");
    let full = |asked| Refusal::LimitExceeded { cgroup: slice.clone(), max: Limit::Count(5), current: 5, asked };
    assert_eq!(refused(session_b.alloc()), full(1));
    // The own level is asked before the parent's: two would exceed both.
    let own =
        Refusal::LimitExceeded { cgroup: host.cgroups.path("slice/a"), max: Limit::Count(4), current: 3, asked: 2 };
    assert_eq!(refused(session_a.alloc_many(2, None)), own);
    assert_eq!(refused(session_a.alloc()), full(1));
    assert_eq!(host.counters("slice"), (5, 5, 3, 2));
    assert_eq!(host.counters("slice/a"), (3, 3, 1, 1));
    assert_eq!(host.counters("slice/b"), (2, 2, 0, 0));
    assert_eq!(session_a.info().unwrap().leased + session_b.info().unwrap().leased, 5);
    drop((set_a, set_b, session_a, session_b));
    host.finish();
}

#[test]
fn a_batch_is_all_or_nothing_and_one_event() {
    let host = Host::new(SPACE, &[("a", 10)]);
    let (_a, set) = host.guest("a", 64);
    let mut session = set.session().unwrap();
    session.alloc_many(4, None).unwrap();
    let cgroup = host.cgroups.path("a");
    let refusal = Refusal::LimitExceeded { cgroup, max: Limit::Count(10), current: 4, asked: 7 };
    assert_eq!(refused(session.alloc_many(7, None)), refusal);
    assert_eq!(host.counters("a"), (4, 4, 1, 1));
    assert_eq!(host.counters(""), (4, 4, 1, 0));
    session.alloc_many(6, None).unwrap();
    assert_eq!(host.counters("a"), (10, 10, 1, 1));
    drop((set, session));
    host.finish();
}

#[test]
fn the_quota_is_asked_before_the_cgroup_and_the_cgroup_before_the_ids() {
    // 16 numbers less 0..=7: eight ids.
    let host = Host::new("bits = 4\nreserved = [\"0-7\"]\nquarantine = \"0s\"", &[("a", 6)]);
    let (_a, set) = host.guest("a", 5);
    let mut session = set.session().unwrap();
    let info = session.info().unwrap();
    let quota = Refusal::QuotaExceeded { set: info.set, quota: 5, leased: 0, asked: 9 };
    assert_eq!(refused(session.alloc_many(9, None)), quota);
    assert_eq!(host.counters("a"), (0, 0, 0, 0), "a quota is no limit of the cgroup");
    session.set_quota(64).unwrap();
    let cgroup = host.cgroups.path("a");
    let limit = Refusal::LimitExceeded { cgroup, max: Limit::Count(6), current: 0, asked: 9 };
    assert_eq!(refused(session.alloc_many(9, None)), limit);
    host.set_max("a", "max").unwrap();
    let none = Refusal::NoSpace { domain: info.domain, range: PasidRange::new(0, 15).unwrap(), free: 8, asked: 9 };
    assert_eq!(refused(session.alloc_many(9, None)), none);
    assert_eq!(host.counters("a"), (0, 0, 1, 1), "ENOSPC is no max event, and moves nothing");
    let ids = session.alloc_many(8, None).unwrap();
    assert_eq!(host.cgroup("a").current, 8);
    // A range that has nothing to do with the set's is of the ids: quota and cgroup come first.
    let elsewhere = PasidRange::new(300, 400).unwrap();
    session.set_quota(9).unwrap();
    host.set_max("a", "9").unwrap();
    let quota = Refusal::QuotaExceeded { set: info.set, quota: 9, leased: 8, asked: 2 };
    assert_eq!(refused(session.alloc_many(2, Some(elsewhere))), quota);
    session.set_quota(64).unwrap();
    let cgroup = host.cgroups.path("a");
    let limit = Refusal::LimitExceeded { cgroup, max: Limit::Count(9), current: 8, asked: 2 };
    assert_eq!(refused(session.alloc_many(2, Some(elsewhere))), limit);
    session.free(&ids).unwrap();
    for (count, asked) in [(2, elsewhere), (9, PasidRange::new(0, 15).unwrap())] {
        let free = if asked == elsewhere { 0 } else { 8 };
        let none = Refusal::NoSpace { domain: info.domain, range: asked, free, asked: count };
        assert_eq!(refused(session.alloc_many(count, Some(asked))), none);
    }
    drop((set, session));
    host.finish();
}

#[test]
fn max_below_current_revokes_nothing_and_refuses_until_current_is_below() {
    let host = Host::new(SPACE, &[]);
    let (_a, set) = host.guest("a", 64);
    let mut session = set.session().unwrap();
    let pasids = session.alloc_many(5, None).unwrap();
    host.set_max("a", "3").unwrap();
    assert_eq!(session.info().unwrap().leased, 5);
    let cgroup = host.cgroups.path("a");
    let refusal = |current| Refusal::LimitExceeded { cgroup: cgroup.clone(), max: Limit::Count(3), current, asked: 1 };
    assert_eq!(refused(session.alloc()), refusal(5));
    session.free(&pasids[..2]).unwrap();
    assert_eq!(refused(session.alloc()), refusal(3));
    session.free(&pasids[2..3]).unwrap();
    session.alloc().unwrap();
    host.set_max("a", "0").unwrap();
    assert_eq!(host.cgroup("a").current, 3);
    assert!(matches!(refused(session.alloc()), Refusal::LimitExceeded { max: Limit::Count(0), .. }));
    drop((set, session));
    host.finish();
}

#[test]
fn the_effective_max_is_the_least_on_the_way_up() {
    let host = Host::new(SPACE, &[("a", 9), ("a/b", 20), ("a/b/c", 12)]);
    host.cgroups.make("a/b/c");
    let shown = |below: &str| (host.cgroup(below).max, host.cgroup(below).effective_max);
    assert_eq!(shown("a/b/c"), (Limit::Count(12), Limit::Count(9)));
    assert_eq!(shown("a/b"), (Limit::Count(20), Limit::Count(9)));
    host.set_max("a", "max").unwrap();
    assert_eq!(shown("a/b/c"), (Limit::Count(12), Limit::Count(12)));
    assert_eq!(shown(""), (Limit::Max, Limit::Max));
    let source = host.cgroup("a/b").source.unwrap();
    assert_eq!(source.file, host.daemon.policy_file().display().to_string());
    let policy = std::fs::read_to_string(host.daemon.policy_file()).unwrap();
    let line = policy.lines().nth(source.line as usize - 1).unwrap();
    assert!(line.contains("max = 20") || line.contains("[[cgroup]]") || line.contains("a/b"), "{line}");
    host.finish();
}

#[test]
fn the_peak_stays_until_an_administrator_resets_it() {
    let host = Host::new(SPACE, &[]);
    let (_a, set) = host.guest("a", 64);
    let mut session = set.session().unwrap();
    let pasids = session.alloc_many(6, None).unwrap();
    session.free(&pasids[..4]).unwrap();
    assert_eq!(host.counters("a"), (2, 6, 0, 0));
    let cgroup = String::from(host.cgroups.path("a"));
    let user = Actor::of_user(&host.cgroups, "a", 65534);
    let refusal = user.connect(&host.daemon).ask(&ResetPeak { cgroup: cgroup.clone() }).unwrap_err();
    assert!(matches!(&refusal, Refusal::NotPermitted { rule, .. } if rule == "administrators only"), "{refusal:?}");
    assert_eq!(host.cgroup("a").peak, 6);
    host.admin.ask(&ResetPeak { cgroup }).unwrap();
    assert_eq!(host.counters("a"), (2, 2, 0, 0));
    assert_eq!(host.cgroup("").peak, 6, "of this cgroup alone");
    drop((set, session));
    host.finish();
}

#[test]
fn a_removed_cgroup_is_dying_until_its_charge_returns_and_made_again_is_a_new_one() {
    let host = Host::new(SPACE, &[("slice/a", 20)]);
    let (actor, set) = host.guest("slice/a", 64);
    let old_id = host.cgroups.id("slice/a");
    let path = host.cgroups.path("slice/a");
    let mut session = set.session().unwrap();
    let pasids = session.alloc_many(6, None).unwrap();
    actor.kill();
    host.cgroups.remove("slice/a");
    assert!(host.cgroup("slice/a").dying, "whoever looks first sees it");
    assert_eq!(refused(session.alloc()), Refusal::Stale { cgroup: path.clone() });
    let dying = host.cgroup("slice/a");
    assert_eq!((dying.id, dying.current, dying.dying), (old_id, 6, true));
    assert_eq!(host.cgroup("slice").current, 6, "the charge stays on the ancestors");

    let (_actor, again) = host.guest("slice/a", 64);
    let fresh = host.cgroup("slice/a");
    assert_eq!((fresh.current, fresh.peak, fresh.dying, fresh.max), (0, 0, false, Limit::Count(20)));
    assert_ne!(fresh.id, old_id);
    again.session().unwrap().alloc_many(20, None).unwrap();
    assert_eq!(host.cgroup("slice").current, 26);

    session.free(&pasids[..4]).unwrap();
    assert_eq!(host.cgroup("slice").current, 22, "freeing still works");
    drop((set, session));
    common::eventually_equal("the slice's charge", &20, || host.cgroup("slice").current);
    let children = host.daemon.cgroup(&host.cgroups.path("slice")).children;
    assert_eq!(children.iter().map(|child| child.dying).collect::<Vec<_>>(), [false], "the old one is forgotten");
    drop(again);
    host.finish();
}

#[test]
fn a_threaded_cgroup_charges_its_domain_and_moving_moves_no_charge() {
    let host = Host::new(SPACE, &[("a", 8)]);
    host.cgroups.make("a/threads");
    host.cgroups.make("b");
    let actor = Actor::new(&host.cgroups, "a");
    std::fs::write(host.cgroups.directory("a/threads").join("cgroup.type"), "threaded").unwrap();
    host.cgroups.join("a/threads", actor.pid());
    let (set, info) = actor.connect(&host.daemon).create_set_of(64).unwrap();
    assert_eq!((&info.cgroup, info.cgroup_id), (&host.cgroups.path("a"), host.cgroups.id("a")));
    let mut session = set.session().unwrap();
    session.alloc_many(7, None).unwrap();
    host.cgroups.join("b", actor.pid());
    session.alloc().unwrap();
    assert_eq!((host.cgroup("a").current, host.cgroup("b").current), (8, 0));
    let cgroup = host.cgroups.path("a");
    let refusal = Refusal::LimitExceeded { cgroup, max: Limit::Count(8), current: 8, asked: 1 };
    assert_eq!(refused(session.alloc()), refusal);
    // What is set there would be set for its domain cgroup: whoever may the one need not be allowed the other.
    let threads = host.cgroups.path("a/threads").to_string();
    let set_max = SetCgroupMax { cgroup: threads.clone(), max: "max".to_owned(), persist: false };
    let why = format!("it is threaded: what is in it is charged to {}", host.cgroups.path("a"));
    let unsupported =
        |what: &str| Refusal::Unsupported { what: format!("{what} of cgroup {threads}"), why: why.clone() };
    let service = host.daemon.connect();
    assert_eq!(service.ask(&set_max).unwrap_err(), unsupported("a limit"));
    assert_eq!(service.ask(&ResetPeak { cgroup: threads.clone() }).unwrap_err(), unsupported("a peak"));
    assert_eq!(host.cgroup("a").max, Limit::Count(8));
    // A new set is charged where the process is now.
    let (_other, info) = actor.connect(&host.daemon).create_set_of(1).unwrap();
    assert_eq!(info.cgroup, host.cgroups.path("b"));
    drop((set, session, _other));
    host.finish();
}

#[test]
fn zero_blocks_new_ids_and_overcommit_is_accepted() {
    let host = Host::new("bits = 4\nreserved = [\"0-7\"]\nquarantine = \"0s\"", &[("a", 1_000_000), ("b", 0)]);
    let (_a, set) = host.guest("a", 256);
    let (_b, blocked) = host.guest("b", 1);
    assert_eq!(host.cgroup("a").max, Limit::Count(1_000_000));
    set.session().unwrap().alloc_many(8, None).unwrap();
    assert!(matches!(refused(set.session().unwrap().alloc()), Refusal::NoSpace { free: 0, asked: 1, .. }));
    let cgroup = host.cgroups.path("b");
    let refusal = Refusal::LimitExceeded { cgroup, max: Limit::Count(0), current: 0, asked: 1 };
    assert_eq!(refused(blocked.session().unwrap().alloc()), refusal);
    drop((set, blocked));
    host.finish();
}

/// A user can make a tree of thousands of levels where a cgroup was delegated to them; whoever lists it must get along.
#[test]
fn a_tree_of_many_levels_is_told_60_of_them_at_a_time() {
    const LEVELS: usize = 150;
    let host = Host::new(SPACE, &[]);
    let names: Vec<String> = (0..LEVELS).map(|level| format!("l{level}")).collect();
    let deepest = names.join("/");
    host.cgroups.make(&deepest);
    let actor = Actor::new(&host.cgroups, &deepest);
    let set = actor.create_set(&host.daemon, SetRequest::default());
    set.session().unwrap().alloc_many(3, None).unwrap();
    let top = host.daemon.cgroup(&host.cgroups.path("l0"));
    let line: Vec<&CgroupInfo> = std::iter::successors(Some(&top), |info| info.children.first()).collect();
    assert_eq!(line.len(), 61);
    assert!(line.iter().all(|info| info.current == 3), "what is not told is counted");
    assert_eq!(line.iter().filter(|info| info.deeper).count(), 1);
    assert!(line[60].deeper);
    // From the last one it goes on.
    let rest = host.daemon.cgroup(&line[60].path);
    assert!(!rest.deeper && rest.children[0].path.as_str().ends_with("/l61"));
    let shown = host.daemon.run_ctl(&["cgroup", top.path.as_str()]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    assert!(text.contains("l60 (deeper ones not shown)") && !text.contains("l61"), "{text}");
    drop((set, actor));
    host.finish();
}
