//! What happened and was not told yet.
//!
//! The controller tells under its lock, so what it tells is put down here and nothing else is done. Bounded: where the
//! bus is slower than what happens, events are dropped and the objects are compared with the controller's sets
//! afterwards.

use crate::controller::Notice;
use crate::model::SetId;
use crate::proto::Happening;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// How many events wait at the most.
const ROOM: usize = 4096;

/// What waits to be told.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Events, oldest first.
    pub events: VecDeque<Happening>,
    /// Sets whose properties changed.
    pub changed: BTreeSet<SetId>,
    /// Whether events were dropped.
    pub missed: bool,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.changed.is_empty() && !self.missed
    }
}

/// What waits, and who is woken by it.
#[derive(Debug, Default)]
pub(super) struct Pending {
    batch: Mutex<Option<Batch>>,
    wake: Notify,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Option<Batch>> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts down what is told from now on; before, and after [`Pending::stop`], nobody is there to be told.
    pub fn start(&self) {
        *self.lock() = Some(Batch::default());
    }

    /// Puts nothing down any more.
    pub fn stop(&self) {
        *self.lock() = None;
    }

    /// Puts a notice down. Never blocks.
    pub fn note(&self, notice: &Notice) {
        let mut batch = self.lock();
        let Some(batch) = batch.as_mut() else { return };
        match notice {
            Notice::Event(event) if !is_told(&event.what) => return,
            Notice::Event(_) if batch.events.len() >= ROOM => batch.missed = true,
            Notice::Event(event) => batch.events.push_back(event.what.clone()),
            Notice::SetChanged(id) => drop(batch.changed.insert(*id)),
            Notice::CgroupEvents(_) | Notice::Deadline(_) => return,
        }
        self.wake.notify_one();
    }

    /// What waits; sleeps until there is something. Cancel safe.
    pub async fn next(&self) -> Batch {
        loop {
            if let Some(batch) = self.lock().as_mut().filter(|batch| !batch.is_empty()) {
                return std::mem::take(batch);
            }
            self.wake.notified().await;
        }
    }
}

/// Whether the bus is told of it; the rest shows in properties.
fn is_told(what: &Happening) -> bool {
    matches!(
        what,
        Happening::SetAdded { .. }
            | Happening::SetRemoved { .. }
            | Happening::LimitHit { .. }
            | Happening::PolicyReloaded { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Event;

    fn removed(id: u64) -> Notice {
        Notice::Event(Event { time_usec: 0, what: Happening::SetRemoved { set: SetId(id), reason: String::new() } })
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_said() {
        let pending = Pending::default();
        pending.note(&removed(1));
        assert!(pending.lock().is_none(), "nobody to be told");
        pending.start();
        for id in 0..=ROOM as u64 {
            pending.note(&removed(id));
            pending.note(&Notice::SetChanged(SetId(7)));
        }
        let batch = pending.lock().take().unwrap();
        assert_eq!((batch.events.len(), batch.changed.len(), batch.missed), (ROOM, 1, true));
    }
}
