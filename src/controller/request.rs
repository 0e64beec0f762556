//! What one request of a session leaves behind, so that it is done once: its tag, its number, what it changed.
//!
//! A holder repeats a request that a restart came in between of. What was leased or freed is known again by the
//! request's tag, everything else by the number that was recorded with it. How that is written: see `keep`.

use super::entry::{Change, Entry, Key, OnLease, SessionRecord};
use super::parking::Parked;
use super::set::Session;
use super::{SessionId, State};
use crate::model::{Failure, Fault, Pasid, Refusal, SetId};
use crate::proto::Watch;
use crate::sys::clock;
use std::collections::HashSet;
use std::os::fd::BorrowedFd;

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

    /// Records that a reference is put, `count` are left, before it is.
    pub(super) fn keep_put(&mut self, id: SetId, asked: &Asked<'_>, pasid: Pasid, count: u32) -> Result<(), Fault> {
        let Some(key) = self.key_of(id, asked.session) else { return Ok(()) };
        let on = OnLease { pasid, tag: self.lease_tag(id, pasid), count };
        let change = match count {
            0 => Change::Remove(Key::Hold(id, key, pasid)),
            _ => Change::Put(Entry::Hold(id, key, on)),
        };
        self.record_done(id, asked, change)
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
        // Both may be thousands.
        let pasids: HashSet<&Pasid> = pasids.iter().collect();
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

    /// Forgets what is kept of a session that ended.
    pub(super) fn forget_session(&mut self, id: SetId, session: &Session) {
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
}
