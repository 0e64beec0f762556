//! Sets come and go: made, opened again, identified, hung up, revoked.

use super::authority::Permitted;
use super::entry::{Change, Entry, SetRecord};
use super::parking::Parked;
use super::set::{Session, Set, SetEnd};
use super::{Caller, Controller, Permit, SessionId, State, descriptor_failure, now_usec, refuse_when_scarce};
use crate::model::{Domain, Failure, Fault, Pasid, PasidRange, Refusal, SetId, SetRequest, SetState, is_printable};
use crate::policy::Grant;
use crate::proto::message_ids::FAULT;
use crate::proto::{Call, Happening, Header, Identified, Kind, OpenSession, SetInfo, WatchKind, encode};
use crate::quota::Node;
use crate::sys::socket_diag::SocketName;
use crate::sys::{seqpacket, socket_option};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};

/// A set FD that was made: one end for the holder, one for the service.
#[derive(Debug)]
pub struct NewSet {
    /// The set.
    pub info: SetInfo,
    /// The set FD: to be sent, and closed here.
    pub holder: OwnedFd,
    /// The service's end: to be listened on until it hangs up.
    pub service: OwnedFd,
    /// How the service knows it.
    pub end: SetEnd,
    /// The iommufd that was asked for with it: to be sent beside the set FD, and closed here.
    pub iommufd: Option<OwnedFd>,
}

/// What the closing of an end meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Other FDs of the set are open.
    OthersOpen,
    /// It was the last one: the set is gone, or drains.
    Last,
    /// The holder hung up without closing: the set is revoked, its ids stay until the FD is closed. Ask again.
    Lingers,
}

/// So many set FDs of one set are made, copies not counted: each is written down with the set, and looked at when it closes.
const MOST_ENDS: usize = 1024;

impl Controller {
    /// Makes a set, charged to the cgroup that the permit names.
    ///
    /// Refused with `NotFound` or `Stale` where that cgroup is not there, `TooMany` past `sets_per_cgroup`, the guard
    /// or the service's descriptors, `Unsupported` where it is to have an iommufd and there is none, `NoSpace` where the range and the domain have nothing in common.
    pub fn create_set(&self, caller: &Caller, permit: Permit) -> Result<NewSet, Failure> {
        let Permitted::Create(granted) = permit.0 else { return Err(misused("create-set").into()) };
        self.bury_if_many();
        let (request, grant) = *granted;
        let lineage = if grant.cgroup == caller.located.path {
            caller.located.lineage.to_vec()
        } else {
            let lineage = self.world.cgroups.lineage(&grant.cgroup)?;
            lineage.ok_or_else(|| Refusal::not_found(format!("cgroup {}", grant.cgroup)))?
        };
        let width = match &grant.domain {
            Domain::Global => None,
            Domain::Pci(address) => Some((self.world.pasid_width)(address)?),
        };
        // Before anything is made: a set without the iommufd that was asked for is not wanted.
        let iommufd = request.iommufd.then(|| self.iommufd()).transpose()?;
        let mut state = self.lock();
        state.make_pool(grant.domain, width)?;
        Ok(NewSet { iommufd, ..state.commit_set(caller, request, grant, &lineage)? })
    }

    /// Another FD of the set that the permit names.
    pub fn open_set(&self, permit: &Permit) -> Result<NewSet, Failure> {
        let Permitted::Set(id) = permit.0 else { return Err(misused("open").into()) };
        let mut state = self.lock();
        let set = state.set_mut(id)?;
        set.must_be_active()?;
        if set.ends.len() >= MOST_ENDS {
            return Err(Refusal::TooMany { limit: format!("set FDs of set {id}"), value: MOST_ENDS as u64 }.into());
        }
        let (holder, service, end) = make_end(id, set.next_end)?;
        state.park_end(&end, service.as_fd())?;
        let set = state.set_mut(id)?;
        let mut record = set.record();
        record.next_end += 1;
        record.ends.push((&end).into());
        state.record_set(id, record).inspect_err(|_| state.unpark(Parked::End(id, end.serial)))?;
        let set = state.set_mut(id)?;
        set.next_end += 1;
        set.ends.push(end);
        let info = set.info(false);
        state.by_cookie.insert(end.name.cookie, id);
        Ok(NewSet { info, holder, service, end, iommufd: None })
    }

    /// The set whose FD was presented. `NotFound` for anything that is not a set FD of this service.
    pub fn identify(&self, presented: BorrowedFd<'_>) -> Result<SetId, Refusal> {
        let unknown = || Refusal::not_found("a set with this descriptor");
        let cookie = socket_option::cookie(presented).map_err(|_| unknown())?;
        self.lock().by_cookie.get(&cookie).copied().ok_or_else(unknown)
    }

