//! What a thread remembers of a bitmap: its own memory, so no line is shared for it.
//!
//! A hint is never trusted: it says where to look first, and a wrong one costs time only. Threads that start at the
//! same word pay 61 ns a pair, at words of one line 34, more than a line apart 7.5: so they start spread out, and a
//! thread that met another moves away.
//!
//! It also says what this thread left in the leaf that it swapped last. A load right behind a locked instruction waits
//! for it; a compare-and-swap from what was left there needs no load before, and compares all 64 bits as ever. So a
//! pair takes 1.1 of two bare locked instructions, where it took 1.7.
//!
//! Hints are kept under a [key](key_of): of the view of a bitmap, not of its words.

use crate::sync::{AtomicU64, Ordering};

/// What hints of a view are kept under: where it is in memory. That is at hand when its words' address has yet to be
/// loaded, which a locked instruction before it holds up.
#[inline]
pub(super) fn key_of<T>(view: &T) -> usize {
    std::ptr::from_ref(view).addr()
}

/// Clears `bit` in leaf `word` from what this thread left there; `false`, and nothing is changed, where it does not
/// remember, the leaf holds anything else by now, or the bit is clear.
#[inline]
pub(super) fn clear_guessed(key: usize, word: u32, leaf: &AtomicU64, bit: u64) -> bool {
    let left = guess(key, word).and_then(|seen| clear(leaf, seen, bit));
    left.inspect(|left| guessed(key, *left)).is_some()
}

/// Whether leaf `word` holds anything else than what this thread left there, as far as it remembers: another was here. One
/// that only looked at failed swaps would stay in a word with it, for a guess that fails is followed by a look.
#[inline]
pub(super) fn is_wrong(key: usize, word: u32, seen: u64) -> bool {
    guess(key, word).is_some_and(|left| left != seen)
}

/// Clears `bit` in a leaf that should hold `guess`, and gives what it holds now; `None` if it holds anything else, or the
/// bit is clear.
#[inline]
pub(super) fn clear(leaf: &AtomicU64, guess: u64, bit: u64) -> Option<u64> {
    let left = guess & !bit;
    // ORDERING: SeqCst, as every release of an id. Relaxed where it fails: nothing was read that counts.
    (left != guess && leaf.compare_exchange(guess, left, Ordering::SeqCst, Ordering::Relaxed).is_ok()).then_some(left)
}

/// No place: this thread goes by a cursor.
pub(super) const NOWHERE: u32 = u32::MAX;

#[cfg(not(ioasid_loom))]
mod local {
    use super::NOWHERE;
    use std::cell::Cell;
    use std::hash::{BuildHasher, RandomState};

    /// Bitmaps a thread keeps hints for at a time; two that collide merely share a slot.
    const SLOTS: usize = 8;

    /// No leaf.
    const NONE: u32 = u32::MAX;

    /// Each field is a cell of its own: a load of what several stores wrote would wait for all of them.
    struct Hint {
        key: Cell<usize>,
        at: Cell<u32>,
        word: Cell<u32>,
        left: Cell<u64>,
    }

    impl Hint {
        const fn new() -> Self {
            Self { key: Cell::new(0), at: Cell::new(NOWHERE), word: Cell::new(NONE), left: Cell::new(0) }
        }

        /// Takes the slot for `key`.
        #[inline]
        fn settle(&self, key: usize) {
            if self.key.get() != key {
                self.key.set(key);
                self.at.set(NOWHERE);
                self.word.set(NONE);
            }
        }
    }

    thread_local! {
        static HINTS: [Hint; SLOTS] = const { [const { Hint::new() }; SLOTS] };
        static SEED: Cell<u32> = const { Cell::new(0) };
    }

    #[inline]
    fn with<T>(key: usize, look: impl FnOnce(&Hint) -> T) -> T {
        // Keys are addresses: a multiplication brings what tells them apart to the top.
        let slot = ((key as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61) as usize % SLOTS;
        HINTS.with(|hints| look(&hints[slot]))
    }

    /// Where this thread searches next, or [`NOWHERE`]; `None` if it was not here before.
    #[inline]
    pub(in crate::bitmap) fn at(key: usize) -> Option<u32> {
        with(key, |hint| (hint.key.get() == key).then(|| hint.at.get()))
    }

    /// It searches at `at` next.
    #[inline]
    pub(in crate::bitmap) fn move_to(key: usize, at: u32) {
        with(key, |hint| {
            hint.settle(key);
            // A store has to be through before the next locked instruction begins: not one of what is there.
            if hint.at.get() != at {
                hint.at.set(at);
            }
        });
    }

    /// What this thread left in leaf `word`, if that is the one it remembers.
    #[inline]
    pub(in crate::bitmap) fn guess(key: usize, word: u32) -> Option<u64> {
        with(key, |hint| (hint.word.get() == word && hint.key.get() == key).then(|| hint.left.get()))
    }

    /// What it guessed was right, and it left `left` there.
    #[inline]
    pub(in crate::bitmap) fn guessed(key: usize, left: u64) {
        with(key, |hint| hint.left.set(left));
    }

    /// It left `left` in leaf `word`.
    #[inline]
    pub(in crate::bitmap) fn remember(key: usize, word: u32, left: u64) {
        with(key, |hint| {
            hint.settle(key);
            hint.word.set(word);
            hint.left.set(left);
        });
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

/// Under loom every search starts at the bottom, where threads are sure to meet; what a thread left, it remembers.
#[cfg(ioasid_loom)]
mod local {
    use std::cell::Cell;

    loom::thread_local! {
        static LEFT: Cell<Option<(usize, u32, u64)>> = Cell::new(None);
    }

    pub(in crate::bitmap) fn at(_key: usize) -> Option<u32> {
        Some(0)
    }

    pub(in crate::bitmap) fn move_to(_key: usize, _at: u32) {}

    pub(in crate::bitmap) fn guess(key: usize, word: u32) -> Option<u64> {
        LEFT.with(|known| known.get().filter(|(owner, at, _)| (*owner, *at) == (key, word)).map(|(.., left)| left))
    }

    pub(in crate::bitmap) fn guessed(_key: usize, left: u64) {
        LEFT.with(|known| known.set(known.get().map(|(key, word, _)| (key, word, left))));
    }

    pub(in crate::bitmap) fn remember(key: usize, word: u32, left: u64) {
        LEFT.with(|known| known.set(Some((key, word, left))));
    }

    pub(in crate::bitmap) fn spread(_below: u32) -> u32 {
        0
    }
}

pub(super) use local::{at, guess, guessed, move_to, remember, spread};
