//! The state as an earlier service left it: records and descriptors are matched, and what has only one half ends.
//!
//! In order: the records are read, or set aside; cgroups get their limits and counts; spaces their leased and resting
//! ids; sets what they lease, and the charge for it; then the descriptors that came back are matched by name. A set
//! whose last FD was closed meanwhile ends now. Nobody is served before this is done.

use super::keep::Keep;
use super::ledger::{self, Ledger, Line, Reading, Standing};
use super::parking::{Parked, Parking};
use super::records::{self, Change, Contents, Entry, Key, OnLease, Records, SessionRecord, SetRecord, Unread};
use super::set::{Session, Set, SetEnd};
use super::tally::{self, Tally};
use super::{Controller, SessionId, State, World};
use crate::model::{CgroupId, Domain, Fault, Pasid, SetId, SetState};
use crate::policy::Policy;
use crate::shm::SetRegion;
use crate::sys::exclusive::{self, Exclusive};
use crate::sys::service_manager::{Inherited, Notifier};
use crate::sys::socket_diag::SocketName;
use crate::sys::{clock, readiness};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What a session had done is remembered so long for a holder that opens it again, in seconds.
const REMEMBERED: u64 = 600;

/// A session that goes on after the restart.
#[derive(Debug)]
pub struct ResumedSession {
    /// The service's end.
    pub end: OwnedFd,
    /// Its set.
    pub set: SetId,
    /// Its number.
    pub session: SessionId,
    /// Who opened it.
    pub uid: u32,
}

/// The controller as it was, and what is to be listened on again.
#[derive(Debug)]
pub struct Restored {
    /// The controller.
    pub controller: Controller,
    /// The service's ends of set FDs.
    pub ends: Vec<(OwnedFd, SetEnd)>,
    /// Sessions that carry references or watches.
    pub sessions: Vec<ResumedSession>,
    /// What came back and is not the controller's: sockets to listen on, channels.
    pub others: Vec<Inherited>,
}

impl Restored {
    /// A controller that begins anew.
    pub fn nothing(controller: Controller) -> Self {
        Self { controller, ends: Vec::new(), sessions: Vec::new(), others: Vec::new() }
    }
}

/// What ended because it had only one half.
#[derive(Debug, Default)]
struct Losses {
    sets: usize,
    sessions: usize,
    ids: usize,
    descriptors: usize,
}

impl Controller {
    /// A controller that writes everything down below `dir`, and goes on with what is written there and parked.
    ///
    /// Records that are damaged or of a newer version are set aside, with a warning, and nothing of them is used. What is
    /// of another boot is removed. Faults: the directory cannot be written, or another service uses it.
    pub fn restore(
        policy: Arc<Policy>,
        world: World,
        dir: &Path,
        notifier: Notifier,
        inherited: Vec<Inherited>,
    ) -> Result<Restored, Fault> {
        let doing = |e: std::io::Error| Fault::from(e).while_doing(format!("make {}", dir.display()));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(doing)?;
        // Before anything is looked at: two that start in a fresh directory would both make it theirs.
        let exclusive = take(dir)?;
        let boot = clock::boot_id()?;
        let (keep, contents, ledgers) = match open(dir, &boot) {
            Ok(opened) => opened,
            Err(Unread::Failed(fault)) => return Err(fault),
            Err(why) => {
                clear(dir, &why)?;
                open(dir, &boot).map_err(|why| match why {
                    Unread::Failed(fault) => fault,
                    _ => Fault::new("records that were just made cannot be read"),
                })?
            }
        };
        let mut state = State::new(policy, &world);
        let (records, tally) = keep;
        let parking = Parking::new(notifier);
        state.keep = Some(Keep { dir: dir.to_owned(), boot, records, tally, parking, _exclusive: exclusive });
        let mut losses = Losses::default();
        let mut contents = Sorted::of(contents, &mut state.next_set);
        state.restore_cgroups(&contents, &world);
        let lines = state.restore_spaces(ledgers)?;
        let restored = state.restore_sets(&mut contents, lines, &world, &mut losses)?;
        let (matched, others) = state.match_descriptors(restored, inherited, &contents, &mut losses);
        let controller = Self::with(state, world)?;
        controller.end_what_is_over(&matched, &mut losses)?;
        losses.report();
        controller.settle();
        let Matched { ends, sessions, .. } = matched;
        let state = controller.lock();
        let ends = ends.into_iter().filter(|(_, end)| state.by_cookie.contains_key(&end.name.cookie)).collect();
        drop(state);
        Ok(Restored { controller, ends, sessions, others })
    }