    /// Whether `pasid` is leased to the set whose FD was presented, and not being freed.
    pub fn verify_presented(&self, presented: BorrowedFd<'_>, pasid: u32) -> Result<bool, Refusal> {
        let id = self.identify(presented)?;
        self.verify(id, pasid)
    }

    /// Whether `pasid` is leased to set `id`, and not being freed.
    pub fn verify(&self, id: SetId, pasid: u32) -> Result<bool, Refusal> {
        let state = self.lock();
        let set = state.set(id)?;
        set.must_be_active()?;
        let Some(pasid) = Pasid::new(pasid) else { return Ok(false) };
        Ok(set.leased.contains(&pasid) && !set.pending.contains(&pasid))
    }

    /// Opens a session on a set, for the uid that made the pair. Refused where the set is revoked.
    ///
    /// By its `key` it is known again when it is opened anew after a restart; 0 for one that is not.
    pub fn open_session(&self, id: SetId, uid: u32, key: u64) -> Result<SessionId, Refusal> {
        let mut state = self.lock();
        state.set(id)?.must_be_active()?;
        state.guard.add_session(uid)?;
        let session = SessionId(state.next_session);
        state.next_session += 1;
        let done = state.done_before.remove(&(id, key));
        let set = state.set_mut(id)?;
        // A key that another session has by now names that one.
        let key = if set.sessions.values().any(|other| other.key == key) { 0 } else { key };
        set.sessions.insert(session, Session { uid, key, done, recorded: done.is_some(), ..Session::default() });
        Ok(session)
    }

    /// Ends a session: its references are put.
    pub fn close_session(&self, id: SetId, session: SessionId) {
        self.lock().end_session(id, session);
    }

    /// Says that the holder's side of an end hung up: the last copy was closed, or somebody called shutdown(2).
    ///
    /// Asks the kernel which. After [`Closed::Lingers`] it is to be called again, until the FD is gone.
    pub fn end_hung_up(&self, end: &SetEnd) -> Result<Closed, Fault> {
        let exists = self
            .sockets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .exists(end.name)
            .map_err(|e| Fault::from(e).while_doing("ask the kernel for a set FD's other end"))?;
        if !exists {
            return Ok(self.end_closed(end));
        }
        let mut state = self.lock();
        let Some(set) = state.sets.get_mut(&end.set) else { return Ok(Closed::Last) };
        if set.state == SetState::Active {
            state.revoke(end.set, "a holder shut the set FD down", None);
        }
        Ok(Closed::Lingers)
    }

    /// Says that the last holder of an end closed it, for who knows: see [`plant`].
    pub fn end_closed(&self, end: &SetEnd) -> Closed {
        let mut state = self.lock();
        let Some(set) = state.sets.get_mut(&end.set) else { return Closed::Last };
        set.ends.retain(|other| other.name.cookie != end.name.cookie);
        let record = set.record();
        let others = !set.ends.is_empty() || set.device_file.is_some();
        state.by_cookie.remove(&end.name.cookie);
        let closed = if others {
            state.defer(Change::Put(Entry::Set(end.set, record)));
            Closed::OthersOpen
        } else {
            state.last_close(end.set);
            Closed::Last
        };
        // Only now: it is taken out when the records say that it is closed.
        state.end_parked(Parked::End(end.set, end.serial));
        closed
    }

    /// Revokes the set that the permit names: its ids return but for those that are held, every use is refused with
    /// `reason`.
    pub fn revoke_set(&self, caller: &Caller, permit: &Permit, reason: &str) -> Result<(), Failure> {
        let Permitted::Set(id) = permit.0 else { return Err(misused("revoke").into()) };
        if reason.len() > 256 || !reason.chars().all(is_printable) {
            return Err(Refusal::invalid("reason", reason, "at most 256 bytes of printable text").into());
        }
        let reason = match reason {
            "" if caller.privileged => "revoked by an administrator",
            "" => "revoked by its creator",
            reason => reason,
        };
        let mut state = self.lock();
        state.set(id)?.must_be_active()?;
        state.surrender(id, reason, Some(caller.uid))?;
        Ok(())
    }

