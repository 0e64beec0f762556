//! Torture: kill -9 of the service at random moments, under load, watched by somebody who keeps a book of his own.
//!
//! `IOASID_TORTURE=N` says how many kills (12 without it), `IOASID_TORTURE_SEED` the seed. The book knows what every
//! client was given and what it gave back, and nothing of how the service does it. It proves: no id with two owners, no
//! counter that differs, no id that nobody has, no set whose FD died.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, Order, max, policy};
use ioasid::client::{ClientError, Service, Session, Set};
use ioasid::model::{CgroupPath, Domain, Pasid, Refusal, SetRequest};
use std::collections::{BTreeSet, HashMap};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: usize = 5;
/// Limits that are hit now and then.
const LIMIT: u64 = 60;
/// The book and the service are compared every so many kills.
const CHECK_EVERY: u64 = 4;

/// A random number generator; small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let bound = u64::try_from(of.len()).unwrap();
        (bound > 0).then(|| of[usize::try_from(self.below(bound)).unwrap()])
    }
}

/// Who has which id, over all clients. An id is struck out before it is given back, and entered after it was given.
#[derive(Default)]
struct Book(Mutex<HashMap<u32, usize>>);

impl Book {
    fn enter(&self, client: usize, id: Pasid) {
        let before = self.0.lock().unwrap().insert(id.get(), client);
        assert_eq!(before, None, "id {id} has two owners, the second is client {client}");
    }

    fn strike(&self, client: usize, id: Pasid) {
        assert_eq!(self.0.lock().unwrap().remove(&id.get()), Some(client), "id {id}");
    }
}

/// One client: a set, two sessions on it, and what it thinks it has.
struct Client<'a> {
    number: usize,
    cgroup: CgroupPath,
    daemon: &'a Daemon,
    book: &'a Book,
    dice: Dice,
    service: Service,
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

/// A refusal that the client asked for, or a panic.
fn refused(error: &ClientError) {
    assert!(
        matches!(error.refusal(), Some(Refusal::LimitExceeded { .. } | Refusal::QuotaExceeded { .. })),
        "refused: {error:?}"
    );
}