    /// Goes on with ids that were on their way back: their phases begin anew where somebody still watches, else they go
    /// back at once. To be called when the sessions of [`Restored`] are served again.
    pub fn go_on(&self) {
        let mut state = self.lock();
        let ids: Vec<SetId> = state.sets.keys().copied().collect();
        for id in ids {
            let Some(set) = state.sets.get(&id) else { continue };
            let waiting =
                set.pending.iter().copied().filter(|pasid| set.holders(*pasid, None) == 0).collect::<Vec<_>>();
            state.release(id, &waiting, 0);
            state.bury_if_over(id);
        }
    }

    /// Ends every set: the process ends, and nobody keeps their descriptors.
    pub fn abandon(&self) {
        let mut state = self.lock();
        let ids: Vec<SetId> = state.sets.keys().copied().collect();
        for id in ids {
            let Some(set) = state.sets.get_mut(&id) else { continue };
            set.ends.clear();
            set.device_file = None;
            let sessions: Vec<SessionId> = set.sessions.keys().copied().collect();
            state.last_close(id);
            sessions.into_iter().for_each(|session| state.end_session(id, session));
        }
    }

    /// Ends sets whose last FD was closed while nobody listened, and those whose descriptors did not come back.
    fn end_what_is_over(&self, matched: &Matched, losses: &mut Losses) -> Result<(), Fault> {
        for (service, end) in &matched.ends {
            if readiness::now(service.as_fd()).is_ok_and(|ready| ready.hung_up) {
                self.end_hung_up(end)?;
            }
        }
        let mut state = self.lock();
        let has_device = matched.device;
        let ids: Vec<SetId> = state.sets.keys().copied().collect();
        for id in ids {
            let Some(set) = state.sets.get_mut(&id) else { continue };
            if !has_device {
                set.device_file = None;
            }
            let held = !set.ends.is_empty() || set.device_file.is_some();
            if set.state != SetState::Draining && !held {
                losses.sets += 1;
                "its descriptor was not kept".clone_into(&mut set.reason);
            }
            let (surrendered, draining) = (set.surrendered, set.state == SetState::Draining);
            if !held && !draining {
                state.last_close(id);
            } else if draining {
                state.bury_if_over(id);
            } else if surrendered {
                state.return_all(id);
            }
        }
        Ok(())
    }
}

impl Losses {
    fn report(&self) {
        let Self { sets, sessions, ids, descriptors } = *self;
        if sets + sessions + ids + descriptors > 0 {
            tracing::warn!(
                sets,
                sessions,
                ids,
                descriptors,
                "what was left of the service before had only one half, and was ended: {sets} set(s) whose descriptor \
                 was not kept, {sessions} session(s) likewise, {ids} id(s) of no set, {descriptors} region(s) that are \
                 not what was parked"
            );
        }
    }
}

type Opened = ((Records, Tally), Contents, Vec<(Ledger, Reading)>);

/// Takes `dir` for this service alone.
fn take(dir: &Path) -> Result<Exclusive, Fault> {
    let taken = exclusive::try_take(dir).map_err(|e| Fault::from(e).while_doing(format!("lock {}", dir.display())))?;
    taken.ok_or_else(|| {
        let runtime_dir = dir.parent().unwrap_or(dir).display();
        Fault::new(format!(
            "{runtime_dir} is in use by another service: stop that one, or give this one a directory of its own with \
             --runtime-dir"
        ))
    })
}

