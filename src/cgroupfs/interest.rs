//! Who polls which cgroup's events, between the controller that tells of hits and the task that wakes pollers.

use crate::controller::Notice;
use crate::model::CgroupId;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Cgroups that are polled, and those of them that were hit since.
///
/// The controller tells under its lock, so [`Interest::told`] does next to nothing, and nothing that grows: a cgroup
/// that nobody polls is passed over.
#[derive(Debug, Default)]
pub(super) struct Interest {
    sets: Mutex<Sets>,
    hit: Notify,
}

#[derive(Debug, Default)]
struct Sets {
    polled: HashSet<CgroupId>,
    hit: HashSet<CgroupId>,
}

impl Interest {
    /// Hears what the controller tells.
    pub(super) fn told(&self, notice: &Notice) {
        let Notice::CgroupEvents(cgroup) = notice else { return };
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if sets.polled.contains(cgroup) && sets.hit.insert(*cgroup) {
            self.hit.notify_one();
        }
    }

    /// From now on somebody polls the cgroup, until it is hit.
    pub(super) fn poll(&self, cgroup: CgroupId) {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner).polled.insert(cgroup);
    }

    /// Waits until a polled cgroup was hit. Cancel safe.
    pub(super) async fn changed(&self) {
        self.hit.notified().await;
    }

    /// The cgroups that were hit; they are polled no more, for whoever is woken polls again.
    pub(super) fn take(&self) -> HashSet<CgroupId> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let hit = std::mem::take(&mut sets.hit);
        sets.polled.retain(|cgroup| !hit.contains(cgroup));
        hit
    }
}
