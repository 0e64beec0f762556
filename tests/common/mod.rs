//! What the flow tests share: a service of their own, scratch cgroups, processes in them, frames by hand.
//!
//! A flow test starts an `ioasidd` in a scratch directory ([`Daemon`]), makes a small cgroup tree ([`Cgroups`]), puts
//! processes into it ([`Actor`]) and talks to the service as they ([`Wire`]). At its end [`Daemon::finish`] proves
//! that nothing is left over. Nothing here sleeps: what takes time is asked for until a deadline ([`eventually`]).
#![allow(dead_code, unused_imports)] // no test uses all of it
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod actor;
pub mod cgroups;
pub mod daemon;
pub mod wire;

pub use actor::{Actor, Order};
pub use cgroups::Cgroups;
pub use daemon::{Daemon, Options, Snapshot};
pub use wire::Wire;

use std::time::{Duration, Instant};

/// How long anything may take before a test fails; far more than it ever does.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// When what begins now is too late.
pub fn deadline() -> Instant {
    Instant::now() + DEADLINE
}

/// Asks until there is an answer, or panics saying what did not happen.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = deadline();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::yield_now();
    }
}

/// Asks until two things are equal, or panics showing both.
pub fn eventually_equal<T: PartialEq + std::fmt::Debug>(what: &str, expected: &T, mut ask: impl FnMut() -> T) {
    let deadline = deadline();
    loop {
        let found = ask();
        if found == *expected {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: still {found:?}, not {expected:?}");
        std::thread::yield_now();
    }
}
