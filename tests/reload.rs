//! Reload: whole or not at all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, eventually_equal, max, policy};
use ioasid::model::{Limit, Refusal, SetRequest};
use ioasid::proto::{Explain, GetCgroup, Reload, SetCgroupMax};

const SPACE: &str = "bits = 12\nquarantine = \"0s\"";

fn limit(daemon: &Daemon, cgroups: &Cgroups, below: &str) -> Limit {
    daemon.connect().ask(&GetCgroup { path: Some(cgroups.path(below)), recurse: false }).unwrap().max
}

#[test]
fn a_reload_takes_hold_of_limits_and_rules_at_once() {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let daemon = Daemon::start(&policy(&cgroups, SPACE, &max(&cgroups, "a", 5)));
    let actor = Actor::new(&cgroups, "a");
    let set = actor.create_set(&daemon, SetRequest { quota: Some(100), ..SetRequest::default() });
    let mut session = set.session().unwrap();
    session.alloc_many(5, None).unwrap();
    let tight = policy(&cgroups, SPACE, &max(&cgroups, "a", 2)).replace("max = 256", "max = 10");
    std::fs::write(daemon.policy_file(), tight).unwrap();
    daemon.connect().ask(&Reload {}).unwrap();
    assert_eq!(limit(&daemon, &cgroups, "a"), Limit::Count(2));
    assert_eq!(session.info().unwrap().leased, 5, "nothing is revoked");
    let refusal = session.alloc().unwrap_err().refusal().cloned();
    let cgroup = cgroups.path("a");
    assert_eq!(refusal, Some(Refusal::LimitExceeded { cgroup, max: Limit::Count(2), current: 5, asked: 1 }));
    let refusal = actor.connect(&daemon).create_set_of(100).unwrap_err();
    assert!(
        matches!(&refusal, Refusal::NotPermitted { rule, bound } if rule == "tests" && bound.contains("100") && bound.contains("10")),
        "{refusal:?}"
    );
    drop((set, session, actor));
    daemon.finish();
}

#[test]
fn ranges_that_are_reserved_later_are_handed_out_no_more_once_the_space_is_idle() {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let mut daemon = Daemon::start(&policy(&cgroups, SPACE, ""));
    daemon.may_warn();
    let actor = Actor::new(&cgroups, "a");
    let set = actor.create_set(&daemon, SetRequest::default());
    set.session().unwrap().alloc().unwrap();
    let reserving = policy(&cgroups, &format!("{SPACE}\nreserved = [\"0-2000\"]"), "");
    std::fs::write(daemon.policy_file(), reserving).unwrap();
    daemon.connect().ask(&Reload {}).unwrap();
    assert!(daemon.log().contains("take effect with the first set"), "{}", daemon.log());
    assert_eq!(daemon.status().domains[0].reserved, 1024, "in use");
    drop(set);
    eventually_equal("sets", &0, || daemon.sets().len());
    let again = actor.create_set(&daemon, SetRequest::default());
    assert!(again.session().unwrap().alloc().unwrap().get() > 2000);
    assert_eq!(daemon.status().domains[0].reserved, 2001);
    drop((again, actor));
    daemon.finish();
}

#[test]
fn a_signal_reloads_too() {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let daemon = Daemon::start(&policy(&cgroups, SPACE, &max(&cgroups, "a", 5)));
    assert_eq!(limit(&daemon, &cgroups, "a"), Limit::Count(5));
    std::fs::write(daemon.policy_file(), policy(&cgroups, SPACE, &max(&cgroups, "a", 6))).unwrap();
    daemon.signal("HUP");
    eventually_equal("the limit", &Limit::Count(6), || limit(&daemon, &cgroups, "a"));
    daemon.finish();
}

