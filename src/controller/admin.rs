//! Administration: limits, peaks, moved charges, a new policy.

use super::authority::Permitted;
use super::life::misused;
use super::{Caller, Controller, Notice, Permit, State, now_usec};
use crate::model::{CgroupPath, Domain, Failure, Fault, Limit, PasidRange, Refusal, SetId};
use crate::policy::Policy;
use crate::proto::Happening;
use crate::quota::Node;
use std::sync::Arc;

impl Controller {
    /// Sets the `max` of the cgroup that the permit names; `None` goes back to the policy's line.
    ///
    /// An administrator's stands over the policy line, through reloads, and over what a delegate set before; a delegated
    /// one only tightens what applies, and cannot be made to persist.
    pub fn set_limit(
        &self,
        caller: &Caller,
        permit: &Permit,
        limit: Option<Limit>,
        persist: bool,
    ) -> Result<(), Failure> {
        let Permitted::Limit { cgroup, delegated } = &permit.0 else { return Err(misused("set-max").into()) };
        let (mut state, node) = self.own_node_at(cgroup, "a limit")?;
        if node.is_root() {
            return Err(Refusal::invalid("cgroup", cgroup, "a cgroup below the root, which has no max").into());
        }
        if persist && *delegated {
            return Err(Refusal::administrators_only("set-max --persist").into());
        }
        if persist {
            self.world.policy_source.persist(cgroup, limit)?;
        }
        if persist && limit.is_none() {
            // The line that was taken out of the file is none of the policy in force either.
            state.policy = Arc::new(state.policy.without_persisted(cgroup));
            state.apply_policy(&node);
        }
        let before = node.limits();
        match (delegated, limit) {
            (true, limit) => node.set_delegated_limit(limit),
            // What was written last stands, as in a file of the kernel's: also over what a delegate wrote.
            (false, limit) => {
                node.set_administrator_limit(limit);
                node.set_delegated_limit(None);
            }
        }
        // A client that lost the answer to a restart asks again: what was done then takes nothing now.
        if node.limits() != before
            && let Err(fault) = state.keep_limit(&node)
        {
            node.set_administrator_limit(before.administrator);
            node.set_delegated_limit(before.delegated);
            return Err(fault.into());
        }
        let max = node.max();
        let changed = Happening::MaxChanged { cgroup: cgroup.clone(), max, by_uid: caller.uid };
        state.events.emit(changed, now_usec());
        Ok(())
    }

    /// Makes `current` the `peak` of the cgroup that the permit names.
    pub fn reset_peak(&self, caller: &Caller, permit: &Permit) -> Result<(), Failure> {
        let Permitted::Peak(cgroup) = &permit.0 else { return Err(misused("reset-peak").into()) };
        let (mut state, node) = self.own_node_at(cgroup, "a peak")?;
        node.reset_peak();
        state.keep_counts(&node);
        state.events.emit(Happening::PeakReset { cgroup: cgroup.clone(), by_uid: caller.uid }, now_usec());
        Ok(())
    }

    /// Moves the whole charge of the set that the permit names to another cgroup.
    ///
    /// Levels that both cgroups have in common are neither charged twice nor asked again. Unused leases that stand in
    /// the way are taken back. Refused with `LimitExceeded` where the new branch has no room; then the charge is where it
    /// was.
    pub fn recharge(&self, caller: &Caller, permit: &Permit, cgroup: &CgroupPath) -> Result<(), Failure> {
        let Permitted::Set(id) = permit.0 else { return Err(misused("recharge").into()) };
        let (mut state, node) = self.node_at(cgroup)?;
        let set = state.set_mut(id)?;
        set.must_be_active()?;
        if Arc::ptr_eq(&set.node, &node) {
            // Asked again by who lost the answer to a restart, or never moved: nothing to write, nobody to tell.
            return Ok(());
        }
        let from = set.cgroup.clone();
        let old = Arc::clone(&set.node);
        let levels: Vec<Arc<Node>> = std::iter::once(&node).chain(node.ancestors()).cloned().collect();
        let peaks: Vec<u64> = levels.iter().map(|level| level.peak()).collect();
        // What is charged at the old levels now may be the highest that ever was.
        state.keep_counts(&old);
        state.move_charge(id, &node)?;
        let before = std::mem::replace(&mut state.set_mut(id)?.node, Arc::clone(&node));
        if let Err(fault) = state.keep_move(id) {
            let set = state.set_mut(id)?;
            // Back to where there was room for it a moment ago; without regard to what happened to its limits since.
            set.charge = set.charge.take().map(|charge| match charge.transfer(&before) {
                Ok(moved) => moved,
                Err((unmoved, _)) => unmoved,
            });
            set.node = before;
            // No count was ever as high as what was not to be.
            for (level, peak) in levels.iter().zip(peaks) {
                level.reset_peak();
                level.restore(peak, level.events(), level.events_local());
            }
            return Err(fault.into());
        }
        state.set_mut(id)?.cgroup = node.path().clone();
        state.uncount(old.id());
        *state.sets_of.entry(node.id()).or_default() += 1;
        state.prune_up(&old);
        let moved = Happening::Recharged { set: id, from, to: cgroup.clone(), by_uid: caller.uid };
        state.events.emit(moved, now_usec());
        state.events.tell(&Notice::SetChanged(id));
        Ok(())
    }

