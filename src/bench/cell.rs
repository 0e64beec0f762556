//! One cell: a body run in chunks until its time is up, on one thread or on several at once.

use std::ops::Range;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// How cells are measured.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// How long a cell runs.
    pub cell: Duration,
    /// How often a cell is tried again after the scheduler disturbed it.
    pub tries: u32,
    /// Called on each thread with its number before it runs, to put it on a core of its own.
    pub pin: fn(usize),
}

impl Default for Measure {
    /// 2 ms a cell, up to 14 tries, threads where the scheduler puts them.
    fn default() -> Self {
        Self { cell: Duration::from_millis(2), tries: 14, pin: |_| {} }
    }
}

/// What a thread of a cell did.
struct Lap {
    ran: Range<Instant>,
    ops: u64,
    disturbed: bool,
}

impl Measure {
    /// Nanoseconds per operation of `chunk`, which says how many operations it did. One thread: this one.
    pub fn one(&self, mut chunk: impl FnMut() -> u64) -> f64 {
        (self.pin)(0);
        let mut ns = 0.0;
        for _ in 0..self.tries.max(1) {
            let lap = self.lap(&mut chunk);
            ns = nanoseconds(&[&lap]);
            if !lap.disturbed {
                break;
            }
        }
        ns
    }

    /// As [`Measure::one`] on `threads` threads at once; nanoseconds per operation of each thread.
    ///
    /// `body` is given the thread's number and makes that thread's chunk. A cell counts only if the threads ran at the
    /// same time for 95 % of it.
    pub fn many<C: FnMut() -> u64>(&self, threads: Threads, body: impl Fn(usize) -> C + Sync) -> f64 {
        let start = Barrier::new(threads.0);
        let mut ns = 0.0;
        for _ in 0..self.tries.max(1) {
            let (start, body) = (&start, &body);
            let laps: Vec<Lap> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..threads.0)
                    .map(|number| {
                        scope.spawn(move || {
                            (self.pin)(number);
                            let mut chunk = body(number);
                            start.wait();
                            self.lap(&mut chunk)
                        })
                    })
                    .collect();
                threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
            });
            ns = nanoseconds(&laps.iter().collect::<Vec<_>>());
            if overlap(&laps) >= 0.95 && !laps.iter().any(|lap| lap.disturbed) {
                break;
            }
        }
        ns
    }

    fn lap(&self, chunk: &mut impl FnMut() -> u64) -> Lap {
        let before = switches();
        let start = Instant::now();
        let mut ops = 0;
        let mut now = start;
        while now.duration_since(start) < self.cell {
            ops += chunk();
            now = Instant::now();
        }
        Lap { ran: start..now, ops, disturbed: before != switches() }
    }
}

/// How many threads run at once; at least one.
#[derive(Clone, Copy, Debug)]
pub struct Threads(pub usize);

/// Per operation and thread: the threads' time over their operations.
fn nanoseconds(laps: &[&Lap]) -> f64 {
    let time: Duration = laps.iter().map(|lap| lap.ran.end.duration_since(lap.ran.start)).sum();
    let ops: u64 = laps.iter().map(|lap| lap.ops).sum();
    time.as_nanos() as f64 / ops.max(1) as f64
}

/// The share of the whole in which all ran.
fn overlap(laps: &[Lap]) -> f64 {
    let bounds = |pick: fn(&Lap) -> Instant| (laps.iter().map(pick).min(), laps.iter().map(pick).max());
    match (bounds(|lap| lap.ran.start), bounds(|lap| lap.ran.end)) {
        ((Some(first), Some(all_started)), (Some(any_ended), Some(last))) => {
            any_ended.saturating_duration_since(all_started).as_secs_f64() / last.duration_since(first).as_secs_f64()
        }
        _ => 0.0,
    }
}

/// How often the scheduler took this thread off its core against its will. Source: proc_pid_status(5).
fn switches() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_ran_one_after_the_other_do_not_overlap() {
        let start = Instant::now();
        let lap = |from: u64, to: u64| Lap {
            ran: start + Duration::from_millis(from)..start + Duration::from_millis(to),
            ops: 1,
            disturbed: false,
        };
        assert_eq!(overlap(&[lap(0, 2), lap(2, 4)]), 0.0);
        assert_eq!(overlap(&[lap(0, 2), lap(0, 2)]), 1.0);
        assert_eq!(nanoseconds(&[&lap(0, 2), &lap(2, 4)]), 2_000_000.0);
    }
}
