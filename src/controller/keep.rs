//! How the state is written down while it changes, so that it outlives the service.
//!
//! The order in a request: descriptors are parked, then the record is made, then memory changes, then the reply. A
//! write that fails leaves memory as it was. What only ends is deferred: see `records`. What a request of a session adds,
//! so that it is done once: see `request`.

use super::entry::{CgroupRecord, Change, EndRecord, Entry, Key, OnLease, SessionRecord, SetRecord};
use super::ledger::{self, Ledger, Space};
use super::parking::{Parked, Parking};
use super::records::Records;
use super::set::Set;
use super::tally::Tally;
use super::{Controller, SetEnd, State};
use crate::model::{CgroupId, Domain, Failure, Fault, Pasid, PasidRange, SetId};
use crate::proto::message_ids::FAULT;
use crate::quota::Node;
use crate::sys::exclusive::Exclusive;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// So many deferred changes are written without waiting for another reason.
const DEFERRED_AT_MOST: usize = 256;

/// Where everything is written down.
#[derive(Debug)]
pub(super) struct Keep {
    pub(super) dir: PathBuf,
    pub(super) boot: String,
    pub(super) records: Records,
    pub(super) tally: Tally,
    pub(super) parking: Parking,
    /// Dropped last: until then the directory is nobody else's.
    pub(super) _exclusive: Exclusive,
}

impl Controller {
    /// Writes what was deferred: when there is nothing better to do, and before the end.
    pub fn settle(&self) {
        let mut state = self.lock();
        state.settle();
    }
}

impl State {
    /// Records the limits of a cgroup as they are now.
    pub(super) fn keep_limit(&mut self, node: &Arc<Node>) -> Result<(), Fault> {
        let Some(keep) = &mut self.keep else { return Ok(()) };
        keep.tally.ensure(node)?;
        self.record(&[Change::Put(cgroup_entry(node))])?;
        self.kept_cgroup(node);
        Ok(())
    }

    /// Records a set's new cgroup.
    pub(super) fn keep_move(&mut self, id: SetId) -> Result<(), Fault> {
        let Some(set) = self.sets.get(&id) else { return Ok(()) };
        let (record, node) = (set.record(), Arc::clone(&set.node));
        let mut changes = vec![Change::Put(Entry::Set(id, record))];
        changes.extend(self.keep_cgroup(&node)?);
        self.record(&changes)?;
        self.kept_cgroup(&node);
        Ok(())
    }

    /// Parks the service's end of a set FD.
    pub(super) fn park_end(&mut self, end: &SetEnd, service: BorrowedFd<'_>) -> Result<(), Failure> {
        self.park(Parked::End(end.set, end.serial), service)
    }

    /// Leaves a copy of a descriptor with the service manager.
    pub(super) fn park(&mut self, what: Parked, fd: BorrowedFd<'_>) -> Result<(), Failure> {
        self.keep.as_mut().map_or(Ok(()), |keep| keep.parking.park(what, fd))
    }

    /// Takes out what was parked for something that did not come to be.
    pub(super) fn unpark(&mut self, what: Parked) {
        if let Some(keep) = &mut self.keep {
            keep.parking.take_out(what);
        }
    }

    /// Takes out what was parked once the records say that it ended.
    pub(super) fn end_parked(&mut self, what: Parked) {
        if let Some(keep) = &mut self.keep {
            keep.parking.ended(what);
        }
    }

    /// Records a set as it is going to be.
    pub(super) fn record_set(&mut self, id: SetId, record: SetRecord) -> Result<(), Fault> {
        self.record(&[Change::Put(Entry::Set(id, record))])
    }

    /// Records a set that is made, and its cgroup where it is the first there.
    pub(super) fn record_new(&mut self, set: &Set) -> Result<(), Fault> {
        let mut changes = vec![Change::Put(Entry::Set(set.id, set.record()))];
        changes.extend(self.keep_cgroup(&set.node)?);
        self.record(&changes)?;
        self.kept_cgroup(&set.node);
        Ok(())
    }