    /// Reads the policy again and puts it in place whole, or changes nothing and says what is wrong with it.
    pub fn reload(&self, caller: &Caller, permit: &Permit) -> Result<(), Failure> {
        let Permitted::Reload = permit.0 else { return Err(misused("reload").into()) };
        self.reload_for(Some(caller.uid))
    }

    /// As [`Controller::reload`], for the signal that only an administrator can send.
    pub fn reload_for(&self, by_uid: Option<u32>) -> Result<(), Failure> {
        Ok(self.install_policy(Arc::new(self.world.policy_source.load()?), by_uid)?)
    }

    /// Puts another policy in place. Sets keep what they were granted; new requests meet the new policy.
    ///
    /// The width and the reserved ranges of a space in use stay until it is idle: the journal says where.
    fn install_policy(&self, policy: Arc<Policy>, by_uid: Option<u32>) -> Result<(), Fault> {
        let mut state = self.lock();
        state.policy = policy;
        let limits = state.policy.guard;
        state.guard.set_limits(limits);
        for node in state.tree.nodes() {
            if !node.is_root() {
                state.apply_policy(&node);
            }
        }
        let quarantine = state.policy.space.quarantine;
        for domain in state.pools.keys().copied().collect::<Vec<_>>() {
            let Some(pool) = state.pools.get_mut(&domain) else { continue };
            pool.set_quarantine(quarantine);
            let width = (domain != Domain::Global).then(|| pool.bits());
            state.make_pool(domain, width)?;
            let (bits, reserved) = state.space_of(domain, width);
            if state.pools.get(&domain).is_some_and(|pool| !pool.is_of(bits, &reserved)) {
                tracing::warn!(
                    "[space] of domain {domain} is in use: another width and other reserved ranges take effect with the \
                     first set that is made when its last one is closed and its ids have rested"
                );
            }
        }
        state.events.emit(Happening::PolicyReloaded { by_uid }, now_usec());
        Ok(())
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.lock().policy)
    }

    /// As [`Controller::node_at`], for what is to be changed: a threaded cgroup, whose node is that of another, has none.
    ///
    /// Whoever may change a cgroup may not for that reason change the one above it. `Unsupported`, as the kernel's
    /// domain controllers have no files in a threaded cgroup.
    fn own_node_at(
        &self,
        cgroup: &CgroupPath,
        what: &str,
    ) -> Result<(std::sync::MutexGuard<'_, State>, Arc<Node>), Failure> {
        let (state, node) = self.node_at(cgroup)?;
        if node.path() == cgroup {
            return Ok((state, node));
        }
        let why = format!("it is threaded: what is in it is charged to {}", node.path());
        Err(Refusal::Unsupported { what: format!("{what} of cgroup {cgroup}"), why }.into())
    }

    /// The locked state and the node of a cgroup that exists; of a threaded one, that of its domain cgroup.
    pub(super) fn node_at(
        &self,
        cgroup: &CgroupPath,
    ) -> Result<(std::sync::MutexGuard<'_, State>, Arc<Node>), Failure> {
        self.bury_if_many();
        let lineage = self.world.cgroups.lineage(cgroup)?;
        let lineage = lineage.ok_or_else(|| Refusal::not_found(format!("cgroup {cgroup}")))?;
        let mut state = self.lock();
        let node = state.ensure_node(&lineage);
        Ok((state, node))
    }
}

impl State {
    /// Moves the charge of a set; its node is the caller's to change.
    fn move_charge(&mut self, id: SetId, to: &Arc<Node>) -> Result<(), Refusal> {
        loop {
            let set = self.set_mut(id)?;
            let Some(charge) = set.charge.take() else { return Ok(()) };
            match charge.transfer(to) {
                Ok(moved) => {
                    set.charge = Some(moved);
                    return Ok(());
                }
                Err((unmoved, obstacle)) => {
                    set.charge = Some(unmoved);
                    let missing = obstacle.missing();
                    // Its own first: those need no room anywhere. Others' only where they are enough.
                    let others = self.mapped_below(&obstacle.node);
                    if self.take_back(id, missing, PasidRange::ALL) == 0
                        && (self.unused(&others, missing, PasidRange::ALL) < missing
                            || self.reclaim(&others, missing, PasidRange::ALL) == 0)
                    {
                        return Err(self.limit_hit(obstacle, to.path()));
                    }
                }
            }
        }
    }
}
