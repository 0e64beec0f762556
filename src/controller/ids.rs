//! Ids of a set: leased, freed, held, named.

use super::authority::Permitted;
use super::life::misused;
use super::{Asked, Controller, Notice, Permit, SessionId, State, now_usec};
use crate::model::{CgroupPath, Domain, Failure, Pasid, PasidRange, Refusal, SetId, SetState};
use crate::proto::{Happening, SetInfo, WatchKind};
use crate::quota::{Node, Obstacle};
use std::collections::HashSet;
use std::sync::Arc;

/// The most ids of one request: what fits into one reply.
const MOST_AT_ONCE: u32 = 8192;
const AT_ONCE: &str = "1 to 8192 ids at once";

impl Controller {
    /// Leases `count` ids in `range` (the set's own range bounds it further) and marks them used: all or none.
    ///
    /// Refused, in this order: `Revoked`, `Stale`, `QuotaExceeded`, `LimitExceeded` from near to far, `NoSpace`. What
    /// mapped sets lease and do not use is taken back before anything is refused that it stands in the way of. A request
    /// that is repeated after a restart gets the ids that it got before.
    pub fn alloc(
        &self,
        id: SetId,
        asked: Option<&Asked<'_>>,
        count: u32,
        range: Option<PasidRange>,
    ) -> Result<Vec<Pasid>, Failure> {
        if count == 0 {
            return Err(Refusal::invalid("count", count, AT_ONCE).into());
        }
        let mut state = self.lock();
        if count > MOST_AT_ONCE {
            // What would refuse so many anyhow refuses them.
            self.must_be_usable(&state, id)?;
            let (domain, range) = (state.set(id)?.domain, state.make_way(id, count, range)?);
            state.ids_lacking(domain, count, range)?;
            return Err(Refusal::invalid("count", count, AT_ONCE).into());
        }
        let tag = state.tag_of(id, asked);
        self.alloc_as(&mut state, id, tag, count, range)
    }

    /// The same for the request with this tag.
    pub(super) fn alloc_as(
        &self,
        state: &mut State,
        id: SetId,
        tag: u64,
        count: u32,
        range: Option<PasidRange>,
    ) -> Result<Vec<Pasid>, Failure> {
        if let Some(pasids) = state.leased_before(id, tag, count) {
            return Ok(pasids);
        }
        self.must_be_usable(state, id)?;
        let pasids = state.lease(id, count, range, tag)?;
        if let Some(region) = state.set(id)?.region.as_ref() {
            pasids.iter().for_each(|pasid| region.lease(*pasid, true));
        }
        state.set_mut(id)?.tell(WatchKind::Alloc, &pasids, "");
        state.events.tell(&Notice::SetChanged(id));
        Ok(pasids)
    }

    /// Refuses where a set can lease nothing more: it is not active, or its cgroup is gone.
    pub(super) fn must_be_usable(&self, state: &State, id: SetId) -> Result<(), Refusal> {
        let set = state.set(id)?;
        set.must_be_active()?;
        if set.node.is_dying() || !self.world.cgroups.is_alive(&set.cgroup, set.node.id()) {
            set.node.mark_dying();
            return Err(Refusal::Stale { cgroup: set.cgroup.clone() });
        }
        Ok(())
    }

    /// Gives ids back: all of them, or none where one belongs to another set (`ForeignPasid`).
    ///
    /// What nobody leases is passed over, and an id that is named again is named once. The references of the session that
    /// asks are put; what other sessions hold goes to `free-pending`, is told in the answer, and returns with the last put.
    pub fn free(&self, id: SetId, asked: Option<&Asked<'_>>, pasids: &[u32]) -> Result<Vec<Pasid>, Failure> {
        let mut state = self.lock();
        let tag = if asked.is_some() { state.tag_of(id, asked) } else { 0 };
        state.free_as(id, asked.map(|asked| asked.session), tag, pasids)
    }

