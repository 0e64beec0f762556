//! The fast path against the machine's limits and against other allocators, in one interleaved run.
//!
//! `cargo bench --bench fast_path [-- --json] [--rounds N] [NAME]`. For ours the ratio is our time over the limit's;
//! for a peer it is the peer's time over ours. Only ratios of one run mean anything (see `ioasid::bench`).
//!
//! With `--write` it measures all there is, keeps it in `target/bench/fast_path.json`, and makes of it the table in the
//! README and the picture in `docs/`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod charge;
mod goals;
mod mapped;
mod peers;
mod pool;

use ioasid::bench::{Line, Measure, Report, between, markdown, plot};
use ioasid::bitmap::limits;
use std::fs;
use std::path::Path;

/// Measures a group of cases in so many rounds.
type Group = fn(usize, &Measure) -> Report;

const MARKS: [&str; 2] = ["<!-- made by `make bench` from here -->", "<!-- to here -->"];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let flag = |name: &str| args.iter().any(|arg| arg == name);
    if flag("--neighbour") {
        pin(1);
        mapped::neighbour();
    }
    let value = |name: &str| args.iter().skip_while(|arg| *arg != name).nth(1);
    let rounds = value("--rounds").and_then(|n| n.parse().ok()).unwrap_or(15);
    let only = args.iter().find(|arg| !arg.starts_with('-') && Some(*arg) != value("--rounds"));
    let measure = Measure { pin, ..Measure::default() };

    let line = limits::line_round_trip(pin);
    let mut report = Report { results: Vec::new(), line_round_trip_ns: Some(line) };
    let groups: [(&str, Group); 9] = [
        ("mapped", mapped::run),
        ("pair", pool::pairs),
        ("churn", pool::churns),
        ("burst", pool::bursts),
        ("window", pool::windows),
        ("refusal", pool::refusals),
        ("latency", pool::latencies),
        ("fill", pool::fills),
        ("charge", charge::run),
    ];
    for (name, run) in groups {
        if only.is_none_or(|only| only == name) {
            report.results.extend(run(rounds, &measure).results);
        }
    }
    let json = serde_json::to_string_pretty(&report).expect("numbers and names");
    if flag("--json") {
        println!("{json}");
    } else {
        print!("{report}");
    }
    if flag("--write") {
        let lines = pool::occupancies(rounds.div_ceil(2), &measure);
        write(&report, &json, lines.into_iter().zip(pool::DRAWN).map(|(ns, name)| Line { name: name.into(), ns }));
    }
}

/// The figures into the repository: JSON, the README's table, the picture.
fn write(report: &Report, json: &str, lines: impl Iterator<Item = Line>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::create_dir_all(root.join("target/bench")).unwrap();
    fs::write(root.join("target/bench/fast_path.json"), json).unwrap();
    let [begin, end] = MARKS;
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let table = markdown(report, &goals::ROWS);
    let made = format!("{table}\n![A turn of free and alloc, by occupancy and threads](docs/cost.svg)\n");
    let readme = between(&readme, begin, end, &made).expect("both marks in README.md");
    fs::write(root.join("README.md"), readme).unwrap();
    let title = format!(
        "one id given back, another taken: {} ids, cache line {:.0} ns to another core and back",
        peers::LEN,
        report.line_round_trip_ns.unwrap_or_default()
    );
    let places = pool::OCCUPANCIES.map(|percent| format!("{percent} %"));
    let lines: Vec<Line> = lines.collect();
    fs::write(root.join("docs/cost.svg"), plot(&title, "claimed", &places, &lines)).unwrap();
}

/// Puts the calling thread on core `number`, if there is one.
fn pin(number: usize) {
    let mut cores = nix::sched::CpuSet::new();
    if cores.set(number).is_ok() {
        let _ = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cores);
    }
}