impl<'a> Client<'a> {
    fn new(number: usize, cgroup: CgroupPath, daemon: &'a Daemon, book: &'a Book, seed: u64) -> Self {
        let mut service = daemon.service().with_patience(Duration::from_secs(60));
        let (set, one, other) = open(&mut service, &cgroup);
        let dice = Dice(seed.wrapping_add(number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (ids, held, pending) = Default::default();
        let aliases = HashMap::new();
        Self { number, cgroup, daemon, book, dice, service, set, one, other, ids, aliases, held, pending }
    }

    fn any(&mut self) -> Option<Pasid> {
        let ids: Vec<Pasid> = self.ids.iter().copied().collect();
        self.dice.pick(&ids)
    }

    fn step(&mut self) {
        match self.dice.below(20) {
            0..=5 => {
                let count = 1 + u32::try_from(self.dice.below(4)).unwrap();
                match self.one.alloc_many(count, None) {
                    Ok(ids) => {
                        assert_eq!(ids.len(), count as usize);
                        for id in ids {
                            self.book.enter(self.number, id);
                            assert!(self.ids.insert(id));
                        }
                    }
                    Err(error) => refused(&error),
                }
            }
            6..=10 => {
                if let Some(id) = self.any() {
                    self.free(id);
                }
            }
            11 | 12 => {
                let alias = self.dice.below(8);
                if let (Some(id), false) = (self.any(), self.aliases.contains_key(&alias)) {
                    self.one.alias_add(id, alias).unwrap();
                    self.aliases.insert(alias, id);
                }
            }
            13 => {
                let all: Vec<u64> = self.aliases.keys().copied().collect();
                if let Some(alias) = self.dice.pick(&all) {
                    assert_eq!(self.other.alias_find(alias).unwrap(), self.aliases[&alias]);
                    self.one.alias_del(alias).unwrap();
                    self.aliases.remove(&alias);
                }
            }
            14 => {
                if let Some(id) = self.any()
                    && !self.held.contains(&id)
                {
                    self.other.hold(id).unwrap();
                    self.held.insert(id);
                }
            }
            15 | 16 => {
                let held: Vec<Pasid> = self.held.iter().copied().collect();
                if let Some(id) = self.dice.pick(&held) {
                    if self.pending.remove(&id) {
                        self.book.strike(self.number, id);
                    }
                    self.other.put(id).unwrap();
                    self.held.remove(&id);
                }
            }
            17 => self.check(),
            18 => self.renew(),
            _ => self.give_away(),
        }
    }

    fn free(&mut self, id: Pasid) {
        self.ids.remove(&id);
        self.aliases.retain(|_, of| *of != id);
        if self.held.contains(&id) {
            // It stays ours until the reference is put.
            self.pending.insert(id);
            assert_eq!(self.one.free(&[id]).unwrap().pending, [id]);
        } else {
            self.book.strike(self.number, id);
            assert_eq!(self.one.free(&[id]).unwrap().pending, []);
        }
    }

    /// What the service says of the set is what the client thinks.
    fn check(&mut self) {
        let info = self.one.info().unwrap();
        let ours: Vec<Pasid> = self.ids.union(&self.pending).copied().collect();
        assert_eq!(info.pasids.unwrap(), ours, "client {}, set {}", self.number, info.set);
        for (alias, id) in &self.aliases {
            assert_eq!(self.one.alias_find(*alias).unwrap(), *id);
        }
    }

    /// Closes everything and begins anew.
    fn renew(&mut self) {
        for id in self.ids.union(&self.pending) {
            self.book.strike(self.number, *id);
        }
        (self.ids, self.held, self.pending) = Default::default();
        self.aliases.clear();
        (self.set, self.one, self.other) = open(&mut self.service, &self.cgroup);
    }

    /// Makes a set, gives it to a process, and kills that: the set goes with it.
    fn give_away(&mut self) {
        let request = SetRequest { cgroup: Some(self.cgroup.clone()), ..SetRequest::default() };
        let (set, _) = self.service.create_set(request).unwrap();
        let mut session = set.session().unwrap();
        if let Err(error) = session.alloc_many(2, None) {
            refused(&error);
        }
        drop(session);
        let copy = Set::from_fd(set.as_fd().try_clone_to_owned().unwrap()).unwrap();
        drop(set);
        assert!(self.daemon.pid() > 0);
        copy.session().unwrap().info().unwrap();
    }
}

fn open(service: &mut Service, cgroup: &CgroupPath) -> (Set, Session, Session) {
    let request = SetRequest { cgroup: Some(cgroup.clone()), quota: Some(32), ..SetRequest::default() };
    let (set, _) = service.create_set(request).unwrap();
    let set = set.with_patience(Duration::from_secs(60));
    let (one, other) = (set.session().unwrap(), set.session().unwrap());
    (set, one, other)
}

/// Compares the service with the book, while every client stands still.
fn compare(daemon: &Daemon, book: &Book, slice: &CgroupPath) {
    let out = book.0.lock().unwrap().len() as u64;
    common::eventually_equal("what the service has out is what the book says", &(CLIENTS as u64, out, out), || {
        let status = daemon.status();
        let domain = status.domains.iter().find(|domain| domain.name == Domain::Global).unwrap();
        (status.sets, domain.current, daemon.current(slice))
    });
    let tree = daemon.cgroup(slice);
    assert_eq!(tree.current, tree.children.iter().map(|child| child.current).sum::<u64>());
    assert!(tree.peak <= LIMIT, "{tree:?}");
}

#[test]
fn the_book_is_clean_after_kills_at_random_moments() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let kills = number("IOASID_TORTURE").unwrap_or(12);
    let seed = number("IOASID_TORTURE_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("{kills} kills, seed {seed}");
    let cgroups = Cgroups::new();
    let slice = cgroups.make("slice");
    let scratch = cgroups.path("");
    let rest = format!(
        "{}[[rule]]\nname = \"behalf\"\ncgroup = \"/**\"\nusers = [\"root\"]\naction = \"allow\"\n\
         quota = {{ default = 8, max = 256 }}\nsets_per_cgroup = 64\non_behalf_of = [\"{scratch}/**\"]\n",
        max(&cgroups, "slice", LIMIT)
    );
    let daemon =
        Daemon::start_supervised(&policy(&cgroups, "bits = 9\nreserved = [\"0-31\"]\nquarantine = \"2ms\"", &rest));
    let book = Book::default();
    let steps = AtomicU64::new(0);
    let (stop, end) = (AtomicBool::new(false), AtomicBool::new(false));
    let standing = AtomicU64::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let cgroup = cgroups.make(&format!("slice/{}", client % 3));
            let (daemon, book, steps, standing) = (&daemon, &book, &steps, &standing);
            let (stop, end) = (&stop, &end);
            scope.spawn(move || {
                let mut client = Client::new(client, cgroup, daemon, book, seed);
                // ORDERING: SeqCst: of no matter for speed here.
                while !end.load(Ordering::SeqCst) {
                    client.step();
                    steps.fetch_add(1, Ordering::SeqCst);
                    if stop.load(Ordering::SeqCst) {
                        client.check();
                        standing.fetch_add(1, Ordering::SeqCst);
                        while stop.load(Ordering::SeqCst) {
                            std::thread::yield_now();
                        }
                    }
                }
                client.renew();
            });
        }
        let mut dice = Dice(seed | 1);
        let mut torture = || {
            for kill in 1..=kills {
                // A random moment: so many steps from now, and a random while within one.
                let at = steps.load(Ordering::SeqCst) + dice.below(60);
                common::eventually("the clients go on", || (steps.load(Ordering::SeqCst) >= at).then_some(()));
                (0..dice.below(20_000)).for_each(|_| std::hint::spin_loop());
                daemon.kill_service();
                if kill % CHECK_EVERY == 0 || kill == kills {
                    standing.store(0, Ordering::SeqCst);
                    stop.store(true, Ordering::SeqCst);
                    common::eventually("all stand still", || {
                        (standing.load(Ordering::SeqCst) == CLIENTS as u64).then_some(())
                    });
                    compare(&daemon, &book, &slice);
                    end.store(kill == kills, Ordering::SeqCst);
                    stop.store(false, Ordering::SeqCst);
                }
            }
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut torture));
        // The clients end, whatever became of it.
        end.store(true, Ordering::SeqCst);
        stop.store(false, Ordering::SeqCst);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let steps = steps.load(Ordering::SeqCst);
    println!("{kills} kills survived under {steps} steps in {:.1?}, the book is clean", began.elapsed());
    assert_eq!(book.0.lock().unwrap().len(), 0);
    // What comes up in the end has one half of everything, and says nothing.
    assert!(!daemon.log().contains("only one half"), "{}", daemon.log());
    daemon.finish();
}

/// Holders that die with the service: what they held is given back by its successor.
#[test]
fn a_holder_that_is_killed_while_nobody_serves_gives_back_everything() {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let daemon = Daemon::start_supervised(&policy(&cgroups, "", ""));
    for round in 0..3 {
        let actor = Actor::new(&cgroups, "a");
        let (_, fds) = actor.order(&Order::Connect(daemon.socket()), &[]);
        let wire = common::Wire::over(fds.into_iter().next().unwrap()).greet();
        let (set, _) = wire.create_set(SetRequest::default()).unwrap();
        drop(wire);
        let (ids, _) = actor.order(&Order::Alloc(3), &[set.as_fd()]);
        let held = ids[0].as_u64().unwrap();
        actor.order(&Order::Hold(vec![u32::try_from(held).unwrap()]), &[set.as_fd()]);
        drop(set);
        let served = daemon.served_by().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-STOP", &served]).status().unwrap().success());
        drop(actor);
        daemon.kill_service();
        common::eventually("the set is gone", || daemon.sets().is_empty().then_some(()));
        assert_eq!(daemon.current(&cgroups.path("a")), 0, "round {round}");
    }
    daemon.finish();
}