    /// Takes a reference on a leased id for a session. Refused with `Busy` while it waits for its last put.
    pub fn hold(&self, id: SetId, asked: &Asked<'_>, pasid: u32) -> Result<(), Failure> {
        let mut state = self.lock();
        if state.was_done(id, asked) {
            return Ok(());
        }
        let pasid = state.leased_here(id, pasid)?;
        let set = state.set_mut(id)?;
        if set.pending.contains(&pasid) {
            return Err(Refusal::Busy { pasid, holders: set.holders(pasid, None) }.into());
        }
        if !set.mark_held(pasid) {
            return Err(Refusal::not_found(format!("pasid {pasid} in use")).into());
        }
        let own = set.sessions.get(&asked.session).ok_or_else(|| Refusal::not_found("this session"))?;
        let count = own.holds.get(&pasid).copied().unwrap_or(0) + 1;
        if let Err(failure) = state.keep_hold(id, asked, pasid, count) {
            state.refresh_held(id, pasid);
            return Err(failure);
        }
        if let Some(own) = state.set_mut(id)?.sessions.get_mut(&asked.session) {
            own.holds.insert(pasid, count);
        }
        Ok(())
    }

    /// Puts one reference that this session took; nobody can put another's. Works on a set that is gone, too.
    ///
    /// Refused as `NotFound` where it took none, as `ForeignPasid` where the id is another set's. What cannot be recorded is
    /// not done: the reference is still the session's, and goes with it.
    pub fn put(&self, id: SetId, asked: &Asked<'_>, pasid: u32) -> Result<(), Failure> {
        let mut state = self.lock();
        if state.was_done(id, asked) {
            return Ok(());
        }
        let missing = || Refusal::not_found(format!("a reference of this session on pasid {pasid}"));
        let pasid = Pasid::new(pasid).ok_or_else(missing)?;
        let owner = state.pools.get(&state.set(id)?.domain).and_then(|pool| pool.owner(pasid));
        let own = state.set(id)?.sessions.get(&asked.session).ok_or_else(missing)?;
        let Some(count) = own.holds.get(&pasid).map(|held| held.saturating_sub(1)) else {
            let foreign = owner.is_some_and(|owner| owner != id);
            return Err(if foreign { Refusal::ForeignPasid { pasid } } else { missing() }.into());
        };
        state.keep_put(id, asked, pasid, count)?;
        if let Some(own) = state.set_mut(id)?.sessions.get_mut(&asked.session) {
            match count {
                0 => drop(own.holds.remove(&pasid)),
                _ => drop(own.holds.insert(pasid, count)),
            }
        }
        if count == 0 {
            state.reference_put(id, pasid);
        }
        Ok(())
    }

    /// Gives an id one more name in its set. `Exists` where the name is taken by another id of it.
    pub fn add_alias(&self, id: SetId, asked: &Asked<'_>, pasid: u32, alias: u64) -> Result<(), Failure> {
        let mut state = self.lock();
        if state.was_done(id, asked) {
            return Ok(());
        }
        state.set(id)?.must_be_active()?;
        let pasid = state.leased_here(id, pasid)?;
        let set = state.set_mut(id)?;
        if set.pending.contains(&pasid) {
            return Err(Refusal::Busy { pasid, holders: set.holders(pasid, None) }.into());
        }
        if set.aliases.contains_key(&alias) {
            return Err(Refusal::Exists { what: format!("alias {alias} in set {id}") }.into());
        }
        if set.aliases.len() >= 4 * set.quota as usize {
            let limit = format!("aliases of set {id}");
            return Err(Refusal::TooMany { limit, value: 4 * u64::from(set.quota) }.into());
        }
        if !set.mark_held(pasid) {
            return Err(Refusal::not_found(format!("pasid {pasid} in use")).into());
        }
        if let Err(fault) = state.keep_alias(id, asked, alias, pasid) {
            state.refresh_held(id, pasid);
            return Err(fault.into());
        }
        state.set_mut(id)?.aliases.insert(alias, pasid);
        Ok(())
    }

    /// The id behind an alias.
    pub fn find_alias(&self, id: SetId, alias: u64) -> Result<Pasid, Failure> {
        let state = self.lock();
        let set = state.set(id)?;
        set.must_be_active()?;
        let found = set.aliases.get(&alias).copied();
        found.ok_or_else(|| Refusal::not_found(format!("alias {alias} in set {id}")).into())
    }

