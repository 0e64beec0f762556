//! What the service costs over D-Bus, beside a zbus method that does nothing but return a descriptor, through the same
//! dbus-daemon in the same run.
//!
//! `cargo bench --bench dbus [-- --rounds N]`. Takes root and cgroup2, as the flow tests do. Goals: CreateSet within 2 times
//! the no-op; the p99 of a read-only call while 20 callers make 1,000 sets within 5 times its idle p99.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::bus::{Caller, FLOOR, MANAGER, PROPERTIES, PrivateBus, ROOT};
use common::daemon::Daemon;
use serde_json::json;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::time::Instant;
use zbus::zvariant::{self, OwnedObjectPath, OwnedValue};

/// Set to the bus's address for the process that is the no-op.
const NOOP: &str = "IOASID_BENCH_NOOP";
/// Calls a round.
const CALLS: usize = 100;

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

fn create(caller: &Caller, name: &str, path: &str, interface: &str, method: &str) -> (u64, OwnedFd) {
    let body = (HashMap::from([("quota", zvariant::Value::from(8_u32))]),);
    let began = Instant::now();
    let call = caller.connection.call_method(Some(name), path, Some(interface), method, &body);
    let reply = caller.block_on(call).unwrap();
    let took = began.elapsed().as_nanos();
    let (fd, _): (zvariant::OwnedFd, OwnedObjectPath) = reply.body().deserialize().unwrap();
    (u64::try_from(took).unwrap(), fd.into())
}

fn read(caller: &Caller) -> u64 {
    let body = (MANAGER, "Current");
    let began = Instant::now();
    let call = caller.connection.call_method(Some("org.ioasid1"), ROOT, Some(PROPERTIES), "Get", &body);
    caller.block_on(call).unwrap();
    u64::try_from(began.elapsed().as_nanos()).unwrap()
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
    let daemon: Daemon = bus.serve(POLICY);
    let floor = Command::new(std::env::current_exe().unwrap()).env(NOOP, bus.address()).spawn().unwrap();
    let floor = Floor(floor);
    let caller = bus.connect();
    caller.wait_for(FLOOR);

    let (mut noops, mut creates) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let mut cell: Vec<_> = (0..CALLS).map(|_| create(&caller, FLOOR, "/floor", FLOOR, "Create")).collect();
        let mut sets: Vec<_> = (0..CALLS).map(|_| create(&caller, "org.ioasid1", ROOT, MANAGER, "CreateSet")).collect();
        // The first round warms up.
        if round > 0 {
            noops.extend(cell.drain(..).map(|(took, _)| took));
            creates.extend(sets.drain(..).map(|(took, _)| took));
        }
        drop((cell, sets));
        common::eventually("the sets are gone", || daemon.sets().is_empty().then_some(()));
    }
    let mut idle: Vec<u64> = (0..2000).map(|_| read(&caller)).collect();
    let callers: Vec<_> = (0..20).map(|_| bus.connect()).collect();
    let (mut loaded, failed) = std::thread::scope(|scope| {
        let threads: Vec<_> = callers
            .iter()
            .map(|caller| scope.spawn(move || (0..50).map(|_| caller.create_set(&[])).collect::<Vec<_>>()))
            .collect();
        let mut times = Vec::new();
        while threads.iter().any(|thread| !thread.is_finished()) {
            times.push(read(&caller));
        }
        let made = threads.into_iter().flat_map(|thread| thread.join().unwrap());
        (times, made.filter(Result::is_err).count())
    });
    let (noop, made) = (at(&mut noops, 0.5), at(&mut creates, 0.5));
    let (idle_p99, loaded_p99) = (at(&mut idle, 0.99), at(&mut loaded, 0.99));
    let ratio = |of: u64, to: u64| of as f64 / to.max(1) as f64;
    println!("dbus_create_set     {made:>9} ns   no-op {noop:>9} ns   ratio {:.2}   goal 2", ratio(made, noop));
    println!(
        "dbus_read_p99_load  {loaded_p99:>9} ns   idle  {idle_p99:>9} ns   ratio {:.2}   goal 5   ({} reads)",
        ratio(loaded_p99, idle_p99),
        loaded.len()
    );
    println!("dbus_1000_sets_by_20: {failed} refused or failed");
    let results = json!({"results": [
        {"name": "dbus_create_set", "median_ns": made, "limit": "dbus_noop_with_descriptor", "limit_ns": noop,
         "ratio": ratio(made, noop)},
        {"name": "dbus_read_p99_load", "median_ns": loaded_p99, "limit": "dbus_read_p99_idle", "limit_ns": idle_p99,
         "ratio": ratio(loaded_p99, idle_p99)},
    ]});
    if args.iter().any(|arg| arg == "--json") {
        println!("{results}");
    }
    drop(floor);
    drop(callers);
}
