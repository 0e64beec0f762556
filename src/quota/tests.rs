//! The rules of the counters, one by one.

use super::*;
use crate::model::{CgroupId, CgroupPath, Limit, Refusal};
use std::sync::Arc;

/// root / a / b / {c, d}, without limits.
struct Family {
    tree: Tree,
    root: Arc<Node>,
    a: Arc<Node>,
    b: Arc<Node>,
    c: Arc<Node>,
    d: Arc<Node>,
}

pub(super) fn lineage(path: &str, ids: &[u64]) -> Vec<(CgroupId, CgroupPath)> {
    let mut lineage: Vec<_> = path.parse::<CgroupPath>().unwrap().lineage().filter(|p| !p.is_root()).collect();
    lineage.reverse();
    ids.iter().copied().map(CgroupId).zip(lineage).collect()
}

fn family() -> Family {
    let tree = Tree::new(CgroupId(1));
    let c = tree.ensure(&lineage("/a/b/c", &[2, 3, 4]));
    let d = tree.ensure(&lineage("/a/b/d", &[2, 3, 5]));
    let find = |id| tree.find(CgroupId(id)).unwrap();
    Family { root: tree.root(), a: find(2), b: find(3), c, d, tree }
}

impl Family {
    fn currents(&self) -> [u64; 5] {
        [&self.root, &self.a, &self.b, &self.c, &self.d].map(|node| node.current())
    }
    fn peaks(&self) -> [u64; 5] {
        [&self.root, &self.a, &self.b, &self.c, &self.d].map(|node| node.peak())
    }
    fn events(&self) -> [(u64, u64); 5] {
        [&self.root, &self.a, &self.b, &self.c, &self.d].map(|node| (node.events(), node.events_local()))
    }
}

fn refused(cgroup: &str, max: u64, current: u64, asked: u64) -> Refusal {
    Refusal::LimitExceeded { cgroup: cgroup.parse().unwrap(), max: Limit::Count(max), current, asked }
}

#[test]
fn a_charge_counts_at_every_level_and_returns_when_dropped() {
    let f = family();
    let charge = f.c.try_charge(3).unwrap();
    assert_eq!((f.currents(), f.peaks()), ([3, 3, 3, 3, 0], [3, 3, 3, 3, 0]));
    assert_eq!(charge.count(), 3);
    drop(charge);
    assert_eq!((f.currents(), f.peaks()), ([0; 5], [3, 3, 3, 3, 0]));
}

#[test]
fn refused_at_parent_leaves_child_unchanged() {
    let f = family();
    f.b.set_policy_limit(Limit::Count(4));
    let held = f.d.try_charge(3).unwrap();
    assert_eq!(f.c.try_charge(2).unwrap_err(), refused("/a/b", 4, 3, 2));
    assert_eq!((f.currents(), f.peaks()), ([3, 3, 3, 0, 3], [3, 3, 3, 0, 3]));
    assert_eq!(f.events(), [(0, 0), (1, 0), (1, 1), (0, 0), (0, 0)]);
    assert_eq!(f.c.room(), 1);
    drop(held);
    assert_eq!(f.currents(), [0; 5]);
}
