//! What the service costs over its socket: round trips beside a bare ping-pong, and whether they stay flat.
//!
//! `cargo bench --bench service [-- --json] [--rounds N]`. Takes root and cgroup2, as the flow tests do. Goals: a session
//! round trip within 1.5 times a bare SEQPACKET ping-pong of the same sizes between two processes, a set made and
//! closed within 8 times; create, alloc and free within 1.5 from 10 sets to 10,000 in 2,000 cgroups 6 deep; there
//! under 64 MiB; no wake-up in ten idle seconds.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Cgroups, Daemon};
use ioasid::bench::{Case, Measure, interleave};
use ioasid::client::{Service, Session, Set};
use ioasid::model::{CgroupPath, SetRequest};
use ioasid::sys::{process, seqpacket};
use nix::sys::socket::{MsgFlags, recv, send};
use serde_json::json;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Set for the process that answers every message.
const ECHO: &str = "IOASID_BENCH_ECHO";
/// Bytes of `{"count":1}` and of `{"pasids":[524288]}` with their headers.
const REQUEST: usize = 27;
const REPLY: usize = 35;
/// Operations a cell.
const TIMES: u32 = 100;

fn main() {
    if std::env::var_os(ECHO).is_some() {
        return echo();
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rounds = args.iter().skip_while(|arg| *arg != "--rounds").nth(1).and_then(|n| n.parse().ok()).unwrap_or(61);
    process::raise_max_files().unwrap();
    let (few, many) = (Host::new(10, 2), Host::new(10_000, 2_000));
    let mut bare = Bare::new();
    let mut cells = [few.connect(), many.connect()];
    let [small, large] = &mut cells;
    let (small, large) = (std::cell::RefCell::new(small), std::cell::RefCell::new(large));
    let case = |name, run: fn(&mut Cell) -> f64, cell| {
        let cell: &std::cell::RefCell<&mut Cell> = cell;
        Case::new(name, move |_: &Measure| run(&mut cell.borrow_mut()))
    };
    let mut cases = [
        Case::new("bare_ping_pong", |_| bare.round_trip()),
        case("session_round_trip", Cell::alloc, &small).against("bare_ping_pong"),
        case("session_free", Cell::free, &small).against("bare_ping_pong"),
        case("set_create", Cell::create_and_close, &small).against("bare_ping_pong"),
        case("session_round_trip_10000", Cell::alloc, &large).against("session_round_trip"),
        case("session_free_10000", Cell::free, &large).against("session_free"),
        case("set_create_10000", Cell::create_and_close, &large).against("set_create"),
    ];
    let report = interleave(rounds, &Measure::default(), &mut cases);
    drop(cases);
    let (rss, wakeups) = (many.resident_kib(), many.wakeups(Duration::from_secs(10)));
    if args.iter().any(|arg| arg == "--json") {
        let mut json = serde_json::to_value(&report).unwrap();
        json["resident_kib_10000"] = json!(rss);
        json["wakeups_idle_10s"] = json!(wakeups);
        println!("{json}");
    } else {
        print!("{report}");
        println!("resident with 10,000 sets: {:.1} MiB (goal 64)", rss as f64 / 1024.0);
        println!("wake-ups in 10 idle seconds: {wakeups} (goal 0)");
    }
}

/// A service with so many sets in so many cgroups.
struct Host {
    cgroups: Cgroups,
    daemon: Daemon,
    _sets: Vec<Set>,
}

impl Host {
    fn new(sets: usize, cgroups: usize) -> Self {
        let tree = Cgroups::new();
        let scratch = tree.path("");
        let daemon = Daemon::start(&format!(
            "version = 1\n[space]\nbits = 20\nreserved = [\"0-1023\"]\nquarantine = \"0s\"\n[[cgroup]]\npath = \"{scratch}/**\"\nmax = 1000000\n\
            [[rule]]\nname = \"bench\"\nusers = [\"*\"]\naction = \"allow\"\nquota = {{ default = 64, max = 65536 }}\nsets_per_cgroup = 100000\n\
            on_behalf_of = [\"{scratch}/**\"]\n"
        ));
        let paths: Vec<CgroupPath> = (0..cgroups).map(|n| tree.make(&deep(n))).collect();
        let mut service = Service::connect(daemon.socket()).unwrap();
        let held = (0..sets)
            .map(|n| {
                let cgroup = Some(paths[n % paths.len()].clone());
                let (set, _) = service.create_set(SetRequest { cgroup, ..SetRequest::default() }).unwrap();
                set.session().unwrap().alloc_many(4, None).unwrap();
                set
            })
            .collect();
        Self { cgroups: tree, daemon, _sets: held }
    }

    fn connect(&self) -> Cell {
        let mut service = Service::connect(self.daemon.socket()).unwrap();
        let request = SetRequest { cgroup: Some(self.cgroups.path(&deep(0))), ..SetRequest::default() };
        let (set, _) = service.create_set(SetRequest { quota: Some(65536), ..request.clone() }).unwrap();
        let session = set.session().unwrap();
        Cell { service, _set: set, session, request }
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.daemon.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
    }

    fn resident_kib(&self) -> u64 {
        self.status("VmRSS")
    }

    fn wakeups(&self, during: Duration) -> u64 {
        let before = self.status("voluntary_ctxt_switches");
        std::thread::sleep(during);
        self.status("voluntary_ctxt_switches") - before
    }
}

/// The path of cgroup `n`: six levels below the root of the hierarchy, the scratch cgroup being the first.
fn deep(n: usize) -> String {
    format!("a{}/b{}/c/d/e{n}", n % 5, n % 25)
}

/// A connection, and a set with a session.
struct Cell {
    service: Service,
    _set: Set,
    session: Session,
    request: SetRequest,
}

impl Cell {
    /// Nanoseconds of an alloc; the frees between are not counted.
    fn alloc(&mut self) -> f64 {
        let mut spent = Duration::ZERO;
        for _ in 0..TIMES {
            let start = Instant::now();
            let pasid = self.session.alloc().unwrap();
            spent += start.elapsed();
            self.session.free(&[pasid]).unwrap();
        }
        spent.as_nanos() as f64 / f64::from(TIMES)
    }

    /// Nanoseconds of a free.
    fn free(&mut self) -> f64 {
        let mut spent = Duration::ZERO;
        for _ in 0..TIMES {
            let pasid = self.session.alloc().unwrap();
            let start = Instant::now();
            self.session.free(&[pasid]).unwrap();
            spent += start.elapsed();
        }
        spent.as_nanos() as f64 / f64::from(TIMES)
    }

    /// Nanoseconds of a set made and closed. Its end is the service's work before it hears of the next.
    fn create_and_close(&mut self) -> f64 {
        let start = Instant::now();
        for _ in 0..TIMES {
            drop(self.service.create_set(self.request.clone()).unwrap());
        }
        start.elapsed().as_nanos() as f64 / f64::from(TIMES)
    }
}

/// Two processes and a SEQPACKET pair, nothing else.
struct Bare {
    socket: OwnedFd,
    child: Child,
}

impl Bare {
    fn new() -> Self {
        let (socket, theirs) = seqpacket::pair().unwrap();
        for end in [&socket, &theirs] {
            seqpacket::wait_in_kernel(std::os::fd::AsFd::as_fd(end)).unwrap();
        }
        let child = Command::new(std::env::current_exe().unwrap()).env(ECHO, "1").stdin(theirs).spawn().unwrap();
        Self { socket, child }
    }

    fn round_trip(&mut self) -> f64 {
        let (request, mut reply) = ([0; REQUEST], [0; 256]);
        let start = Instant::now();
        for _ in 0..TIMES {
            send(self.socket.as_raw_fd(), &request, MsgFlags::MSG_NOSIGNAL).unwrap();
            recv(self.socket.as_raw_fd(), &mut reply, MsgFlags::empty()).unwrap();
        }
        start.elapsed().as_nanos() as f64 / f64::from(TIMES)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn echo() {
    let (mut request, reply) = ([0; 256], [0; REPLY]);
    while recv(0, &mut request, MsgFlags::empty()).is_ok_and(|len| len > 0) {
        if send(0, &reply, MsgFlags::MSG_NOSIGNAL).is_err() {
            return;
        }
    }
}
