//! What the machine itself takes: the limits that the bitmap's figures are set against.
//!
//! Called by the benchmarks and by `ioasidctl bench`; nothing else has a use for it.

use crate::sync::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The floor of a pair: one locked bit set and one locked bit clear on a hot word.
#[inline]
pub fn set_and_clear(word: &AtomicU64, bit: u32) -> bool {
    let bit = 1 << (bit % 64);
    // ORDERING: AcqRel, as a claim and a release; on x86 the locked instruction is the same for all.
    let was = word.fetch_or(bit, Ordering::AcqRel) & bit != 0;
    // ORDERING: AcqRel: as above.
    word.fetch_and(!bit, Ordering::AcqRel) & bit != 0 && !was
}

/// The floor of a refusal: one load.
#[inline]
pub fn load(word: &AtomicU64) -> u64 {
    // ORDERING: SeqCst, as the refusal's load.
    word.load(Ordering::SeqCst)
}

/// The floor of a window's refusal: its words read once.
#[inline]
pub fn read_all(words: &[AtomicU64]) -> bool {
    // ORDERING: SeqCst, as the proof's loads.
    words.iter().all(|word| word.load(Ordering::SeqCst) == u64::MAX)
}

/// How long a cache line takes to another core and back, in nanoseconds: the best mean of 100 trips out of 200, for a
/// thread that loses its core in the middle makes a mean worthless.
///
/// `pin` is called on both threads with 0 and 1, to put them on different cores. Blocks: spins until both are done.
pub fn line_round_trip(pin: impl Fn(usize) + Sync) -> f64 {
    const TRIPS: u32 = 100;
    let ball = AtomicU64::new(0);
    let play = |side: u64| {
        pin(side as usize);
        let mut best = Duration::MAX;
        let mut mine = side;
        for _ in 0..200 {
            let start = Instant::now();
            for _ in 0..TRIPS {
                // ORDERING: Acquire and Release: each player waits for the other's write and answers with its own.
                while ball.load(Ordering::Acquire) != mine {
                    std::hint::spin_loop();
                }
                ball.store(mine + 1, Ordering::Release);
                mine += 2;
            }
            best = best.min(start.elapsed());
        }
        best
    };
    let best = std::thread::scope(|scope| {
        let other = scope.spawn(|| play(1));
        let ours = play(0);
        other.join().map_or(ours, |theirs| theirs.min(ours))
    });
    best.as_nanos() as f64 / f64::from(TRIPS)
}
