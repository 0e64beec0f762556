//! A set: its ids, who holds them, and what it costs.

use super::entry::EndRecord;
use super::watch::{Quiesce, Watcher};
use crate::model::{CgroupId, CgroupPath, Domain, Pasid, PasidRange, Refusal, SetId, SetState};
use crate::proto::SetInfo;
use crate::quota::{Charge, Node};
use crate::shm::SetRegion;
use crate::sys::socket_diag::SocketName;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The number of a session, unique while the service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub(super) u64);

/// An FD of a set, as the service knows it.
///
/// The holders' end is never kept here: its last close is what ends the set. The service's end belongs to the edge that
/// listens on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetEnd {
    /// The set.
    pub set: SetId,
    /// The holders' end in the kernel's table: by its cookie a presented FD is told from a forgery, and by both the
    /// kernel is asked whether it still exists.
    pub name: SocketName,
    /// Which of the set's FDs it is.
    pub(super) serial: u32,
}

/// A session on a set FD.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// Who opened it, for the guard.
    pub(super) uid: u32,
    /// References it took, by id.
    pub(super) holds: BTreeMap<Pasid, u32>,
    /// By which it is opened again after a restart; 0 where it cannot be.
    pub(super) key: u64,
    /// The last request that was done before a restart: repeated, it is done already.
    pub(super) done: Option<u64>,
    /// Its end is left with the service manager.
    pub(super) parked: bool,
    /// The records know it.
    pub(super) recorded: bool,
    /// What it watches, and the number of the request that said so.
    pub(super) watch: Option<(u64, crate::proto::Watch)>,
}

/// A group of PASIDs with one owner cgroup, one quota, one domain.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) id: SetId,
    pub(super) label: String,
    pub(super) owner_uid: u32,
    /// The cgroup it was asked from; who opens it again must be there.
    pub(super) creator_cgroup: CgroupId,
    pub(super) rule: String,
    pub(super) quota: u32,
    /// What `set-quota` may go up to.
    pub(super) quota_max: u32,
    pub(super) range: PasidRange,
    pub(super) domain: Domain,
    pub(super) created_usec: u64,
    pub(super) node: Arc<Node>,
    pub(super) cgroup: CgroupPath,
    /// What all of `leased` costs; `None` while that is nothing.
    pub(super) charge: Option<Charge>,
    pub(super) leased: BTreeSet<Pasid>,
    /// Freed, but held by sessions: charged until the last put.
    pub(super) pending: BTreeSet<Pasid>,
    pub(super) aliases: BTreeMap<u64, Pasid>,
    pub(super) sessions: HashMap<SessionId, Session>,
    pub(super) ends: Vec<SetEnd>,
    /// FDs that it had before a restart and that did not come back.
    pub(super) ends_before: Vec<EndRecord>,
    /// The request that opened the device file that holds the set; `None` where no open file does.
    pub(super) device_file: Option<u64>,
    pub(super) region: Option<SetRegion>,
    /// Sessions that are told what happens here.
    pub(super) watchers: BTreeMap<SessionId, Watcher>,
    /// Ids that a snapshot called in use. Until the watch ends they go back by a free that is told and no other way, also
    /// where a holder released one in the very moment of the snapshot and the region calls it unused.
    pub(super) told_in_use: BTreeSet<Pasid>,
    /// The serial of the last event that watchers could be told.
    pub(super) serial: u64,
    /// Ids on their way through the phases, by the serial of the event that is waited for.
    pub(super) quiescing: BTreeMap<u64, Quiesce>,
    /// Ids that are bound to a device, as holders say.
    pub(super) bound: BTreeSet<Pasid>,
    pub(super) state: SetState,
    /// Why it is no longer active.
    pub(super) reason: String,
    /// Revoked by an administrator: its ids were given back, not left to the last close.
    pub(super) surrendered: bool,
    /// It has, or had, a region, which is parked.
    pub(super) mapped: bool,
    /// The number of its next FD.
    pub(super) next_end: u32,
    /// Nothing is left of it but sessions to be told so.
    pub(super) gone: bool,
}

