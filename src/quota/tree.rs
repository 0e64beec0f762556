//! The cgroups that the quota knows, by id.

use super::node::{Node, lock};
use crate::model::{CgroupId, CgroupPath, Limit};
use crate::sync::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// All cgroups that were ever charged or looked at and are not forgotten, from the root down.
///
/// Finding and adding cgroups takes a short lock; charging one never does.
#[derive(Debug)]
pub struct Tree {
    root: Arc<Node>,
    nodes: Mutex<BTreeMap<CgroupId, Arc<Node>>>,
}

impl Tree {
    /// A tree of the root alone.
    pub fn new(root: CgroupId) -> Self {
        let root = Arc::new(Node::root(root));
        Self { nodes: Mutex::new(BTreeMap::from([(root.id(), Arc::clone(&root))])), root }
    }

    /// The root.
    pub fn root(&self) -> Arc<Node> {
        Arc::clone(&self.root)
    }

    /// The cgroup with this id, if it is known.
    pub fn find(&self, id: CgroupId) -> Option<Arc<Node>> {
        lock(&self.nodes).get(&id).cloned()
    }

    /// How many cgroups are known, the root among them.
    pub fn known(&self) -> usize {
        lock(&self.nodes).len()
    }

    /// All cgroups that are known, in the order of their ids.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        lock(&self.nodes).values().cloned().collect()
    }

    /// The last cgroup of a lineage, which goes from the child of the root down; the root for an empty one.
    ///
    /// A known id keeps its node and its place. What is missing is added, without a limit.
    pub fn ensure(&self, lineage: &[(CgroupId, CgroupPath)]) -> Arc<Node> {
        self.ensure_with(lineage, |_, _| Limit::Max)
    }

    /// Like [`Tree::ensure`]; a cgroup that is added has the policy limit that `policy` gives from the start.
    ///
    /// `policy` is called under the tree's lock and must not call the tree.
    pub fn ensure_with(
        &self,
        lineage: &[(CgroupId, CgroupPath)],
        mut policy: impl FnMut(CgroupId, &CgroupPath) -> Limit,
    ) -> Arc<Node> {
        let mut nodes = lock(&self.nodes);
        lineage.iter().fold(self.root(), |parent, (id, path)| {
            let node = nodes.entry(*id).or_insert_with(|| {
                let node = Arc::new(Node::below(&parent, *id, path.clone(), policy(*id, path)));
                lock(&parent.children).insert(*id, Arc::downgrade(&node));
                node
            });
            Arc::clone(node)
        })
    }

    /// Forgets a cgroup that has no charge and no children; `false` if it has, is the root or is not known.
    ///
    /// With it go its limits, its peak and its events. Who still has the node can go on using it; it is in no list.
    pub fn forget(&self, id: CgroupId) -> bool {
        let mut nodes = lock(&self.nodes);
        let Some(node) = nodes.get(&id).filter(|node| node.is_idle()) else { return false };
        let Some(parent) = node.parent() else { return false };
        if !lock(&node.children).is_empty() {
            return false;
        }
        lock(&parent.children).remove(&id);
        nodes.remove(&id);
        true
    }

    /// Forgets every dying cgroup with no charge on it or below it, and returns those forgotten, children first.
    ///
    /// A cgroup that still exists or is `needed` is kept, and so is a dying one with such a child, which the kernel does
    /// not have.
    pub fn prune(&self, needed: impl Fn(CgroupId) -> bool) -> Vec<Arc<Node>> {
        let mut dying = self.nodes();
        dying.retain(|node| node.is_dying() && !needed(node.id()));
        dying.sort_by_key(|node| std::cmp::Reverse(node.ancestors().len()));
        dying.retain(|node| self.forget(node.id()));
        dying
    }

    /// The same of `node` alone and of those above it that it was the last of: after it lost a charge, or was needed.
    pub fn prune_up(&self, node: &Arc<Node>, needed: impl Fn(CgroupId) -> bool) -> Vec<Arc<Node>> {
        let up = std::iter::once(node).chain(node.ancestors());
        up.take_while(|level| level.is_dying() && !needed(level.id()) && self.forget(level.id())).cloned().collect()
    }
}
