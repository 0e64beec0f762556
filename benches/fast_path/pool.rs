//! The pool: pairs, churn, bursts, windows, refusals, fill.

use crate::peers::{Any, Dice, LEN, Locked, Pool, Queue, Round, Spread, bitmap};
use ioasid::bench::{Case, Measure, Outcome, Report, Threads, interleave};
use ioasid::bitmap::{Search, limits, words_needed};
use ioasid::sync::AtomicU64;
use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

/// Ids a thread holds and turns over: few enough to stay in its own cache.
const HELD: usize = 4096;
const CHUNK: u64 = 256;

/// A pool at some occupancy, and what two threads hold of it.
struct Stand<P> {
    pool: P,
    hands: [Mutex<Hand>; 2],
}

/// Alone on its lines: both threads write their own at every turn.
#[repr(align(128))]
struct Hand {
    ids: Vec<u32>,
    hint: usize,
    dice: Dice,
}

impl<P: Pool> Stand<P> {
    /// Filled by both threads, then a random subset released, so that `percent` are claimed; then turned over until
    /// as many ids as are free were handed out, so that lowest-first peers have finished compacting.
    fn new(percent: u32) -> Self {
        let pool = P::empty();
        let mut dice = Dice::new(u64::from(percent) + 7);
        let mut hint = 0;
        let mut ids: Vec<u32> = std::iter::from_fn(|| pool.claim(&mut hint)).collect();
        for last in (1..ids.len()).rev() {
            ids.swap(last, dice.roll(last + 1));
        }
        let keep = (u64::from(LEN) * u64::from(percent) / 100) as usize;
        for id in ids.drain(keep..) {
            pool.release(id, &mut hint);
        }
        for _ in 0..LEN as usize - keep {
            let at = if ids.is_empty() { break } else { dice.roll(ids.len()) };
            pool.release(ids[at], &mut hint);
            ids[at] = pool.claim(&mut hint).unwrap();
        }
        let hands = [0, 1].map(|number| {
            let ids = ids.split_off(ids.len().saturating_sub(HELD));
            Mutex::new(Hand { ids, hint: number as usize * LEN as usize / 2, dice: Dice::new(number + 1) })
        });
        Self { pool, hands }
    }

    /// Runs `chunk` on `threads` threads, each with its own hand.
    fn measure(&self, measure: &Measure, threads: usize, chunk: impl Fn(&P, &mut Hand) -> u64 + Sync) -> f64 {
        if threads == 1 {
            let mut hand = self.hands[0].lock().unwrap();
            // Untimed: the other cases' data were in the cache.
            assert!((0..64).all(|_| chunk(&self.pool, &mut hand) == CHUNK));
            return measure.one(|| chunk(&self.pool, &mut hand));
        }
        measure.many(Threads(threads), |number| {
            let mut hand = self.hands[number].lock().unwrap();
            assert!((0..64).all(|_| chunk(&self.pool, &mut hand) == CHUNK));
            let chunk = &chunk;
            move || chunk(&self.pool, &mut hand)
        })
    }
}

fn pair<P: Pool>(pool: &P, hand: &mut Hand) -> u64 {
    for _ in 0..CHUNK {
        let id = pool.claim(&mut hand.hint).unwrap();
        pool.release(black_box(id), &mut hand.hint);
    }
    CHUNK
}

fn churn<P: Pool>(pool: &P, hand: &mut Hand) -> u64 {
    for _ in 0..CHUNK {
        let at = hand.dice.roll(hand.ids.len());
        pool.release(hand.ids[at], &mut hand.hint);
        hand.ids[at] = pool.claim(&mut hand.hint).unwrap();
    }
    CHUNK
}

fn burst<P: Pool>(pool: &P, hand: &mut Hand) -> u64 {
    let from = hand.dice.roll(hand.ids.len() - CHUNK as usize);
    let ids = &mut hand.ids[from..from + CHUNK as usize];
    for &mut id in &mut *ids {
        pool.release(id, &mut hand.hint);
    }
    for id in ids {
        *id = pool.claim(&mut hand.hint).unwrap();
    }
    CHUNK
}

/// The cases of one workload at 1 and 2 threads; a peer's ratio is its time over that of ours which it names.
macro_rules! duel {
    ($rounds:expr, $measure:expr, $work:ident, $percent:expr, $tag:literal) => {{
        let any = &Stand::<Any>::new($percent);
        let round = &Stand::<Round>::new($percent);
        let locked = &Stand::<Locked>::new($percent);
        let spread = &Stand::<Spread>::new($percent);
        let queue = &Stand::<Queue>::new($percent);
        let any_name = [concat!($tag, "_any_1t"), concat!($tag, "_any_2t")];
        let round_name = [concat!($tag, "_round_1t"), concat!($tag, "_round_2t")];
        let locked_name = [concat!($tag, "_bitmap-allocator_1t"), concat!($tag, "_bitmap-allocator_2t")];
        let versus_name = [concat!($tag, "_bitmap-allocator_r_1t"), concat!($tag, "_bitmap-allocator_r_2t")];
        let spread_name = [concat!($tag, "_sbitmap_1t"), concat!($tag, "_sbitmap_2t")];
        let queue_name = [concat!($tag, "_arrayqueue_1t"), concat!($tag, "_arrayqueue_2t")];
        let mut cases = Vec::new();
        for n in [0, 1] {
            cases.push(Case::new(any_name[n], move |m| any.measure(m, n + 1, $work)));
            cases.push(Case::new(locked_name[n], move |m| locked.measure(m, n + 1, $work)).against(any_name[n]));
            cases.push(Case::new(spread_name[n], move |m| spread.measure(m, n + 1, $work)).against(any_name[n]));
            cases.push(Case::new(queue_name[n], move |m| queue.measure(m, n + 1, $work)).against(any_name[n]));
            cases.push(Case::new(round_name[n], move |m| round.measure(m, n + 1, $work)));
            cases.push(Case::new(versus_name[n], move |m| locked.measure(m, n + 1, $work)).against(round_name[n]));
        }
        interleave($rounds, $measure, &mut cases).results
    }};
}

