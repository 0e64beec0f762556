//! Sets that their holders map: ids leased ahead, claimed without a system call, taken back when they are in the way.
//!
//! What is leased and charged stands in the set; the region only tells holders so, and says what they use. A
//! holder that scribbles on it hurts its own set: an id that the region calls used is not taken back, one that it
//! calls unused is, and no word of it reaches another set.

use super::parking::Parked;
use super::set::Set;
use super::{Controller, Notice, State, descriptor_failure, refuse_when_scarce};
use crate::model::{Domain, Failure, Fault, Pasid, PasidRange, Refusal, SetId};
use crate::proto::{Mapped, WatchKind};
use crate::quota::Node;
use crate::shm::SetRegion;
use std::os::fd::{AsFd, OwnedFd};

impl Controller {
    /// The region of a set, made when it is first asked for: its memfd, to send to a holder.
    ///
    /// `TooMany` where the service has no descriptors or memory left.
    pub fn map_set(&self, id: SetId) -> Result<(Mapped, OwnedFd), Failure> {
        let mut state = self.lock();
        let set = state.set(id)?;
        set.must_be_active()?;
        let failed = |e| descriptor_failure(e, "map a set");
        if set.region.is_none() {
            let pool = state.pools.get(&set.domain).ok_or_else(|| Fault::new("a set without a pool"))?;
            let region = SetRegion::create(id, pool.range().count()).map_err(failed)?;
            refuse_when_scarce(region.as_fd())?;
            set.leased.iter().for_each(|pasid| region.lease(*pasid, true));
            let held = set.leased.iter().filter(|pasid| set.is_held(**pasid));
            held.for_each(|pasid| region.set_held(*pasid, true));
            state.park(Parked::Region(id), region.as_fd())?;
            let set = state.set_mut(id)?;
            set.mapped = true;
            set.region = Some(region);
            set.flag_watched();
            state.mapped.insert(id);
        }
        let region = state.set(id)?.region.as_ref().ok_or_else(|| Fault::new("a region that was just made"))?;
        let file = region.as_fd().try_clone_to_owned().map_err(failed)?;
        Ok((Mapped { set: id, bytes: region.bytes() as u64 }, file))
    }

    /// Leases up to `count` ids ahead for a holder that maps the set, at least one, unused in the region.
    ///
    /// Bounded by the policy's `batch`, the set's quota, the room in its cgroups and the ids that are free.
    pub fn refill(&self, id: SetId, count: u32, range: Option<PasidRange>) -> Result<u32, Failure> {
        let mut state = self.lock();
        self.must_be_usable(&state, id)?;
        let set = state.set(id)?;
        if set.region.is_none() {
            return Err(Refusal::Unsupported { what: "refill".into(), why: "the set is not mapped".into() }.into());
        }
        let quota_room = set.quota.saturating_sub(set.leased_count());
        let tree_room = u32::try_from(set.node.room()).unwrap_or(u32::MAX);
        let (domain, within) = (set.domain, range.map_or(Some(set.range), |asked| asked.intersect(set.range)));
        let batch = state.policy.lease.batch;
        let free = within.and_then(|range| Some(state.pools.get_mut(&domain)?.available(range))).unwrap_or(0);
        let wanted = count.min(batch).min(quota_room).min(tree_room).min(free).max(1);
        let tag = state.fresh_tag(false);
        let pasids = state.lease(id, wanted, range, tag)?;
        if let Some(region) = state.set(id)?.region.as_ref() {
            pasids.iter().for_each(|pasid| region.lease(*pasid, false));
        }
        state.set_mut(id)?.tell(WatchKind::Alloc, &pasids, "leased ahead");
        state.events.tell(&Notice::SetChanged(id));
        Ok(wanted)
    }

    /// Gives unused leases of the set back, and says how many.
    pub fn trim(&self, id: SetId) -> Result<u32, Failure> {
        let mut state = self.lock();
        state.set(id)?.must_be_active()?;
        Ok(state.take_back(id, u32::MAX, PasidRange::ALL))
    }
}

impl State {
    /// Takes back unused leases of mapped sets that are charged at or below `level`.
    pub(super) fn reclaim_charge(&mut self, level: &Node, wanted: u32) -> u32 {
        self.reclaim(&self.mapped_below(level), wanted, PasidRange::ALL)
    }

    /// Takes back unused leases of mapped sets of a domain, in `range`.
    pub(super) fn reclaim_ids(&mut self, domain: Domain, wanted: u32, range: PasidRange) -> u32 {
        self.reclaim(&self.mapped_in(domain), wanted, range)
    }

    /// The mapped sets that are charged at or below `level`.
    pub(super) fn mapped_below(&self, level: &Node) -> Vec<SetId> {
        let below = |node: &Node| node.id() == level.id() || node.ancestors().iter().any(|a| a.id() == level.id());
        self.mapped_where(|set| below(&set.node))
    }

    /// The mapped sets of a domain.
    pub(super) fn mapped_in(&self, domain: Domain) -> Vec<SetId> {
        self.mapped_where(|set| set.domain == domain)
    }

    fn mapped_where(&self, wanted: impl Fn(&Set) -> bool) -> Vec<SetId> {
        let sets = self.mapped.iter().filter_map(|id| self.sets.get(id));
        sets.filter(|set| wanted(set)).map(|set| set.id).collect()
    }

    pub(super) fn reclaim(&mut self, ids: &[SetId], wanted: u32, range: PasidRange) -> u32 {
        let mut taken = 0;
        for id in ids {
            if taken >= wanted {
                break;
            }
            taken += self.take_back(*id, wanted - taken, range);
        }
        taken
    }

    /// How many leases of these sets in `range` could be taken back, as far as the regions say; counted up to `wanted`.
    pub(super) fn unused(&self, ids: &[SetId], wanted: u32, range: PasidRange) -> u32 {
        if wanted == 0 {
            return 0;
        }
        let sets = ids.iter().filter_map(|id| self.sets.get(id));
        let unused = sets.flat_map(|set| {
            let region = set.region.as_ref();
            loose(set, range).filter(move |pasid| region.is_some_and(|region| !region.is_used(*pasid)))
        });
        u32::try_from(unused.take(wanted as usize).count()).unwrap_or(wanted)
    }

    /// Takes back at most `wanted` leases in `range` that the set's holders do not use, and says how many.
    pub(super) fn take_back(&mut self, id: SetId, wanted: u32, range: PasidRange) -> u32 {
        let Some(set) = self.sets.get(&id) else { return 0 };
        let Some(region) = &set.region else { return 0 };
        let loose = loose(set, range);
        let taken: Vec<Pasid> = loose.filter(|pasid| region.take_back(*pasid)).take(wanted as usize).collect();
        let count = u32::try_from(taken.len()).unwrap_or(u32::MAX);
        self.give_back(id, &taken, 0);
        count
    }

    /// Tells the region whether freeing the id takes the service.
    pub(super) fn refresh_held(&mut self, id: SetId, pasid: Pasid) {
        let Some(set) = self.sets.get(&id) else { return };
        if let Some(region) = &set.region {
            region.set_held(pasid, set.is_held(pasid));
        }
    }
}

/// The leases of a set in `range` that nothing but the holders' use keeps.
fn loose(set: &Set, range: PasidRange) -> impl Iterator<Item = Pasid> {
    let bound_to_stay = |pasid: &Pasid| set.pending.contains(pasid) || set.told_in_use.contains(pasid);
    let candidates = set.leased.iter().copied().filter(move |pasid| range.contains(pasid.get()));
    candidates.filter(move |pasid| !bound_to_stay(pasid) && set.holders(*pasid, None) == 0)
}
