//! Sessions that watch a set, and the order in which an id's users are quiesced before it rests.
//!
//! An id that is freed while somebody watches goes through the phases CPU, DEVICE, IOMMU, LAST: the watchers of a phase
//! are told, and the next phase begins when each has acknowledged, ended, or let its time pass. Until then the id is
//! `free-pending`. Without a watcher of FREE it goes back at once. Serials count up per set under the controller's
//! lock, and a snapshot is taken under it too: nothing is lost or told twice.

use super::{Asked, Controller, Notice, SessionId, State};
use crate::model::{Failure, Pasid, Refusal, SetId};
use crate::proto::{self, Phase, Snapshot, WatchEvent, WatchKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest a phase waits for one watcher.
const LONGEST: Duration = Duration::from_secs(10);

const PHASES: [Phase; 4] = [Phase::Cpu, Phase::Device, Phase::Iommu, Phase::Last];

/// Hands an event to a session; all watchers share one. Called under the controller's lock: queues it and returns at
/// once.
pub type Teller = Box<dyn Fn(Arc<WatchEvent>) + Send + Sync>;

/// A session's subscription.
pub(super) struct Watcher {
    /// Empty: all.
    kinds: Vec<WatchKind>,
    phase: Phase,
    timeout: Duration,
    teller: Teller,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").field("phase", &self.phase).finish_non_exhaustive()
    }
}

impl Watcher {
    fn wants(&self, kind: WatchKind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }
}

/// Ids on their way through the phases.
#[derive(Debug)]
pub(super) struct Quiesce {
    pasids: Vec<Pasid>,
    phase: Phase,
    /// Who has not acknowledged, and until when it may.
    waiting: BTreeMap<SessionId, Instant>,
}

impl Controller {
    /// Subscribes a session to a set's events; the snapshot is where they go on from. A second watch replaces the first.
    ///
    /// It goes on over a restart of the service, where the session has a key: see [`Controller::watch_again`].
    pub fn watch(
        &self,
        id: SetId,
        asked: &Asked<'_>,
        call: &proto::Watch,
        teller: Teller,
    ) -> Result<Snapshot, Failure> {
        let timeout = Duration::from_millis(call.timeout_ms.into());
        if timeout > LONGEST || timeout.is_zero() {
            return Err(Refusal::invalid("timeout_ms", call.timeout_ms, "1 to 10000 milliseconds").into());
        }
        let mut state = self.lock();
        state.set(id)?.must_be_active()?;
        state.keep_watch(id, asked, call)?;
        let set = state.set_mut(id)?;
        let watcher = Watcher { kinds: call.events.clone(), phase: call.phase, timeout, teller };
        set.watchers.insert(asked.session, watcher);
        // Flag first, snapshot second: see `SetMap`.
        set.flag_watched();
        let pasids = set.in_use_before(call.phase);
        let bound = set.bound.iter().copied().collect();
        set.told_in_use.extend(&pasids);
        Ok(Snapshot { serial: set.serial, pasids, bound })
    }

    /// Goes on with what a session watched before a restart; gives the number of the request that asked for it.
    pub fn watch_again(&self, id: SetId, session: SessionId, teller: Teller) -> Option<u64> {
        let mut state = self.lock();
        let set = state.sets.get_mut(&id)?;
        let (request, call) = set.sessions.get(&session)?.watch.clone()?;
        let timeout = Duration::from_millis(call.timeout_ms.into());
        set.watchers.insert(session, Watcher { kinds: call.events, phase: call.phase, timeout, teller });
        let in_use = set.in_use();
        set.told_in_use.extend(in_use);
        Some(request)
    }

    /// Says that a watcher is done with what an event asked for. Again, or too late: nothing happens. Works on a set that
    /// is gone, too.
    pub fn acknowledge(&self, id: SetId, session: SessionId, serial: u64) -> Result<(), Failure> {
        let mut state = self.lock();
        if let Some(quiesce) = state.set_mut(id)?.quiescing.get_mut(&serial) {
            quiesce.waiting.remove(&session);
            state.advance(id, serial);
        }
        Ok(())
    }

    /// Tells the watchers that an id is bound to a device, or no longer.
    pub fn bind(&self, id: SetId, pasid: u32, bound: bool) -> Result<(), Failure> {
        let mut state = self.lock();
        let pasid = state.leased_here(id, pasid)?;
        let set = state.set_mut(id)?;
        if set.pending.contains(&pasid) && bound {
            return Err(Refusal::Busy { pasid, holders: set.holders(pasid, None) }.into());
        }
        let changed = if bound { set.bound.insert(pasid) } else { set.bound.remove(&pasid) };
        if changed {
            set.tell(if bound { WatchKind::Bind } else { WatchKind::Unbind }, &[pasid], "");
        }
        Ok(())
    }

    /// Ends what watchers let their time pass on; says when it is to be called again, if at all.
    pub fn tick(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.lock();
        let mut next: Option<Instant> = None;
        let mut over = Vec::new();
        for set in state.sets.values_mut() {
            for (serial, quiesce) in &mut set.quiescing {
                quiesce.waiting.retain(|_, until| *until > now);
                match quiesce.waiting.values().min() {
                    None => over.push((set.id, *serial)),
                    Some(until) => next = Some(next.map_or(*until, |next| next.min(*until))),
                }
            }
        }
        for (id, serial) in over {
            state.advance(id, serial);
        }
        next
    }
}

