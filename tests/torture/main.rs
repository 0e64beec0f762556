//! Torture: kill -9 of the service at random moments, under load, watched by somebody who keeps a book of his own.
//!
//! `IOASID_TORTURE=N` says how many kills (12 without it), `IOASID_TORTURE_SEED` the seed. The clients allocate, free,
//! name, hold, map, pass their set FD on to processes that move to other cgroups and die, have limits changed, charges
//! moved, sets revoked, cgroups removed. The book knows what every client was given and what it gave back, and nothing
//! of how the service does it. It proves: no id with two owners, no counter that differs, no id that nobody has, no set
//! whose FD died.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod book;
mod client;
#[path = "../common/mod.rs"]
mod common;

use book::{Book, Dice};
use client::{Client, Mapper, Scene, Steps, homes};
use common::{Actor, Cgroups, Daemon, Order, max, policy, small_state, supervised};
use ioasid::model::{CgroupPath, Domain, SetRequest};
use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Clients that talk over sessions.
const CLIENTS: usize = 5;
/// Clients that map their sets.
const MAPPERS: usize = 1;
const ALL: u64 = (CLIENTS + MAPPERS) as u64;
/// A limit that is hit now and then.
const LIMIT: u64 = 60;
/// How long the service lacks something at most.
const A_MOMENT: Duration = Duration::from_millis(300);
/// The book and the service are compared every so many kills.
const CHECK_EVERY: u64 = 4;

/// Compares the service with the book, while every client stands still.
fn compare(daemon: &Daemon, book: &Book, slice: &CgroupPath) {
    let out = book.out();
    common::eventually_equal("what the service has out is what the book says", &(ALL, out, out), || {
        let status = daemon.status();
        let domain = status.domains.iter().find(|domain| domain.name == Domain::Global).unwrap();
        (status.sets, domain.current, daemon.current(slice))
    });
    let tree = daemon.cgroup(slice);
    assert_eq!(tree.current, tree.children.iter().map(|child| child.current).sum::<u64>());
    assert!(tree.peak <= LIMIT, "{tree:?}");
    for cgroup in (0..CLIENTS + MAPPERS).flat_map(homes) {
        let path: CgroupPath = format!("{slice}/{cgroup}").parse().unwrap();
        let current = tree.children.iter().find(|child| child.path == path).map_or(0, |child| child.current);
        assert_eq!(current, book.paid_by(&cgroup), "{path}");
    }
}

/// When the clients go on, stand still, end.
#[derive(Default)]
struct Orders {
    steps: AtomicU64,
    stop: AtomicBool,
    end: AtomicBool,
    standing: AtomicU64,
}

impl Orders {
    /// Goes on until it is told to end.
    fn obey(&self, client: &mut dyn Steps) {
        // ORDERING: SeqCst, as all here: of no matter for speed.
        while !self.end.load(Ordering::SeqCst) {
            client.step();
            self.steps.fetch_add(1, Ordering::SeqCst);
            if self.stop.load(Ordering::SeqCst) {
                client.check();
                self.standing.fetch_add(1, Ordering::SeqCst);
                while self.stop.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_micros(200));
                }
                self.standing.fetch_sub(1, Ordering::SeqCst);
            }
        }
        client.renew();
    }

    /// Waits for a random moment: so many steps from now, and a random while within one.
    fn wait_a_while(&self, dice: &mut Dice) {
        let at = self.steps.load(Ordering::SeqCst) + dice.below(60);
        common::eventually("the clients go on", || (self.steps.load(Ordering::SeqCst) >= at).then_some(()));
        (0..dice.below(20_000)).for_each(|_| std::hint::spin_loop());
    }

    /// The same where the clients may be waiting for what the service lacks: not for long, then.
    fn wait_a_moment(&self, dice: &mut Dice) {
        let (at, until) = (self.steps.load(Ordering::SeqCst) + dice.below(60), Instant::now() + A_MOMENT);
        while self.steps.load(Ordering::SeqCst) < at && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Has all stand still, and looks.
    fn while_all_stand(&self, look: impl FnOnce()) {
        common::eventually("all have gone on", || (self.standing.load(Ordering::SeqCst) == 0).then_some(()));
        self.stop.store(true, Ordering::SeqCst);
        common::eventually("all stand still", || (self.standing.load(Ordering::SeqCst) == ALL).then_some(()));
        look();
    }

    fn go_on(&self) {
        self.stop.store(false, Ordering::SeqCst);
    }
}

