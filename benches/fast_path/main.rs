//! The fast path against the machine's limits and against other allocators, in one interleaved run.
//!
//! `cargo bench --bench fast_path [-- --json] [--rounds N] [NAME]`. For ours the ratio is our time over the limit's;
//! for a peer it is the peer's time over ours. Only ratios of one run mean anything (see `ioasid::bench`).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod mapped;
mod peers;
mod pool;

use ioasid::bench::{Measure, Report};
use ioasid::bitmap::limits;

/// Measures a group of cases in so many rounds.
type Group = fn(usize, &Measure) -> Report;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let value = |name: &str| args.iter().skip_while(|arg| *arg != name).nth(1);
    let rounds = value("--rounds").and_then(|n| n.parse().ok()).unwrap_or(15);
    let only = args.iter().find(|arg| !arg.starts_with('-') && Some(*arg) != value("--rounds"));
    let measure = Measure { pin, ..Measure::default() };

    let line = limits::line_round_trip(pin);
    let mut report = Report { results: Vec::new(), line_round_trip_ns: Some(line) };
    let groups: [(&str, Group); 8] = [
        ("mapped", mapped::run),
        ("pair", pool::pairs),
        ("churn", pool::churns),
        ("burst", pool::bursts),
        ("window", pool::windows),
        ("refusal", pool::refusals),
        ("latency", pool::latencies),
        ("fill", pool::fills),
    ];
    for (name, run) in groups {
        if only.is_none_or(|only| only == name) {
            report.results.extend(run(rounds, &measure).results);
        }
    }
    if args.iter().any(|arg| arg == "--json") {
        println!("{}", serde_json::to_string_pretty(&report).expect("numbers and names"));
    } else {
        print!("{report}");
    }
}

/// Puts the calling thread on core `number`, if there is one.
fn pin(number: usize) {
    let mut cores = nix::sched::CpuSet::new();
    if cores.set(number).is_ok() {
        let _ = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cores);
    }
}