fn report(results: impl IntoIterator<Item = Vec<Outcome>>) -> Report {
    Report { results: results.into_iter().flatten().collect(), line_round_trip_ns: None }
}

pub fn pairs(rounds: usize, measure: &Measure) -> Report {
    report([duel!(rounds, measure, pair, 50, "pair_50"), duel!(rounds, measure, pair, 99, "pair_99")])
}

pub fn churns(rounds: usize, measure: &Measure) -> Report {
    report([
        duel!(rounds, measure, churn, 50, "churn_50"),
        duel!(rounds, measure, churn, 95, "churn_95"),
        duel!(rounds, measure, churn, 99, "churn_99"),
    ])
}

pub fn bursts(rounds: usize, measure: &Measure) -> Report {
    report([duel!(rounds, measure, burst, 95, "burst_95")])
}

/// Churn in a window of 1,024 ids per thread, in a pool that is otherwise full.
pub fn windows(rounds: usize, measure: &Measure) -> Report {
    fn window(number: u32) -> (u32, u32) {
        (LEN / 4 + number * 8192, LEN / 4 + number * 8192 + 1023)
    }
    fn stand<P: Pool>(percent: usize) -> Stand<P> {
        let pool = P::empty();
        let mut hint = 0;
        while pool.claim(&mut hint).is_some() {}
        let hands = [0, 1].map(|number| {
            let (lo, hi) = window(number);
            let mut dice = Dice::new(u64::from(number) + 1);
            let mut ids: Vec<u32> = (lo..=hi).collect();
            for last in (1..ids.len()).rev() {
                ids.swap(last, dice.roll(last + 1));
            }
            ids.drain(1024 * percent / 100..).for_each(|id| pool.release(id, &mut hint));
            Mutex::new(Hand { ids, hint: number as usize, dice })
        });
        Stand { pool, hands }
    }
    fn churn<P: Pool>(pool: &P, hand: &mut Hand) -> u64 {
        let (lo, hi) = window(hand.hint as u32);
        for _ in 0..CHUNK {
            let at = hand.dice.roll(hand.ids.len());
            pool.release(hand.ids[at], &mut 0);
            hand.ids[at] = pool.claim_in(lo, hi).unwrap();
        }
        CHUNK
    }
    let names = [
        ["window_50_any_1t", "window_50_bitmap-allocator_1t", "window_50_any_2t", "window_50_bitmap-allocator_2t"],
        ["window_99_any_1t", "window_99_bitmap-allocator_1t", "window_99_any_2t", "window_99_bitmap-allocator_2t"],
    ];
    report([50, 99].into_iter().zip(names).map(|(percent, names)| {
        let (any, locked) = (stand::<Any>(percent), stand::<Locked>(percent));
        let mut cases = [
            Case::new(names[0], |m| any.measure(m, 1, churn)),
            Case::new(names[1], |m| locked.measure(m, 1, churn)).against(names[0]),
            Case::new(names[2], |m| any.measure(m, 2, churn)),
            Case::new(names[3], |m| locked.measure(m, 2, churn)).against(names[2]),
        ];
        interleave(rounds, measure, &mut cases).results
    }))
}

/// Claims that are refused: on a full space, and in a full window of a space that is not.
pub fn refusals(rounds: usize, measure: &Measure) -> Report {
    let full = bitmap();
    full.withhold(0, LEN - 1);
    let windowed = bitmap();
    windowed.withhold(4096, 4096 + 1023);
    let words: Vec<AtomicU64> = (0..words_needed(1024).unwrap()).map(|_| AtomicU64::new(u64::MAX)).collect();
    fn times(mut work: impl FnMut()) -> impl FnMut() -> u64 {
        move || {
            (0..CHUNK).for_each(|_| work());
            CHUNK
        }
    }
    let mut cases = [
        Case::new("one_load", |m| m.one(times(|| assert!(black_box(limits::load(&black_box(&words)[0])) != 0)))),
        Case::new("refusal_full_space", |m| {
            m.one(times(|| assert_eq!(black_box(&full).claim(Search::Any, 0, LEN - 1), None)))
        })
        .against("one_load"),
        Case::new("sixteen_loads", |m| m.one(times(|| assert!(limits::read_all(&black_box(&words)[..black_box(16)]))))),
        Case::new("refusal_full_window", |m| {
            m.one(times(|| assert_eq!(black_box(&windowed).claim(Search::Any, 4096, 4096 + 1023), None)))
        })
        .against("sixteen_loads"),
    ];
    interleave(rounds, measure, &mut cases)
}