    /// Revokes every set of a domain whose device went away, and says how many.
    pub fn revoke_domain(&self, domain: Domain, reason: &str) -> usize {
        let mut state = self.lock();
        let of_domain = |set: &&Set| set.domain == domain && set.state == SetState::Active;
        let ids: Vec<SetId> = state.sets.values().filter(of_domain).map(|set| set.id).collect();
        for id in &ids {
            if let Err(fault) = state.surrender(*id, reason, None) {
                tracing::error!(MESSAGE_ID = FAULT, set = id.0, %fault, "a set of a device that went away is not revoked");
            }
        }
        ids.len()
    }
}

impl State {
    /// Puts the references of a session, and forgets it.
    pub(super) fn end_session(&mut self, id: SetId, session: SessionId) {
        let Some(closed) = self.sets.get_mut(&id).and_then(|set| set.sessions.remove(&session)) else { return };
        self.guard.remove_session(closed.uid);
        self.forget_session(id, &closed);
        self.stop_watching(id, session);
        for pasid in closed.holds.into_keys() {
            self.reference_put(id, pasid);
        }
        self.bury_if_over(id);
    }

    fn commit_set(
        &mut self,
        caller: &Caller,
        request: SetRequest,
        grant: Grant,
        lineage: &[(crate::model::CgroupId, crate::model::CgroupPath)],
    ) -> Result<NewSet, Failure> {
        let pool = self.pools.get(&grant.domain).ok_or_else(|| Fault::new("a domain without a pool"))?;
        let wanted = grant.range.unwrap_or(PasidRange::ALL);
        let range = wanted.intersect(pool.range()).ok_or(Refusal::NoSpace {
            domain: grant.domain,
            range: wanted,
            free: 0,
            asked: grant.quota,
        })?;
        let node = self.ensure_node(lineage);
        let of_cgroup = self.sets_of.get(&node.id()).copied().unwrap_or(0);
        if of_cgroup >= grant.sets_per_cgroup {
            let limit = format!("sets_per_cgroup of rule {} in {}", grant.rule, grant.cgroup);
            return Err(Refusal::TooMany { limit, value: grant.sets_per_cgroup.into() }.into());
        }
        self.guard.add_set(caller.uid)?;
        let id = SetId(self.next_set);
        self.next_set += 1;
        let made = self.commit_end(caller, request, grant, range, node, id);
        made.inspect_err(|_| self.guard.remove_set(caller.uid))
    }

    /// The last steps of [`State::commit_set`]: the descriptors, the record, the table.
    fn commit_end(
        &mut self,
        caller: &Caller,
        request: SetRequest,
        grant: Grant,
        range: PasidRange,
        node: Arc<Node>,
        id: SetId,
    ) -> Result<NewSet, Failure> {
        let (holder, service, end) = make_end(id, 0)?;
        let record = SetRecord {
            label: request.label,
            owner_uid: caller.uid,
            creator_cgroup: caller.located.id,
            rule: grant.rule,
            quota: grant.quota,
            quota_max: grant.quota_max,
            range,
            domain: grant.domain,
            created_usec: now_usec(),
            cgroup: node.id(),
            state: SetState::Active,
            reason: String::new(),
            surrendered: false,
            next_end: 1,
            device_file: None,
            ends: Vec::new(),
        };
        let set = Set { ends: vec![end], ..Set::of_record(id, record, node) };
        self.park_end(&end, service.as_fd())?;
        self.record_new(&set).inspect_err(|_| self.unpark(Parked::End(id, 0)))?;
        let info = set.info(false);
        self.by_cookie.insert(end.name.cookie, id);
        *self.sets_of.entry(set.node.id()).or_default() += 1;
        let added =
            Happening::SetAdded { set: id, label: set.label.clone(), cgroup: set.cgroup.clone(), uid: set.owner_uid };
        self.sets.insert(id, set);
        self.events.emit(added, now_usec());
        Ok(NewSet { info, holder, service, end, iommufd: None })
    }

    /// Revokes a set and gives its ids back, but for those that are held. Changes nothing where it cannot be recorded.
    fn surrender(&mut self, id: SetId, reason: &str, by_uid: Option<u32>) -> Result<(), Fault> {
        let Some(set) = self.sets.get(&id) else { return Ok(()) };
        let mut record = set.record();
        record.state = SetState::Revoked;
        reason.clone_into(&mut record.reason);
        record.surrendered = true;
        self.record_set(id, record)?;
        self.revoke(id, reason, by_uid);
        if let Some(set) = self.sets.get_mut(&id) {
            set.surrendered = true;
        }
        self.return_all(id);
        Ok(())
    }

