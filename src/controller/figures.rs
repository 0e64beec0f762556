//! The service in numbers, for who graphs it. Nothing is counted for it that is not counted anyway, but refusals.

use super::Controller;
use crate::model::{CgroupPath, Failure, Limit, Refusal, SetState};
use crate::proto::{DomainInfo, codes};
use std::collections::BTreeMap;

/// One moment of the service.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Every number space in use.
    pub domains: Vec<DomainInfo>,
    /// The cgroups that exist, in order of their paths; of too many those with the least charge are left out.
    pub cgroups: Vec<CgroupFigures>,
    /// How many are left out.
    pub cgroups_omitted: usize,
    /// Cgroups that are gone while ids are charged to them.
    pub cgroups_dying: usize,
    /// Sets by where they stand.
    pub sets: BTreeMap<&'static str, u64>,
    /// Sets that were ever made.
    pub sets_created: u64,
    /// Open sessions on sets.
    pub sessions: u64,
    /// Refusals by name, since the service started.
    pub refusals: BTreeMap<&'static str, u64>,
}

/// One cgroup.
#[derive(Clone, Debug)]
pub struct CgroupFigures {
    /// Its path.
    pub path: CgroupPath,
    /// Its limit; `None` at the root, which has none.
    pub max: Option<Limit>,
    /// Ids charged to it.
    pub current: u64,
    /// The highest `current`.
    pub peak: u64,
    /// Hits of its limit and of those below it.
    pub events: u64,
    /// Hits of its own limit.
    pub events_local: u64,
}

impl Controller {
    /// The service in numbers, with at most so many cgroups.
    pub fn figures(&self, most_cgroups: usize) -> Figures {
        let mut state = self.lock();
        let mut figures = Figures {
            domains: state.pools.values_mut().map(super::Pool::info).collect(),
            sets: BTreeMap::from([("active", 0), ("revoked", 0), ("draining", 0)]),
            sets_created: state.next_set.saturating_sub(1),
            refusals: state.refusals.clone(),
            ..Figures::default()
        };
        for set in state.sets.values() {
            figures.sessions += set.sessions.len() as u64;
            let place = match set.state {
                SetState::Active => "active",
                SetState::Revoked => "revoked",
                SetState::Draining => "draining",
            };
            if !set.gone {
                *figures.sets.entry(place).or_default() += 1;
            }
        }
        // A path names one cgroup: the one that exists. Those before it are dying.
        let mut alive = BTreeMap::new();
        for node in state.tree.nodes() {
            if node.is_root() || !node.is_dying() && self.world.cgroups.is_alive(node.path(), node.id()) {
                alive.insert(node.path().clone(), node);
            } else if node.current() > 0 {
                figures.cgroups_dying += 1;
            }
        }
        drop(state);
        let mut nodes: Vec<_> = alive.into_values().collect();
        if nodes.len() > most_cgroups {
            nodes.sort_by_key(|node| std::cmp::Reverse(node.current()));
            figures.cgroups_omitted = nodes.split_off(most_cgroups).len();
            nodes.sort_by(|a, b| a.path().cmp(b.path()));
        }
        figures.cgroups = nodes
            .iter()
            .map(|node| CgroupFigures {
                path: node.path().clone(),
                max: (!node.is_root()).then(|| node.max()),
                current: node.current(),
                peak: node.peak(),
                events: node.events(),
                events_local: node.events_local(),
            })
            .collect();
        figures
    }

    /// What every edge does with what did not happen: a refusal is counted, a fault logged, for there it stops.
    pub fn report(&self, edge: &'static str, failure: &Failure) {
        match failure {
            Failure::Refused(refusal) => self.count_refusal(refusal),
            Failure::Fault(fault) => {
                tracing::error!(MESSAGE_ID = crate::proto::message_ids::FAULT, edge, %fault, "a request failed");
            }
        }
    }

    /// Counts a refusal that an edge hands out.
    pub fn count_refusal(&self, refusal: &Refusal) {
        *self.lock().refusals.entry(codes(refusal).name).or_default() += 1;
    }
}
