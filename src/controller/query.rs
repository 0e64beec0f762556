//! Looking, changing nothing.

use super::authority::Permitted;
use super::life::misused;
use super::set::Set;
use super::{Controller, Permit, State};
use crate::model::{CgroupPath, Domain, Failure, Fault, Limit, Refusal, SetId, SetRequest};
use crate::policy::{Asker, LimitLine};
use crate::proto::{CgroupInfo, DomainInfo, Event, EventCounts, LimitSource, SetInfo, SpaceMap, Status};
use crate::quota::Node;
use std::sync::Arc;

/// So many levels below the cgroup that is asked for are told: each is two levels of JSON, whose readers know 128, and a
/// tree of thousands is a user's to make.
const LEVELS: usize = 60;
/// While so few cgroups are known, nobody looks for those that are gone.
pub(super) const FEW_CGROUPS: usize = 256;

impl Controller {
    /// All sets that are not gone, in order of their numbers.
    pub fn sets(&self) -> Vec<SetInfo> {
        self.lock().sets_where(|_| true)
    }

    /// Of those the ones that are charged to `cgroup` or below it.
    ///
    /// A cgroup that was removed and made again is another one: sets of the first are not its own. Where there is none
    /// at that path, they are those of the cgroups that were there.
    pub fn sets_of(&self, cgroup: &CgroupPath) -> Result<Vec<SetInfo>, Fault> {
        let living = self.world.cgroups.lineage(cgroup)?.and_then(|levels| levels.first().map(|(id, _)| *id));
        let state = self.lock();
        Ok(match living {
            Some(id) => {
                state.sets_where(|set| set.node.id() == id || set.node.ancestors().iter().any(|above| above.id() == id))
            }
            None => state.sets_where(|set| cgroup.contains(&set.cgroup)),
        })
    }

    /// One set without its ids.
    pub fn set(&self, id: SetId) -> Result<SetInfo, Refusal> {
        let state = self.lock();
        let set = state.set(id)?;
        if set.gone { Err(Refusal::not_found(format!("set {id}"))) } else { Ok(set.info(false)) }
    }

    /// The set that the permit names, with its ids.
    pub fn set_with_ids(&self, permit: &Permit) -> Result<SetInfo, Failure> {
        let Permitted::Set(id) = permit.0 else { return Err(misused("show").into()) };
        Ok(self.lock().set(id)?.info(true))
    }

    /// Every number space in use.
    pub fn domains(&self) -> Vec<DomainInfo> {
        self.lock().pools.values_mut().map(super::Pool::info).collect()
    }

    /// Ids charged on the whole host, over all domains, and the most that ever were.
    pub fn charged(&self) -> (u64, u64) {
        let root = self.lock().tree.root();
        (root.current(), root.peak())
    }

    /// The service at a glance.
    pub fn status(&self) -> Status {
        let enforcement = (self.world.enforcement)();
        let mut state = self.lock();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: self.world.backend.clone(),
            domains: state.pools.values_mut().map(super::Pool::info).collect(),
            sets: state.sets.values().filter(|set| !set.gone).count() as u64,
            enforcement,
            policy: state.policy.files().to_vec(),
        }
    }

    /// The last events, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.lock().events.recent()
    }

    /// A cgroup; with `recurse` all below it, as far as [`LEVELS`] go: those that exist, and those that are gone while charges
    /// remain.
    pub fn cgroup(&self, path: &CgroupPath, recurse: bool) -> Result<CgroupInfo, Failure> {
        let gone = self.lock().find_dying(path);
        let below = if recurse { self.world.cgroups.below(path, LEVELS + 1)? } else { Vec::new() };
        if recurse {
            self.bury_the_dead();
        }
        let (mut state, node) = match self.node_at(path) {
            Ok(found) => found,
            Err(Failure::Refused(refusal)) => {
                let node = gone.ok_or(refusal)?;
                node.mark_dying();
                (self.lock(), node)
            }
            Err(fault) => return Err(fault),
        };
        for lineage in &below {
            state.ensure_node(lineage);
        }
        Ok(state.cgroup_info(&node, recurse.then_some(LEVELS)))
    }

    /// Marks the cgroups that are gone as dying, and forgets those without charges.
    fn bury_the_dead(&self) {
        let known = self.lock().tree.nodes();
        // A look at each of thousands: nobody waits for it. What is gone stays so, ids are never used twice.
        let is_gone = |node: &Arc<Node>| !node.is_dying() && !self.world.cgroups.is_alive(node.path(), node.id());
        let gone: Vec<Arc<Node>> = known.into_iter().filter(|node| !node.is_root() && is_gone(node)).collect();
        let mut state = self.lock();
        gone.iter().for_each(|node| node.mark_dying());
        state.prune();
        state.bury_at = FEW_CGROUPS.max(2 * state.tree.known());
    }

    /// The same once twice as many cgroups are known as were there after the last look: nobody tells of one that goes while
    /// it is charged for nothing, and hosts see thousands a day come and go.
    pub(super) fn bury_if_many(&self) {
        let mut state = self.lock();
        if state.tree.known() >= state.bury_at {
            // One look is enough.
            state.bury_at = usize::MAX;
            drop(state);
            self.bury_the_dead();
        }
    }

    /// What the policy in force would say to a user who asks from a cgroup, and the limits that hold there, whoever set
    /// them.
    pub fn explain(&self, user: &str, cgroup: &CgroupPath, quota: Option<u32>) -> Result<serde_json::Value, Failure> {
        let found = crate::policy::user_with_groups(user).map_err(Fault::new)?;
        let (uid, gids) = found.ok_or_else(|| Refusal::invalid("user", user, "the name or number of a user"))?;
        let request = SetRequest { quota, ..SetRequest::default() };
        let mut explanation = self.policy().explain(&Asker { uid, gids: &gids, cgroup }, &request);
        let is_alive = |node: &Node| self.world.cgroups.is_alive(node.path(), node.id());
        explanation.limits = self.lock().limits_in_force(cgroup, explanation.limits, is_alive);
        Ok(serde_json::to_value(explanation).unwrap_or_default())
    }

    /// Who has which ids of a domain; sets and cgroups are named where `named`.
    pub fn map(&self, domain: Domain, named: bool) -> Result<SpaceMap, Refusal> {
        let mut state = self.lock();
        let pool =
            state.pools.get_mut(&domain).ok_or_else(|| Refusal::not_found(format!("a set in domain {domain}")))?;
        let (info, mut runs) = (pool.info(), pool.runs());
        for run in &mut runs {
            let set: Option<SetId> = run.set;
            run.cgroup = set.and_then(|id| state.sets.get(&id)).map(|set| set.cgroup.clone()).filter(|_| named);
            if !named {
                run.set = None;
            }
        }
        Ok(SpaceMap { domain: info, runs })
    }
}

