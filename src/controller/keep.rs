//! How the state is written down while it changes, so that it outlives the service.
//!
//! The order in a request: descriptors are parked, then the record is made, then memory changes, then the reply. A
//! write that fails leaves memory as it was. What only ends is deferred: see `records`.

use super::entry::{CgroupRecord, Change, EndRecord, Entry, Key, OnLease, SessionRecord, SetRecord};
use super::ledger::{self, Ledger, Space};
use super::parking::{Parked, Parking};
use super::records::Records;
use super::set::Set;
use super::tally::Tally;
use super::{Controller, SessionId, SetEnd, State};
use crate::model::{CgroupId, Domain, Failure, Fault, Pasid, PasidRange, Refusal, SetId};
use crate::proto::Watch;
use crate::proto::message_ids::FAULT;
use crate::quota::Node;
use crate::sys::clock;
use crate::sys::exclusive::Exclusive;
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

/// One request of a session. With a key, numbers only go up, and the same number is the same request.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The session.
    pub session: SessionId,
    /// The number of the request.
    pub request: u64,
    /// The service's end of the session: parked where the session carries references.
    pub end: BorrowedFd<'a>,
}

/// A tag that only this request has: what it leased or freed is known by it after a restart.
///
/// Odd for ids that the request marks used, even for leases ahead. Never 0.
pub(super) fn request_tag(set: SetId, key: u64, request: u64) -> u64 {
    mix(key ^ mix(request ^ mix(set.0))) | 1
}

/// The finalizer of splitmix64: one to one, and every bit of the input reaches every bit of the output.
fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl Controller {
    /// Writes what was deferred: when there is nothing better to do, and before the end.
    pub fn settle(&self) {
        let mut state = self.lock();
        state.settle();
    }
}

impl State {
    /// A tag for a lease that no request will be repeated for.
    pub(super) fn fresh_tag(&mut self, used: bool) -> u64 {
        self.next_tag = self.next_tag.wrapping_add(1);
        let tag = mix(self.next_tag);
        if used { tag | 1 } else { (tag & !1).max(2) }
    }

    /// The tag of a session's request: its own where the session has a key.
    pub(super) fn tag_of(&mut self, id: SetId, asked: Option<&Asked<'_>>) -> u64 {
        let key = asked.and_then(|asked| Some((self.key_of(id, asked.session)?, asked.request)));
        match key {
            Some((key, request)) => request_tag(id, key, request),
            None => self.fresh_tag(true),
        }
    }

    /// The key of a session that can be opened again.
    pub(super) fn key_of(&self, id: SetId, session: SessionId) -> Option<u64> {
        self.sets.get(&id)?.sessions.get(&session).map(|session| session.key).filter(|key| *key != 0)
    }

    /// Whether the request was done before a restart that it is repeated after.
    pub(super) fn was_done(&self, id: SetId, asked: &Asked<'_>) -> bool {
        let Some(session) = self.sets.get(&id).and_then(|set| set.sessions.get(&asked.session)) else { return false };
        session.key != 0 && session.done == Some(asked.request)
    }

    /// The change that says the request is done; `None` for a session that cannot be opened again.
    pub(super) fn done(&self, id: SetId, asked: &Asked<'_>) -> Option<Change> {
        let session = self.sets.get(&id)?.sessions.get(&asked.session)?;
        let at = clock::monotonic_usec() / 1_000_000;
        let record = SessionRecord { uid: session.uid, done: asked.request, at, watch: session.watch.clone() };
        (session.key != 0).then_some(Change::Put(Entry::Session(id, session.key, record)))
    }

    /// Parks the end of a session that is about to carry something over a restart.
    pub(super) fn park_session(&mut self, id: SetId, asked: &Asked<'_>) -> Result<(), Failure> {
        let Some(key) = self.key_of(id, asked.session) else { return Ok(()) };
        let Some(keep) = &mut self.keep else { return Ok(()) };
        let Some(session) = self.sets.get_mut(&id).and_then(|set| set.sessions.get_mut(&asked.session)) else {
            return Ok(());
        };
        if !session.parked {
            keep.parking.park(Parked::Session(id, key), asked.end)?;
            session.parked = true;
        }
        Ok(())
    }

    /// The ids that the request with this tag leased before a restart, where it is that request again.
    ///
    /// A kill in the middle of a batch leaves a part of it: that is given back, and the request is done anew.
    pub(super) fn leased_before(&mut self, id: SetId, tag: u64, count: u32) -> Option<Vec<Pasid>> {
        let pasids = self.leased_before.remove(&tag)?;
        let set = self.sets.get(&id)?;
        let pool = self.pools.get(&set.domain)?;
        let ours = |pasid: &Pasid| set.leased.contains(pasid) && pool.tag(*pasid) == tag;
        let pasids: Vec<Pasid> = pasids.into_iter().filter(ours).collect();
        if pasids.len() == count as usize {
            return Some(pasids);
        }
        self.give_back(id, &pasids, 0);
        None
    }

    /// Notes that ids wait for the last reference on them.
    pub(super) fn pend(&mut self, id: SetId, pasids: &[Pasid]) {
        let Some(set) = self.sets.get_mut(&id) else { return };
        set.pending.extend(pasids);
        if let Some(pool) = self.pools.get(&set.domain) {
            pool.pend(id, pasids);
        }
    }