    /// Forgets an alias.
    pub fn remove_alias(&self, id: SetId, asked: &Asked<'_>, alias: u64) -> Result<(), Failure> {
        let mut state = self.lock();
        if state.was_done(id, asked) {
            return Ok(());
        }
        let set = state.set(id)?;
        set.must_be_active()?;
        let found = set.aliases.get(&alias).copied();
        let pasid = found.ok_or_else(|| Refusal::not_found(format!("alias {alias} in set {id}")))?;
        state.keep_no_alias(id, asked, alias)?;
        state.set_mut(id)?.aliases.remove(&alias);
        state.refresh_held(id, pasid);
        Ok(())
    }

    /// Changes the quota, up to the max of the rule that allowed the set. Below `leased`: accepted, nothing is revoked.
    pub fn set_quota(&self, id: SetId, quota: u32) -> Result<SetInfo, Failure> {
        let mut state = self.lock();
        let set = state.set_mut(id)?;
        set.must_be_active()?;
        if quota == 0 {
            return Err(Refusal::invalid("quota", quota, "a number of ids, at least 1").into());
        }
        if quota > set.quota_max {
            let bound = format!("quota {quota} is above its max {}", set.quota_max);
            return Err(Refusal::NotPermitted { rule: set.rule.clone(), bound }.into());
        }
        if quota == set.quota {
            return Ok(set.info(false));
        }
        let mut record = set.record();
        record.quota = quota;
        state.record_set(id, record)?;
        let set = state.set_mut(id)?;
        set.quota = quota;
        let info = set.info(false);
        state.events.tell(&Notice::SetChanged(id));
        Ok(info)
    }

    /// [`Controller::set_quota`] on the set that the permit names, for who has no FD of it.
    pub fn change_quota(&self, permit: &Permit, quota: u32) -> Result<SetInfo, Failure> {
        let Permitted::Set(id) = permit.0 else { return Err(misused("set-quota").into()) };
        self.set_quota(id, quota)
    }

    /// The set with its ids, for its holders.
    pub fn info(&self, id: SetId) -> Result<SetInfo, Failure> {
        let state = self.lock();
        let set = state.set(id)?;
        match set.state {
            SetState::Active => Ok(set.info(true)),
            SetState::Revoked | SetState::Draining => Err(set.revoked().into()),
        }
    }
}

impl State {
    /// Gives ids back for the request with this tag, of this session.
    pub(super) fn free_as(
        &mut self,
        id: SetId,
        session: Option<SessionId>,
        tag: u64,
        pasids: &[u32],
    ) -> Result<Vec<Pasid>, Failure> {
        let freed = self.freed_before.remove(&tag).unwrap_or_default();
        let set = self.set(id)?;
        set.must_be_active()?;
        let pool = self.pools.get(&set.domain);
        let mut ours = Vec::new();
        let mut named = HashSet::new();
        // Each id once: what is told and kept of a request is bounded by what the set leases, not by its length.
        for number in pasids.iter().filter(|number| named.insert(**number)) {
            let Some(pasid) = Pasid::new(*number) else {
                return Err(Refusal::invalid("pasid", number, "a PASID, 1 to 1048575").into());
            };
            match pool.and_then(|pool| pool.owner(pasid)) {
                // Done before a restart; who has it by now got it since.
                _ if freed.contains(&pasid) => {}
                Some(owner) if owner == id => ours.push(pasid),
                Some(_) => return Err(Refusal::ForeignPasid { pasid }.into()),
                None => {}
            }
        }
        if let Some(session) = session {
            self.put_all(id, session, &ours);
        }
        let set = self.set(id)?;
        let (pending, free): (Vec<Pasid>, Vec<Pasid>) =
            ours.into_iter().partition(|pasid| set.holders(*pasid, None) > 0);
        self.drop_aliases(id, &pending);
        self.drop_aliases(id, &free);
        self.pend(id, &pending);
        self.release(id, &free, tag);
        let set = self.set(id)?;
        let waiting: Vec<Pasid> = pending.into_iter().chain(free).filter(|pasid| set.pending.contains(pasid)).collect();
        if !waiting.is_empty() {
            // Names and references that ended with the lease are void without it. This lease goes on.
            self.settle();
        }
        Ok(waiting)
    }

