//! What happened, as lines of the journal: each kind with its message id and its fields.
//!
//! Level `info` is for what an administrator did and for the first hit of each limit (as the kernel tells of the pids
//! controller); what clients do all day is `debug`, so a service that works says nothing. Who is not root and does what
//! administrators do, to sets of its own or below a cgroup that was delegated to it, has so many lines a minute.

use crate::controller::{Controller, Notice};
use crate::model::CgroupPath;
use crate::proto::{Happening, message_ids as ids};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Cgroups whose first hit is remembered; past that all hits are told at `debug`.
const MOST_REMEMBERED: usize = 1024;
/// Lines of one uid in each [`TURN`]; what is more goes to `debug`.
const LINES: u32 = 60;
const TURN: Duration = Duration::from_secs(60);

/// How much users may have the journal tell.
#[derive(Debug, Default)]
struct Share {
    /// Lines in this turn by uid; with the next turn everybody begins anew.
    lines: HashMap<u32, u32>,
    since: Option<Instant>,
}

impl Share {
    /// Whether one more line of this uid is told. Root's always are.
    fn has_room(&mut self, uid: u32, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= TURN) {
            (self.lines, self.since) = (HashMap::new(), Some(now));
        }
        if uid == 0 {
            return true;
        }
        if self.lines.len() >= MOST_REMEMBERED && !self.lines.contains_key(&uid) {
            return false;
        }
        let told = self.lines.entry(uid).or_default();
        *told = told.saturating_add(1);
        *told <= LINES
    }
}

/// What the journal was told of before.
#[derive(Debug, Default)]
struct Told {
    /// Cgroups whose limit was hit.
    hit: HashSet<CgroupPath>,
    share: Share,
}

impl Told {
    /// Whether this is for an administrator to read, or only for who looks closely.
    fn is_news(&mut self, what: &Happening) -> bool {
        match what {
            Happening::LimitHit { cgroup, .. } => self.hit.len() < MOST_REMEMBERED && self.hit.insert(cgroup.clone()),
            // Without a uid it is the client's own doing, or follows from a device that went.
            Happening::SetAdded { .. } | Happening::SetRemoved { .. } | Happening::SetRevoked { by_uid: None, .. } => {
                false
            }
            Happening::PolicyReloaded { by_uid: None } => true,
            Happening::SetRevoked { by_uid: Some(uid), .. }
            | Happening::PolicyReloaded { by_uid: Some(uid) }
            | Happening::MaxChanged { by_uid: uid, .. }
            | Happening::Recharged { by_uid: uid, .. }
            | Happening::PeakReset { by_uid: uid, .. } => self.share.has_room(*uid, Instant::now()),
        }
    }
}

/// Tells the journal all that happens from now on.
pub(super) fn follow(controller: &Controller) {
    let told = Mutex::new(Told::default());
    controller.observe(Box::new(move |notice| {
        if let Notice::Event(event) = notice {
            let news = told.lock().unwrap_or_else(PoisonError::into_inner).is_news(&event.what);
            tell(&event.what, news);
        }
    }));
}

/// Writes one line, at `info` where it is news.
fn tell(what: &Happening, news: bool) {
    macro_rules! line {
        ($($said:tt)*) => {
            if news { tracing::info!($($said)*) } else { tracing::debug!($($said)*) }
        };
    }
    match what {
        Happening::LimitHit { cgroup, max, asked, requester_cgroup } => line!(
            MESSAGE_ID = ids::LIMIT_HIT, IOASID_CGROUP = %cgroup, IOASID_MAX = %max, IOASID_ASKED = asked,
            IOASID_REQUESTER_CGROUP = %requester_cgroup,
            "ioasids.max {max} of {cgroup} refused {asked} more for {requester_cgroup}"
        ),
        Happening::SetAdded { set, label, cgroup, uid } => line!(
            MESSAGE_ID = ids::SET_ADDED, IOASID_SET = set.0, IOASID_LABEL = label, IOASID_CGROUP = %cgroup,
            IOASID_UID = uid, "set {set} made by uid {uid}, charged to {cgroup}"
        ),
        Happening::SetRemoved { set, reason } => line!(
            MESSAGE_ID = ids::SET_REMOVED,
            IOASID_SET = set.0,
            IOASID_REASON = reason,
            "set {set} removed: {reason}"
        ),
        Happening::SetRevoked { set, reason, by_uid: None } => line!(
            MESSAGE_ID = ids::SET_REVOKED,
            IOASID_SET = set.0,
            IOASID_REASON = reason,
            "set {set} revoked: {reason}"
        ),
        Happening::SetRevoked { set, reason, by_uid: Some(uid) } => line!(
            MESSAGE_ID = ids::SET_REVOKED,
            IOASID_SET = set.0,
            IOASID_REASON = reason,
            IOASID_UID = uid,
            "set {set} revoked by uid {uid}: {reason}"
        ),
        Happening::MaxChanged { cgroup, max, by_uid } => line!(
            MESSAGE_ID = ids::MAX_CHANGED, IOASID_CGROUP = %cgroup, IOASID_MAX = %max, IOASID_UID = by_uid,
            "ioasids.max of {cgroup} set to {max} by uid {by_uid}"
        ),
        Happening::Recharged { set, from, to, by_uid } => line!(
            MESSAGE_ID = ids::RECHARGED, IOASID_SET = set.0, IOASID_FROM = %from, IOASID_TO = %to, IOASID_UID = by_uid,
            "set {set} recharged from {from} to {to} by uid {by_uid}"
        ),
        Happening::PeakReset { cgroup, by_uid } => line!(
            MESSAGE_ID = ids::PEAK_RESET, IOASID_CGROUP = %cgroup, IOASID_UID = by_uid,
            "peak of {cgroup} reset by uid {by_uid}"
        ),
        Happening::PolicyReloaded { by_uid: Some(uid) } => {
            line!(MESSAGE_ID = ids::POLICY_RELOADED, IOASID_UID = uid, "policy read again, asked by uid {uid}");
        }
        Happening::PolicyReloaded { by_uid: None } => {
            line!(MESSAGE_ID = ids::POLICY_RELOADED, "policy read again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_share_of_the_lines_in_each_turn_and_root_has_no_bound() {
        let (mut share, start) = (Share::default(), Instant::now());
        let mut told = |uid: u32, after: Duration| share.has_room(uid, start + after);
        assert_eq!((0..100).filter(|_| told(5, Duration::ZERO)).count(), LINES as usize);
        assert!(told(6, Duration::ZERO), "another's share");
        assert!((0..100).all(|_| told(0, Duration::ZERO)));
        assert!(!told(5, TURN / 2));
        assert!(told(5, TURN));
    }

    #[test]
    fn more_users_than_are_remembered_have_none() {
        let (mut share, now) = (Share::default(), Instant::now());
        let users = 1..2 * MOST_REMEMBERED as u32;
        assert_eq!(users.filter(|uid| share.has_room(*uid, now)).count(), MOST_REMEMBERED);
        assert!(share.has_room(0, now));
        assert!(share.lines.len() <= MOST_REMEMBERED);
    }
}
