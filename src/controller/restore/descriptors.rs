//! Descriptors that came back, each given to the record that knows its name.

use super::files::Sorted;
use super::{Losses, ResumedSession};
use crate::controller::entry::{Change, Key};
use crate::controller::parking::Parked;
use crate::controller::set::{Session, SetEnd};
use crate::controller::{DEVICE_CHANNEL, SessionId, State};
use crate::model::{Pasid, SetId, SetState};
use crate::shm::SetRegion;
use crate::sys::service_manager::Inherited;
use crate::sys::socket_diag::SocketName;
use crate::sys::{clock, readiness};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

/// What a session had done is remembered so long for a holder that opens it again, in seconds.
const REMEMBERED: u64 = 600;

/// Descriptors that found their halves.
#[derive(Debug, Default)]
pub(super) struct Matched {
    pub(super) ends: Vec<(OwnedFd, SetEnd)>,
    pub(super) sessions: Vec<ResumedSession>,
    /// Sessions, by set and key, that came back and that their holders had ended meanwhile.
    over: BTreeSet<(SetId, u64)>,
    /// The channel of the device came back, and with it the files that are open on it.
    pub(super) device: bool,
}

impl State {
    /// Gives every descriptor to the record that knows its name; the others are closed, or not ours.
    pub(super) fn match_descriptors(
        &mut self,
        known: BTreeSet<SetId>,
        inherited: Vec<Inherited>,
        contents: &Sorted,
        losses: &mut Losses,
    ) -> (Matched, Vec<Inherited>) {
        let mut matched = Matched::default();
        let mut others = Vec::new();
        let mut regions = Vec::new();
        for Inherited { name, fd } in inherited {
            let Some(parked) = Parked::of_name(&name) else {
                matched.device |= name == DEVICE_CHANNEL;
                others.push(Inherited { name, fd });
                continue;
            };
            if let Some(keep) = &mut self.keep {
                keep.parking.came_back(parked);
            }
            let found = match parked {
                Parked::End(id, serial) => self.match_end(id, serial, fd, &mut matched),
                Parked::Region(id) if known.contains(&id) => {
                    regions.push((id, fd));
                    true
                }
                Parked::Region(_) => false,
                Parked::Session(id, key) => self.match_session(id, key, fd, contents, &mut matched),
            };
            if !found {
                // Of what was never answered for, or ended: the kill came between the records and the manager.
                self.unpark(parked);
            }
        }
        for (id, fd) in regions {
            self.restore_region(id, fd, losses);
        }
        self.forget_lost_sessions(contents, &matched.over, losses);
        (matched, others)
    }

    fn match_end(&mut self, id: SetId, serial: u32, fd: OwnedFd, matched: &mut Matched) -> bool {
        let Some(set) = self.sets.get_mut(&id) else { return false };
        let Some(at) = set.ends_before.iter().position(|end| end.serial == serial) else { return false };
        let record = set.ends_before.swap_remove(at);
        let name = SocketName { inode: record.inode, cookie: record.cookie };
        let end = SetEnd { set: id, name, serial };
        set.ends.push(end);
        self.by_cookie.insert(name.cookie, id);
        matched.ends.push((fd, end));
        true
    }

    fn match_session(&mut self, id: SetId, key: u64, fd: OwnedFd, contents: &Sorted, matched: &mut Matched) -> bool {
        let record = contents.sessions.get(&(id, key));
        let over = readiness::now(fd.as_fd()).map_or(true, |ready| ready.hung_up);
        let (Some(record), false) = (record, over) else {
            matched.over.insert((id, key));
            return false;
        };
        let of_session = contents.holds.iter().filter(|(set, of, _)| (*set, *of) == (id, key));
        let holds = of_session.filter(|(_, _, on)| self.is_of_lease(id, on)).map(|(_, _, on)| (on.pasid, on.count));
        let session = Session {
            uid: record.uid,
            holds: holds.collect(),
            key,
            done: Some(record.done),
            parked: true,
            recorded: true,
            watch: record.watch.clone(),
        };
        let number = SessionId(self.next_session);
        let Some(set) = self.sets.get_mut(&id) else { return false };
        set.sessions.insert(number, session);
        self.next_session += 1;
        self.guard.restore_session(record.uid);
        matched.sessions.push(ResumedSession { end: fd, set: id, session: number, uid: record.uid });
        true
    }

    /// Sessions that did not come back: their references go; what they had done last is remembered for a while.
    fn forget_lost_sessions(&mut self, contents: &Sorted, over: &BTreeSet<(SetId, u64)>, losses: &mut Losses) {
        let now = clock::monotonic_usec() / 1_000_000;
        let is_back = |state: &Self, id: &SetId, key: &u64| {
            state.sets.get(id).is_some_and(|set| set.sessions.values().any(|session| session.key == *key))
        };
        for (id, key, on) in &contents.holds {
            if !is_back(self, id, key) || !self.is_of_lease(*id, on) {
                self.defer(Change::Remove(Key::Hold(*id, *key, on.pasid)));
            }
        }
        for ((id, key), record) in &contents.sessions {
            if is_back(self, id, key) {
                continue;
            }
            let held = contents.holds.iter().any(|(set, of, _)| (set, of) == (id, key));
            losses.sessions += usize::from(held && !over.contains(&(*id, *key)));
            if self.sets.contains_key(id) && record.at + REMEMBERED > now {
                self.done_before.insert((*id, *key), record.done);
            } else {
                self.defer(Change::Remove(Key::Session(*id, *key)));
            }
        }
    }

    /// The region of a set, brought in line with the records where a kill came between the two.
    fn restore_region(&mut self, id: SetId, fd: OwnedFd, losses: &mut Losses) {
        let Some(set) = self.sets.get_mut(&id) else { return };
        let Some(pool) = self.pools.get(&set.domain) else { return };
        set.mapped = true;
        let region = match SetRegion::reopen(fd, pool.range().count()) {
            Ok(region) => region,
            Err(error) => {
                tracing::warn!(set = id.0, %error, "the region of a set is not what was parked");
                losses.descriptors += 1;
                return;
            }
        };
        region.reconcile(|pasid| match set.leased.contains(&pasid) {
            // Odd: the request marked it used.
            true => Some(pool.tag(pasid) & 1 == 1),
            false => None,
        });
        if set.state != SetState::Active {
            region.flag_revoked();
        }
        set.region = Some(region);
        set.flag_watched();
        self.mapped.insert(id);
        let ids: Vec<Pasid> = set.leased.iter().copied().collect();
        ids.into_iter().for_each(|pasid| self.refresh_held(id, pasid));
    }
}