/// What the service lacks for a while.
enum Lack {
    Nothing,
    /// Room in its state directory, but for this file.
    Room(PathBuf),
    /// Descriptors for anybody new, in this process.
    Descriptors(u32),
}

impl Lack {
    /// Takes something from the service.
    fn any(dice: &mut Dice, daemon: &Daemon, orders: &Orders) -> Self {
        match dice.below(4) {
            0 => Self::Nothing,
            1 => {
                // Who was cut off by the last kill has a session again: no request is done and its answer refused.
                orders.while_all_stand(|| {});
                let service = common::eventually("somebody serves", || daemon.served_by());
                limit_descriptors(service, room_for(service, dice.below(8)));
                orders.go_on();
                Self::Descriptors(service)
            }
            _ => Self::Room(small_state::fill(daemon)),
        }
    }

    /// Gives it back, with a kill before or after. Descriptors are a process's own: those come back first.
    fn end(self, dice: &mut Dice, daemon: &Daemon) {
        let killed_first = dice.below(2) == 0;
        match self {
            Self::Nothing => {}
            Self::Descriptors(service) => limit_descriptors(service, 20_000),
            Self::Room(ballast) => {
                if killed_first {
                    daemon.kill_service();
                }
                fs::remove_file(ballast).unwrap();
                if killed_first {
                    return;
                }
            }
        }
        daemon.kill_service();
    }
}

/// The limit that leaves a service room for so few newcomers, and what it keeps for who is there: a quarter, at most 32.
fn room_for(service: u32, newcomers: u64) -> u64 {
    let open = fs::read_dir(format!("/proc/{service}/fd")).unwrap();
    let highest = open.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<u64>().unwrap()).max().unwrap();
    let used = highest + 1 + newcomers;
    used + (used / 3).min(32)
}

/// Changes a process's soft limit.
fn limit_descriptors(pid: u32, most: u64) {
    let limit = format!("--nofile={most}:");
    let done = std::process::Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status().unwrap();
    assert!(done.success());
}

#[test]
fn the_book_is_clean_after_kills_at_random_moments() {
    torture(false);
}

/// The state directory full, no descriptors left, in turn and while it is killed. What was refused then was not done.
#[test]
fn the_book_is_clean_after_kills_of_a_service_that_lacks_something() {
    torture(true);
}

fn torture(faults: bool) {
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
    let policy = policy(&cgroups, "bits = 9\nreserved = [\"0-31\"]\nquarantine = \"2ms\"", &rest);
    let mut daemon = if faults { small_state::start(&policy, supervised()) } else { Daemon::start_supervised(&policy) };
    daemon.may_warn();
    if faults {
        daemon.may_fail();
    }
    let book = Book::default();
    let orders = Orders::default();
    let scene = Scene { cgroups: &cgroups, daemon: &daemon, book: &book, seed, faults };
    let began = Instant::now();
    std::thread::scope(|scope| {
        let orders = &orders;
        for number in 0..CLIENTS {
            scope.spawn(move || orders.obey(&mut Client::new(number, scene)));
        }
        for number in CLIENTS..CLIENTS + MAPPERS {
            scope.spawn(move || orders.obey(&mut Mapper::new(number, scene)));
        }
        let mut dice = Dice::new(seed);
        let mut torture = || {
            for kill in 1..=kills {
                orders.wait_a_while(&mut dice);
                let lack = if faults { Lack::any(&mut dice, &daemon, orders) } else { Lack::Nothing };
                if faults {
                    orders.wait_a_moment(&mut dice);
                }
                lack.end(&mut dice, &daemon);
                if kill % CHECK_EVERY == 0 || kill == kills {
                    orders.while_all_stand(|| compare(&daemon, &book, &slice));
                    orders.end.store(kill == kills, Ordering::SeqCst);
                    orders.go_on();
                }
                if kill % 100 == 0 {
                    println!("{kill} kills in {:.1?}", began.elapsed());
                }
            }
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut torture));
        // The clients end, whatever became of it.
        orders.end.store(true, Ordering::SeqCst);
        orders.go_on();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let steps = orders.steps.load(Ordering::SeqCst);
    println!("{kills} kills survived under {steps} steps in {:.1?}, the book is clean", began.elapsed());
    assert_eq!(book.out(), 0);
    // What somebody has, has both its halves after a kill. A set that its holder had closed may be told, and ends.
    let log = daemon.log();
    for line in log.lines().filter(|line| line.contains("only one half")) {
        assert!(line.contains("0 session(s) likewise, 0 id(s) of no set, 0 region(s)"), "{line}");
        println!("{line}");
    }
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
