//! Random lists of actions against a plain model, and storms of threads.

use super::tests::lineage;
use super::*;
use crate::model::{CgroupId, Limit};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Cgroup `i + 1` has the parent `PARENTS[i]`; cgroup 0 is the root.
const PARENTS: [usize; 6] = [0, 1, 1, 2, 2, 0];
const PATHS: [&str; 6] = ["/1", "/1/2", "/1/3", "/1/2/4", "/1/2/5", "/6"];

#[derive(Clone, Debug)]
enum Action {
    Charge(usize, u64),
    Regardless(usize, u64),
    Drop(usize),
    Split(usize, u64),
    Merge(usize, usize),
    Transfer(usize, usize),
    SetMax(usize, Limit),
    ResetPeak(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let (node, n, nth) = (0..7_usize, 0..8_u64, 0..16_usize);
    let limit = prop_oneof![(0..20_u64).prop_map(Limit::Count), Just(Limit::Max)];
    prop_oneof![
        4 => (node.clone(), n.clone()).prop_map(|(node, n)| Action::Charge(node, n)),
        1 => (node.clone(), n.clone()).prop_map(|(node, n)| Action::Regardless(node, n)),
        2 => nth.clone().prop_map(Action::Drop),
        1 => (nth.clone(), n).prop_map(|(nth, n)| Action::Split(nth, n)),
        1 => (nth.clone(), nth.clone()).prop_map(|(one, other)| Action::Merge(one, other)),
        2 => (nth, node.clone()).prop_map(|(nth, node)| Action::Transfer(nth, node)),
        2 => (node.clone(), limit).prop_map(|(node, limit)| Action::SetMax(node, limit)),
        1 => node.prop_map(Action::ResetPeak),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plain {
    max: Limit,
    current: u64,
    peak: u64,
    events: u64,
    events_local: u64,
}

struct Model([Plain; 7]);

impl Model {
    fn lineage(node: usize) -> Vec<usize> {
        std::iter::successors(Some(node), |&node| node.checked_sub(1).map(|i| PARENTS[i])).collect()
    }
    fn add(&mut self, node: usize, n: u64) {
        for level in Self::lineage(node) {
            self.0[level].current += n;
            self.0[level].peak = self.0[level].peak.max(self.0[level].current);
        }
    }
    fn sub(&mut self, node: usize, n: u64) {
        Self::lineage(node).into_iter().for_each(|level| self.0[level].current -= n);
    }
    /// The level that refuses `n` more on `node`, levels that `but` is on left out.
    fn refuses(&self, node: usize, n: u64, but: Option<usize>) -> Option<usize> {
        let held = but.map(Self::lineage).unwrap_or_default();
        let fits = |level: &usize| Limit::Count(self.0[*level].current + n) <= self.0[*level].max;
        Self::lineage(node).into_iter().find(|level| n > 0 && !held.contains(level) && !fits(level))
    }
    fn count(&mut self, at: usize) {
        self.0[at].events_local += 1;
        Self::lineage(at).into_iter().filter(|&level| level != 0).for_each(|level| self.0[level].events += 1);
    }
}

fn run(actions: Vec<Action>) {
    let tree = Tree::new(CgroupId(0));
    let mut nodes = vec![tree.root()];
    for (i, path) in PATHS.iter().enumerate() {
        let mut ids: Vec<_> = Model::lineage(i + 1).into_iter().filter(|&id| id != 0).map(|id| id as u64).collect();
        ids.reverse();
        nodes.push(tree.ensure(&lineage(path, &ids)));
    }
    let mut model = Model([Plain { max: Limit::Max, current: 0, peak: 0, events: 0, events_local: 0 }; 7]);
    let mut charges: Vec<(usize, Charge)> = Vec::new();
    for action in actions {
        match action {
            Action::Charge(node, n) => match (nodes[node].try_charge(n), model.refuses(node, n, None)) {
                (Ok(charge), None) => {
                    model.add(node, n);
                    charges.push((node, charge));
                }
                (Err(_), Some(at)) => model.count(at),
                (outcome, refuses) => panic!("charge {node} {n}: {outcome:?}, model {refuses:?}"),
            },
            Action::Regardless(node, n) => {
                charges.push((node, nodes[node].charge_regardless(n).unwrap()));
                model.add(node, n);
            }
            Action::Drop(nth) if nth < charges.len() => {
                let (node, charge) = charges.swap_remove(nth);
                model.sub(node, charge.count());
            }
            Action::Split(nth, n) if nth < charges.len() => {
                let (node, charge) = &mut charges[nth];
                let (node, before) = (*node, charge.count());
                if let Some(part) = charge.split(n) {
                    charges.push((node, part));
                } else {
                    assert!(n > before);
                }
            }
            Action::Merge(one, other) if one < charges.len() && other < charges.len() && one != other => {
                let same = charges[one].0 == charges[other].0;
                let (node, charge) = charges.remove(other);
                let into = if other < one { one - 1 } else { one };
                match charges[into].1.merge(charge) {
                    Ok(()) => assert!(same),
                    Err(charge) => {
                        assert!(!same);
                        charges.push((node, charge));
                    }
                }
            }
            Action::Transfer(nth, to) if nth < charges.len() => {
                let (from, charge) = charges.swap_remove(nth);
                let n = charge.count();
                match (charge.transfer(&nodes[to]), model.refuses(to, n, Some(from))) {
                    (Ok(charge), None) => {
                        // First away, then there: what both have in common keeps its peak.
                        model.sub(from, n);
                        model.add(to, n);
                        charges.push((to, charge));
                    }
                    (Err((charge, obstacle)), Some(at)) => {
                        let _ = obstacle.refuse();
                        model.count(at);
                        charges.push((from, charge));
                    }
                    (outcome, refuses) => panic!("transfer {n} to {to}: {outcome:?}, model {refuses:?}"),
                }
            }
            Action::SetMax(node, limit) => {
                nodes[node].set_administrator_limit(Some(limit));
                if node != 0 {
                    model.0[node].max = limit;
                }
            }
            Action::ResetPeak(node) => {
                nodes[node].reset_peak();
                model.0[node].peak = model.0[node].current;
            }
            Action::Drop(_) | Action::Split(..) | Action::Merge(..) | Action::Transfer(..) => {}
        }
        let seen: Vec<_> = nodes
            .iter()
            .map(|node| Plain {
                max: node.max(),
                current: node.current(),
                peak: node.peak(),
                events: node.events(),
                events_local: node.events_local(),
            })
            .collect();
        assert_eq!(seen, model.0);
    }
    drop(charges);
    assert!(nodes.iter().all(|node| node.is_idle()), "everything is given back");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_list_of_actions_does_what_the_plain_model_does(actions in prop::collection::vec(action(), 0..60)) {
        run(actions);
    }
}

const LIMIT: u64 = 7;

/// Four threads charge two siblings under one limit; a fifth watches.
fn storm(rounds: u64, ask: impl Fn(u64) -> u64 + Sync) -> (Arc<Node>, [Arc<Node>; 2], u64) {
    let tree = Tree::new(CgroupId(0));
    let leaves = [tree.ensure(&lineage("/p/q/c", &[1, 2, 3])), tree.ensure(&lineage("/p/q/d", &[1, 2, 4]))];
    let limited = tree.find(CgroupId(1)).unwrap();
    limited.set_policy_limit(Limit::Count(LIMIT));
    let (refusals, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4_usize)
            .map(|i| {
                let (leaf, ask, refusals) = (&leaves[i % 2], &ask, &refusals);
                scope.spawn(move || {
                    let mut held: Vec<Charge> = Vec::new();
                    for round in 0..rounds {
                        match leaf.try_charge(ask(round)) {
                            Ok(charge) => held.push(charge),
                            Err(_) => drop(refusals.fetch_add(1, Ordering::Relaxed)),
                        }
                        if held.len() > 2 {
                            held.clear();
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(limited.current() <= LIMIT && limited.peak() <= LIMIT, "above the limit");
            }
        });
        let ended: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        // Before anything can panic, or the watcher would be waited for without end.
        done.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok), "a thread panicked");
    });
    assert!(tree.nodes().iter().all(|node| node.is_idle()), "something stayed");
    let refusals = refusals.into_inner();
    (limited, leaves, refusals)
}

#[test]
fn a_storm_on_one_limit_stays_within_it_and_leaves_nothing() {
    let (limited, leaves, refusals) = storm(20_000, |round| 1 + round % 3);
    assert_eq!((limited.events(), limited.events_local()), (refusals, refusals));
    assert!(leaves.iter().all(|leaf| leaf.events() == 0 && leaf.peak() <= LIMIT));
    assert!(refusals > 0);
}

#[test]
fn a_storm_of_hopeless_charges_never_shows_in_a_counter() {
    let (limited, leaves, refusals) = storm(20_000, |_| LIMIT + 1);
    assert_eq!((refusals, limited.events_local()), (80_000, 80_000));
    assert_eq!([limited.peak(), leaves[0].peak(), leaves[1].peak()], [0; 3]);
}