/// Opens all files below `dir`: they are used together or not at all.
fn open(dir: &Path, boot: &str) -> Result<Opened, Unread> {
    let named = |file: &str| {
        let file = file.to_owned();
        move |why| match why {
            Unread::Unusable(why) => Unread::Unusable(format!("{file}: {why}")),
            other => other,
        }
    };
    let fresh = !dir.join(records::FILE).exists();
    let (records, contents) = Records::open(dir, boot).map_err(named(records::FILE))?;
    if fresh || !dir.join(tally::FILE).exists() {
        if !contents.entries.is_empty() {
            return Err(Unread::Unusable(format!("{}: it is missing", tally::FILE)));
        }
        let tally = Tally::create(dir, boot).map_err(Unread::Failed)?;
        return Ok(((records, tally), contents, Vec::new()));
    }
    let tally = Tally::open(dir, boot).map_err(named(tally::FILE))?;
    let failed = |e: std::io::Error| Unread::Failed(Fault::from(e).while_doing(format!("read {}", dir.display())));
    let mut ledgers = Vec::new();
    for file in std::fs::read_dir(dir).map_err(failed)? {
        let file = file.map_err(failed)?;
        let name = file.file_name().to_string_lossy().into_owned();
        if name.strip_prefix("ids-").is_some_and(|domain| domain.parse::<Domain>().is_ok()) {
            let (ledger, reading) = Ledger::open(&file.path(), boot).map_err(named(&name))?;
            if ledger::file_name(reading.space.domain) != name {
                return Err(Unread::Unusable(format!("{name}: it is of domain {}", reading.space.domain)));
            }
            ledgers.push((ledger, reading));
        }
    }
    for entry in &contents.entries {
        if let Entry::Set(id, set) = entry
            && !ledgers.iter().any(|(_, reading)| reading.space.domain == set.domain)
        {
            return Err(Unread::Unusable(format!(
                "{} is missing, and set {id} is in it",
                ledger::file_name(set.domain)
            )));
        }
    }
    Ok(((records, tally), contents, ledgers))
}

/// Sets the files aside, or removes those of another boot.
fn clear(dir: &Path, why: &Unread) -> Result<(), Fault> {
    let doing = |e: std::io::Error| Fault::from(e).while_doing(format!("set aside what is in {}", dir.display()));
    let now = clock::realtime_usec() / 1_000_000;
    let mut aside = Vec::new();
    for file in std::fs::read_dir(dir).map_err(doing)? {
        let path = file.map_err(doing)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.contains(".damaged-") {
            continue;
        }
        match why {
            Unread::OtherBoot => std::fs::remove_file(&path).map_err(doing)?,
            _ => {
                let target = path.with_file_name(format!("{name}.damaged-{now}"));
                std::fs::rename(&path, &target).map_err(doing)?;
                aside.push(target.display().to_string());
            }
        }
    }
    if let Unread::Unusable(why) = why {
        tracing::error!(
            MESSAGE_ID = crate::proto::message_ids::RECORDS_SET_ASIDE,
            "the records cannot be used: {why}. They are set aside ({}); the service starts without them, and sets of \
             before are over",
            aside.join(", ")
        );
    }
    Ok(())
}

/// The records by kind.
#[derive(Debug, Default)]
struct Sorted {
    sets: BTreeMap<SetId, SetRecord>,
    cgroups: BTreeMap<CgroupId, records::CgroupRecord>,
    aliases: Vec<(SetId, u64, OnLease)>,
    holds: Vec<(SetId, u64, OnLease)>,
    sessions: HashMap<(SetId, u64), SessionRecord>,
}

impl Sorted {
    fn of(contents: Contents, next_set: &mut u64) -> Self {
        *next_set = contents.next_set;
        let mut sorted = Self::default();
        for entry in contents.entries {
            match entry {
                Entry::Set(id, record) => drop(sorted.sets.insert(id, record)),
                Entry::Cgroup(id, record) => drop(sorted.cgroups.insert(id, record)),
                Entry::Alias(set, alias, on) => sorted.aliases.push((set, alias, on)),
                Entry::Hold(set, key, on) => sorted.holds.push((set, key, on)),
                Entry::Session(set, key, record) => drop(sorted.sessions.insert((set, key), record)),
            }
        }
        sorted
    }
}

