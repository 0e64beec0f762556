//! What the service costs over D-Bus, beside a zbus method that does nothing but return a descriptor, through the same
//! dbus-daemon in the same run.
//!
//! `cargo bench --bench dbus [-- --rounds N]`. Takes root and cgroup2, as the flow tests do. The state lies on a tmpfs, as
//! that of a service below /run does. Goals: CreateSet within 2 times the no-op; the p99 of a read-only call while 20 callers
//! make 1,000 sets within 5 times its idle p99. Beside that stands what the same load does to reads where the 20 call the
//! no-op: what bus and callers take.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::bus::{Caller, FLOOR, MANAGER, NAME, PROPERTIES, PrivateBus, ROOT};
use common::daemon::Daemon;
use serde_json::json;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;
use zbus::zvariant::{self, OwnedObjectPath, OwnedValue};

/// Set to the bus's address for the process that is the no-op.
const NOOP: &str = "IOASID_BENCH_NOOP";
/// Calls a round.
const CALLS: usize = 100;
/// How often 1,000 sets are made by 20 callers; the median of the 99th percentiles counts.
const LOADS: usize = 5;

const POLICY: &str = r#"
version = 1
[[rule]]
name = "bench"
cgroup = "/**"
users = ["root"]
action = "allow"
quota = { default = 8, max = 64 }
sets_per_cgroup = 4000000000
"#;

/// What CreateSet would be if it did nothing: the same types in and out.
struct Noop;

#[zbus::interface(name = "org.example.Floor")]
impl Noop {
    async fn create(
        &self,
        options: HashMap<String, OwnedValue>,
    ) -> zbus::fdo::Result<(zvariant::OwnedFd, OwnedObjectPath)> {
        drop(options);
        let file = std::fs::File::open("/dev/null").map_err(|error| zbus::fdo::Error::Failed(error.to_string()))?;
        let path = OwnedObjectPath::try_from(ROOT).map_err(|error| zbus::fdo::Error::Failed(error.to_string()))?;
        Ok((OwnedFd::from(file).into(), path))
    }

    #[zbus(property)]
    async fn current(&self) -> u64 {
        0
    }
}

fn be_noop(address: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let builder = zbus::connection::Builder::address(address).unwrap().serve_at("/floor", Noop).unwrap();
        let connection = builder.name(FLOOR).unwrap().build().await.unwrap();
        connection.closed().await;
    });
}

struct Floor(Child);

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One of the two that are measured.
#[derive(Clone, Copy)]
struct Place {
    name: &'static str,
    path: &'static str,
    interface: &'static str,
    method: &'static str,
}

const NO_OP: Place = Place { name: FLOOR, path: "/floor", interface: FLOOR, method: "Create" };
const SERVICE: Place = Place { name: NAME, path: ROOT, interface: MANAGER, method: "CreateSet" };

fn create(caller: &Caller, place: Place) -> zbus::Result<(u64, OwnedFd)> {
    let body = (HashMap::from([("quota", zvariant::Value::from(8_u32))]),);
    let began = Instant::now();
    let call = caller.connection.call_method(Some(place.name), place.path, Some(place.interface), place.method, &body);
    let reply = caller.block_on(call)?;
    let took = began.elapsed().as_nanos();
    let (fd, _): (zvariant::OwnedFd, OwnedObjectPath) = reply.body().deserialize()?;
    Ok((u64::try_from(took).unwrap(), fd.into()))
}

fn read(caller: &Caller, place: Place) -> u64 {
    let body = (place.interface, "Current");
    let began = Instant::now();
    let call = caller.connection.call_method(Some(place.name), place.path, Some(PROPERTIES), "Get", &body);
    caller.block_on(call).unwrap();
    u64::try_from(began.elapsed().as_nanos()).unwrap()
}