    /// Forgets what is kept of a set that is gone, once something is written anyway.
    pub(super) fn forget_set(&mut self, id: SetId) {
        let Some(set) = self.sets.get(&id) else { return };
        let (aliases, mapped): (Vec<u64>, bool) = (set.aliases.keys().copied().collect(), set.mapped);
        for alias in aliases {
            self.defer(Change::Remove(Key::Alias(id, alias)));
        }
        if mapped {
            self.end_parked(Parked::Region(id));
        }
        self.defer(Change::Remove(Key::Set(id)));
    }

    /// Writes changes, and all that was deferred, before anything else happens.
    pub(super) fn record(&mut self, changes: &[Change]) -> Result<(), Fault> {
        let broken = self.keep.as_ref().is_some_and(|keep| keep.records.is_broken());
        let entries = if broken { self.entries() } else { Vec::new() };
        let Some(keep) = &mut self.keep else { return Ok(()) };
        if broken {
            keep.records.write_anew(entries, changes)?;
        } else {
            keep.records.commit(changes)?;
        }
        keep.parking.settle();
        Ok(())
    }

    /// Leaves a change to the next transaction.
    pub(super) fn defer(&mut self, change: Change) {
        let Some(keep) = &mut self.keep else { return };
        keep.records.defer(change);
        // Again after as many more, where it fails: while there is no room each try costs all that is known.
        if keep.records.deferred().is_multiple_of(DEFERRED_AT_MOST) {
            self.settle();
        }
    }

    /// Writes what was deferred. Where that fails it is tried again with the next change.
    pub(super) fn settle(&mut self) {
        if self.keep.as_ref().is_none_or(|keep| keep.records.deferred() == 0) {
            return;
        }
        if let Err(fault) = self.record(&[]) {
            tracing::error!(MESSAGE_ID = FAULT, %fault, "the records are behind");
        }
    }

    /// Everything that the records should say.
    fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for set in self.sets.values().filter(|set| !set.gone) {
            entries.push(Entry::Set(set.id, set.record()));
            let tag = |pasid: Pasid| self.pools.get(&set.domain).map_or(0, |pool| pool.tag(pasid));
            let on = |pasid: Pasid, count: u32| OnLease { pasid, tag: tag(pasid), count };
            entries.extend(set.aliases.iter().map(|(alias, pasid)| Entry::Alias(set.id, *alias, on(*pasid, 1))));
            for session in set.sessions.values().filter(|session| session.key != 0 && session.parked) {
                let holds = session.holds.iter();
                entries.extend(holds.map(|(pasid, count)| Entry::Hold(set.id, session.key, on(*pasid, *count))));
                let (done, watch) = (session.done.unwrap_or(0), session.watch.clone());
                let record = SessionRecord { uid: session.uid, done, at: 0, watch };
                entries.push(Entry::Session(set.id, session.key, record));
            }
        }
        for node in self.tree.nodes() {
            if self.needs_record(&node) {
                entries.push(cgroup_entry(&node));
            }
        }
        entries
    }

    fn needs_record(&self, node: &Node) -> bool {
        let limits = node.limits();
        let limited = limits.administrator.is_some() || limits.delegated.is_some();
        !node.is_root() && (limited || self.recorded_cgroups.contains(&node.id()))
    }

    /// The change that records a cgroup, where it is not recorded yet; its counters get their slots.
    pub(super) fn keep_cgroup(&mut self, node: &Arc<Node>) -> Result<Option<Change>, Fault> {
        let Some(keep) = &mut self.keep else { return Ok(None) };
        keep.tally.ensure(node)?;
        let known = node.is_root() || self.recorded_cgroups.contains(&node.id());
        Ok((!known).then(|| Change::Put(cgroup_entry(node))))
    }

    /// Notes that the change of [`State::keep_cgroup`] is written.
    pub(super) fn kept_cgroup(&mut self, node: &Node) {
        if self.keep.is_some() && !node.is_root() {
            self.recorded_cgroups.insert(node.id());
        }
    }

    /// Writes peaks and events of a cgroup and those above it, where they changed.
    pub(super) fn keep_counts(&mut self, node: &Arc<Node>) {
        if let Some(keep) = &mut self.keep
            && let Err(fault) = keep.tally.keep(node)
        {
            tracing::error!(MESSAGE_ID = FAULT, %fault, "counters are behind");
        }
    }

    /// Forgets what is kept of cgroups that are gone and cost nothing any more.
    pub(super) fn forget_cgroups(&mut self, gone: &[Arc<Node>]) {
        for node in gone {
            if let Some(keep) = &mut self.keep {
                keep.tally.forget(node.id());
            }
            if self.recorded_cgroups.remove(&node.id()) {
                self.defer(Change::Remove(Key::Cgroup(node.id())));
            }
        }
    }

    /// A ledger for a new pool.
    pub(super) fn make_ledger(
        &self,
        domain: Domain,
        bits: u32,
        reserved: &[PasidRange],
    ) -> Result<Option<Ledger>, Fault> {
        let Some(keep) = &self.keep else { return Ok(None) };
        let space = Space { boot: keep.boot.clone(), domain, bits, reserved: reserved.to_vec() };
        ledger::Ledger::create(&keep.dir, &space).map(Some)
    }
}