/// Descriptors that found their halves.
#[derive(Debug, Default)]
struct Matched {
    ends: Vec<(OwnedFd, SetEnd)>,
    sessions: Vec<ResumedSession>,
    /// Sessions, by set and key, that came back and that their holders had ended meanwhile.
    over: BTreeSet<(SetId, u64)>,
    /// The channel of the device came back, and with it the files that are open on it.
    device: bool,
}

impl State {
    /// Cgroups with their limits, peaks and events; those that are gone by now are dying.
    fn restore_cgroups(&mut self, contents: &Sorted, world: &World) {
        for (id, record) in &contents.cgroups {
            let down = record.lineage.clone();
            let up: Vec<_> = down.into_iter().rev().collect();
            let node = self.ensure_node(&up);
            node.set_administrator_limit(record.administrator);
            node.set_delegated_limit(record.delegated);
            self.recorded_cgroups.insert(*id);
        }
        for node in self.tree.nodes() {
            if !node.is_root() && !world.cgroups.is_alive(node.path(), node.id()) {
                self.mark_dying(&node);
            }
        }
        let Some(keep) = &mut self.keep else { return };
        for node in self.tree.nodes() {
            let counts = keep.tally.of(node.id());
            node.restore(counts.peak, counts.events, counts.events_local);
        }
        for id in keep.tally.known() {
            if self.tree.find(id).is_none() {
                keep.tally.forget(id);
            }
        }
    }

    /// Number spaces as they were made; what the policy says of them by now waits until they are idle. Gives the lines
    /// that sets are to take up.
    fn restore_spaces(&mut self, ledgers: Vec<(Ledger, Reading)>) -> Result<Vec<(Domain, Line)>, Fault> {
        let mut lines = Vec::new();
        let now = clock::monotonic_usec();
        let quarantine = self.policy.space.quarantine;
        let resting = |since: u64| Duration::from_micros(now.saturating_sub(since));
        for (mut ledger, reading) in ledgers {
            let domain = reading.space.domain;
            let idle = reading
                .lines
                .iter()
                .all(|line| matches!(line.standing, Standing::Resting(since) if resting(since) >= quarantine));
            if idle {
                // Made anew as the policy has it, but for the peak.
                if domain == Domain::Global {
                    self.make_pool(domain, None)?;
                    if let Some(pool) = self.pools.get_mut(&domain) {
                        pool.restore_peak(reading.peak);
                    }
                } else {
                    ledger.remove();
                }
                continue;
            }
            let mut pool = super::Pool::new(domain, reading.space.bits, &reading.space.reserved, quarantine)?;
            pool.set_source(self.id_source.clone().filter(|_| domain == Domain::Global));
            pool.restore_peak(reading.peak);
            ledger.keep_peak(reading.peak)?;
            pool.set_ledger(Some(ledger));
            let mut rests = Vec::new();
            for line in reading.lines {
                match line.standing {
                    Standing::Resting(since) => {
                        rests.push((since, line.pasid));
                        if line.tag != 0 {
                            self.freed_before.entry(line.tag).or_default().push(line.pasid);
                        }
                    }
                    Standing::Leased(_) | Standing::Pending(_) => lines.push((domain, line)),
                }
            }
            rests.sort_unstable();
            rests.into_iter().for_each(|(since, pasid)| pool.restore_rest(pasid, resting(since)));
            self.pools.insert(domain, pool);
        }
        self.make_pool(Domain::Global, None)?;
        Ok(lines)
    }