impl Set {
    /// Refuses what is asked of a set that was revoked or whose last FD is closed.
    pub(super) fn must_be_active(&self) -> Result<(), Refusal> {
        match self.state {
            SetState::Active => Ok(()),
            SetState::Revoked | SetState::Draining => Err(self.revoked()),
        }
    }

    /// The refusal that says it was revoked.
    pub(super) fn revoked(&self) -> Refusal {
        Refusal::Revoked { set: self.id, reason: self.reason.clone() }
    }

    /// How many ids it leases.
    pub(super) fn leased_count(&self) -> u32 {
        u32::try_from(self.leased.len()).unwrap_or(u32::MAX)
    }

    /// Ids that are allocated, in order: what the region says where it is mapped, for those it leases.
    pub(super) fn in_use(&self) -> Vec<Pasid> {
        match &self.region {
            Some(region) => self.leased.iter().copied().filter(|id| region.is_used(*id)).collect(),
            None => self.leased.iter().copied().collect(),
        }
    }

    /// How many references sessions hold on `pasid`, those of `except` left out.
    pub(super) fn holders(&self, pasid: Pasid, except: Option<SessionId>) -> u32 {
        let held = self.sessions.iter().filter(|(id, _)| Some(**id) != except);
        held.filter_map(|(_, session)| session.holds.get(&pasid)).sum()
    }

    /// Whether freeing the id takes the service: a session holds it, or it has an alias.
    pub(super) fn is_held(&self, pasid: Pasid) -> bool {
        self.holders(pasid, None) > 0 || self.aliases.values().any(|other| *other == pasid)
    }

    /// Tells the region that freeing the id takes the service from now on; `false` where a holder that maps the set does
    /// not use the id: then nothing is to be hung on it.
    pub(super) fn mark_held(&self, pasid: Pasid) -> bool {
        let Some(region) = &self.region else { return true };
        let used = region.hold(pasid);
        if !used {
            region.set_held(pasid, self.is_held(pasid));
        }
        used
    }

    /// Refuses where one more would exceed the quota; says nothing of the cgroup.
    pub(super) fn check_quota(&self, asked: u32) -> Result<(), Refusal> {
        let leased = self.leased_count();
        if leased.checked_add(asked).is_some_and(|sum| sum <= self.quota) {
            return Ok(());
        }
        Err(Refusal::QuotaExceeded { set: self.id, quota: self.quota, leased, asked })
    }

    /// Puts ids that were carved under the charge that pays for them.
    pub(super) fn adopt(&mut self, ids: &[Pasid], charge: Charge) {
        match &mut self.charge {
            Some(sum) => {
                // Both are on the set's node; a charge on another would come back and be dropped: given back.
                let _ = sum.merge(charge);
            }
            none => *none = Some(charge),
        }
        self.leased.extend(ids);
    }

    /// Forgets ids with all that hangs on them and gives the charge that paid for them: to be dropped after the ids
    /// are back in their pool, so that no counter claims free what is still taken.
    pub(super) fn disown(&mut self, ids: &[Pasid]) -> Option<Charge> {
        let mut count = 0;
        for id in ids {
            if self.leased.remove(id) {
                count += 1;
                self.pending.remove(id);
                self.told_in_use.remove(id);
                self.bound.remove(id);
                if let Some(region) = &self.region {
                    region.clear(*id);
                }
            }
        }
        if self.aliases.values().any(|id| ids.contains(id)) {
            self.aliases.retain(|_, id| !ids.contains(id));
        }
        if self.leased.is_empty() {
            return self.charge.take();
        }
        self.charge.as_mut().and_then(|sum| sum.split(count))
    }

    /// The set for people and programs; `ids` too.
    pub(super) fn info(&self, ids: bool) -> SetInfo {
        let in_use = self.in_use();
        SetInfo {
            set: self.id,
            label: self.label.clone(),
            cgroup: self.cgroup.clone(),
            cgroup_id: self.node.id(),
            owner_uid: self.owner_uid,
            domain: self.domain,
            quota: self.quota,
            leased: self.leased_count(),
            in_use: u32::try_from(in_use.len()).unwrap_or(u32::MAX),
            state: self.state,
            created_usec: self.created_usec,
            rule: self.rule.clone(),
            pasids: ids.then_some(in_use),
        }
    }
}
