//! The clients that the service is killed under: each does everything there is, at random, and knows what it has.

use crate::LIMIT;
use crate::book::{Book, Dice};
use crate::common::{Actor, Cgroups, Daemon, Order, eventually};
use ioasid::client::{ClientError, FreeOutcome, MappedSet, Service, Session, Set};
use ioasid::model::{CgroupPath, Limit, Pasid, Refusal, SetRequest};
use ioasid::proto::{GetCgroup, Recharge, RevokeSet, SetCgroupMax};
use std::collections::{BTreeSet, HashMap};
use std::os::fd::AsFd;
use std::time::Duration;

/// The clients wait longer for the service than anything takes here.
const PATIENCE: Duration = Duration::from_secs(60);
const QUOTA: u32 = 32;

/// What all clients of a run share.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    pub cgroups: &'a Cgroups,
    pub daemon: &'a Daemon,
    pub book: &'a Book,
    pub seed: u64,
    /// Whether the service lacks something now and then.
    pub faults: bool,
}

impl Scene<'_> {
    fn service(&self) -> Service {
        self.daemon.service().with_patience(PATIENCE)
    }

    fn dice(&self, client: usize) -> Dice {
        Dice::new(self.seed.wrapping_add(client as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn path(&self, cgroup: &str) -> CgroupPath {
        self.cgroups.path(&format!("slice/{cgroup}"))
    }

    /// What was done; `None` where a limit refused it, or what the service lacks now. Then nothing was done: the book will
    /// tell.
    fn unless_refused<T>(&self, outcome: Result<T, ClientError>) -> Option<T> {
        let error = match outcome {
            Ok(done) => return Some(done),
            Err(error) => error,
        };
        let limited = matches!(error.refusal(), Some(Refusal::LimitExceeded { .. } | Refusal::QuotaExceeded { .. }));
        assert!(limited || self.faults && is_fault(&error), "refused: {error:?}");
        None
    }

    /// The same for what no limit refuses: asked for until it is done.
    fn until_done<T>(&self, mut ask: impl FnMut() -> Result<T, ClientError>) -> T {
        eventually("what the service lacked is there again", || match ask() {
            Ok(done) => Some(done),
            Err(error) => {
                assert!(self.faults && is_fault(&error), "refused: {error:?}");
                None
            }
        })
    }

    fn open(&self, service: &mut Service, cgroup: &str, quota: u32) -> Set {
        let request = SetRequest { cgroup: Some(self.path(cgroup)), quota: Some(quota), ..SetRequest::default() };
        self.until_done(|| service.create_set(request.clone())).0.with_patience(PATIENCE)
    }

    fn sessions(&self, set: &Set) -> (Session, Session) {
        self.until_done(|| Ok((set.session()?, set.session()?)))
    }
}

/// The cgroups of a client: where it begins, and where its charge may be moved to.
pub fn homes(client: usize) -> [String; 2] {
    [format!("{client}"), format!("{client}-other")]
}

/// Somebody who goes on step by step.
pub trait Steps {
    fn step(&mut self);
    /// What the service says of it is what it thinks. What it leases and does not use is given back.
    fn check(&mut self);
    /// It closes everything and begins anew.
    fn renew(&mut self);
}

/// Whether the service lacks what the test has taken from it.
fn is_fault(error: &ClientError) -> bool {
    match error {
        ClientError::Fault(message) => message.contains("No space left on device"),
        ClientError::Refused(Refusal::TooMany { limit, .. }) => limit == "descriptors of the service",
        _ => false,
    }
}

/// One client: a set, two sessions on it, and what it thinks it has.
pub struct Client<'a> {
    number: usize,
    scene: Scene<'a>,
    dice: Dice,
    service: Service,
    /// The cgroup that pays.
    home: String,
    /// The limit that it set there.
    max: Limit,
    quota: u32,
    set: Set,
    one: Session,
    other: Session,
    ids: BTreeSet<Pasid>,
    aliases: HashMap<u64, Pasid>,
    /// References that the second session holds.
    held: BTreeSet<Pasid>,
    /// Freed, while the second session held them.
    pending: BTreeSet<Pasid>,
}

impl<'a> Client<'a> {
    pub fn new(number: usize, scene: Scene<'a>) -> Self {
        for cgroup in homes(number) {
            scene.cgroups.make(&format!("slice/{cgroup}"));
        }
        let [home, _] = homes(number);
        let mut service = scene.service();
        let set = scene.open(&mut service, &home, QUOTA);
        let (one, other) = scene.sessions(&set);
        let (ids, held, pending) = Default::default();
        let (dice, max, aliases) = (scene.dice(number), Limit::Max, HashMap::new());
        Self { number, scene, dice, service, home, max, quota: QUOTA, set, one, other, ids, aliases, held, pending }
    }

    fn any(&mut self) -> Option<Pasid> {
        let ids: Vec<Pasid> = self.ids.iter().copied().collect();
        self.dice.pick(&ids)
    }

    fn given(&mut self, ids: &[Pasid]) {
        for id in ids {
            self.scene.book.enter(self.number, &self.home, *id);
            assert!(self.ids.insert(*id));
        }
    }

    fn alloc(&mut self) {
        let count = 1 + u32::try_from(self.dice.below(4)).unwrap();
        if let Some(ids) = self.scene.unless_refused(self.one.alloc_many(count, None)) {
            assert_eq!(ids.len(), count as usize);
            self.given(&ids);
        }
    }

    fn free(&mut self) {
        let Some(id) = self.any() else { return };
        // It stays ours until the reference is put.
        let held = self.held.contains(&id);
        if !held {
            self.scene.book.strike(self.number, id);
        }
        match self.scene.unless_refused(self.one.free(&[id])) {
            Some(freed) => {
                self.ids.remove(&id);
                self.aliases.retain(|_, of| *of != id);
                let pending: &[Pasid] = if held { &[id] } else { &[] };
                assert_eq!(freed.pending, pending);
                self.pending.extend(pending);
            }
            None if held => {}
            None => self.scene.book.enter(self.number, &self.home, id),
        }
    }

    fn name(&mut self) {
        let alias = self.dice.below(8);
        if let (Some(id), false) = (self.any(), self.aliases.contains_key(&alias)) {
            let named = self.scene.unless_refused(self.one.alias_add(id, alias));
            self.aliases.extend(named.map(|()| (alias, id)));
        }
    }

    fn unname(&mut self) {
        let all: Vec<u64> = self.aliases.keys().copied().collect();
        if let Some(alias) = self.dice.pick(&all) {
            assert_eq!(self.other.alias_find(alias).unwrap(), self.aliases[&alias]);
            if self.scene.unless_refused(self.one.alias_del(alias)).is_some() {
                self.aliases.remove(&alias);
            }
        }
    }

    fn hold(&mut self) {
        if let Some(id) = self.any()
            && !self.held.contains(&id)
        {
            let held = self.scene.unless_refused(self.other.hold(id));
            self.held.extend(held.map(|()| id));
        }
    }

    fn put(&mut self) {
        let held: Vec<Pasid> = self.held.iter().copied().collect();
        if let Some(id) = self.dice.pick(&held) {
            let last = self.pending.contains(&id);
            if last {
                self.scene.book.strike(self.number, id);
            }
            if self.scene.unless_refused(self.other.put(id)).is_some() {
                self.held.remove(&id);
                self.pending.remove(&id);
            } else if last {
                self.scene.book.enter(self.number, &self.home, id);
            }
        }
    }

    fn strike_all(&mut self) {
        for id in self.ids.union(&self.pending) {
            self.scene.book.strike(self.number, *id);
        }
        (self.ids, self.held, self.pending) = Default::default();
        self.aliases.clear();
    }

    /// A process of its own makes a set, moves to another cgroup, gets a copy of this client's set FD as well, and is
    /// killed: what it made goes with it, what it took from this client's set stays.
    fn send_a_process(&mut self) {
        let actor = Actor::new(self.scene.cgroups, &format!("slice/{}", self.home));
        let socket = self.scene.daemon.socket();
        let (taken, _) = actor.order(&Order::Take { socket, count: 3 }, &[]);
        let taken: Option<Vec<Pasid>> = serde_json::from_value(taken).unwrap();
        let taken = taken.unwrap_or_default();
        let name = usize::MAX - self.number;
        taken.iter().for_each(|id| self.scene.book.enter(name, &self.home, *id));
        let elsewhere = homes((self.number + 1) % crate::CLIENTS);
        self.scene.cgroups.join(&format!("slice/{}", elsewhere[0]), actor.pid());
        let (ours, _) = actor.order(&Order::TryAlloc(2), &[self.set.as_fd()]);
        let ours: Option<Vec<Pasid>> = serde_json::from_value(ours).unwrap();
        self.given(&ours.unwrap_or_default());
        taken.iter().for_each(|id| self.scene.book.strike(name, *id));
        drop(actor);
    }

    fn recharge(&mut self) {
        let homes = homes(self.number);
        let to = if self.home == homes[0] { &homes[1] } else { &homes[0] };
        let call = Recharge { set: self.one.set().0, cgroup: self.scene.path(to).to_string() };
        if self.scene.unless_refused(self.service.call(&call, &[])).is_some() {
            self.home.clone_from(to);
            self.scene.book.move_to(self.number, to);
        }
    }

    /// Limits that are never hit, so that they can be told from what they were.
    fn set_limits(&mut self) {
        let quota = QUOTA + u32::try_from(self.dice.below(9)).unwrap();
        if self.scene.unless_refused(self.one.set_quota(quota)).is_some() {
            self.quota = quota;
        }
        let max = match self.dice.below(3) {
            0 => Limit::Max,
            more => Limit::Count(10 * LIMIT + more),
        };
        let [home, _] = homes(self.number);
        let call = SetCgroupMax { cgroup: self.scene.path(&home).to_string(), max: max.to_string(), persist: false };
        if self.scene.unless_refused(self.service.call(&call, &[])).is_some() {
            self.max = max;
        }
    }

    fn be_revoked(&mut self) {
        let set = self.one.set();
        self.strike_all();
        let (scene, service) = (self.scene, &mut self.service);
        scene.until_done(|| match service.call(&RevokeSet { set: set.0, reason: "torture".to_owned() }, &[]) {
            // Done before a restart, and asked for again.
            Err(ClientError::Refused(Refusal::Revoked { .. })) => Ok(()),
            outcome => outcome.map(drop),
        });
        let revoked = self.one.alloc().unwrap_err();
        let expected = Refusal::Revoked { set, reason: "torture".to_owned() };
        assert_eq!(revoked.refusal(), Some(&expected));
        self.renew();
    }

    /// A set whose cgroup goes while it has ids.
    fn lose_a_cgroup(&mut self) {
        let name = format!("doomed-{}", self.number);
        self.scene.cgroups.make(&format!("slice/{name}"));
        let scene = self.scene;
        let set = scene.open(&mut self.service, &name, 4);
        let mut session = scene.until_done(|| set.session());
        let id = scene.unless_refused(session.alloc());
        id.iter().for_each(|id| scene.book.enter(self.number, &name, *id));
        scene.cgroups.remove(&format!("slice/{name}"));
        id.iter().for_each(|id| scene.book.strike(self.number, *id));
        let stale = session.alloc().unwrap_err();
        assert!(matches!(stale.refusal(), Some(Refusal::Stale { .. })), "{stale:?}");
    }
}

impl Steps for Client<'_> {
    fn step(&mut self) {
        match self.dice.below(200) {
            0..60 => self.alloc(),
            60..105 => self.free(),
            105..125 => self.name(),
            125..135 => self.unname(),
            135..150 => self.hold(),
            150..170 => self.put(),
            170..180 => self.check(),
            180..186 => self.renew(),
            186..190 => self.recharge(),
            190..194 => self.set_limits(),
            194..196 => self.be_revoked(),
            196..198 => self.lose_a_cgroup(),
            // The processes take what they get.
            _ if self.scene.faults => self.renew(),
            _ => self.send_a_process(),
        }
    }

    fn check(&mut self) {
        let info = self.one.info().unwrap();
        let ours: Vec<Pasid> = self.ids.union(&self.pending).copied().collect();
        assert_eq!(info.pasids.unwrap(), ours, "client {}, set {}", self.number, info.set);
        assert_eq!((info.quota, info.cgroup), (self.quota, self.scene.path(&self.home)));
        for (alias, id) in &self.aliases {
            assert_eq!(self.one.alias_find(*alias).unwrap(), *id);
        }
        let [home, _] = homes(self.number);
        let call = GetCgroup { path: Some(self.scene.path(&home)), recurse: false };
        assert_eq!(self.service.call(&call, &[]).unwrap().0.max, self.max);
    }

    fn renew(&mut self) {
        self.strike_all();
        self.set = self.scene.open(&mut self.service, &self.home, QUOTA);
        self.quota = QUOTA;
        (self.one, self.other) = self.scene.sessions(&self.set);
    }
}