/// Times of reads while nothing else is asked, and while 20 callers create 50 times each; and how many of those failed.
fn read_under_load(reader: &Caller, callers: &[Caller], place: Place) -> ([Vec<u64>; 2], usize) {
    let idle = (0..2000).map(|_| read(reader, place)).collect();
    let (loaded, failed) = std::thread::scope(|scope| {
        let threads: Vec<_> = callers
            .iter()
            .map(|caller| scope.spawn(move || (0..50).map(|_| create(caller, place)).collect::<Vec<_>>()))
            .collect();
        let mut times = Vec::new();
        while threads.iter().any(|thread| !thread.is_finished()) {
            times.push(read(reader, place));
        }
        let made = threads.into_iter().flat_map(|thread| thread.join().unwrap());
        (times, made.filter(Result::is_err).count())
    });
    ([idle, loaded], failed)
}

fn at(times: &mut [u64], share: f64) -> u64 {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share) as usize]
}

fn main() {
    if let Ok(address) = std::env::var(NOOP) {
        return be_noop(&address);
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rounds = args.iter().skip_while(|arg| *arg != "--rounds").nth(1).and_then(|n| n.parse().ok()).unwrap_or(20);
    ioasid::sys::process::raise_max_files().unwrap();
    let bus = PrivateBus::start();
    let daemon = Daemon::start_in(Path::new("/dev/shm"), POLICY, &bus.options());
    let no_op = Command::new(std::env::current_exe().unwrap()).env(NOOP, bus.address()).spawn().unwrap();
    let no_op = Floor(no_op);
    let caller = bus.connect();
    caller.wait_for(NAME);
    caller.wait_for(FLOOR);

    let (mut noops, mut creates) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let mut cell: Vec<_> = (0..CALLS).map(|_| create(&caller, NO_OP).unwrap()).collect();
        let mut sets: Vec<_> = (0..CALLS).map(|_| create(&caller, SERVICE).unwrap()).collect();
        // The first round warms up.
        if round > 0 {
            noops.extend(cell.drain(..).map(|(took, _)| took));
            creates.extend(sets.drain(..).map(|(took, _)| took));
        }
        drop((cell, sets));
        common::eventually("the sets are gone", || daemon.sets().is_empty().then_some(()));
    }
    let callers: Vec<_> = (0..20).map(|_| bus.connect()).collect();
    let (mut floor, mut service, mut failed) = (<[Vec<u64>; 2]>::default(), <[Vec<u64>; 2]>::default(), 0);
    for _ in 0..LOADS {
        for (place, times) in [(NO_OP, &mut floor), (SERVICE, &mut service)] {
            let (found, refused) = read_under_load(&caller, &callers, place);
            times.iter_mut().zip(found).for_each(|(times, mut found)| times.push(at(&mut found, 0.99)));
            failed += refused;
            common::eventually("the sets are gone", || daemon.sets().is_empty().then_some(()));
        }
    }
    let [[mut floor_idle, mut floor_loaded], [mut idle, mut loaded]] = [floor, service];

    let mut results = Vec::new();
    let mut report = |name: &str, took: u64, limit: &str, least: u64, goal: &str| {
        let ratio = took as f64 / least.max(1) as f64;
        println!("{name:<22}{took:>9} ns   {limit:<26}{least:>9} ns   ratio {ratio:.2}   {goal}");
        results.push(json!({"name": name, "ns": took, "limit": limit, "limit_ns": least, "ratio": ratio}));
    };
    report("dbus_create_set", at(&mut creates, 0.5), "dbus_noop_with_descriptor", at(&mut noops, 0.5), "goal 2");
    report("dbus_read_p99_load", at(&mut loaded, 0.5), "dbus_read_p99_idle", at(&mut idle, 0.5), "goal 5");
    report("noop_read_p99_load", at(&mut floor_loaded, 0.5), "noop_read_p99_idle", at(&mut floor_idle, 0.5), "");
    println!("dbus_1000_sets_by_20  {LOADS} times, {failed} refused or failed");
    if args.iter().any(|arg| arg == "--json") {
        println!("{}", json!({ "results": results }));
    }
    drop(no_op);
    drop(callers);
}