impl super::set::Set {
    /// The ids in use, without those on their way back of which a watcher of `phase` is told no more: that phase has begun
    /// for them, or is over.
    fn in_use_before(&self, phase: Phase) -> Vec<Pasid> {
        let told: BTreeSet<Pasid> = (self.quiescing.values())
            .filter(|quiesce| quiesce.phase >= phase)
            .flat_map(|quiesce| quiesce.pasids.iter().copied())
            .collect();
        self.in_use().into_iter().filter(|pasid| !told.contains(pasid)).collect()
    }

    /// Tells every watcher that wants it; phases do not matter.
    pub(super) fn tell(&mut self, event: WatchKind, pasids: &[Pasid], detail: &str) {
        if self.watchers.is_empty() {
            return;
        }
        self.serial += 1;
        let told = Arc::new(WatchEvent {
            serial: self.serial,
            event,
            phase: None,
            pasids: pasids.to_vec(),
            ack: false,
            detail: detail.to_owned(),
        });
        for watcher in self.watchers.values().filter(|watcher| watcher.wants(event)) {
            (watcher.teller)(Arc::clone(&told));
        }
    }

    /// Says in the region whether frees take the service: from when a session watches until it ends, a restart of the
    /// service in between included.
    pub(super) fn flag_watched(&mut self) {
        let mut calls = self.sessions.values().filter_map(|session| session.watch.as_ref());
        let watched = calls.any(|(_, call)| call.events.is_empty() || call.events.contains(&WatchKind::Free));
        if !watched {
            self.told_in_use.clear();
        }
        if let Some(region) = &self.region {
            region.set_watched(watched);
        }
    }

    /// Begins the first phase from `from` on that somebody watches; `false` where there is none.
    fn begin_phase(&mut self, pasids: &[Pasid], from: usize) -> Option<Instant> {
        let phase = PHASES.iter().skip(from).find(|phase| {
            self.watchers.values().any(|watcher| watcher.phase == **phase && watcher.wants(WatchKind::Free))
        })?;
        self.serial += 1;
        let told = Arc::new(WatchEvent {
            serial: self.serial,
            event: WatchKind::Free,
            phase: Some(*phase),
            pasids: pasids.to_vec(),
            ack: true,
            detail: String::new(),
        });
        let now = Instant::now();
        let mut waiting = BTreeMap::new();
        for (session, watcher) in &self.watchers {
            if watcher.phase == *phase && watcher.wants(WatchKind::Free) {
                (watcher.teller)(Arc::clone(&told));
                waiting.insert(*session, now + watcher.timeout);
            }
        }
        let first = waiting.values().min().copied();
        self.quiescing.insert(self.serial, Quiesce { pasids: pasids.to_vec(), phase: *phase, waiting });
        first
    }
}

impl State {
    /// Ids that nobody holds are freed: through the phases where somebody watches, else at once.
    ///
    /// `tag` is of the request that frees them.
    pub(super) fn release(&mut self, id: SetId, pasids: &[Pasid], tag: u64) {
        let Some(set) = self.sets.get_mut(&id) else { return };
        // All that go through the phases are pending: those of one that is not need not be looked through.
        let again = pasids.iter().any(|pasid| set.pending.contains(pasid));
        let quiescing = set.quiescing.values().filter(|_| again).flat_map(|quiesce| &quiesce.pasids);
        let busy: BTreeSet<Pasid> = quiescing.copied().collect();
        let fresh: Vec<Pasid> = pasids.iter().copied().filter(|pasid| !busy.contains(pasid)).collect();
        if fresh.is_empty() {
            return;
        }
        match set.begin_phase(&fresh, 0) {
            Some(first) => {
                self.pend(id, &fresh);
                self.events.tell(&Notice::Deadline(first));
            }
            None => self.give_back(id, &fresh, tag),
        }
    }

    /// Goes on to the next phase where nobody is waited for any more; after the last one the ids go back.
    fn advance(&mut self, id: SetId, serial: u64) {
        let Some(set) = self.sets.get_mut(&id) else { return };
        let Some(quiesce) = set.quiescing.get(&serial).filter(|quiesce| quiesce.waiting.is_empty()) else { return };
        let done = PHASES.iter().position(|phase| *phase == quiesce.phase).unwrap_or(PHASES.len());
        let Some(quiesce) = set.quiescing.remove(&serial) else { return };
        match set.begin_phase(&quiesce.pasids, done + 1) {
            Some(first) => self.events.tell(&Notice::Deadline(first)),
            None => {
                self.give_back(id, &quiesce.pasids, 0);
                self.bury_if_over(id);
            }
        }
    }

    /// A session is gone: nobody waits for it.
    pub(super) fn stop_watching(&mut self, id: SetId, session: SessionId) {
        let Some(set) = self.sets.get_mut(&id) else { return };
        set.watchers.remove(&session);
        set.flag_watched();
        let mut over = Vec::new();
        for (serial, quiesce) in &mut set.quiescing {
            if quiesce.waiting.remove(&session).is_some() && quiesce.waiting.is_empty() {
                over.push(*serial);
            }
        }
        for serial in over {
            self.advance(id, serial);
        }
    }
}
