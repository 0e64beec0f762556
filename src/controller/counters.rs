//! A cgroup's figures, for who reads one of them often.

use super::Controller;
use super::pool::Pool;
use crate::model::{CgroupId, CgroupPath, Domain, Limit};

/// What the files of a cgroup say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Its limit; `None` where nobody has used the cgroup: [`Controller::unused_limit`] says it then.
    pub max: Option<Limit>,
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
    pub fn counters(&self, id: Option<CgroupId>) -> Counters {
        let state = self.lock();
        let capacity = state.pools.get(&Domain::Global).map_or(0, Pool::capacity);
        let node = match id {
            None => Some(state.tree.root()),
            Some(id) => state.tree.find(id),
        };
        node.map_or(Counters { max: None, current: 0, peak: 0, events: 0, events_local: 0, capacity }, |node| {
            Counters {
                max: Some(if node.is_root() { Limit::Max } else { node.max() }),
                current: node.current(),
                peak: node.peak(),
                events: node.events(),
                events_local: node.events_local(),
                capacity,
            }
        })
    }

    /// The limit of a cgroup that nobody has used: what the policy says of its path.
    pub fn unused_limit(&self, path: &CgroupPath) -> Limit {
        let state = self.lock();
        state.policy.limit(path).map_or_else(|| state.policy.unset_limit(), |(limit, _)| limit)
    }
}