    /// Sets with what they lease, charged without regard to limits: it was charged before.
    fn restore_sets(
        &mut self,
        contents: &mut Sorted,
        lines: Vec<(Domain, Line)>,
        world: &World,
        losses: &mut Losses,
    ) -> Result<BTreeSet<SetId>, Fault> {
        let mut known = BTreeSet::new();
        for (id, record) in std::mem::take(&mut contents.sets) {
            let up: Option<Vec<_>> =
                contents.cgroups.get(&record.cgroup).map(|cgroup| cgroup.lineage.iter().rev().cloned().collect());
            let node = match up {
                Some(up) => self.ensure_node(&up),
                None if record.cgroup == world.cgroups.root() => self.tree.root(),
                None => {
                    // Written in one transaction with the set: the records are not what a service wrote.
                    losses.sets += 1;
                    self.defer(Change::Remove(Key::Set(id)));
                    continue;
                }
            };
            self.guard.restore_set(record.owner_uid);
            *self.sets_of.entry(node.id()).or_default() += 1;
            let set = Set::restored(id, record, node);
            self.sets.insert(id, set);
            known.insert(id);
        }
        for (domain, line) in lines {
            let (Standing::Leased(id) | Standing::Pending(id)) = line.standing else { continue };
            let Some(pool) = self.pools.get_mut(&domain) else { continue };
            let Some(set) = self.sets.get_mut(&id).filter(|set| set.domain == domain) else {
                // Of a set that was never answered for, or is gone: it rests like one that was given back.
                losses.ids += 1;
                if pool.restore_lease(id, line.pasid, line.tag) {
                    pool.give_back(&[line.pasid], 0);
                }
                continue;
            };
            if !pool.restore_lease(id, line.pasid, line.tag) {
                losses.ids += 1;
                continue;
            }
            set.leased.insert(line.pasid);
            if matches!(line.standing, Standing::Pending(_)) {
                set.pending.insert(line.pasid);
            }
            self.leased_before.entry(line.tag).or_default().push(line.pasid);
        }
        for set in self.sets.values_mut().filter(|set| !set.leased.is_empty()) {
            let charged = set.node.charge_regardless(u64::from(set.leased_count()));
            set.charge =
                Some(charged.map_err(|refusal| Fault::new(format!("charge set {} again: {refusal}", set.id)))?);
        }
        self.restore_aliases(contents);
        Ok(known)
    }

    /// Aliases of leases that are still the same. What waits to return has none: the free took them.
    fn restore_aliases(&mut self, contents: &Sorted) {
        for (id, alias, on) in &contents.aliases {
            let same = self.is_of_lease(*id, on);
            match self.sets.get_mut(id).filter(|set| same && !set.pending.contains(&on.pasid)) {
                Some(set) => drop(set.aliases.insert(*alias, on.pasid)),
                None => self.defer(Change::Remove(Key::Alias(*id, *alias))),
            }
        }
    }

    fn is_of_lease(&self, id: SetId, on: &OnLease) -> bool {
        let Some(set) = self.sets.get(&id) else { return false };
        let tag = self.pools.get(&set.domain).map(|pool| pool.tag(on.pasid));
        set.leased.contains(&on.pasid) && tag == Some(on.tag)
    }

    /// Gives every descriptor to the record that knows its name; the others are closed, or not ours.
    fn match_descriptors(
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
                matched.device |= name == super::DEVICE_CHANNEL;
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

impl Set {
    /// A set as it is recorded, without what stands elsewhere: ids, charge, sessions, descriptors.
    fn restored(id: SetId, record: SetRecord, node: Arc<crate::quota::Node>) -> Self {
        Self {
            id,
            label: record.label,
            owner_uid: record.owner_uid,
            creator_cgroup: record.creator_cgroup,
            rule: record.rule,
            quota: record.quota,
            quota_max: record.quota_max,
            range: record.range,
            domain: record.domain,
            created_usec: record.created_usec,
            cgroup: node.path().clone(),
            node,
            charge: None,
            leased: BTreeSet::new(),
            pending: BTreeSet::new(),
            aliases: BTreeMap::new(),
            sessions: HashMap::new(),
            ends: Vec::new(),
            ends_before: record.ends,
            device_file: record.device_file,
            region: None,
            watchers: BTreeMap::new(),
            told_in_use: BTreeSet::new(),
            serial: 0,
            quiescing: BTreeMap::new(),
            bound: BTreeSet::new(),
            state: record.state,
            reason: record.reason,
            surrendered: record.surrendered,
            mapped: false,
            next_end: record.next_end,
            gone: false,
        }
    }
}
