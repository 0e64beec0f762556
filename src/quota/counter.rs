//! One level's arithmetic: the packed word, the bound and the peak. The numbers in the comments are those of the
//! protocol in [`super`].

use crate::model::Limit;
use crate::sync::{AtomicU64, Ordering, load_total, spin_loop, yield_now};

/// The most ids that can be charged to one cgroup: 2^32 - 1, whatever its `max`. No host has as many PASIDs.
pub const MOST: u64 = u32::MAX as u64;

/// How often a charge looks again at a level whose room depends on charges under way (5).
pub(super) const PATIENCE: u32 = if cfg!(ioasid_loom) { 8 } else { 1000 };

/// Looks that spin; those after them give up the processor, so that whoever is under way can finish.
const SPINS: u32 = if cfg!(ioasid_loom) { 0 } else { 64 };

const MARKED: u32 = 32;

/// There is no room: what stands at the level, and what bounds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    pub bound: u64,
    pub current: u64,
}

/// The counter of one cgroup. Apart from all others by two cache lines, which processors fetch in pairs: siblings are
/// charged from different threads.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Counter {
    word: AtomicU64,
    bound: AtomicU64,
    peak: AtomicU64,
    /// The root is never marked; all of its word is `current`, so that no sum of its children overflows it.
    whole: bool,
}

impl Counter {
    pub fn below_root(limit: Limit) -> Self {
        Self::new(false, bound_of(limit))
    }

    pub fn of_root() -> Self {
        Self::new(true, u64::MAX)
    }

    fn new(whole: bool, bound: u64) -> Self {
        Self { word: AtomicU64::new(0), bound: AtomicU64::new(bound), peak: AtomicU64::new(0), whole }
    }

    fn current_in(&self, word: u64) -> u64 {
        if self.whole { word } else { word & MOST }
    }

    /// The ids charged, those of charges under way left out.
    pub fn current(&self) -> u64 {
        // ORDERING: pairs with the releases in `grant`, `commit` and `uncharge`: who sees what a charge did here sees
        // what its thread did before.
        self.current_in(self.word.load(Ordering::Acquire))
    }

    /// Whether a charge is under way or charged.
    pub fn is_idle(&self) -> bool {
        // ORDERING: as in `current`.
        self.word.load(Ordering::Acquire) == 0
    }

    /// How many ids a charge could take now, charges under way taken as charged.
    pub fn room(&self) -> u64 {
        // ORDERING: a look.
        let (word, bound) = (self.word.load(Ordering::Relaxed), self.bound.load(Ordering::Relaxed));
        if self.whole { u64::MAX } else { bound.min(MOST).saturating_sub((word & MOST) + (word >> MARKED)) }
    }

    pub fn set_limit(&self, limit: Limit) {
        // ORDERING: the bound carries nothing but itself. A charge that began after this returned is ordered behind it
        // by whatever told its caller, and then coherence shows it this bound or a later one (2).
        self.bound.store(bound_of(limit), Ordering::Relaxed);
    }

    /// Marks `n` ids if there is room for them.
    pub fn mark(&self, n: u64) -> Result<(), Full> {
        self.reserve(n, n << MARKED).map(drop)
    }

    /// Charges `n` ids at once if there is room: for the last level of a charge.
    pub fn grant(&self, n: u64) -> Result<(), Full> {
        self.reserve(n, n).map(|word| self.raise_peak(self.current_in(word)))
    }

    /// Turns `n` marked ids into charged ones.
    pub fn commit(&self, n: u64) {
        let change = n.wrapping_sub(n << MARKED);
        // ORDERING: AcqRel: releases what the caller did to whoever reads `current`; acquires for `reset_peak` (7).
        let word = self.word.fetch_add(change, Ordering::AcqRel).wrapping_add(change);
        self.raise_peak(self.current_in(word));
    }

