//! Charges: what was taken, as objects that give it back; and what stands in the way of one.

use super::counter::MOST;
use super::node::Node;
use crate::model::{Limit, Refusal};
use std::mem;
use std::sync::Arc;

/// Ids charged to a cgroup and to each of its ancestors. Dropping it gives them back at those levels.
///
/// It belongs to the cgroup it was taken from, whatever becomes of that: moving it takes [`Charge::transfer`].
#[derive(Debug)]
#[must_use = "dropping a charge gives it back"]
pub struct Charge {
    node: Arc<Node>,
    count: u64,
}

impl Charge {
    pub(super) fn taken(node: &Arc<Node>, count: u64) -> Self {
        Self { node: Arc::clone(node), count }
    }

    /// How many ids it is for.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The cgroup that is charged, with its ancestors.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Takes `n` of its ids out as a charge of their own; `None` if it has fewer. No counter moves.
    pub fn split(&mut self, n: u64) -> Option<Self> {
        self.count = self.count.checked_sub(n)?;
        Some(Self::taken(&self.node, n))
    }

    /// Takes in another charge on the same cgroup; hands one on another cgroup back. No counter moves.
    pub fn merge(&mut self, mut other: Self) -> Result<(), Self> {
        if !Arc::ptr_eq(&self.node, &other.node) {
            return Err(other);
        }
        self.count += mem::take(&mut other.count);
        Ok(())
    }

    /// Moves it to another cgroup of the same tree: charged there first, then given back here.
    ///
    /// Levels that both have in common are not charged again, and so neither refuse nor move. Where a level has no room,
    /// the charge comes back as it was, with what stands in the way. While it moves, both branches count it: never
    /// neither.
    ///
    /// A cgroup of another tree has no level in common, and is charged at all of its own.
    pub fn transfer(mut self, to: &Arc<Node>) -> Result<Self, (Self, Obstacle)> {
        let (arriving, leaving) = apart(to, &self.node);
        if self.count > 0 {
            // Where nothing arrives, `to` is above: there it is charged already.
            let acquired = arriving.checked_sub(1).map_or(Ok(()), |above| to.acquire(self.count, above));
            if let Err(obstacle) = acquired {
                return Err((self, obstacle));
            }
            self.node.uncharge(self.count, leaving);
        }
        self.node = Arc::clone(to);
        Ok(self)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.count > 0 {
            self.node.uncharge(self.count, self.node.depth());
        }
    }
}

/// How many levels of each, itself included, lie below the nearest that both have in common.
fn apart(one: &Arc<Node>, other: &Arc<Node>) -> (usize, usize) {
    let (deep, depth) = (one.depth(), other.depth());
    let common = one.downwards().zip(other.downwards()).take_while(|(a, b)| Arc::ptr_eq(a, b)).count();
    (deep - common, depth - common)
}

/// A level without room for a charge. Nothing has moved, and nothing is counted until it is a refusal.
#[derive(Debug)]
#[must_use = "a refusal is an event: `refuse` counts it"]
pub struct Obstacle {
    /// The level.
    pub node: Arc<Node>,
    /// The limit it went by.
    pub max: Limit,
    /// What was charged to it.
    pub current: u64,
    /// What was asked for.
    pub asked: u64,
}

impl Obstacle {
    /// Counts it as one event and says so to the caller.
    pub fn refuse(self) -> Refusal {
        self.node.count_event();
        self.describe()
    }

    /// How many ids have to go there before there is room.
    pub fn missing(&self) -> u32 {
        let max = match self.max {
            Limit::Count(max) => max.min(MOST),
            Limit::Max => MOST,
        };
        u32::try_from(self.current.saturating_add(self.asked).saturating_sub(max)).unwrap_or(u32::MAX)
    }

    /// The refusal, without the event.
    pub fn describe(self) -> Refusal {
        let Self { node, max, current, asked } = self;
        Refusal::LimitExceeded { cgroup: node.path().clone(), max, current, asked }
    }
}
