//! What one user may use up of the service: sets, sessions, requests; and a service out of descriptors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, Options, Wire, eventually, policy};
use ioasid::model::{Refusal, SetRequest};
use ioasid::proto::GetStatus;
use std::os::fd::AsFd;

const SPACE: &str = "bits = 16\nquarantine = \"0s\"";
const USER: u32 = 65534;

fn start(guard: &str) -> (Cgroups, Daemon) {
    let cgroups = Cgroups::new();
    ["a", "b"].iter().for_each(|below| drop(cgroups.make(below)));
    let daemon = Daemon::start(&policy(&cgroups, SPACE, &format!("[guard]\n{guard}")));
    (cgroups, daemon)
}

#[test]
fn sets_are_bounded_for_a_user_and_not_for_root() {
    let (cgroups, daemon) = start("sets = 3");
    let user = Actor::of_user(&cgroups, "a", USER);
    let wire = user.connect(&daemon);
    let mut sets: Vec<_> = (0..3).map(|_| wire.create_set_of(1).unwrap().0).collect();
    let full = Refusal::TooMany { limit: format!("[guard] sets of uid {USER}"), value: 3 };
    assert_eq!(wire.create_set_of(1).map(drop), Err(full.clone()));
    // Another cgroup is no way out, another user is not meant.
    let elsewhere = Actor::of_user(&cgroups, "b", USER);
    assert_eq!(elsewhere.connect(&daemon).create_set_of(1).map(drop), Err(full));
    drop(Actor::of_user(&cgroups, "b", USER - 1).connect(&daemon).create_set_of(1).unwrap());
    let root = Actor::new(&cgroups, "a");
    let roots: Vec<_> = (0..5).map(|_| root.create_set(&daemon, SetRequest::default())).collect();
    sets.pop();
    eventually("room for one more", || wire.create_set_of(1).ok());
    drop((sets, roots, wire, user, elsewhere, root));
    daemon.finish();
}

#[test]
fn sets_per_cgroup_counts_on_the_cgroup_that_is_charged() {
    let (cgroups, daemon) = start("sets = 100");
    let user = Actor::of_user(&cgroups, "a", USER);
    let wire = user.connect(&daemon);
    let sets: Vec<_> = (0..16).map(|_| wire.create_set_of(1).unwrap().0).collect();
    let limit = format!("sets_per_cgroup of rule tests in {}", cgroups.path("a"));
    let full = Refusal::TooMany { limit, value: 16 };
    assert_eq!(wire.create_set_of(1).map(drop), Err(full.clone()));
    let root = Actor::new(&cgroups, "a");
    assert_eq!(root.connect(&daemon).create_set_of(1).map(drop), Err(full), "root is exempt from [guard] alone");
    drop(Actor::of_user(&cgroups, "b", USER).connect(&daemon).create_set_of(1).unwrap());
    drop((sets, wire, user, root));
    daemon.finish();
}

#[test]
fn sessions_count_on_who_opens_them() {
    let (cgroups, daemon) = start("sessions = 4");
    let root = Actor::new(&cgroups, "a");
    let set = root.create_set(&daemon, SetRequest::default());
    let user = Actor::of_user(&cgroups, "a", USER);
    let mut sessions: Vec<_> = (0..4).map(|_| Wire::open_session(set.as_fd(), user.pair()).unwrap()).collect();
    let full = Refusal::TooMany { limit: format!("[guard] sessions of uid {USER}"), value: 4 };
    assert_eq!(Wire::open_session(set.as_fd(), user.pair()).map(drop), Err(full.clone()));
    // A connection to ioasid.sock counts as well.
    let wire = user.connect_silently(&daemon);
    assert_eq!(wire.receive().map(|frame| frame.refusal()), Some(full));
    drop(wire);
    let many: Vec<_> = (0..10).map(|_| set.session().unwrap()).collect();
    sessions.pop();
    eventually("room for one more", || Wire::open_session(set.as_fd(), user.pair()).ok());
    drop((sessions, many, set, user, root));
    daemon.finish();
}

#[test]
fn requests_are_bounded_by_their_rate_for_each_user_alone() {
    let (cgroups, daemon) = start("requests_per_second = 50");
    let user = Actor::of_user(&cgroups, "a", USER);
    let wire = user.connect(&daemon);
    let slow = Refusal::TooMany { limit: format!("[guard] requests_per_second of uid {USER}"), value: 50 };
    let refusal = (0..10_000).find_map(|_| wire.ask(&GetStatus {}).err()).expect("10,000 requests at once");
    assert_eq!(refusal, slow);
    let other = Actor::of_user(&cgroups, "a", USER - 1);
    other.connect(&daemon).ask(&GetStatus {}).unwrap();
    (0..200).for_each(|_| drop(daemon.status()));
    eventually("the bucket fills again", || wire.ask(&GetStatus {}).ok());
    drop((wire, user, other));
    daemon.finish();
}

#[test]
fn a_service_out_of_descriptors_refuses_and_goes_on() {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let through = ["prlimit", "--nofile=64:64"].map(str::to_owned).to_vec();
    let options = Options { through, ..Options::default() };
    let text = policy(&cgroups, SPACE, "").replace("sets_per_cgroup = 16", "sets_per_cgroup = 1000");
    let mut daemon = Daemon::start_with(&text, &options);
    daemon.may_warn();
    let before = daemon.snapshot();
    let actor = Actor::new(&cgroups, "a");
    let wire = actor.connect(&daemon);
    let mut sets = Vec::new();
    let refusal = loop {
        match wire.create_set_of(1) {
            Ok((set, _)) => sets.push(set),
            Err(refusal) => break refusal,
        }
        assert!(sets.len() < 64);
    };
    assert!(
        matches!(&refusal, Refusal::TooMany { limit, value: 64 } if limit == "descriptors of the service"),
        "{refusal:?}"
    );
    // What exists goes on: the ids of a set take no descriptor.
    wire.ask(&GetStatus {}).unwrap();
    assert!(sets.len() > 10);
    // With some room again all is as before, sessions too.
    sets.truncate(sets.len() - 8);
    let session = eventually("a session", || sets[0].session().ok());
    drop(session);
    drop((sets, wire, actor));
    daemon.settles_to(&before);
    daemon.finish();
}
