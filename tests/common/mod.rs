//! What the flow tests share: a service of their own, scratch cgroups, processes in them, frames by hand.
//!
//! A flow test starts an `ioasidd` in a scratch directory ([`Daemon`]), makes a small cgroup tree ([`Cgroups`]), puts
//! processes into it ([`Actor`]) and talks to the service as they ([`Wire`]). At its end [`Daemon::finish`] proves
//! that nothing is left over. Nothing here sleeps: what takes time is asked for until a deadline ([`eventually`]).
#![allow(dead_code, unused_imports)] // no test uses all of it
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod actor;
pub mod agent;
pub mod bus;
pub mod cgroups;
pub mod daemon;
pub mod libvirt;
pub mod lingering;
pub mod shown;
pub mod small_state;
pub mod terminal;
pub mod wire;

pub use actor::{Actor, Order};
pub use cgroups::Cgroups;
pub use daemon::{Daemon, Options, Snapshot, supervised};
pub use terminal::Terminal;
pub use wire::Wire;

use ioasid::client::ClientError;
use ioasid::model::Refusal;
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

/// The refusal that this is.
pub fn refusal(error: ClientError) -> Refusal {
    match error {
        ClientError::Refused(refusal) => refusal,
        other => panic!("{other}"),
    }
}

/// A policy: this in its `[space]`, a rule that lets everybody in the scratch cgroups have sets of up to 256 ids, and
/// the rest.
pub fn policy(cgroups: &Cgroups, space: &str, rest: &str) -> String {
    let scratch = cgroups.path("");
    format!(
        r#"version = 1
[space]
{space}
[[rule]]
name = "tests"
cgroup = "{scratch}/**"
users = ["*"]
action = "allow"
quota = {{ default = 8, max = 256 }}
sets_per_cgroup = 16
domains = ["global", "pci:*"]
{rest}
"#
    )
}

/// A `[[cgroup]]` section that gives one of the scratch cgroups a limit.
pub fn max(cgroups: &Cgroups, below: &str, max: u64) -> String {
    format!("[[cgroup]]\npath = \"{}\"\nmax = {max}\n", cgroups.path(below))
}
