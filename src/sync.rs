//! The one door to atomics: the standard library's, or loom's under `--cfg ioasid_loom`.
//!
//! Rooms that name an ordering (`bitmap`, `quota`) take their atomics from here, so that the loom models run the very
//! code the service runs. No other room imports `std::sync::atomic`. Locks and ways to wait that stand inside such a
//! protocol come from here too; `Arc` does not, it keeps memory alive and orders nothing.

#[cfg(ioasid_loom)]
pub use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    sync::{Mutex, MutexGuard},
    thread::yield_now,
};
#[cfg(not(ioasid_loom))]
pub use std::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    sync::{Mutex, MutexGuard},
    thread::yield_now,
};

/// Loads `word` in the one total order of all `SeqCst` operations.
///
/// The half of a store-then-load handshake that looks: the other half did its store by a `SeqCst` read-modify-write.
/// On x86 this is a plain load. Loom does not model that total order for loads, so there a read-modify-write that
/// changes nothing stands in: it too reads the last value written.
#[inline(always)]
pub fn load_total(word: &AtomicU64) -> u64 {
    #[cfg(not(ioasid_loom))]
    // ORDERING: SeqCst, pairs with the caller's partner, a SeqCst read-modify-write on another word.
    return word.load(Ordering::SeqCst);
    #[cfg(ioasid_loom)]
    // ORDERING: as above; AcqRel and the last value are what loom knows of SeqCst.
    return word.fetch_or(0, Ordering::SeqCst);
}

/// Stores a value that is set once, before who looks for it can have the word.
#[inline]
pub fn publish(word: &AtomicU64, value: u64) {
    // ORDERING: Release, pairs with `observe`.
    word.store(value, Ordering::Release);
}

/// Loads what [`publish`] stored.
#[inline]
pub fn observe(word: &AtomicU64) -> u64 {
    // ORDERING: Acquire, pairs with `publish`.
    word.load(Ordering::Acquire)
}