    /// Flags a set as revoked; its ids stay with it.
    pub(super) fn revoke(&mut self, id: SetId, reason: &str, by_uid: Option<u32>) {
        let Some(set) = self.sets.get_mut(&id) else { return };
        set.state = SetState::Revoked;
        set.reason = reason.to_owned();
        set.tell(WatchKind::Revoke, &[], reason);
        if let Some(region) = &set.region {
            region.flag_revoked();
        }
        let happening = Happening::SetRevoked { set: id, reason: reason.to_owned(), by_uid };
        self.events.emit(happening, now_usec());
        self.events.tell(&super::Notice::SetChanged(id));
    }

    /// The last FD is closed: what nobody holds goes back, and the set with it once no session is left.
    pub(super) fn last_close(&mut self, id: SetId) {
        let Some(set) = self.sets.get_mut(&id) else { return };
        if set.reason.is_empty() {
            set.reason = "closed".to_owned();
            set.tell(WatchKind::Revoke, &[], "closed");
        }
        set.state = SetState::Draining;
        if let Some(region) = &set.region {
            region.flag_revoked();
        }
        self.return_all(id);
        self.bury_if_over(id);
        // One that sessions hold ids of is there until these put them, after a restart as well.
        let drains = self.sets.get(&id).filter(|set| !set.gone).map(Set::record);
        drains.into_iter().for_each(|record| self.defer(Change::Put(Entry::Set(id, record))));
    }

    /// Gives back every id that no session holds; those that are held wait for their puts.
    pub(super) fn return_all(&mut self, id: SetId) {
        let Some(set) = self.sets.get_mut(&id) else { return };
        let (held, free): (Vec<Pasid>, Vec<Pasid>) =
            set.leased.iter().copied().partition(|pasid| set.holders(*pasid, None) > 0);
        self.pend(id, &held);
        self.release(id, &free, 0);
    }

    /// A set whose last FD is closed and that costs nothing any more is gone for everybody; what is left of it until
    /// its sessions end only tells these that it was revoked.
    pub(super) fn bury_if_over(&mut self, id: SetId) {
        let Some(set) = self.sets.get_mut(&id) else { return };
        if set.state != SetState::Draining || !set.leased.is_empty() {
            return;
        }
        let forget = set.sessions.is_empty();
        if !std::mem::replace(&mut set.gone, true) {
            set.region = None;
            self.mapped.remove(&id);
            let removed = Happening::SetRemoved { set: id, reason: set.reason.clone() };
            let (uid, node, domain) = (set.owner_uid, Arc::clone(&set.node), set.domain);
            self.guard.remove_set(uid);
            self.uncount(node.id());
            self.events.emit(removed, now_usec());
            self.forget_set(id);
            self.prune_up(&node);
            self.drop_idle_pool(domain);
        }
        if forget {
            self.sets.remove(&id);
        }
    }

    /// Forgets the pool of a device that nobody uses; the global one stays.
    fn drop_idle_pool(&mut self, domain: Domain) {
        let used = domain == Domain::Global || self.sets.values().any(|set| set.domain == domain && !set.gone);
        if !used
            && self.pools.get_mut(&domain).is_some_and(super::Pool::is_idle)
            && let Some(mut pool) = self.pools.remove(&domain)
        {
            pool.remove_ledger();
        }
    }
}

/// A fresh pair: the holder's end, the service's end, and how the service knows it.
fn make_end(set: SetId, serial: u32) -> Result<(OwnedFd, OwnedFd, SetEnd), Failure> {
    let failed = |e| descriptor_failure(e, "make a set FD");
    let (holder, service) = seqpacket::pair().map_err(failed)?;
    // The service's end stays; the holder's number is free again when it is sent.
    refuse_when_scarce(service.as_fd())?;
    let name = SocketName::of(holder.as_fd()).map_err(failed)?;
    plant(set, service.as_fd()).map_err(failed)?;
    Ok((holder, service, SetEnd { set, name, serial }))
}

/// Puts a message into the holders' queue that nobody has a reason to read.
///
/// The kernel resets the service's end when an end is closed by its last holder with something unread, and at no
/// shutdown(2): so the last close proves itself. Asking sock_diag instead costs a walk over all sockets of the host, and
/// is left for holders that read the message. Source: `unix_release_sock`, `net/unix/af_unix.c`.
fn plant(set: SetId, service: BorrowedFd<'_>) -> std::io::Result<()> {
    let header = Header { kind: Kind::Event, op: OpenSession::OP, flags: 0, id: 0 };
    seqpacket::try_send(service, &encode(header, &Identified { set }), &[])
}

/// A permit was shown to a method that it is not for: the edge is at fault.
pub(super) fn misused(what: &str) -> Fault {
    Fault::new(format!("a permit for something else was shown to {what}"))
}