    /// Records a reference of a session on an id, before it is taken.
    pub(super) fn keep_hold(&mut self, id: SetId, asked: &Asked<'_>, pasid: Pasid, count: u32) -> Result<(), Failure> {
        let Some(key) = self.key_of(id, asked.session) else { return Ok(()) };
        self.park_session(id, asked)?;
        let on = OnLease { pasid, tag: self.lease_tag(id, pasid), count };
        Ok(self.record_done(id, asked, Change::Put(Entry::Hold(id, key, on)))?)
    }

    /// Records that a reference was put. It is put also where that cannot be written yet.
    pub(super) fn keep_put(&mut self, id: SetId, asked: &Asked<'_>, pasid: Pasid, count: u32) {
        let Some(key) = self.key_of(id, asked.session) else { return };
        let on = OnLease { pasid, tag: self.lease_tag(id, pasid), count };
        let change = match count {
            0 => Change::Remove(Key::Hold(id, key, pasid)),
            _ => Change::Put(Entry::Hold(id, key, on)),
        };
        if let Err(fault) = self.record_done(id, asked, change.clone()) {
            tracing::error!(MESSAGE_ID = FAULT, %fault, "the records are behind");
            self.defer(change);
        }
    }

    /// Puts all references of a session on ids that it frees.
    pub(super) fn put_all(&mut self, id: SetId, session: SessionId, pasids: &[Pasid]) {
        let Some(own) = self.sets.get_mut(&id).and_then(|set| set.sessions.get_mut(&session)) else { return };
        let key = own.key;
        let held: Vec<Pasid> = pasids.iter().copied().filter(|pasid| own.holds.remove(pasid).is_some()).collect();
        if key != 0 {
            // The lease they were on ends now: what is not removed yet is void.
            held.into_iter().for_each(|pasid| self.defer(Change::Remove(Key::Hold(id, key, pasid))));
        }
    }

    /// Records an alias before it is given.
    pub(super) fn keep_alias(&mut self, id: SetId, asked: &Asked<'_>, alias: u64, pasid: Pasid) -> Result<(), Fault> {
        let on = OnLease { pasid, tag: self.lease_tag(id, pasid), count: 1 };
        self.record_done(id, asked, Change::Put(Entry::Alias(id, alias, on)))
    }

    /// Records that an alias is forgotten, before it is.
    pub(super) fn keep_no_alias(&mut self, id: SetId, asked: &Asked<'_>, alias: u64) -> Result<(), Fault> {
        self.record_done(id, asked, Change::Remove(Key::Alias(id, alias)))
    }

    /// Forgets the aliases of ids.
    pub(super) fn drop_aliases(&mut self, id: SetId, pasids: &[Pasid]) {
        let Some(set) = self.sets.get_mut(&id).filter(|set| !set.aliases.is_empty()) else { return };
        let of_ids = set.aliases.iter().filter(|(_, pasid)| pasids.contains(pasid));
        let dropped: Vec<u64> = of_ids.map(|(alias, _)| *alias).collect();
        set.aliases.retain(|_, pasid| !pasids.contains(pasid));
        dropped.into_iter().for_each(|alias| self.defer(Change::Remove(Key::Alias(id, alias))));
    }

    /// Records what a session watches.
    pub(super) fn keep_watch(&mut self, id: SetId, asked: &Asked<'_>, call: &Watch) -> Result<(), Failure> {
        self.park_session(id, asked)?;
        let Some(session) = self.sets.get_mut(&id).and_then(|set| set.sessions.get_mut(&asked.session)) else {
            return Err(Refusal::not_found("this session").into());
        };
        let before = session.watch.replace((asked.request, call.clone()));
        let Some(change) = self.done(id, asked) else { return Ok(()) };
        if let Err(fault) = self.record(&[change]) {
            if let Some(session) = self.sets.get_mut(&id).and_then(|set| set.sessions.get_mut(&asked.session)) {
                session.watch = before;
            }
            return Err(fault.into());
        }
        self.note_recorded(id, asked.session);
        Ok(())
    }

    /// Records a change, and that the request that asked for it is done.
    fn record_done(&mut self, id: SetId, asked: &Asked<'_>, change: Change) -> Result<(), Fault> {
        if self.keep.is_none() {
            return Ok(());
        }
        let changes: Vec<Change> = std::iter::once(change).chain(self.done(id, asked)).collect();
        self.record(&changes)?;
        self.note_recorded(id, asked.session);
        Ok(())
    }

    fn note_recorded(&mut self, id: SetId, session: SessionId) {
        if let Some(session) = self.sets.get_mut(&id).and_then(|set| set.sessions.get_mut(&session)) {
            session.recorded = true;
        }
    }

    fn lease_tag(&self, id: SetId, pasid: Pasid) -> u64 {
        let pool = self.sets.get(&id).and_then(|set| self.pools.get(&set.domain));
        pool.map_or(0, |pool| pool.tag(pasid))
    }

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

    /// Forgets what is kept of a session that ended.
    pub(super) fn forget_session(&mut self, id: SetId, session: &super::set::Session) {
        if session.key == 0 || self.keep.is_none() {
            return;
        }
        if session.parked {
            self.end_parked(Parked::Session(id, session.key));
        }
        if session.recorded || session.parked {
            for pasid in session.holds.keys() {
                self.defer(Change::Remove(Key::Hold(id, session.key, *pasid)));
            }
            self.defer(Change::Remove(Key::Session(id, session.key)));
        }
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
        if self.keep.as_ref().is_some_and(|keep| keep.records.is_broken()) {
            let entries = self.entries();
            if let Some(keep) = &mut self.keep {
                keep.records.write_anew(&entries)?;
            }
        }
        let Some(keep) = &mut self.keep else { return Ok(()) };
        keep.records.commit(changes)?;
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
