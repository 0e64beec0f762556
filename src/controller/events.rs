//! What happened: told to who listens, and the last of it kept.

use crate::model::SetId;
use crate::proto::{Event, Happening};
use std::collections::VecDeque;
use std::fmt;

/// How many events are kept for who asks later.
const KEPT: usize = 1024;

/// Something told to the edges as it happens, under the controller's lock: they hand it on and return at once.
#[derive(Clone, Debug)]
pub enum Notice {
    /// An event for `ioasidctl events` and its likes.
    Event(Event),
    /// A set's properties changed: quota, leases, state.
    SetChanged(SetId),
    /// [`Controller::tick`](super::Controller::tick) is to be called then, at the latest.
    Deadline(std::time::Instant),
    /// A cgroup's `max` events went up, at this level or below.
    CgroupEvents(crate::model::CgroupId),
}

/// Who is told.
pub type Observer = Box<dyn Fn(&Notice) + Send + Sync>;

/// The observers, and the last events.
#[derive(Default)]
pub(super) struct Events {
    observers: Vec<Observer>,
    kept: VecDeque<Event>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("kept", &self.kept.len()).finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn observe(&mut self, observer: Observer) {
        self.observers.push(observer);
    }

    /// Keeps the event and tells it.
    pub(super) fn emit(&mut self, what: Happening, time_usec: u64) {
        let event = Event { time_usec, what };
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(event.clone());
        self.tell(&Notice::Event(event));
    }

    /// Tells it without keeping it.
    pub(super) fn tell(&self, notice: &Notice) {
        for observer in &self.observers {
            observer(notice);
        }
    }

    /// The last events, oldest first.
    pub(super) fn recent(&self) -> Vec<Event> {
        self.kept.iter().cloned().collect()
    }
}
