//! Clocks that jump. The date says when a set was made and nothing else; how long an id rests goes by the monotonic
//! clock, which a restart may find further on or, where a host was frozen and moved, further back.
//!
//! Moving the date takes a machine of its own: `tests/system/guest/clock.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, Options, policy};
use ioasid::model::{Pasid, SetRequest};

/// A service in a time namespace of its own, with this many seconds between its monotonic clock and ours.
fn at(offset: i64) -> Options {
    let words = ["unshare", "--time", "--monotonic", &offset.to_string(), "sh", "-c", "exec \"$@\"", "sh"];
    Options { through: words.map(str::to_owned).to_vec(), ..Options::default() }
}

/// How many ids of the space rest.
fn resting(daemon: &Daemon) -> u64 {
    daemon.status().domains[0].resting
}

#[test]
fn a_rest_goes_by_the_monotonic_clock_over_a_restart_and_never_lasts_for_ever() {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    // Seven ids, of which the set leases three.
    let mut daemon = Daemon::start_with(&policy(&cgroups, "bits = 3\nquarantine = \"1h\"", ""), &at(7200));
    let ours = std::fs::read_link("/proc/self/ns/time").unwrap();
    let theirs = std::fs::read_link(format!("/proc/{}/ns/time", daemon.pid())).unwrap();
    assert_ne!(ours, theirs, "the service must have a clock of its own for this");
    let actor = Actor::new(&cgroups, "a");
    let free_three = |daemon: &Daemon| {
        let set = actor.create_set(daemon, SetRequest::default());
        let mut session = set.session().unwrap();
        let ids = session.alloc_many(3, None).unwrap();
        session.free(&ids).unwrap();
        ids
    };
    let again = |daemon: &mut Daemon, offset: i64| {
        daemon.signal("KILL");
        daemon.wait();
        daemon.start_again(&at(offset));
    };
    let ids = free_three(&daemon);
    assert_eq!(resting(&daemon), 3);
    // Half an hour on it rests still, an hour on no more.
    again(&mut daemon, 7200 + 1800);
    assert_eq!(resting(&daemon), 3);
    again(&mut daemon, 7200 + 3601);
    assert_eq!(resting(&daemon), 0);
    // Freed at a time that has not come yet: it rests its hour from now on, and is had when nothing else is free.
    free_three(&daemon);
    again(&mut daemon, 0);
    assert_eq!(resting(&daemon), 3);
    let set = actor.create_set(&daemon, SetRequest::default());
    let mut all: Vec<Pasid> = set.session().unwrap().alloc_many(7, None).unwrap();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 7, "{ids:?}");
    again(&mut daemon, 3601);
    assert_eq!((resting(&daemon), daemon.sets().len()), (7, 0), "nobody kept the set");
    daemon.may_warn();
    drop((set, actor));
    daemon.finish();
}
