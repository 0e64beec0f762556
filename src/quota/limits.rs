//! Where a cgroup's `max` comes from.

use crate::model::Limit;

/// The three sources of a cgroup's `max`, kept apart so that each can change alone, be shown and be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What a line of the policy says; `None` where none applies.
    pub policy: Option<Limit>,
    /// What its profile says where nobody says anything: no line, and nobody's to lift.
    pub unset: Limit,
    /// What an administrator set; stands over the policy's.
    pub administrator: Option<Limit>,
    /// What the owner of a delegated cgroup set below it; can only tighten.
    pub delegated: Option<Limit>,
}

impl Limits {
    /// Those of a cgroup that nobody said anything of.
    pub fn unset(unset: Limit) -> Self {
        Self { policy: None, unset, administrator: None, delegated: None }
    }

    /// The cgroup's own `max`: the least of the delegated limit and the administrator's, or else the policy's.
    pub fn max(self) -> Limit {
        let granted = self.administrator.or(self.policy);
        match (granted, self.delegated) {
            (Some(granted), Some(delegated)) => delegated.min(granted),
            (granted, delegated) => granted.or(delegated).unwrap_or(self.unset),
        }
    }
}
