//! One cgroup in the tree: its counter, its limits, its events, its place.

use super::charge::{Charge, Obstacle};
use super::counter::{Counter, Full, MOST};
use super::limits::Limits;
use crate::model::{CgroupId, CgroupPath, Limit, Refusal};
use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering};
use std::collections::BTreeMap;
use std::iter;
use std::sync::{Arc, PoisonError, Weak};

/// A cgroup as the quota knows it. Kept alive by the tree, by its charges and by the nodes below it.
///
/// All reads and charges are lock-free; only `set_…_limit` and the structure take short locks.
#[derive(Debug)]
pub struct Node {
    counter: Counter,
    events: AtomicU64,
    events_local: AtomicU64,
    dying: AtomicBool,
    id: CgroupId,
    path: CgroupPath,
    /// From the parent to the root; empty for the root.
    ancestors: Box<[Arc<Node>]>,
    limits: Mutex<Limits>,
    pub(super) children: Mutex<BTreeMap<CgroupId, Weak<Node>>>,
}

impl Node {
    pub(super) fn root(id: CgroupId) -> Self {
        Self::with(Counter::of_root(), id, CgroupPath::root(), Box::default(), Limit::Max)
    }

    pub(super) fn below(parent: &Arc<Self>, id: CgroupId, path: CgroupPath, policy: Limit) -> Self {
        let ancestors = iter::once(parent).chain(&parent.ancestors).cloned().collect();
        Self::with(Counter::below_root(policy), id, path, ancestors, policy)
    }

    fn with(counter: Counter, id: CgroupId, path: CgroupPath, ancestors: Box<[Arc<Self>]>, policy: Limit) -> Self {
        Self {
            counter,
            events: AtomicU64::new(0),
            events_local: AtomicU64::new(0),
            dying: AtomicBool::new(false),
            id,
            path,
            ancestors,
            limits: Mutex::new(Limits::unset(policy)),
            children: Mutex::new(BTreeMap::new()),
        }
    }

    /// The cgroup's id.
    pub fn id(&self) -> CgroupId {
        self.id
    }

