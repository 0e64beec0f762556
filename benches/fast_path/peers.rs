//! The allocators that are measured, behind one trait.

use bitmap_allocator::{BitAlloc, BitAlloc1M};
use crossbeam_queue::ArrayQueue;
use ioasid::bitmap::{Bitmap, Search, words_needed};
use ioasid::sync::AtomicU64;
use sbitmap::Sbitmap;
use std::sync::Mutex;

/// All pools have so many ids.
pub const LEN: u32 = 1 << 20;

/// What every peer can do. `hint` is the thread's own, for peers that want it from the caller.
pub trait Pool: Sync {
    fn empty() -> Self
    where
        Self: Sized;
    fn claim(&self, hint: &mut usize) -> Option<u32>;
    fn release(&self, id: u32, hint: &mut usize);
    /// Claims in `lo..=hi`, for peers that know windows.
    fn claim_in(&self, _lo: u32, _hi: u32) -> Option<u32> {
        None
    }
}

pub fn bitmap() -> Bitmap<Vec<AtomicU64>> {
    Bitmap::new(LEN, (0..words_needed(LEN).unwrap()).map(|_| AtomicU64::new(0)).collect()).unwrap()
}

pub struct Any(pub Bitmap<Vec<AtomicU64>>);

impl Pool for Any {
    fn empty() -> Self {
        Self(bitmap())
    }
    fn claim(&self, _: &mut usize) -> Option<u32> {
        self.0.claim(Search::Any, 0, LEN - 1)
    }
    fn release(&self, id: u32, _: &mut usize) {
        self.0.release(id).unwrap();
    }
    fn claim_in(&self, lo: u32, hi: u32) -> Option<u32> {
        self.0.claim(Search::Any, lo, hi)
    }
}

pub struct Round(Bitmap<Vec<AtomicU64>>);

impl Pool for Round {
    fn empty() -> Self {
        Self(bitmap())
    }
    fn claim(&self, _: &mut usize) -> Option<u32> {
        self.0.claim(Search::Round, 0, LEN - 1)
    }
    fn release(&self, id: u32, _: &mut usize) {
        self.0.release(id).unwrap();
    }
    fn claim_in(&self, lo: u32, hi: u32) -> Option<u32> {
        self.0.claim(Search::Round, lo, hi)
    }
}

/// bitmap-allocator 0.4.6 in a mutex: the only crate with windows, runs and lowest first.
pub struct Locked(Mutex<Box<BitAlloc1M>>);

impl Pool for Locked {
    fn empty() -> Self {
        let mut ids = Box::new(BitAlloc1M::DEFAULT);
        ids.insert(0..LEN as usize);
        Self(Mutex::new(ids))
    }
    fn claim(&self, _: &mut usize) -> Option<u32> {
        self.0.lock().unwrap().alloc().map(|id| id as u32)
    }
    fn release(&self, id: u32, _: &mut usize) {
        assert!(self.0.lock().unwrap().dealloc(id as usize));
    }
    fn claim_in(&self, lo: u32, hi: u32) -> Option<u32> {
        let mut ids = self.0.lock().unwrap();
        let id = ids.next(lo as usize).filter(|id| *id <= hi as usize)?;
        ids.remove(id..id + 1);
        Some(id as u32)
    }
}

/// sbitmap 0.1.1, after the block layer's.
pub struct Spread(Sbitmap);

impl Pool for Spread {
    fn empty() -> Self {
        Self(Sbitmap::new(LEN as usize, None, false))
    }
    fn claim(&self, hint: &mut usize) -> Option<u32> {
        self.0.get(hint).map(|id| id as u32)
    }
    fn release(&self, id: u32, hint: &mut usize) {
        self.0.put(id as usize, hint);
    }
}

/// crossbeam's ArrayQueue of free ids.
pub struct Queue(ArrayQueue<u32>);

impl Pool for Queue {
    fn empty() -> Self {
        let ids = ArrayQueue::new(LEN as usize);
        (0..LEN).for_each(|id| ids.push(id).unwrap());
        Self(ids)
    }
    fn claim(&self, _: &mut usize) -> Option<u32> {
        self.0.pop()
    }
    fn release(&self, id: u32, _: &mut usize) {
        self.0.push(id).unwrap();
    }
}

/// A thread's random numbers: xorshift, one nanosecond.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    /// Below `below`.
    #[inline]
    pub fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * below as u128) >> 64) as usize
    }
}