    /// The id if this set leases it; else who does decides the refusal.
    pub(super) fn leased_here(&self, id: SetId, number: u32) -> Result<Pasid, Refusal> {
        let set = self.set(id)?;
        set.must_be_active()?;
        let pasid = Pasid::new(number).ok_or_else(|| Refusal::invalid("pasid", number, "a PASID, 1 to 1048575"))?;
        match self.pools.get(&set.domain).and_then(|pool| pool.owner(pasid)) {
            Some(owner) if owner == id => Ok(pasid),
            Some(_) => Err(Refusal::ForeignPasid { pasid }),
            None => Err(Refusal::not_found(format!("pasid {pasid}"))),
        }
    }

    /// Charges and carves: all or none, nothing left over where it is refused. Ids of `asked`, or of all of the set's range.
    ///
    /// `tag` is of the request, for its repetition after a restart.
    pub(super) fn lease(
        &mut self,
        id: SetId,
        count: u32,
        asked: Option<PasidRange>,
        tag: u64,
    ) -> Result<Vec<Pasid>, Failure> {
        let leased = self.try_lease(id, count, asked, tag);
        if let Err(Failure::Refused(refusal)) = &leased
            && let Some(set) = self.sets.get_mut(&id)
        {
            set.tell(WatchKind::Limit, &[], &refusal.to_string());
        }
        leased
    }

    fn try_lease(&mut self, id: SetId, count: u32, asked: Option<PasidRange>, tag: u64) -> Result<Vec<Pasid>, Failure> {
        let range = self.make_way(id, count, asked)?;
        let set = self.set(id)?;
        let (node, domain) = (Arc::clone(&set.node), set.domain);
        // Carved before they are charged: what the ids refuse has moved no counter, no peak either.
        let carve = |state: &mut Self| match state.pools.get_mut(&domain) {
            Some(pool) => pool.carve(id, count, range),
            None => Err(Refusal::NoSpace { domain, range, free: 0, asked: count }),
        };
        let pasids = match carve(self) {
            Ok(pasids) => pasids,
            Err(refusal) => {
                let lacking = self.ids_lacking(domain, count, range)?;
                if self.reclaim_ids(domain, lacking, range) == 0 {
                    return Err(refusal.into());
                }
                carve(self)?
            }
        };
        if let Some(pool) = self.pools.get_mut(&domain) {
            pool.enter(id, &pasids, tag)?;
        }
        // There is room, and whoever charges holds the lock.
        let charge = match node.try_charge(count.into()) {
            Ok(charge) => charge,
            Err(refusal) => {
                if let Some(pool) = self.pools.get_mut(&domain) {
                    pool.give_back(&pasids, 0);
                }
                return Err(refusal.into());
            }
        };
        self.set_mut(id)?.adopt(&pasids, charge);
        Ok(pasids)
    }

    /// Sees to it that the set can lease `count` ids more, by its quota and by every level. Unused leases that stand in the way
    /// are taken back, once it is sure that this is enough: who asks for what cannot be takes nothing from others. Gives the
    /// range that the ids are of.
    fn make_way(&mut self, id: SetId, count: u32, asked: Option<PasidRange>) -> Result<PasidRange, Failure> {
        let set = self.set(id)?;
        let (node, domain, path) = (Arc::clone(&set.node), set.domain, set.cgroup.clone());
        let over_quota = set.leased_count().saturating_add(count).saturating_sub(set.quota);
        let range = asked.map_or(Some(set.range), |asked| asked.intersect(set.range));
        if self.unused(&[id], over_quota, PasidRange::ALL) < over_quota {
            self.set(id)?.check_quota(count)?;
        }
        let short = node.room() < count.into();
        if let Some(obstacle) = short.then(|| self.hopeless(&node, count)).flatten() {
            return Err(self.limit_hit(obstacle, &path).into());
        }
        let Some(range) = range else {
            return Err(
                Refusal::NoSpace { domain, range: asked.unwrap_or(PasidRange::ALL), free: 0, asked: count }.into()
            );
        };
        if over_quota > 0 || short {
            self.ids_lacking(domain, count, range)?;
            self.take_back(id, over_quota, PasidRange::ALL);
            // A holder may have used meanwhile what it did not.
            self.set(id)?.check_quota(count)?;
            self.make_room(&node, count, &path)?;
        }
        Ok(range)
    }