impl State {
    fn sets_where(&self, wanted: impl Fn(&Set) -> bool) -> Vec<SetInfo> {
        self.sets.values().filter(|set| !set.gone && wanted(set)).map(|set| set.info(false)).collect()
    }

    /// The policy's limits over a cgroup, from near to far, with what an administrator or a delegate set in their place.
    /// A path may name several that are gone, and not known to be, beside the one that exists.
    fn limits_in_force(
        &self,
        cgroup: &CgroupPath,
        of_policy: Vec<LimitLine>,
        is_alive: impl Fn(&Node) -> bool,
    ) -> Vec<LimitLine> {
        let nodes = self.tree.nodes();
        let in_force = |level: CgroupPath| {
            let line = of_policy.iter().find(|line| line.cgroup == level);
            let node = nodes.iter().find(|node| *node.path() == level && !node.is_dying() && is_alive(node));
            let info = node.map(|node| self.cgroup_info(node, None));
            match info.filter(|info| ["administrator", "delegated"].contains(&info.set_by.as_str())) {
                Some(CgroupInfo { max, set_by, .. }) => {
                    let (file, at) = line.map_or((None, None), |line| (line.file.clone(), line.line));
                    Some(LimitLine { cgroup: level, max, file, line: at, set_by })
                }
                None => line.cloned(),
            }
        };
        cgroup.lineage().filter_map(in_force).collect()
    }

    fn find_dying(&self, path: &CgroupPath) -> Option<Arc<Node>> {
        self.tree.nodes().into_iter().find(|node| node.path() == path && node.current() > 0)
    }

    /// A cgroup, and so many levels below it where that is asked.
    fn cgroup_info(&self, node: &Node, levels: Option<usize>) -> CgroupInfo {
        let root = node.is_root();
        let limits = node.limits();
        let (set_by, source) = if root || limits.max() == Limit::Max && self.policy.limit(node.path()).is_none() {
            ("unset", None)
        } else if limits.delegated.is_some_and(|delegated| delegated == limits.max()) {
            ("delegated", None)
        } else if limits.administrator.is_some() {
            ("administrator", None)
        } else {
            let line = self.policy.limit(node.path());
            let source = line.map(|(_, source)| LimitSource { file: source.file.to_string(), line: source.line });
            (if source.is_some() { "policy" } else { "unset" }, source)
        };
        let mut children = if levels.is_some() { node.children() } else { Vec::new() };
        // One that is gone shows while it has charges; its sets, without ids, are nothing to be seen there.
        children.retain(|child| !child.is_dying() || child.current() > 0);
        children.sort_by(|a, b| a.path().cmp(b.path()));
        let below = levels.and_then(|levels| levels.checked_sub(1));
        let deeper = below.is_none() && !children.is_empty();
        if deeper {
            children.clear();
        }
        let global = self.pools.get(&Domain::Global);
        CgroupInfo {
            path: node.path().clone(),
            id: node.id(),
            max: if root { Limit::Max } else { node.max() },
            effective_max: if root { Limit::Max } else { node.effective_max() },
            current: node.current(),
            peak: node.peak(),
            events: EventCounts { max: node.events() },
            events_local: EventCounts { max: node.events_local() },
            dying: node.is_dying(),
            source,
            set_by: set_by.to_owned(),
            capacity: global.filter(|_| root).map(super::Pool::capacity),
            children: children.iter().map(|child| self.cgroup_info(child, below)).collect(),
            deeper,
        }
    }
}