/// What is recorded of a cgroup.
pub(super) fn cgroup_entry(node: &Node) -> Entry {
    let limits = node.limits();
    let above = node.ancestors().iter().rev().filter(|level| !level.is_root());
    let mut lineage: Vec<_> = above.map(|level| (level.id(), level.path().clone())).collect();
    lineage.push((node.id(), node.path().clone()));
    let record = CgroupRecord { lineage, administrator: limits.administrator, delegated: limits.delegated };
    Entry::Cgroup(node.id(), record)
}

impl Set {
    /// A set as a record has it, without what stands elsewhere: ids, charge, sessions, descriptors.
    pub(super) fn of_record(id: SetId, record: SetRecord, node: Arc<Node>) -> Self {
        Self {
            id,
            label: record.label,
            owner_uid: record.owner_uid,
            creator_cgroup: record.creator_cgroup,
            rule: record.rule,
            quota: record.quota,
            quota_max: record.quota_max,
            range: record.range,
            domain: record.domain,
            created_usec: record.created_usec,
            cgroup: node.path().clone(),
            node,
            charge: None,
            leased: BTreeSet::new(),
            pending: BTreeSet::new(),
            aliases: BTreeMap::new(),
            sessions: HashMap::new(),
            ends: Vec::new(),
            ends_before: record.ends,
            device_file: record.device_file,
            region: None,
            watchers: BTreeMap::new(),
            told_in_use: BTreeSet::new(),
            serial: 0,
            quiescing: BTreeMap::new(),
            bound: BTreeSet::new(),
            state: record.state,
            reason: record.reason,
            surrendered: record.surrendered,
            mapped: false,
            next_end: record.next_end,
            gone: false,
        }
    }

    /// What is recorded of it.
    pub(super) fn record(&self) -> SetRecord {
        SetRecord {
            label: self.label.clone(),
            owner_uid: self.owner_uid,
            creator_cgroup: self.creator_cgroup,
            rule: self.rule.clone(),
            quota: self.quota,
            quota_max: self.quota_max,
            range: self.range,
            domain: self.domain,
            created_usec: self.created_usec,
            cgroup: self.cgroup_id(),
            state: self.state,
            reason: self.reason.clone(),
            surrendered: self.surrendered,
            next_end: self.next_end,
            device_file: self.device_file,
            ends: self.ends.iter().map(EndRecord::from).collect(),
        }
    }

    fn cgroup_id(&self) -> CgroupId {
        self.node.id()
    }
}

impl From<&SetEnd> for EndRecord {
    fn from(end: &SetEnd) -> Self {
        Self { serial: end.serial, inode: end.name.inode, cookie: end.name.cookie }
    }
}