    /// The nearest level that would have no room for `count` even if all unused leases at or below it were taken back.
    fn hopeless(&self, node: &Arc<Node>, count: u32) -> Option<Obstacle> {
        let levels = std::iter::once(node).chain(node.ancestors()).filter(|level| !level.is_root());
        let mut obstacles = levels.map(|level| Obstacle {
            node: Arc::clone(level),
            max: level.max(),
            current: level.current(),
            asked: count.into(),
        });
        obstacles.find(|obstacle| {
            let missing = obstacle.missing();
            self.unused(&self.mapped_below(&obstacle.node), missing, PasidRange::ALL) < missing
        })
    }

    /// How many ids of `range` have to be taken back for `count`; `NoSpace` where not even that is enough. Counts them all,
    /// so it is asked where something is in the way.
    fn ids_lacking(&mut self, domain: Domain, count: u32, range: PasidRange) -> Result<u32, Refusal> {
        let free = self.pools.get_mut(&domain).map_or(0, |pool| pool.available(range));
        let lacking = count.saturating_sub(free);
        if self.unused(&self.mapped_in(domain), lacking, range) < lacking {
            return Err(Refusal::NoSpace { domain, range, free, asked: count });
        }
        Ok(lacking)
    }

    /// Sees to it that `count` can be charged at every level; unused leases in the way are taken back first.
    fn make_room(&mut self, node: &Arc<Node>, count: u32, requester: &CgroupPath) -> Result<(), Refusal> {
        let obstacle = loop {
            if node.room() >= count.into() {
                return Ok(());
            }
            match node.probe_charge(count.into()) {
                Ok(_) => return Ok(()),
                Err(obstacle) if self.reclaim_charge(&obstacle.node, obstacle.missing()) == 0 => break obstacle,
                Err(_) => {}
            }
        };
        Err(self.limit_hit(obstacle, requester))
    }

    /// The refusal by a limit: counted, recorded, told.
    pub(super) fn limit_hit(&mut self, obstacle: Obstacle, requester: &CgroupPath) -> Refusal {
        let hit = Arc::clone(&obstacle.node);
        let refusal = obstacle.refuse();
        self.keep_counts(&hit);
        if let Refusal::LimitExceeded { cgroup, max, asked, .. } = &refusal {
            let requester_cgroup = requester.clone();
            let happening = Happening::LimitHit { cgroup: cgroup.clone(), max: *max, asked: *asked, requester_cgroup };
            self.events.emit(happening, now_usec());
            for level in std::iter::successors(Some(&hit), |node| node.parent()).filter(|node| !node.is_root()) {
                self.events.tell(&Notice::CgroupEvents(level.id()));
            }
        }
        refusal
    }

    /// Gives leased ids of a set back to their pool, and then the charge that paid for them. `tag` is of the request that
    /// asked for it, 0 where none did.
    pub(super) fn give_back(&mut self, id: SetId, pasids: &[Pasid], tag: u64) {
        if pasids.is_empty() {
            return;
        }
        self.drop_aliases(id, pasids);
        let Some(set) = self.sets.get_mut(&id) else { return };
        let (domain, node) = (set.domain, Arc::clone(&set.node));
        let charge = set.disown(pasids);
        if let Some(pool) = self.pools.get_mut(&domain) {
            pool.give_back(pasids, tag);
        }
        self.keep_counts(&node);
        drop(charge);
        self.prune_up(&node);
        self.events.tell(&Notice::SetChanged(id));
    }

    /// The last reference of a session on an id is put: an id that waited for it returns.
    pub(super) fn reference_put(&mut self, id: SetId, pasid: Pasid) {
        let Some(set) = self.sets.get(&id) else { return };
        if set.holders(pasid, None) == 0 && set.pending.contains(&pasid) {
            self.release(id, &[pasid], 0);
            self.bury_if_over(id);
        } else {
            self.refresh_held(id, pasid);
        }
    }
}