    /// The path it had when it was first seen; cgroup v2 has no rename.
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// The cgroup above; `None` for the root.
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.ancestors.first()
    }

    /// The cgroups above it, near to far; the last is the root.
    pub fn ancestors(&self) -> &[Arc<Self>] {
        &self.ancestors
    }

    /// The cgroups right below, in the order of their ids. Takes a lock.
    pub fn children(&self) -> Vec<Arc<Self>> {
        lock(&self.children).values().filter_map(Weak::upgrade).collect()
    }

    /// Whether it is the root of the tree.
    pub fn is_root(&self) -> bool {
        self.ancestors.is_empty()
    }

    /// The ids charged to it and below it. Never counts a charge that is refused in the end.
    pub fn current(&self) -> u64 {
        self.counter.current()
    }

    /// The highest `current` since it was first seen or its peak was reset.
    pub fn peak(&self) -> u64 {
        self.counter.peak()
    }

    /// Makes `current` the peak.
    pub fn reset_peak(&self) {
        self.counter.reset_peak();
    }

    /// How often its limit or that of a cgroup below it was hit.
    pub fn events(&self) -> u64 {
        // ORDERING: a count by itself.
        self.events.load(Ordering::Relaxed)
    }

    /// How often its own limit was hit.
    pub fn events_local(&self) -> u64 {
        // ORDERING: a count by itself.
        self.events_local.load(Ordering::Relaxed)
    }

    /// Its own limit; `Limit::Max` for the root.
    pub fn max(&self) -> Limit {
        self.limits().max()
    }

    /// The least of its own limit and those of its ancestors.
    pub fn effective_max(&self) -> Limit {
        self.ancestors.iter().map(|level| level.max()).fold(self.max(), Limit::min)
    }

    /// The sources of its limit. Takes a lock.
    pub fn limits(&self) -> Limits {
        *lock(&self.limits)
    }

    /// Sets what a line of the policy says. Nothing that is charged is revoked. Without effect on the root.
    pub fn set_policy_limit(&self, limit: Limit) {
        self.change_limits(|limits| limits.policy = Some(limit));
    }

    /// Sets what holds while nobody says anything: no line of the policy does any more.
    pub fn set_unset_limit(&self, limit: Limit) {
        self.change_limits(|limits| (limits.policy, limits.unset) = (None, limit));
    }

    /// Sets what an administrator says, over the policy and in place of a delegated limit; `None` returns to the policy.
    ///
    /// Clears the delegated limit in either case. Nothing that is charged is revoked. Without effect on the root.
    pub fn set_administrator_limit(&self, limit: Option<Limit>) {
        self.change_limits(|limits| {
            limits.administrator = limit;
            limits.delegated = None;
        });
    }

    /// Sets what the owner of a delegated cgroup says; it can tighten the other two, never lift them.
    pub fn set_delegated_limit(&self, limit: Option<Limit>) {
        self.change_limits(|limits| limits.delegated = limit);
    }

    fn change_limits(&self, change: impl FnOnce(&mut Limits)) {
        if self.is_root() {
            return;
        }
        let mut limits = lock(&self.limits);
        change(&mut limits);
        // Under the lock: the last change is the last bound.
        self.counter.set_limit(limits.max());
    }

    /// Brings back what was saved before a restart: the peak at least, the events exactly.
    pub fn restore(&self, peak: u64, events: u64, events_local: u64) {
        self.counter.restore_peak(peak);
        // ORDERING: counts by themselves; nobody is served before a restart is done.
        self.events.store(events, Ordering::Relaxed);
        self.events_local.store(events_local, Ordering::Relaxed);
    }

    /// Notes that the cgroup was removed: it stays in the tree while it has charges.
    pub fn mark_dying(&self) {
        // ORDERING: a flag by itself; who charges a dying cgroup is the controller's to refuse.
        self.dying.store(true, Ordering::Relaxed);
    }

    /// Whether the cgroup was removed.
    pub fn is_dying(&self) -> bool {
        // ORDERING: as in `mark_dying`.
        self.dying.load(Ordering::Relaxed)
    }

    /// How many more ids a charge to it could take now: the least room on it and its ancestors.
    ///
    /// A look, not a promise: others charge meanwhile.
    pub fn room(&self) -> u64 {
        self.levels(self.ancestors.len()).map(|level| level.counter.room()).min().unwrap_or(u64::MAX)
    }

    /// Charges `n` ids to it and its ancestors: at every level or at none. Lock-free.
    ///
    /// Zero ids always succeed. Refused with `LimitExceeded`, which names the nearest level without room and counts as
    /// one event there; then no counter has moved.
    pub fn try_charge(self: &Arc<Self>, n: u64) -> Result<Charge, Refusal> {
        self.probe_charge(n).map_err(Obstacle::refuse)
    }

    /// Like [`Node::try_charge`], but leaves it to the caller whether what stands in the way is a refusal and an event:
    /// unused leases below that level may make room first.
    pub fn probe_charge(self: &Arc<Self>, n: u64) -> Result<Charge, Obstacle> {
        if n == 0 {
            return Ok(Charge::taken(self, 0));
        }
        let Some(root) = self.ancestors.last() else {
            self.counter.add(n);
            return Ok(Charge::taken(self, n));
        };
        self.acquire(n, self.ancestors.len() - 1)?;
        root.counter.add(n);
        Ok(Charge::taken(self, n))
    }

    /// Charges `n` ids without regard to any limit, and without an event: ids that are leased already, after a restart.
    ///
    /// Refused only where a level would pass [`super::MOST`], which ids that exist never do.
    pub fn charge_regardless(self: &Arc<Self>, n: u64) -> Result<Charge, Refusal> {
        let Some(root) = self.ancestors.last() else {
            self.counter.add(n);
            return Ok(Charge::taken(self, n));
        };
        let below_root = self.ancestors.len();
        for (done, level) in self.levels(below_root).enumerate() {
            if let Err(full) = level.counter.add_regardless(n) {
                self.levels(done).for_each(|lower| lower.counter.uncharge(n));
                return Err(self.obstacle(done, full, n).describe());
            }
        }
        root.counter.add(n);
        Ok(Charge::taken(self, n))
    }

    /// The two walks of the protocol over this level and the nearest `above` of its ancestors.
    pub(super) fn acquire(self: &Arc<Self>, n: u64, above: usize) -> Result<(), Obstacle> {
        let above = self.ancestors.get(..above).unwrap_or_default();
        let Some((last, between)) = above.split_last() else {
            return self.counter.grant(n).map_err(|full| self.obstacle(0, full, n));
        };
        self.counter.mark(n).map_err(|full| self.obstacle(0, full, n))?;
        for (marked, level) in between.iter().enumerate() {
            if let Err(full) = level.counter.mark(n) {
                self.cancel(n, marked);
                return Err(self.obstacle(marked + 1, full, n));
            }
        }
        if let Err(full) = last.counter.grant(n) {
            self.cancel(n, between.len());
            return Err(self.obstacle(above.len(), full, n));
        }
        between.iter().rev().for_each(|level| level.counter.commit(n));
        self.counter.commit(n);
        Ok(())
    }

    #[cold]
    fn cancel(&self, n: u64, above: usize) {
        self.levels(above + 1).for_each(|level| level.counter.cancel(n));
    }

    #[cold]
    fn obstacle(self: &Arc<Self>, at: usize, full: Full, asked: u64) -> Obstacle {
        let node = at.checked_sub(1).and_then(|above| self.ancestors.get(above)).unwrap_or(self);
        // What was decided by, unless that was the width of the counter.
        let max = if full.bound < MOST { Limit::Count(full.bound) } else { node.max() };
        Obstacle { node: Arc::clone(node), max, current: full.current, asked }
    }

    /// Gives `n` ids back on this level and those above it, `count` levels in all. Near to far (9).
    pub(super) fn uncharge(&self, n: u64, count: usize) {
        self.levels(count).for_each(|level| level.counter.uncharge(n));
    }

    /// How many levels a charge to it takes, the root included.
    pub(super) fn depth(&self) -> usize {
        self.ancestors.len() + 1
    }

    /// Adds one event where the limit was hit, and above.
    pub(super) fn count_event(&self) {
        // ORDERING: counts by themselves.
        self.events_local.fetch_add(1, Ordering::Relaxed);
        for level in self.levels(self.ancestors.len()) {
            level.events.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Nothing charged and nothing under way.
    pub(super) fn is_idle(&self) -> bool {
        self.counter.is_idle()
    }

    /// From the root down to it.
    pub(super) fn downwards(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        self.ancestors.iter().rev().chain(iter::once(self))
    }

    /// The first `count` of this level and those above it, near to far.
    fn levels(&self, count: usize) -> impl Iterator<Item = &Node> {
        let above = self.ancestors.get(..count.saturating_sub(1)).unwrap_or_default();
        (count > 0).then_some(self).into_iter().chain(above.iter().map(|level| &**level))
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