    /// Takes `n` marks back.
    pub fn cancel(&self, n: u64) {
        // ORDERING: nothing else was written under the marks, so nothing is handed over.
        self.word.fetch_sub(n << MARKED, Ordering::Relaxed);
    }

    /// Charges `n` ids without regard to the bound: on the root, which has none.
    pub fn add(&self, n: u64) {
        // ORDERING: as in `commit`.
        let word = self.word.fetch_add(n, Ordering::AcqRel).wrapping_add(n);
        self.raise_peak(self.current_in(word));
    }

    /// Charges `n` ids without regard to the limit, within [`MOST`].
    pub fn add_regardless(&self, n: u64) -> Result<(), Full> {
        self.exchange(n, n, || MOST).map(|word| self.raise_peak(self.current_in(word)))
    }

    /// Gives `n` charged ids back.
    pub fn uncharge(&self, n: u64) {
        // ORDERING: Release: what the caller did with the ids before is seen by whoever is charged in the room this makes
        // (`reserve` acquires): that the ids are in their bitmap, and that the levels below have been left (9).
        self.word.fetch_sub(n, Ordering::Release);
    }

    /// One reservation, waiting for charges under way where room depends on them (4, 5).
    fn reserve(&self, n: u64, change: u64) -> Result<u64, Full> {
        // ORDERING: see `set_limit`.
        self.exchange(n, change, || self.bound.load(Ordering::Relaxed).min(MOST))
    }

    fn exchange(&self, n: u64, change: u64, bound: impl Fn() -> u64) -> Result<u64, Full> {
        let mut looks = 0;
        // ORDERING: the exchange below decides; until it succeeds this is a guess.
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let (current, marked) = (word & MOST, word >> MARKED);
            let bound = bound();
            if bound.checked_sub(current).is_none_or(|room| n > room) {
                return Err(Full { bound, current });
            }
            if n > bound - current - marked.min(bound - current) {
                looks += 1;
                if looks > PATIENCE {
                    return Err(Full { bound, current: current + marked });
                }
                if looks > SPINS {
                    yield_now()
                } else {
                    spin_loop()
                }
                // A stale look would be one look less of patience.
                word = load_total(&self.word);
                continue;
            }
            // ORDERING: Acquire: pairs with the release in `uncharge`. Release: pairs with the acquire in `current`, and
            // with `reset_peak` (7).
            match self.word.compare_exchange_weak(word, word + change, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(word + change),
                Err(seen) => word = seen,
            }
        }
    }

    /// The highest `current` so far.
    pub fn peak(&self) -> u64 {
        // A charge raises `current` first; who looks in between shall not see a peak below it.
        let current = self.current();
        // ORDERING: a number by itself.
        self.peak.load(Ordering::Relaxed).max(current)
    }

    fn raise_peak(&self, current: u64) {
        // ORDERING: Relaxed: only grows here. Against a reset it is ordered by the word, see `reset_peak`.
        if self.peak.load(Ordering::Relaxed) < current {
            self.peak.fetch_max(current, Ordering::Relaxed);
        }
    }

    /// Sets the peak at least this high: what was saved before a restart.
    pub fn restore_peak(&self, peak: u64) {
        self.raise_peak(peak);
    }

    /// Makes `current` the peak.
    pub fn reset_peak(&self) {
        // ORDERING: Relaxed store, published by the exchange below.
        self.peak.store(self.current(), Ordering::Relaxed);
        // ORDERING: AcqRel on the word, changing nothing. A charge that comes before it in the word's order is in the
        // value it returns; one that comes after acquires the store above, and so raises the new peak, not the old (7).
        let word = self.word.fetch_add(0, Ordering::AcqRel);
        self.raise_peak(self.current_in(word));
    }
}

/// The bound of an unlimited cgroup is one that no count reaches.
fn bound_of(limit: Limit) -> u64 {
    match limit {
        Limit::Count(n) => n,
        Limit::Max => u64::MAX,
    }
}
