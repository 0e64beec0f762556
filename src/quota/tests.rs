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

#[test]
fn the_edges_of_a_limit() {
    for (n, fits) in [(4, true), (5, true), (6, false)] {
        let f = family();
        f.b.set_policy_limit(Limit::Count(5));
        let outcome = f.c.try_charge(n);
        assert_eq!(outcome.is_ok(), fits, "{n} of 5");
        assert_eq!(f.b.current(), if fits { n } else { 0 });
    }
}

#[test]
fn a_limit_of_zero_blocks_and_no_ids_always_fit() {
    let f = family();
    f.c.set_policy_limit(Limit::Count(0));
    assert_eq!(f.c.try_charge(1).unwrap_err(), refused("/a/b/c", 0, 0, 1));
    assert_eq!(f.c.try_charge(0).unwrap().count(), 0);
    assert_eq!(f.d.try_charge(1).unwrap().count(), 1);
}

#[test]
fn a_limit_below_current_revokes_nothing_and_refuses_until_there_is_room() {
    let f = family();
    let mut charge = f.c.try_charge(8).unwrap();
    f.b.set_administrator_limit(Some(Limit::Count(5)));
    assert_eq!(f.b.current(), 8);
    assert_eq!(f.d.try_charge(1).unwrap_err(), refused("/a/b", 5, 8, 1));
    drop(charge.split(3));
    assert_eq!(f.d.try_charge(1).unwrap_err(), refused("/a/b", 5, 5, 1));
    drop(charge.split(1));
    assert!(f.d.try_charge(1).is_ok());
}

#[test]
fn the_nearest_level_without_room_is_named() {
    let f = family();
    for node in [&f.a, &f.b, &f.c] {
        node.set_policy_limit(Limit::Count(2));
    }
    assert_eq!(f.c.try_charge(3).unwrap_err(), refused("/a/b/c", 2, 0, 3));
    assert_eq!(f.d.try_charge(3).unwrap_err(), refused("/a/b", 2, 0, 3));
    assert_eq!(f.events(), [(0, 0), (2, 0), (2, 1), (1, 1), (0, 0)]);
}

#[test]
fn the_root_has_neither_max_nor_events() {
    let f = family();
    f.root.set_policy_limit(Limit::Count(1));
    f.root.set_administrator_limit(Some(Limit::Count(1)));
    let charge = f.root.try_charge(7).unwrap();
    assert_eq!((f.root.max(), f.root.effective_max(), f.root.current()), (Limit::Max, Limit::Max, 7));
    drop(charge);
    f.a.set_policy_limit(Limit::Count(0));
    assert!(f.a.try_charge(1).is_err());
    assert_eq!(f.events(), [(0, 0), (1, 1), (0, 0), (0, 0), (0, 0)]);
}

#[test]
fn a_refused_batch_is_one_event() {
    let f = family();
    f.a.set_policy_limit(Limit::Count(10));
    assert!(f.c.try_charge(500).is_err());
    assert_eq!(f.events(), [(0, 0), (1, 1), (0, 0), (0, 0), (0, 0)]);
}

#[test]
fn an_obstacle_is_no_event_until_it_is_refused() {
    let f = family();
    f.b.set_policy_limit(Limit::Count(1));
    let obstacle = f.c.probe_charge(2).unwrap_err();
    assert!(Arc::ptr_eq(&obstacle.node, &f.b));
    assert_eq!(f.events(), [(0, 0); 5]);
    assert_eq!(obstacle.refuse(), refused("/a/b", 1, 0, 2));
    assert_eq!(f.b.events_local(), 1);
}

#[test]
fn no_number_overflows_a_counter() {
    let f = family();
    for n in [MOST + 1, u64::MAX / 2, u64::MAX] {
        let refusal = f.c.try_charge(n).unwrap_err();
        let cgroup = f.c.path().clone();
        assert_eq!(refusal, Refusal::LimitExceeded { cgroup, max: Limit::Max, current: 0, asked: n });
    }
    let all = f.c.try_charge(MOST).unwrap();
    assert!(f.c.try_charge(1).is_err() && f.d.try_charge(1).is_err() && f.d.charge_regardless(1).is_err());
    assert_eq!(f.currents(), [MOST, MOST, MOST, MOST, 0]);
    let more = f.root.try_charge(MOST).unwrap();
    assert_eq!(f.root.current(), 2 * MOST);
    drop((all, more));
    assert_eq!(f.currents(), [0; 5]);
    f.b.set_policy_limit(Limit::Count(u64::MAX));
    assert_eq!(f.b.max(), Limit::Count(u64::MAX));
    assert!(f.c.try_charge(1).is_ok());
}