/// The slowest of a thousand claims beside the usual one, both less what the timer shows at the same share when nothing
/// is done.
pub fn latencies(rounds: usize, measure: &Measure) -> Report {
    let stand = Stand::<Any>::new(95);
    let mut tails = Vec::new();
    for _ in 0..rounds {
        let laps = Mutex::new((Vec::new(), Vec::new()));
        stand.measure(measure, 2, |pool, hand| {
            let mut own = [(0, 0); CHUNK as usize];
            for (claim, nothing) in &mut own {
                let at = hand.dice.roll(hand.ids.len());
                pool.release(hand.ids[at], &mut hand.hint);
                *nothing = timed(|| ());
                *claim = timed(|| hand.ids[at] = pool.claim(&mut hand.hint).unwrap());
            }
            laps.lock().unwrap().extend(own);
            CHUNK
        });
        let (mut claims, mut nothings) = laps.into_inner().unwrap();
        let mut net =
            |share| percentile(&mut claims, share).saturating_sub(percentile(&mut nothings, share)).max(1) as f64;
        let [usual, slow] = [0.5, 0.999].map(&mut net);
        tails.push((slow / usual, usual, slow));
    }
    tails.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, usual, slow) = tails[tails.len() / 2];
    let quartiles_ns = [tails[tails.len() / 4].2, tails[tails.len() * 3 / 4].2];
    let name = "claim_p999_churn_95_2t".into();
    let limit = Some("its p50".into());
    report([vec![Outcome { name, median_ns: slow, quartiles_ns, limit, limit_ns: Some(usual), ratio: Some(ratio) }]])
}

/// Nanoseconds of `work`, the timer's cost with them.
fn timed(work: impl FnOnce()) -> u64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as u64
}

fn percentile(values: &mut [u64], share: f64) -> u64 {
    let at = ((values.len() - 1) as f64 * share) as usize;
    *values.select_nth_unstable(at).1
}

/// Two threads take every id of an empty pool.
pub fn fills(rounds: usize, measure: &Measure) -> Report {
    fn fill<P: Pool>(measure: &Measure) -> f64 {
        let pool = P::empty();
        let start = std::sync::Barrier::new(2);
        let run = |number: usize| {
            (measure.pin)(number);
            let mut hint = number * LEN as usize / 2;
            start.wait();
            let begun = Instant::now();
            let mut count = 0_u64;
            while black_box(pool.claim(&mut hint)).is_some() {
                count += 1;
            }
            begun.elapsed().as_nanos() as f64 / count.max(1) as f64
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(|| run(1));
            let ours = run(0);
            f64::midpoint(ours, other.join().unwrap())
        })
    }
    let mut cases = [
        Case::new("fill_any_2t", fill::<Any>),
        Case::new("fill_bitmap-allocator_2t", fill::<Locked>).against("fill_any_2t"),
        Case::new("fill_sbitmap_2t", fill::<Spread>).against("fill_any_2t"),
        Case::new("fill_arrayqueue_2t", fill::<Queue>).against("fill_any_2t"),
    ];
    interleave(rounds.min(3), measure, &mut cases)
}

/// What a turn costs at each occupancy, for the picture.
pub const OCCUPANCIES: [u32; 7] = [1, 25, 50, 75, 90, 95, 99];
pub const DRAWN: [&str; 6] = [
    "ANY, 1 thread",
    "ANY, 2 threads",
    "ROUND, 1 thread",
    "ROUND, 2 threads",
    "bitmap-allocator + Mutex, 1 thread",
    "bitmap-allocator + Mutex, 2 threads",
];

/// Nanoseconds of a turn of churn by who is [`DRAWN`], at each of the [`OCCUPANCIES`].
pub fn occupancies(rounds: usize, measure: &Measure) -> [Vec<f64>; 6] {
    let mut lines: [Vec<f64>; 6] = Default::default();
    for percent in OCCUPANCIES {
        let any = &Stand::<Any>::new(percent);
        let round = &Stand::<Round>::new(percent);
        let locked = &Stand::<Locked>::new(percent);
        let mut cases: Vec<Case<'_>> = Vec::with_capacity(DRAWN.len());
        for (at, name) in DRAWN.into_iter().enumerate() {
            let threads = at % 2 + 1;
            cases.push(match at / 2 {
                0 => Case::new(name, move |m| any.measure(m, threads, churn)),
                1 => Case::new(name, move |m| round.measure(m, threads, churn)),
                _ => Case::new(name, move |m| locked.measure(m, threads, churn)),
            });
        }
        let report = interleave(rounds, measure, &mut cases);
        lines.iter_mut().zip(report.results).for_each(|(line, outcome)| line.push(outcome.median_ns));
    }
    lines
}
