//! The harness of all benchmarks: `benches/` and `ioasidctl bench` run cases through it.
//!
//! Lives here: how a case is measured and how results are told; not what is measured. A machine's figures drift by a
//! factor of two within minutes (a cache line takes 65 ns to another core and back in one, 350 in the next), so cases
//! are *interleaved*: each round runs every case once, a ratio is the median of the ratios within rounds, and the
//! line's round trip is told beside them. A cell in which the scheduler took a thread off its core is thrown away.

mod cell;
mod fast_path;
mod plot;
mod report;
mod table;

pub use cell::{Measure, Threads};
pub use fast_path::FastPath;
pub use plot::{Line, plot};
pub use report::{Outcome, Report};
pub use table::{Goal, Row, between, markdown};

/// One thing to measure: `run` does one cell and says how many nanoseconds one operation took.
pub struct Case<'a> {
    /// Its name in the results.
    pub name: &'static str,
    /// The case it is set against, by name: its limit, or a peer.
    pub against: Option<&'static str>,
    /// Measures one cell.
    pub run: Box<dyn FnMut(&Measure) -> f64 + 'a>,
}

impl<'a> Case<'a> {
    /// A case without a limit.
    pub fn new(name: &'static str, run: impl FnMut(&Measure) -> f64 + 'a) -> Self {
        Self { name, against: None, run: Box::new(run) }
    }

    /// Sets it against the case `name` of the same run.
    pub fn against(mut self, name: &'static str) -> Self {
        self.against = Some(name);
        self
    }
}

/// Runs every case once to warm up and then once a round; the medians, spreads and ratios.
pub fn interleave(rounds: usize, measure: &Measure, cases: &mut [Case<'_>]) -> Report {
    let mut cells = vec![Vec::with_capacity(rounds); cases.len()];
    for round in 0..=rounds {
        for (case, cells) in cases.iter_mut().zip(&mut cells) {
            let ns = (case.run)(measure);
            if round > 0 {
                cells.push(ns);
            }
        }
    }
    let outcomes = cases.iter().zip(&cells).map(|(case, own)| {
        let limit = case.against.and_then(|name| Some((name, cells.get(cases.iter().position(|c| c.name == name)?)?)));
        Outcome::new(case.name, own, limit.map(|(name, cells)| (name, cells.as_slice())))
    });
    Report { results: outcomes.collect(), line_round_trip_ns: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_is_the_median_of_the_rounds_not_of_the_cells() {
        // The machine is three times slower in every second round: medians of each would lie, ratios do not.
        let (mut own, mut limit) = (0, 0);
        let slow = |calls: &mut u32| {
            *calls += 1;
            if calls.is_multiple_of(2) { 3.0 } else { 1.0 }
        };
        let mut cases = [
            Case::new("ours", move |_| 20.0 * slow(&mut own)).against("floor"),
            Case::new("floor", move |_| 10.0 * slow(&mut limit)),
        ];
        let report = interleave(5, &Measure::default(), &mut cases);
        assert_eq!(report.results[0].ratio, Some(2.0));
        assert_eq!(report.results[0].limit.as_deref(), Some("floor"));
        assert_eq!(report.results[1].ratio, None);
    }
}