/// A client that maps its set: most of what it does is no request.
pub struct Mapper<'a> {
    number: usize,
    scene: Scene<'a>,
    dice: Dice,
    service: Service,
    home: String,
    set: Set,
    mapped: MappedSet,
    ids: Vec<Pasid>,
}

impl<'a> Mapper<'a> {
    pub fn new(number: usize, scene: Scene<'a>) -> Self {
        let [home, _] = homes(number);
        scene.cgroups.make(&format!("slice/{home}"));
        let mut service = scene.service();
        let set = scene.open(&mut service, &home, QUOTA);
        let mapped = scene.until_done(|| set.map());
        Self { number, scene, dice: scene.dice(number), service, home, set, mapped, ids: Vec::new() }
    }

    fn alloc(&mut self) {
        if let Some(id) = self.scene.unless_refused(self.mapped.alloc()) {
            self.scene.book.enter(self.number, &self.home, id);
            self.ids.push(id);
        }
    }

    fn free(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let at = usize::try_from(self.dice.below(self.ids.len() as u64)).unwrap();
        let id = self.ids.swap_remove(at);
        self.scene.book.strike(self.number, id);
        assert_eq!(self.mapped.free(id).unwrap(), FreeOutcome::Freed);
    }
}

impl Steps for Mapper<'_> {
    fn step(&mut self) {
        match self.dice.below(100) {
            0..48 => self.alloc(),
            48..90 => self.free(),
            90..94 => self.check(),
            94..98 => drop(self.mapped.session().trim().unwrap()),
            _ => self.renew(),
        }
    }

    fn check(&mut self) {
        self.mapped.session().trim().unwrap();
        let info = self.mapped.session().info().unwrap();
        let mut ours = self.ids.clone();
        ours.sort_unstable();
        assert_eq!(info.pasids.as_ref(), Some(&ours), "client {}, set {}", self.number, info.set);
        assert_eq!(info.leased as usize, ours.len());
    }

    fn renew(&mut self) {
        self.ids.drain(..).for_each(|id| self.scene.book.strike(self.number, id));
        self.set = self.scene.open(&mut self.service, &self.home, QUOTA);
        self.mapped = self.scene.until_done(|| self.set.map());
    }
}