#[test]
fn a_bad_policy_changes_nothing_and_says_so() {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let mut daemon = Daemon::start(&policy(&cgroups, SPACE, &max(&cgroups, "a", 5)));
    daemon.may_warn();
    let good = policy(&cgroups, SPACE, &max(&cgroups, "a", 6));
    let bad = [
        good.replace("version = 1", "version = 2"),
        good.replace("max = 6", "max = \"six\""),
        good.replace("[[cgroup]]", "[[cgruop]]"),
        good.replace("users = [\"*\"]", "users = [\"no-such-user-here\"]"),
        format!("{good}\n= ="),
        String::new(),
    ];
    for text in bad {
        std::fs::write(daemon.policy_file(), &text).unwrap();
        match daemon.connect().ask(&Reload {}).unwrap_err() {
            Refusal::InvalidArgument { field, value, expected } => {
                assert_eq!(field, "policy");
                assert!(!value.is_empty() && !expected.is_empty());
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(limit(&daemon, &cgroups, "a"), Limit::Count(5), "{text}");
    }
    std::fs::remove_file(daemon.policy_file()).unwrap();
    assert!(daemon.connect().ask(&Reload {}).is_err());
    assert_eq!(limit(&daemon, &cgroups, "a"), Limit::Count(5));
    daemon.finish();
}

#[test]
fn only_an_administrator_reloads() {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let daemon = Daemon::start(&policy(&cgroups, SPACE, ""));
    let actor = Actor::of_user(&cgroups, "a", 65534);
    let refusal = actor.connect(&daemon).ask(&Reload {}).unwrap_err();
    assert!(matches!(&refusal, Refusal::NotPermitted { rule, .. } if rule == "administrators only"));
    drop(actor);
    daemon.finish();
}

#[test]
fn explain_says_which_rule_decides_and_which_lines_limit() {
    let cgroups = Cgroups::new();
    let daemon = Daemon::start(&policy(&cgroups, SPACE, &max(&cgroups, "a", 5)));
    let explain = |cgroup: &str, quota| {
        daemon.connect().ask(&Explain { user: "root".into(), cgroup: cgroup.into(), quota }).unwrap()
    };
    let allowed = explain(cgroups.path("a").as_str(), Some(7));
    assert_eq!(
        (&allowed["decision"], &allowed["rule"], &allowed["quota"]),
        (&"allow".into(), &"tests".into(), &7.into())
    );
    let limit = &allowed["limits"][0];
    assert_eq!((limit["cgroup"].as_str(), limit["max"].as_u64()), (Some(cgroups.path("a").as_str()), Some(5)));
    assert_eq!(limit["file"].as_str(), Some(daemon.policy_file().display().to_string().as_str()));
    let denied = explain("/elsewhere", None);
    assert_eq!(denied["decision"], "deny");
    let refusal = daemon
        .connect()
        .ask(&Explain { user: "no-such-user-here".into(), cgroup: "/".into(), quota: None })
        .unwrap_err();
    assert!(matches!(&refusal, Refusal::InvalidArgument { field, .. } if field == "user"));
    daemon.finish();
}

/// What an administrator set went with the cgroup; one made again in its place has what the policy says.
#[test]
fn explain_shows_no_limit_of_a_cgroup_that_is_gone() {
    let cgroups = Cgroups::new();
    let path = cgroups.make("a");
    let daemon = Daemon::start(&policy(&cgroups, SPACE, &max(&cgroups, "a", 5)));
    let explained = || {
        let ask = Explain { user: "root".into(), cgroup: path.to_string(), quota: None };
        daemon.connect().ask(&ask).unwrap()["limits"][0]["max"].as_u64()
    };
    let limit_to = |max: &str| {
        let ask = SetCgroupMax { cgroup: path.to_string(), max: max.into(), persist: false };
        daemon.connect().ask(&ask).unwrap();
    };
    limit_to("9");
    assert_eq!(explained(), Some(9));
    cgroups.remove("a");
    assert_eq!(explained(), Some(5));
    cgroups.make("a");
    assert_eq!(explained(), Some(5), "it has none of its own yet");
    limit_to("7");
    assert_eq!(explained(), Some(7));
    daemon.finish();
}
