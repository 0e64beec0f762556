//! What a charge costs, beside the atomic additions that it cannot do without.
//!
//! Each case runs in short rounds that take turns with its yardstick, so that both see the same machine; the figure is
//! the median round. `--json` prints `{"results": [{"name", "median_ns", "limit", "limit_ns", "ratio"}]}`. A level that
//! is charged has a limit, as far as it can have one: unlimited cgroups are not faster.

#![allow(clippy::expect_used)]

use ioasid::model::{CgroupId, CgroupPath, Limit};
use ioasid::quota::{Charge, Node, Tree};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{array, iter, thread};

const ROUNDS: usize = 301;
const TIMES: usize = 2000;
const TIMES_SHARED: usize = 20_000;

#[repr(align(128))]
#[derive(Default)]
struct Word(AtomicU64);

impl Word {
    fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::AcqRel);
    }
}

fn main() {
    let results = [charge_and_uncharge(), one_charge(), siblings()];
    if std::env::args().any(|arg| arg == "--json") {
        println!("{}", serde_json::json!({ "results": results.map(|result| result.json()) }));
        return;
    }
    for Outcome { name, limit, ns, limit_ns, goal } in results {
        let ratio = ns / limit_ns;
        println!("{name:<24} {ns:8.1} ns  {limit:<40} {limit_ns:8.1} ns  ratio {ratio:.2} (goal {goal})");
    }
}

struct Outcome {
    name: &'static str,
    limit: &'static str,
    ns: f64,
    limit_ns: f64,
    goal: f64,
}

impl Outcome {
    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name, "median_ns": self.ns, "limit": self.limit, "limit_ns": self.limit_ns,
            "ratio": self.ns / self.limit_ns, "goal": self.goal,
        })
    }
}

/// Rounds of both in turns; the medians in nanoseconds for one of `times`.
fn compare(
    times: usize,
    mut measured: impl FnMut() -> Duration,
    mut yardstick: impl FnMut() -> Duration,
) -> (f64, f64) {
    let mut rounds: [Vec<Duration>; 2] = Default::default();
    for _ in 0..ROUNDS {
        rounds[0].push(measured());
        rounds[1].push(yardstick());
    }
    let [measured, yardstick] = rounds.map(|mut rounds| {
        rounds.sort();
        rounds[ROUNDS / 2].as_nanos() as f64 / times as f64
    });
    (measured, yardstick)
}

fn time(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

/// A chain of cgroups, `depth` levels with the root, each with a limit that is not reached; the last name is `leaf`.
fn chain(tree: &Tree, depth: u64, leaf: u64) -> Arc<Node> {
    let names: Vec<_> = (2..depth).chain(iter::once(100 + leaf)).collect();
    let mut path = CgroupPath::root();
    let lineage: Vec<_> = names
        .into_iter()
        .map(|id| {
            path = path.child(&format!("c{id}")).expect("a plain name");
            (CgroupId(id), path.clone())
        })
        .collect();
    tree.ensure_with(&lineage, |_, _| Limit::Count(1 << 20))
}

fn charge_and_uncharge() -> Outcome {
    let node = chain(&Tree::new(CgroupId(1)), 3, 0);
    let words: [Word; 3] = Default::default();
    let (ns, limit_ns) = compare(
        TIMES,
        || time(|| (0..TIMES).for_each(|_| drop(black_box(node.try_charge(black_box(1)))))),
        || {
            time(|| {
                for _ in 0..TIMES {
                    words.iter().for_each(|word| word.add(black_box(1)));
                    words.iter().for_each(|word| word.add(black_box(1)));
                }
            })
        },
    );
    Outcome { name: "charge_uncharge_depth_3", limit: "six uncontended atomic adds", ns, limit_ns, goal: 2.0 }
}

fn one_charge() -> Outcome {
    let node = chain(&Tree::new(CgroupId(1)), 6, 0);
    let words: [Word; 6] = Default::default();
    let mut charges: Vec<Charge> = Vec::with_capacity(TIMES);
    let (ns, limit_ns) = compare(
        TIMES,
        || {
            let took = time(|| charges.extend((0..TIMES).map_while(|_| node.try_charge(black_box(1)).ok())));
            assert_eq!(charges.len(), TIMES);
            charges.clear();
            took
        },
        || time(|| (0..TIMES).for_each(|_| words.iter().for_each(|word| word.add(black_box(1))))),
    );
    Outcome { name: "charge_depth_6", limit: "six uncontended atomic adds", ns, limit_ns, goal: 2.0 }
}

fn siblings() -> Outcome {
    let tree = Tree::new(CgroupId(1));
    let leaves: [_; 2] = array::from_fn(|leaf| chain(&tree, 3, leaf as u64));
    let word = Word::default();
    let (ns, limit_ns) = compare(
        TIMES_SHARED,
        || two_threads(|thread| drop(black_box(leaves[thread].try_charge(black_box(1))))),
        || two_threads(|_| (0..3).for_each(|_| word.add(black_box(1)))),
    );
    assert_eq!(tree.root().current(), 0);
    Outcome { name: "charge_uncharge_2t", limit: "two threads, three adds to one word", ns, limit_ns, goal: 3.0 }
}

/// Both threads do `once` over and over, beginning together; how long until both are done.
fn two_threads(once: impl Fn(usize) + Sync) -> Duration {
    let ready = AtomicU64::new(0);
    let run = |thread| {
        ready.fetch_add(1, Ordering::AcqRel);
        while ready.load(Ordering::Acquire) < 2 {
            std::hint::spin_loop();
        }
        time(|| (0..TIMES_SHARED).for_each(|_| once(thread)))
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| run(1));
        run(0).max(other.join().unwrap_or_default())
    })
}