#[test]
fn peak_is_the_highest_current_and_can_be_reset() {
    let f = family();
    let held = f.c.try_charge(2).unwrap();
    drop(f.c.try_charge(5).unwrap());
    assert_eq!(f.peaks(), [7, 7, 7, 7, 0]);
    f.b.reset_peak();
    assert_eq!(f.peaks(), [7, 7, 2, 7, 0]);
    drop(held);
    drop(f.c.try_charge(3).unwrap());
    assert_eq!(f.peaks(), [7, 7, 3, 7, 0]);
}

#[test]
fn the_sources_of_a_limit_stay_apart() {
    let f = family();
    let (policy, administrator, delegated) = (Limit::Count(10), Limit::Count(20), Limit::Count(15));
    f.b.set_policy_limit(policy);
    f.b.set_delegated_limit(Some(delegated));
    assert_eq!(f.b.max(), policy, "delegation never lifts the policy");
    f.b.set_administrator_limit(Some(administrator));
    assert_eq!(
        f.b.limits(),
        Limits { policy: Some(policy), unset: Limit::Max, administrator: Some(administrator), delegated: None }
    );
    assert_eq!(f.b.max(), administrator);
    f.b.set_policy_limit(Limit::Count(1));
    assert_eq!(f.b.max(), administrator, "a reload does not lift it");
    f.b.set_delegated_limit(Some(delegated));
    assert_eq!(f.b.max(), delegated);
    f.b.set_administrator_limit(None);
    assert_eq!(f.b.limits(), Limits { policy: Some(Limit::Count(1)), ..Limits::unset(Limit::Max) });
    assert_eq!(f.c.effective_max(), Limit::Count(1));
    f.a.set_policy_limit(Limit::Count(0));
    assert_eq!((f.c.max(), f.c.effective_max()), (Limit::Max, Limit::Count(0)));
}

#[test]
fn splitting_and_merging_move_no_counter() {
    let f = family();
    let mut charge = f.c.try_charge(5).unwrap();
    let two = charge.split(2).unwrap();
    assert!(charge.split(4).is_none());
    assert_eq!((charge.count(), two.count(), f.currents()), (3, 2, [5, 5, 5, 5, 0]));
    let other = f.d.try_charge(1).unwrap();
    let other = charge.merge(other).unwrap_err();
    charge.merge(two).unwrap();
    assert_eq!((charge.count(), f.currents()), (5, [6, 6, 6, 5, 1]));
    drop((charge, other));
    assert_eq!(f.currents(), [0; 5]);
}

#[test]
fn a_transfer_leaves_common_levels_alone() {
    let f = family();
    let charge = f.c.try_charge(5).unwrap();
    for node in [&f.a, &f.b] {
        node.set_policy_limit(Limit::Count(5));
    }
    let charge = charge.transfer(&f.d).unwrap();
    assert_eq!((f.currents(), f.peaks()), ([5, 5, 5, 0, 5], [5; 5]));
    let charge = charge.transfer(&f.a).unwrap();
    assert_eq!((f.currents(), f.events()), ([5, 5, 0, 0, 0], [(0, 0); 5]));
    let charge = charge.transfer(&f.a).unwrap().transfer(&f.root).unwrap();
    assert_eq!(f.currents(), [5, 0, 0, 0, 0]);
    let charge = charge.transfer(&f.c).unwrap();
    assert_eq!(f.currents(), [5, 5, 5, 5, 0]);
    drop(charge);
    assert_eq!(f.currents(), [0; 5]);
}

#[test]
fn a_refused_transfer_hands_the_charge_back() {
    let f = family();
    let charge = f.c.try_charge(5).unwrap();
    f.d.set_policy_limit(Limit::Count(4));
    let (charge, obstacle) = charge.transfer(&f.d).unwrap_err();
    assert_eq!(obstacle.missing(), 1);
    let refusal = obstacle.refuse();
    assert_eq!(refusal, refused("/a/b/d", 4, 0, 5));
    assert!(Arc::ptr_eq(charge.node(), &f.c));
    assert_eq!((f.currents(), f.peaks()), ([5, 5, 5, 5, 0], [5, 5, 5, 5, 0]));
    assert_eq!(f.events(), [(0, 0), (1, 0), (1, 0), (0, 0), (1, 1)]);
}

