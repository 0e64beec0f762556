//! Charges, beside the atomic additions that they cannot do without.
//!
//! A level that is charged has a limit, as far as it can have one: unlimited cgroups are not faster.

use ioasid::bench::{Case, Measure, Report, Threads, interleave};
use ioasid::model::{CgroupId, CgroupPath, Limit};
use ioasid::quota::{Charge, Node, Tree};
use ioasid::sync::{AtomicU64, Ordering};
use std::array;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CHUNK: u64 = 256;

#[repr(align(128))]
#[derive(Default)]
struct Word(AtomicU64);

impl Word {
    fn add(&self) {
        // ORDERING: AcqRel, as a charge's own.
        self.0.fetch_add(black_box(1), Ordering::AcqRel);
    }
}

pub fn run(rounds: usize, measure: &Measure) -> Report {
    let words: [Word; 6] = Default::default();
    let one = &words[0];
    let shallow = chain(&Tree::new(CgroupId(1)), 3, 0);
    let deep = chain(&Tree::new(CgroupId(1)), 6, 0);
    let tree = Tree::new(CgroupId(1));
    let siblings: [_; 2] = array::from_fn(|leaf| chain(&tree, 3, leaf as u64));
    let mut cases = [
        Case::new("six_adds", |m| m.one(|| repeated(|| words.iter().for_each(Word::add)))),
        Case::new("charge_uncharge_depth_3", |m| m.one(|| repeated(|| charge(&shallow)))).against("six_adds"),
        Case::new("charge_depth_6", |m| charging(m, &deep)).against("six_adds"),
        Case::new("three_adds_one_word_2t", |m| m.many(Threads(2), |_| || repeated(|| (0..3).for_each(|_| one.add())))),
        Case::new("charge_uncharge_siblings_2t", |m| {
            m.many(Threads(2), |number| {
                let node = &siblings[number];
                move || repeated(|| charge(node))
            })
        })
        .against("three_adds_one_word_2t"),
    ];
    let report = interleave(rounds, measure, &mut cases);
    assert_eq!(tree.root().current(), 0);
    report
}

fn repeated(once: impl Fn()) -> u64 {
    (0..CHUNK).for_each(|_| once());
    CHUNK
}

fn charge(node: &Arc<Node>) {
    drop(black_box(node.try_charge(black_box(1)).unwrap()));
}

/// Charging alone: what is charged is given back while the watch stands still.
fn charging(measure: &Measure, node: &Arc<Node>) -> f64 {
    let mut charges: Vec<Charge> = Vec::with_capacity(CHUNK as usize);
    let (mut took, mut count) = (Duration::ZERO, 0);
    while took < measure.cell {
        let start = Instant::now();
        charges.extend((0..CHUNK).map_while(|_| node.try_charge(black_box(1)).ok()));
        took += start.elapsed();
        count += charges.len();
        charges.clear();
    }
    took.as_nanos() as f64 / count as f64
}

/// A chain of cgroups, `depth` levels with the root, each with a limit that is not reached; the last is named for `leaf`.
fn chain(tree: &Tree, depth: u64, leaf: u64) -> Arc<Node> {
    let mut path = CgroupPath::root();
    let lineage: Vec<_> = (2..depth)
        .chain([100 + leaf])
        .map(|id| {
            path = path.child(&format!("c{id}")).unwrap();
            (CgroupId(id), path.clone())
        })
        .collect();
    tree.ensure_with(&lineage, |_, _| Limit::Count(1 << 20))
}
