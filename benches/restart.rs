//! What it costs that nothing is lost: writing down, and coming back.
//!
//! `cargo bench --bench restart [-- --json] [--rounds N] [--sets N]`. Takes root and cgroup2, as the flow tests do. The
//! state lies on tmpfs, as below /run. Goals: a set made with records and a parked descriptor within 1.5 times one made
//! without; 10,000 sets restored within 1 s of the start; the longest pause of a client over a restart within 3 times what
//! the service takes to start.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Cgroups, Daemon, Options, eventually, supervised};
use ioasid::bench::{Case, Measure, interleave};
use ioasid::client::{Service, Set};
use ioasid::model::{CgroupPath, SetRequest};
use ioasid::sys::process;
use serde_json::json;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Sets a cell.
const TIMES: u32 = 50;
/// After so long the supervisor takes a service for one that works.
const SETTLED: Duration = Duration::from_millis(1_100);
/// Restarts that the medians are of.
const RESTARTS: usize = 5;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: usize| {
        args.iter().skip_while(|arg| *arg != name).nth(1).and_then(|n| n.parse().ok()).unwrap_or(default)
    };
    let state = tempfile::Builder::new().prefix("ioasid-bench-").tempdir_in("/dev/shm").unwrap();
    process::raise_max_files().unwrap();
    let quiet = ["--bus", "none", "--device", "none", "--cgroup-fs", "none"].map(str::to_owned);
    let volatile = Options { arguments: Some([&quiet[..], &["--volatile".to_owned()]].concat()), ..Options::default() };
    let (with, without) = (Host::new(supervised(), &state), Host::new(volatile, &state));
    let (recorded, forgotten) = (RefCell::new(with.connect()), RefCell::new(without.connect()));
    let mut cases = [
        Case::new("set_create_without_records", |_: &Measure| create_and_close(&mut forgotten.borrow_mut())),
        Case::new("set_create", |_: &Measure| create_and_close(&mut recorded.borrow_mut()))
            .against("set_create_without_records"),
    ];
    let report = interleave(number("--rounds", 61), &Measure::default(), &mut cases);
    drop(cases);
    drop((recorded, forgotten, without));
    let start = median((0..RESTARTS).map(|_| with.restart()).collect());
    let pause = median((0..RESTARTS).map(|_| with.longest_pause()).collect());
    let sets = number("--sets", 10_000);
    let held = with.hold(sets);
    let restored = median((0..RESTARTS).map(|_| with.restart()).collect());
    drop(held);
    let times = json!({
        "start_ms": millis(start), "pause_ms": millis(pause), "sets": sets, "restore_ms": millis(restored),
        "pause_over_start": pause.as_secs_f64() / start.as_secs_f64(),
    });
    if args.iter().any(|arg| arg == "--json") {
        let mut json = serde_json::to_value(&report).unwrap();
        json["restart"] = times;
        println!("{json}");
    } else {
        print!("{report}");
        println!("from the kill to an answer, no sets: {:.1} ms", millis(start));
        println!("longest pause of a client: {:.1} ms, ratio {} (goal 3)", millis(pause), times["pause_over_start"]);
        println!("from the kill to an answer, {sets} sets: {:.1} ms (goal 1000)", millis(restored));
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Nanoseconds of a set made and closed.
fn create_and_close((service, request): &mut (Service, SetRequest)) -> f64 {
    let start = Instant::now();
    for _ in 0..TIMES {
        drop(service.create_set(request.clone()).unwrap());
    }
    start.elapsed().as_nanos() as f64 / f64::from(TIMES)
}

struct Host {
    cgroups: Cgroups,
    daemon: Daemon,
    home: CgroupPath,
}

impl Host {
    fn new(options: Options, state: &tempfile::TempDir) -> Self {
        let cgroups = Cgroups::new();
        let home = cgroups.make("home");
        let scratch = cgroups.path("");
        let policy = format!(
            "version = 1\n[space]\nquarantine = \"0s\"\n[[rule]]\nname = \"bench\"\nusers = [\"*\"]\n\
             action = \"allow\"\nquota = {{ default = 64, max = 65536 }}\nsets_per_cgroup = 100000\n\
             on_behalf_of = [\"{scratch}/**\"]\n"
        );
        let daemon = Daemon::start_in(state.path(), &policy, &options);
        Self { cgroups, daemon, home }
    }

    fn request(&self) -> SetRequest {
        SetRequest { cgroup: Some(self.home.clone()), ..SetRequest::default() }
    }

    fn connect(&self) -> (Service, SetRequest) {
        (self.daemon.service(), self.request())
    }

    /// So many sets with four ids each, in a hundred cgroups.
    fn hold(&self, sets: usize) -> Vec<Set> {
        let homes: Vec<CgroupPath> = (0..100).map(|n| self.cgroups.make(&format!("many/{n}"))).collect();
        let mut service = self.daemon.service();
        let made = (0..sets).map(|n| {
            let cgroup = Some(homes[n % homes.len()].clone());
            let (set, _) = service.create_set(SetRequest { cgroup, ..SetRequest::default() }).unwrap();
            set.session().unwrap().alloc_many(4, None).unwrap();
            set
        });
        made.collect()
    }

    /// How long nobody answers when the service is killed: it is started anew, reads what was, and answers.
    fn restart(&self) -> Duration {
        // A service that dies within a second of its start is started with a pause, which is not what is measured.
        std::thread::sleep(SETTLED);
        let old = self.daemon.served_by().unwrap();
        let start = Instant::now();
        assert!(std::process::Command::new("kill").args(["-KILL", &old.to_string()]).status().unwrap().success());
        eventually("another process serves", || self.daemon.served_by().filter(|pid| *pid != old));
        // What connects waits in the queue of the socket, which is never closed.
        self.daemon.status();
        start.elapsed()
    }

    /// The longest time between two answers of a client that asks without a pause, over a kill.
    fn longest_pause(&self) -> Duration {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let (mut service, request) = self.connect();
                let (set, _) = service.create_set(request).unwrap();
                let mut session = set.session().unwrap();
                let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
                // ORDERING: Relaxed: a round more or less is no matter.
                while !done.load(Ordering::Relaxed) {
                    let id = session.alloc().unwrap();
                    session.free(&[id]).unwrap();
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                longest
            });
            self.restart();
            std::thread::sleep(Duration::from_millis(100));
            done.store(true, Ordering::Relaxed);
            client.join().unwrap()
        })
    }
}
