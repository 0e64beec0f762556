//! What happened, as lines of the journal: each kind with its message id and its fields.
//!
//! Level `info` is for what an administrator did and for the first hit of each limit (as the kernel tells of the pids
//! controller); what clients do all day is `debug`, so a service that works says nothing.

use crate::controller::{Controller, Notice};
use crate::model::CgroupPath;
use crate::proto::{Happening, message_ids as ids};
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Cgroups whose first hit is remembered; past that all hits are told at `debug`.
const MOST_REMEMBERED: usize = 1024;

/// Tells the journal all that happens from now on.
pub(super) fn follow(controller: &Controller) {
    let hit = Mutex::new(HashSet::new());
    controller.observe(Box::new(move |notice| {
        if let Notice::Event(event) = notice {
            tell(&event.what, |cgroup| {
                let mut hit = hit.lock().unwrap_or_else(PoisonError::into_inner);
                hit.len() < MOST_REMEMBERED && hit.insert(cgroup.clone())
            });
        }
    }));
}

/// Writes one line; `is_first` says whether a cgroup's limit was never hit before.
fn tell(what: &Happening, is_first: impl Fn(&CgroupPath) -> bool) {
    use tracing::{debug, info};
    match what {
        Happening::LimitHit { cgroup, max, asked, requester_cgroup } => {
            macro_rules! line {
                ($level:ident) => {
                    $level!(MESSAGE_ID = ids::LIMIT_HIT, IOASID_CGROUP = %cgroup, IOASID_MAX = %max,
                        IOASID_ASKED = asked, IOASID_REQUESTER_CGROUP = %requester_cgroup,
                        "ioasids.max {max} of {cgroup} refused {asked} more for {requester_cgroup}")
                };
            }
            if is_first(cgroup) { line!(info) } else { line!(debug) }
        }
        Happening::SetAdded { set, label, cgroup, uid } => debug!(
            MESSAGE_ID = ids::SET_ADDED, IOASID_SET = set.0, IOASID_LABEL = label, IOASID_CGROUP = %cgroup,
            IOASID_UID = uid, "set {set} made by uid {uid}, charged to {cgroup}"
        ),
        Happening::SetRemoved { set, reason } => debug!(
            MESSAGE_ID = ids::SET_REMOVED,
            IOASID_SET = set.0,
            IOASID_REASON = reason,
            "set {set} removed: {reason}"
        ),
        // Without a uid it is the client's own doing, or follows from a device that went.
        Happening::SetRevoked { set, reason, by_uid: None } => debug!(
            MESSAGE_ID = ids::SET_REVOKED,
            IOASID_SET = set.0,
            IOASID_REASON = reason,
            "set {set} revoked: {reason}"
        ),
        Happening::SetRevoked { set, reason, by_uid: Some(uid) } => info!(
            MESSAGE_ID = ids::SET_REVOKED,
            IOASID_SET = set.0,
            IOASID_REASON = reason,
            IOASID_UID = uid,
            "set {set} revoked by uid {uid}: {reason}"
        ),
        Happening::MaxChanged { cgroup, max, by_uid } => info!(
            MESSAGE_ID = ids::MAX_CHANGED, IOASID_CGROUP = %cgroup, IOASID_MAX = %max, IOASID_UID = by_uid,
            "ioasids.max of {cgroup} set to {max} by uid {by_uid}"
        ),
        Happening::Recharged { set, from, to, by_uid } => info!(
            MESSAGE_ID = ids::RECHARGED, IOASID_SET = set.0, IOASID_FROM = %from, IOASID_TO = %to, IOASID_UID = by_uid,
            "set {set} recharged from {from} to {to} by uid {by_uid}"
        ),
        Happening::PeakReset { cgroup, by_uid } => info!(
            MESSAGE_ID = ids::PEAK_RESET, IOASID_CGROUP = %cgroup, IOASID_UID = by_uid,
            "peak of {cgroup} reset by uid {by_uid}"
        ),
        Happening::PolicyReloaded { by_uid: Some(uid) } => {
            info!(MESSAGE_ID = ids::POLICY_RELOADED, IOASID_UID = uid, "policy read again, asked by uid {uid}");
        }
        Happening::PolicyReloaded { by_uid: None } => {
            info!(MESSAGE_ID = ids::POLICY_RELOADED, "policy read again");
        }
    }
}
