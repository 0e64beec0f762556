//! What is to be reached, row by row of the table in the README.

use ioasid::bench::Goal::{AtLeast, AtMost};
use ioasid::bench::{Goal, Row};

const fn row(work: &'static str, beside: &'static str, case: &'static str, goal: Goal) -> Row {
    Row { work, beside, case, goal }
}

const FLOOR: &str = "a locked bit set and bit clear";
const LOCKED: &str = "`bitmap-allocator` + Mutex";

pub const ROWS: [Row; 39] = [
    row("mapped: alloc + free", FLOOR, "mapped_pair", AtMost(2.0)),
    row("mapped: the same through the region, flags looked at", FLOOR, "mapped_set_pair", AtMost(2.0)),
    row("mapped: alloc + free", "one FIONREAD ioctl", "ioctl_fionread", AtLeast(25.0)),
    row("mapped: 2 threads", "one thread", "mapped_pair_2t", AtMost(1.3)),
    row("mapped: 2 processes", "one process", "mapped_set_pair_2p", AtMost(1.3)),
    row("mapped: bursts of 256", FLOOR, "mapped_burst", AtMost(4.0)),
    row("pool, ANY: pair at 50 %", LOCKED, "pair_50_bitmap-allocator_1t", AtLeast(2.4)),
    row("pool, ANY: pair at 50 %, 2 threads", LOCKED, "pair_50_bitmap-allocator_2t", AtLeast(10.0)),
    row("pool, ANY: churn at 50 %", LOCKED, "churn_50_bitmap-allocator_1t", AtLeast(1.8)),
    row("pool, ANY: churn at 95 %", LOCKED, "churn_95_bitmap-allocator_1t", AtLeast(1.8)),
    row("pool, ANY: churn at 99 %", LOCKED, "churn_99_bitmap-allocator_1t", AtLeast(1.8)),
    row("pool, ANY: churn at 50 %, 2 threads", LOCKED, "churn_50_bitmap-allocator_2t", AtLeast(10.0)),
    row("pool, ANY: churn at 95 %, 2 threads", LOCKED, "churn_95_bitmap-allocator_2t", AtLeast(10.0)),
    row("pool, ANY: churn at 99 %, 2 threads", LOCKED, "churn_99_bitmap-allocator_2t", AtLeast(10.0)),
    row("pool, ANY: pair at 50 %", "`sbitmap`", "pair_50_sbitmap_1t", AtLeast(3.0)),
    row("pool, ANY: churn at 50 %", "`sbitmap`", "churn_50_sbitmap_1t", AtLeast(1.0)),
    row("pool, ANY: churn at 95 %", "`sbitmap`", "churn_95_sbitmap_1t", AtLeast(1.0)),
    row("pool, ANY: churn at 99 %", "`sbitmap`", "churn_99_sbitmap_1t", AtLeast(1.0)),
    row("pool, ANY: bursts at 95 %", "`sbitmap`", "burst_95_sbitmap_1t", AtLeast(20.0)),
    row("pool, ANY: fill, 2 threads", "`sbitmap`", "fill_sbitmap_2t", AtLeast(100.0)),
    row("pool, ANY: churn at 50 %, 2 threads", "crossbeam `ArrayQueue`", "churn_50_arrayqueue_2t", AtLeast(3.0)),
    row("pool, ANY: churn at 95 %, 2 threads", "crossbeam `ArrayQueue`", "churn_95_arrayqueue_2t", AtLeast(3.0)),
    row("pool, ANY: churn at 99 %, 2 threads", "crossbeam `ArrayQueue`", "churn_99_arrayqueue_2t", AtLeast(3.0)),
    row("pool, ROUND: pair at 50 %", LOCKED, "pair_50_bitmap-allocator_r_1t", AtLeast(1.3)),
    row("pool, ROUND: churn at 50 %", LOCKED, "churn_50_bitmap-allocator_r_1t", AtLeast(1.3)),
    row("pool, ROUND: churn at 95 %", LOCKED, "churn_95_bitmap-allocator_r_1t", AtLeast(1.3)),
    row("pool, ROUND: churn at 99 %", LOCKED, "churn_99_bitmap-allocator_r_1t", AtLeast(1.3)),
    row("pool, ROUND: churn at 50 %, 2 threads", LOCKED, "churn_50_bitmap-allocator_r_2t", AtLeast(2.0)),
    row("pool, ROUND: churn at 95 %, 2 threads", LOCKED, "churn_95_bitmap-allocator_r_2t", AtLeast(2.0)),
    row("pool, ROUND: churn at 99 %, 2 threads", LOCKED, "churn_99_bitmap-allocator_r_2t", AtLeast(2.0)),
    row("pool: window of 1,024 at 50 %", LOCKED, "window_50_bitmap-allocator_1t", AtLeast(4.0)),
    row("pool: window of 1,024 at 99 %", LOCKED, "window_99_bitmap-allocator_1t", AtLeast(2.4)),
    row("pool: window of 1,024 at 50 %, 2 threads", LOCKED, "window_50_bitmap-allocator_2t", AtLeast(7.0)),
    row("pool: refusal, all taken", "one atomic load", "refusal_full_space", AtMost(3.0)),
    row("pool: refusal, a window taken", "reading its words", "refusal_full_window", AtMost(3.0)),
    row("pool: slowest of 1,000 claims, 2 threads", "its own median", "claim_p999_churn_95_2t", AtMost(2.0)),
    row("charge + uncharge, 3 levels", "six atomic additions", "charge_uncharge_depth_3", AtMost(2.0)),
    row("charge, 6 levels", "six atomic additions", "charge_depth_6", AtMost(2.0)),
    row(
        "charge + uncharge in siblings, 2 threads",
        "three additions to one word, 2 threads",
        "charge_uncharge_siblings_2t",
        AtMost(3.0),
    ),
];
