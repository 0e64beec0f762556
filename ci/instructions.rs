//! The operations whose instructions `ci/instructions` counts: `ioasid-count NAME` does one of them a thousand times
//! inside `counted`, which is all that callgrind looks at; `ioasid-count` alone lists them.
//!
//! What it does is the same on every run: no clock, no second thread, random choices from a fixed seed, and a first
//! round outside the count, after which each search begins where the last one ended.

use ioasid::bitmap::leases::{LeaseMap, lease_words_needed};
use ioasid::bitmap::{Bitmap, Search, words_needed};
use ioasid::model::{CgroupId, CgroupPath, Limit, Pasid, SetId};
use ioasid::quota::Tree;
use ioasid::shm::SetRegion;
use ioasid::sync::AtomicU64;
use std::hint::black_box;
use std::process::ExitCode;

const LEN: u32 = 1 << 20;
/// Operations that are counted. `ci/instructions` divides by it.
const TIMES: u32 = 1000;
const WINDOW: (u32, u32) = (4096, 4096 + 1023);

type Pool = Bitmap<Vec<AtomicU64>>;
type Leases = LeaseMap<Vec<AtomicU64>>;
type Work = fn() -> Option<()>;

const WORKS: [(&str, Work); 10] = [
    ("mapped_pair", || {
        let map = leases(64)?;
        counted(&mut || black_box(&map).claim().is_some_and(|id| map.release(id).is_ok()))
    }),
    ("mapped_burst", || {
        let map = leases(1024)?;
        let mut ids = Vec::with_capacity(256);
        let mut giving = false;
        // A pair is half a claim here and half a release there: 256 claims, then 256 releases.
        counted(&mut || {
            if ids.is_empty() || ids.len() == 256 {
                giving = !ids.is_empty();
            }
            if giving {
                ids.pop().is_some_and(|id| map.release(id).is_ok())
            } else {
                map.claim().map(|id| ids.push(id)).is_some()
            }
        })
    }),
    ("mapped_set_pair", || {
        let region = SetRegion::create(SetId(1), LEN).ok()?;
        (2000..2064).filter_map(Pasid::new).for_each(|id| region.lease(id, false));
        counted(&mut || matches!(black_box(&region).alloc(), Ok(Some(id)) if region.free(id).is_ok()))
    }),
    ("pool_any_pair_95", || {
        let pool = pool(95)?;
        counted(&mut || black_box(&pool).claim(Search::Any, 0, LEN - 1).is_some_and(|id| pool.release(id).is_ok()))
    }),
    ("pool_any_churn_95", || churn(Search::Any)),
    ("pool_round_churn_95", || churn(Search::Round)),
    ("pool_window_pair", || {
        let pool = pool(95)?;
        let (lo, hi) = WINDOW;
        counted(&mut || black_box(&pool).claim(Search::Any, lo, hi).is_some_and(|id| pool.release(id).is_ok()))
    }),
    ("pool_refusal", || {
        let pool = pool(100)?;
        counted(&mut || black_box(&pool).claim(Search::Any, 0, LEN - 1).is_none())
    }),
    ("pool_window_refusal", || {
        let pool = pool(95)?;
        pool.withhold(WINDOW.0, WINDOW.1);
        counted(&mut || black_box(&pool).claim(Search::Any, WINDOW.0, WINDOW.1).is_none())
    }),
    ("charge_depth_3", || {
        let tree = Tree::new(CgroupId(1));
        let path = CgroupPath::root().child("a").ok()?;
        let lineage = [(CgroupId(2), path.clone()), (CgroupId(3), path.child("b").ok()?)];
        let node = tree.ensure_with(&lineage, |_, _| Limit::Count(1 << 20));
        counted(&mut || black_box(&node).try_charge(black_box(1)).is_ok())
    }),
];

fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        WORKS.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    match WORKS.iter().find(|(other, _)| *other == name).and_then(|(_, work)| work()) {
        Some(()) => ExitCode::SUCCESS,
        None => {
            eprintln!("ioasid-count: {name} did not do what it is for");
            ExitCode::FAILURE
        }
    }
}

/// Does it so many times untold, then [`TIMES`] times under the eyes of callgrind; `None` if it fails once.
fn counted(operation: &mut dyn FnMut() -> bool) -> Option<()> {
    (times(operation) && times_counted(operation)).then_some(())
}

fn times(operation: &mut dyn FnMut() -> bool) -> bool {
    (0..TIMES).all(|_| operation())
}

/// Known to `ci/instructions` by its name.
#[inline(never)]
fn times_counted(operation: &mut dyn FnMut() -> bool) -> bool {
    black_box(times(black_box(operation)))
}

/// Turns over random ones of 4,096 held ids.
fn churn(mode: Search) -> Option<()> {
    let pool = pool(95)?;
    let mut held: Vec<u32> = (LEN / 20..LEN / 20 + 4096).map(scattered).collect();
    let mut state = 1_u32;
    counted(&mut || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let Some(id) = held.get_mut(state as usize >> 20) else { return false };
        let released = black_box(&pool).release(*id).is_ok();
        pool.claim(mode, 0, LEN - 1).map(|new| *id = new).is_some() && released
    })
}

/// A pool of which `percent` are claimed: what is free lies all over it.
fn pool(percent: u32) -> Option<Pool> {
    let pool = Pool::new(LEN, zeroes(words_needed(LEN)?))?;
    pool.withhold(0, LEN - 1);
    (0..LEN / 100 * (100 - percent)).try_for_each(|n| pool.release(scattered(n)).ok())?;
    Some(pool)
}

/// A walk that visits each id once, in an order that no search follows.
fn scattered(n: u32) -> u32 {
    n.wrapping_mul(0x9e37_79b1) % LEN
}

fn leases(count: u32) -> Option<Leases> {
    let map = Leases::new(LEN, zeroes(lease_words_needed(LEN)?))?;
    (64_000..64_000 + count).all(|id| map.lease(id)).then_some(map)
}

fn zeroes(words: usize) -> Vec<AtomicU64> {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}
