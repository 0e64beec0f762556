//! Where a thread searches next: its own memory, so no line is shared for it.
//!
//! A hint is never trusted: it says where to look first, and a wrong one costs time only. Threads that start at the
//! same word pay 61 ns a pair, at words of one line 34, more than a line apart 7.5: so they start spread out, and a
//! thread that met another moves away.

#[cfg(not(ioasid_loom))]
mod local {
    use std::cell::Cell;
    use std::hash::{BuildHasher, RandomState};

    /// Bitmaps a thread keeps hints for at a time; two that collide merely share a slot.
    const SLOTS: usize = 8;

    thread_local! {
        static HINTS: [Cell<(usize, u32)>; SLOTS] = const { [const { Cell::new((0, 0)) }; SLOTS] };
        static SEED: Cell<u32> = const { Cell::new(0) };
    }

    #[inline]
    fn slot(key: usize) -> usize {
        // Keys are addresses, of pages or of lines: a multiplication brings what tells them apart to the top.
        ((key as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61) as usize % SLOTS
    }

    #[inline]
    pub(in crate::bitmap) fn get(key: usize) -> Option<u32> {
        HINTS.with(|hints| {
            let (owner, hint) = hints[slot(key)].get();
            (owner == key).then_some(hint)
        })
    }

    #[inline]
    pub(in crate::bitmap) fn set(key: usize, hint: u32) {
        HINTS.with(|hints| hints[slot(key)].set((key, hint)));
    }

    /// A number below `below` (not 0), different from thread to thread, process to process and call to call.
    #[cold]
    pub(in crate::bitmap) fn spread(below: u32) -> u32 {
        SEED.with(|seed| {
            let mut x = seed.get();
            if x == 0 {
                // Randomly keyed in each process, counted up in each thread.
                x = RandomState::new().hash_one(std::process::id()) as u32 | 1;
            }
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            seed.set(x);
            ((u64::from(x) * u64::from(below)) >> 32) as u32
        })
    }
}

/// Under loom a thread remembers nothing: every search starts at the bottom, where threads are sure to meet.
#[cfg(ioasid_loom)]
mod local {
    pub(in crate::bitmap) fn get(_key: usize) -> Option<u32> {
        Some(0)
    }

    pub(in crate::bitmap) fn set(_key: usize, _hint: u32) {}

    pub(in crate::bitmap) fn spread(_below: u32) -> u32 {
        0
    }
}

pub(super) use local::{get, set, spread};
