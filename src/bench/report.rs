//! What came out: medians, spreads, ratios; as a table and as JSON.

use serde::Serialize;
use std::fmt;

/// The results of one interleaved run. Serialises to the shape of `ioasidctl bench --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// One per case, in their order.
    pub results: Vec<Outcome>,
    /// How long a cache line took to another core and back in this run, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line_round_trip_ns: Option<f64>,
}

/// The result of one case.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The case.
    pub name: String,
    /// Nanoseconds an operation: the median of the rounds.
    pub median_ns: f64,
    /// Half of the rounds lie between these two.
    pub quartiles_ns: [f64; 2],
    /// What it is set against: a case of the same run.
    pub limit: Option<String>,
    /// That case's median.
    pub limit_ns: Option<f64>,
    /// Its time over the limit's: the median of the ratios within each round.
    pub ratio: Option<f64>,
}

impl Outcome {
    pub(super) fn new(name: &str, cells: &[f64], limit: Option<(&str, &[f64])>) -> Self {
        let sorted = sorted(cells.to_vec());
        let ratios = limit.map(|(_, limit)| sorted_ratios(cells, limit));
        Self {
            name: name.to_owned(),
            median_ns: at(&sorted, 0.5),
            quartiles_ns: [at(&sorted, 0.25), at(&sorted, 0.75)],
            limit: limit.map(|(name, _)| name.to_owned()),
            limit_ns: limit.map(|(_, cells)| at(&self::sorted(cells.to_vec()), 0.5)),
            ratio: ratios.map(|ratios| at(&ratios, 0.5)),
        }
    }
}

fn sorted_ratios(own: &[f64], limit: &[f64]) -> Vec<f64> {
    sorted(own.iter().zip(limit).map(|(own, limit)| own / limit).collect())
}

fn sorted(mut cells: Vec<f64>) -> Vec<f64> {
    cells.sort_by(f64::total_cmp);
    cells
}

/// The value at `share` of the way through; 0 for none, which no run with a round has.
fn at(sorted: &[f64], share: f64) -> f64 {
    let index = (sorted.len().saturating_sub(1)) as f64 * share;
    sorted.get(index.round() as usize).copied().unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<34} {:>10} {:>19}  {:<28} {:>10} {:>7}",
            "case", "median ns", "quartiles", "against", "ns", "ratio"
        )?;
        for outcome in &self.results {
            let [low, high] = outcome.quartiles_ns;
            write!(f, "{:<34} {:>10.2} {:>9.2}-{:<9.2}", outcome.name, outcome.median_ns, low, high)?;
            if let (Some(limit), Some(ns), Some(ratio)) = (&outcome.limit, outcome.limit_ns, outcome.ratio) {
                write!(f, "  {limit:<28} {ns:>10.2} {ratio:>7.2}")?;
            }
            writeln!(f)?;
        }
        match self.line_round_trip_ns {
            Some(ns) => writeln!(f, "cache line to another core and back: {ns:.0} ns"),
            None => Ok(()),
        }
    }
}
