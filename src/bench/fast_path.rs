//! The cases of the fast path that need nothing but memory: no service, no session.

use super::{Case, Measure, Threads};
use crate::bitmap::leases::{LeaseMap, lease_words_needed};
use crate::bitmap::{Bitmap, Search, limits, words_needed};
use crate::sync::AtomicU64;
use std::hint::black_box;
use std::sync::Mutex;

/// Ids in the space, and how many a thread holds and turns over.
const LEN: u32 = 1 << 20;
const HELD: usize = 4096;
/// Operations between two looks at the clock.
const CHUNK: u32 = 256;

type Map = LeaseMap<Vec<AtomicU64>>;
type Pool = Bitmap<Vec<AtomicU64>>;

/// What the cases run on: a set with one batch of 64 leases, one with 1,024, and a pool that is 95 % full.
pub struct FastPath {
    hot: AtomicU64,
    batch: Map,
    large: Map,
    pool: Pool,
    held: Mutex<Vec<u32>>,
}

impl FastPath {
    /// Builds them; `None` cannot be on any machine, for the lengths are fixed and right.
    pub fn new() -> Option<Self> {
        let pool = Bitmap::new(LEN, zeroes(words_needed(LEN)?))?;
        pool.withhold(0, LEN - 1);
        // A multiplicative walk visits each id once, in an order that no search follows.
        let scattered = |n: u32| n.wrapping_mul(0x9e37_79b1) % LEN;
        for n in 0..LEN / 20 {
            pool.release(scattered(n)).ok()?;
        }
        let held = (LEN / 20..LEN / 20 + HELD as u32).map(scattered).collect();
        Some(Self { hot: AtomicU64::new(0), batch: map(64)?, large: map(1024)?, pool, held: Mutex::new(held) })
    }

    /// `mapped_pair`, `mapped_pair_2t`, `mapped_burst` and `pool_churn_95`, with their limit `set_and_clear`.
    pub fn cases(&self) -> Vec<Case<'_>> {
        vec![
            Case::new("set_and_clear", |m| m.one(|| floor(&self.hot))),
            Case::new("mapped_pair", |m| m.one(|| pair(&self.batch))).against("set_and_clear"),
            Case::new("mapped_pair_2t", |m| m.many(Threads(2), |_| || pair(&self.batch))).against("mapped_pair"),
            Case::new("mapped_burst", |m| m.one(|| burst(&self.large))).against("set_and_clear"),
            Case::new("pool_churn_95", |m| self.churn(m)).against("set_and_clear"),
        ]
    }

    fn churn(&self, measure: &Measure) -> f64 {
        let mut held = self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut state = 1_u32;
        measure.one(|| {
            for _ in 0..CHUNK {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if let Some(id) = held.get_mut(state as usize >> 20)
                    && self.pool.release(*id).is_ok()
                {
                    *id = self.pool.claim(Search::Any, 0, LEN - 1).unwrap_or(*id);
                }
            }
            CHUNK.into()
        })
    }
}

fn zeroes(words: usize) -> Vec<AtomicU64> {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

/// A map of the whole space with `leased` neighbours leased, as the service carves them.
fn map(leased: u32) -> Option<Map> {
    let map = LeaseMap::new(LEN, zeroes(lease_words_needed(LEN)?))?;
    (0..leased).all(|id| map.lease(64_000 + id)).then_some(map)
}

fn floor(hot: &AtomicU64) -> u64 {
    (0..CHUNK).filter(|bit| black_box(limits::set_and_clear(black_box(hot), *bit))).count() as u64
}

fn pair(map: &Map) -> u64 {
    (0..CHUNK).filter(|_| map.claim().is_some_and(|id| map.release(black_box(id)).is_ok())).count() as u64
}

fn burst(map: &Map) -> u64 {
    let mut ids = [0; CHUNK as usize];
    let claimed = ids.iter_mut().map_while(|slot| map.claim().map(|id| *slot = id)).count();
    ids.iter().take(claimed).filter(|id| map.release(black_box(**id)).is_ok()).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_measures_something() {
        let measure = Measure { cell: std::time::Duration::from_micros(50), tries: 1, ..Measure::default() };
        let fast_path = FastPath::new().expect("lengths are right");
        let report = super::super::interleave(1, &measure, &mut fast_path.cases());
        assert!(report.results.iter().all(|outcome| outcome.median_ns > 0.0 && outcome.median_ns < 1e6), "{report}");
        assert_eq!(fast_path.batch.count(0, LEN), (64, 0));
    }
}
