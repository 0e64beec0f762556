//! Where a cgroup's `max` comes from.

use crate::model::Limit;

/// The three sources of a cgroup's `max`, kept apart so that each can change alone, be shown and be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What the policy says, or its profile where no line applies.
    pub policy: Limit,
    /// What an administrator set; stands over the policy's.
    pub administrator: Option<Limit>,
    /// What the owner of a delegated cgroup set below it; can only tighten.
    pub delegated: Option<Limit>,
}

impl Limits {
    /// The policy's limit alone.
    pub fn of_policy(policy: Limit) -> Self {
        Self { policy, administrator: None, delegated: None }
    }

    /// The cgroup's own `max`: the least of the delegated limit and the administrator's, or else the policy's.
    pub fn max(self) -> Limit {
        let granted = self.administrator.unwrap_or(self.policy);
        self.delegated.map_or(granted, |delegated| delegated.min(granted))
    }
}