#[test]
fn what_was_leased_before_a_restart_is_charged_regardless() {
    let f = family();
    f.b.set_policy_limit(Limit::Count(3));
    let charge = f.c.charge_regardless(8).unwrap();
    f.b.restore(20, 7, 4);
    assert_eq!((f.currents(), f.events()), ([8, 8, 8, 8, 0], [(0, 0), (0, 0), (7, 4), (0, 0), (0, 0)]));
    assert_eq!(f.b.peak(), 20);
    assert_eq!(f.c.try_charge(1).unwrap_err(), refused("/a/b", 3, 8, 1));
    drop(charge);
    assert_eq!((f.currents(), f.b.events()), ([0; 5], 8));
}

#[test]
fn charges_of_a_removed_cgroup_stay_on_its_ancestors() {
    let f = family();
    let charge = f.c.try_charge(2).unwrap();
    f.c.mark_dying();
    assert!(f.tree.prune(|_| false).is_empty(), "it has charges");
    assert!(f.tree.find(f.c.id()).is_some_and(|node| node.is_dying()));
    let again = f.tree.ensure(&lineage("/a/b/c", &[2, 3, 40]));
    assert_eq!((again.current(), again.is_dying(), f.b.current()), (0, false, 2), "one made again is a new one");
    assert_eq!(f.b.children().len(), 3);
    drop(charge);
    assert_eq!(f.currents(), [0; 5]);
    assert!(f.tree.prune(|id| id == f.c.id()).is_empty(), "it is needed");
    let gone: Vec<_> = f.tree.prune(|_| false).iter().map(|node| node.id()).collect();
    assert_eq!(gone, [f.c.id()]);
    assert_eq!((f.b.children().len(), f.tree.nodes().len()), (2, 5));
}

#[test]
fn pruning_upwards_takes_those_above_that_it_was_the_last_of() {
    let f = family();
    let [held, other] = [&f.c, &f.d].map(|node| node.try_charge(1).unwrap());
    for node in [&f.a, &f.b, &f.c, &f.d] {
        node.mark_dying();
    }
    let up = |node: &Arc<Node>| f.tree.prune_up(node, |_| false).iter().map(|node| node.id()).collect::<Vec<_>>();
    assert_eq!((up(&f.c), up(&f.b)), (vec![], vec![]), "they have charges");
    drop(held);
    assert!(f.tree.prune_up(&f.c, |id| id == f.c.id()).is_empty(), "it is needed");
    assert_eq!(up(&f.c), [f.c.id()], "the other below keeps those above");
    drop(other);
    assert_eq!(up(&f.d), [f.d.id(), f.b.id(), f.a.id()]);
    assert_eq!(f.tree.nodes().len(), 1);
}

#[test]
fn pruning_takes_children_first_and_leaves_what_lives() {
    let f = family();
    let held = f.d.try_charge(1).unwrap();
    for node in [&f.a, &f.b, &f.c, &f.d] {
        node.mark_dying();
    }
    assert_eq!(f.tree.prune(|_| false).len(), 1, "a charge below keeps them");
    drop(held);
    assert_eq!(f.tree.prune(|_| false).len(), 3);
    assert_eq!(f.tree.nodes().len(), 1);
    let living = f.tree.ensure(&lineage("/x", &[9]));
    assert!(f.tree.prune(|_| false).is_empty());
    assert!(!f.tree.forget(f.root.id()) && !f.tree.forget(CgroupId(77)));
    let held = living.try_charge(1).unwrap();
    assert!(!f.tree.forget(living.id()));
    drop(held);
    assert!(f.tree.forget(living.id()) && f.tree.root().children().is_empty());
}

#[test]
fn a_known_id_keeps_its_node_and_a_new_one_has_its_limit_from_the_start() {
    let f = family();
    f.c.set_administrator_limit(Some(Limit::Count(3)));
    let new = f.tree.ensure_with(&lineage("/a/b/c/e", &[2, 3, 4, 6]), |_, path| {
        assert_eq!(path.as_str(), "/a/b/c/e", "only what is missing is added");
        Limit::Count(0)
    });
    assert_eq!((new.max(), f.c.max()), (Limit::Count(0), Limit::Count(3)));
    assert!(new.parent().is_some_and(|parent| Arc::ptr_eq(parent, &f.c)));
    assert!(Arc::ptr_eq(&f.tree.ensure(&[]), &f.root));
}
