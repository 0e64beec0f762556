//! A cgroup's figures, for who reads one of them often.

use super::pool::Pool;
use super::{Controller, State};
use crate::model::{CgroupId, CgroupPath, Domain, Limit};

/// What the files of a cgroup say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Its limit.
    pub max: Limit,
    /// Ids charged to it.
    pub current: u64,
    /// The highest `current`.
    pub peak: u64,
    /// Hits of its limit and of those below it.
    pub events: u64,
    /// Hits of its own limit.
    pub events_local: u64,
    /// How many ids the global space can hand out.
    pub capacity: u64,
}

impl Controller {
    /// The figures of a cgroup that exists; `id` is `None` for the root. Leaves no trace of one that nobody uses.
    ///
    /// `path` is asked for where the cgroup is not known and only the policy can say what applies to it; its error is
    /// the only one.
    pub fn counters<E>(
        &self,
        id: Option<CgroupId>,
        path: impl FnOnce() -> Result<CgroupPath, E>,
    ) -> Result<Counters, E> {
        let capacity = |state: &State| state.pools.get(&Domain::Global).map_or(0, Pool::capacity);
        let state = self.lock();
        let node = match id {
            None => Some(state.tree.root()),
            Some(id) => state.tree.find(id),
        };
        if let Some(node) = node {
            return Ok(Counters {
                max: if node.is_root() { Limit::Max } else { node.max() },
                current: node.current(),
                peak: node.peak(),
                events: node.events(),
                events_local: node.events_local(),
                capacity: capacity(&state),
            });
        }
        drop(state);
        let path = path()?;
        let state = self.lock();
        let max = state.policy_limit(&path);
        Ok(Counters { max, current: 0, peak: 0, events: 0, events_local: 0, capacity: capacity(&state) })
    }
}
