//! The policy: who may get a set, how much of it, and what each cgroup may use.
//!
//! Lives here: TOML text to a checked [`Policy`] ([`check()`]), the decision over a request ([`Policy::decide`]), the
//! limit of a cgroup ([`Policy::limit`]), what explains them ([`Policy::explain`]), and what is wrong with a text
//! ([`Problems`]). All of it is pure but for [`load()`], which reads the files. Accounts are resolved through
//! [`Accounts`]; [`HostAccounts`] asks `sys`. The controller, the daemon and ioasidctl call it; an edge does not.
//!
//! # How files go together
//!
//! Files apply in the order of [`Sources`]. A key of `[space]`, `[bus]`, `[guard]`, `[lease]` or `[metrics]` that
//! several files set has the last one's value; keys that a file leaves out stand. All `[[cgroup]]` lines count, the
//! most specific wins and of two as specific the later. All `[[rule]]` entries stand in the order of files, and the
//! first that matches decides; their names differ.
//!
//! # Patterns
//!
//! A cgroup pattern is matched level by level: `*` is one level of any name, `**` any number of levels, none included
//! (`/x/**` is `/x` and all below it). Within a name `*`, `?`, `[a-z]` and `[!a-z]` are globs. A backslash is an
//! ordinary character, for systemd writes names such as `machine-qemu\x2d1`; a literal `*`, `?` or `[` stands in a
//! class of its own: `[*]`, `[?]`, `[[]`. [`escape`] writes a path so.
//!
//! # What holds where a rule is silent
//!
//! `cgroup`: any. `quota.default`: 64, or the max where that is less. `quota.max`: all that the space has.
//! `sets_per_cgroup`: 64. `range`: all that is not reserved. `domains`: `global`. `on_behalf_of`: none.

mod check;
mod explain;
mod glob;
mod keys;
mod limits;
mod load;
mod persist;
mod problem;
mod read;
mod rule;
mod schema;
mod settings;
mod value;

pub use check::{VERSION, check};
pub use explain::{Explanation, LimitLine};
pub use glob::{Glob, Pattern, escape};
pub use load::{HostAccounts, Sources, load, user_with_groups};
pub use persist::{SET_MAX_FILE, set_max_entries, set_max_file};
pub use problem::{Problem, Problems, Verdict};
pub use rule::{Action, Asker, DEFAULT_QUOTA, DEFAULT_SETS_PER_CGROUP, Decision, Grant, NO_RULE, Rule};
pub use schema::schema;
pub use settings::{Bits, Bus, Guard, Lease, Metrics, Profile, Source, Space};

use crate::model::{CgroupPath, Limit, Refusal, SetRequest};
use limits::Limits;

/// Names of accounts to numbers. A fault of the lookup is a sentence for people.
pub trait Accounts {
    /// The user with this name; `None` where there is none.
    fn uid(&self, name: &str) -> Result<Option<u32>, String>;
    /// The group with this name; `None` where there is none.
    fn gid(&self, name: &str) -> Result<Option<u32>, String>;
}

/// A checked policy. The default one is empty: it refuses every set.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The number space.
    pub space: Space,
    /// The bus.
    pub bus: Bus,
    /// What one uid may take of the service.
    pub guard: Guard,
    /// Leasing ahead.
    pub lease: Lease,
    /// Metrics.
    pub metrics: Metrics,
    limits: Limits,
    rules: Vec<Rule>,
    files: Vec<String>,
}

impl Policy {
    /// Whether there was no file at all.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files it was read from, in the order in which they apply.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// The rules, in the order in which they are tried.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The `max` that a policy line sets for this cgroup, and the line; `None` where no line names it, and for the
    /// root. A look-up by name, then one match for each line with a glob.
    pub fn limit(&self, cgroup: &CgroupPath) -> Option<(Limit, Source)> {
        self.limits.find(cgroup).map(|line| (line.max, line.source.clone()))
    }

    /// The policy without what `set-max --persist` wrote for this cgroup.
    #[must_use]
    pub fn without_persisted(&self, cgroup: &CgroupPath) -> Self {
        let mut policy = self.clone();
        policy.limits.forget(cgroup, |source| std::path::Path::new(&*source.file).ends_with(SET_MAX_FILE));
        policy
    }

    /// The `max` of a cgroup that no line names: `max`, or 0 with the profile `rfc-v4`.
    pub fn unset_limit(&self) -> Limit {
        match self.space.profile {
            Profile::CgroupV2 => Limit::Max,
            Profile::RfcV4 => Limit::Count(0),
        }
    }

    /// The first rule that matches who asks.
    pub fn rule_for(&self, asker: &Asker<'_>) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches(asker))
    }

    /// Whether the asker may have this set. The first rule that matches the asker decides, also where the request
    /// then leaves its bounds. Whether ids, cgroups and devices are there is not looked at.
    ///
    /// Refusals in [`Decision::Deny`]: `NotPermitted` with the rule and its bound, or with `no rule matches`;
    /// `InvalidArgument` for a quota of 0.
    pub fn decide(&self, asker: &Asker<'_>, request: &SetRequest) -> Decision {
        if request.quota == Some(0) {
            return Decision::Deny(Refusal::invalid("quota", 0, "a number of ids, at least 1"));
        }
        match self.rule_for(asker) {
            Some(rule) => rule.apply(asker, request, self.space.most()),
            None => {
                let bound = if self.is_empty() { "there is no policy" } else { "" };
                Decision::Deny(Refusal::NotPermitted { rule: NO_RULE.to_owned(), bound: bound.to_owned() })
            }
        }
    }
}
