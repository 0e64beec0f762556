//! The hierarchical counters: how many ids each cgroup has charged, and how many it may have.
//!
//! Lives here: the tree of cgroups by id, a counter for each, the three sources of its `max`, its events, and charges
//! as objects that give back what they took. Does not live here: which policy line applies, who may change a limit,
//! whether a cgroup still exists, which ids a charge is for. Called by the controller alone.
//!
//! # Protocol
//!
//! Each level (a cgroup below the root) has one 64-bit word: `current`, the ids that are charged, in its lower half;
//! `marked`, the ids of charges under way, in its upper half. Both stand in one word, so every decision is one
//! compare-and-swap on what it was made from.
//!
//! A charge of n goes up from the cgroup to the child of the root, and is done in two walks:
//!
//! - *reserve*, near to far: `marked += n` where `current + marked + n` is within the level's bound. On the last level
//!   nothing can fail any more, so there `current += n` at once: this is the moment the charge is granted. The root has
//!   no limit and adds.
//! - *commit*, far to near: `marked -= n, current += n`, one addition. What `current` became may raise the peak.
//! - or *cancel*, if a level refused: `marked -= n` on the levels below it. The refusal counts its events after that.
//!
//! Promised:
//!
//! 1. All levels or none, decided near to far; the refusal names the first level that has no room.
//! 2. No `current` is raised above its bound by a charge that began after the bound was set.
//! 3. A charge that is refused never moves `current` or `peak` of any level, not for an instant: it only ever marks.
//! 4. A charge is refused for what is charged, not for what is under way. Where a level has room only if the marks on
//!    it are cancelled, it waits for that: marks last a few instructions. Waits go up the tree only, so no two charges
//!    wait for each other.
//! 5. Nobody waits for ever: after [`counter::PATIENCE`] looks the marks count as charged. So a thread that is stopped
//!    between its two walks costs others a refusal near the limit, and never their progress.
//! 6. A charge gives back at exactly the levels it was taken from, whatever has become of limits and cgroups.
//! 7. `peak` is a value that `current` had, and no later `current` is above it. A reset is no exception.
//! 8. One refusal adds one to `events.local` of the level that refused, and to `events` of it and of its ancestors below
//!    the root. Source: `kernel/cgroup/pids.c`, `pids_event`, on cgroup v2 with hierarchical events.
//! 9. At no moment is `current` above that of the level above: charging counts far to near, giving back near to far. So
//!    no `peak` passes a limit that stood above it. What is charged regardless after a restart is counted before anybody
//!    is served.
//!
//! Not promised: that numbers of several levels, read one after the other, belong to one moment; that a charge which
//! overlaps a change of `max` goes by the new one (the one it goes by was in force while it ran).

mod charge;
mod counter;
mod limits;
mod node;
mod tree;

#[cfg(test)]
#[cfg(ioasid_loom)]
mod interleavings;
#[cfg(test)]
#[cfg(not(ioasid_loom))]
mod random;
#[cfg(test)]
#[cfg(not(ioasid_loom))]
mod tests;

pub use charge::{Charge, Obstacle};
pub use counter::MOST;
pub use limits::Limits;
pub use node::Node;
pub use tree::Tree;
