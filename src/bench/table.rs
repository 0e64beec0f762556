//! The table of figures in a text: made from a report, put between two marks.

use super::Report;
use std::fmt::Write;

/// How good a ratio is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// Our time over the limit's: at most this.
    AtMost(f64),
    /// The peer's time over ours: at least this.
    AtLeast(f64),
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What is done.
    pub work: &'static str,
    /// What it is set against, for people.
    pub beside: &'static str,
    /// The case with the ratio: ours for a limit, the peer's for a peer.
    pub case: &'static str,
    /// The ratio to reach.
    pub goal: Goal,
}

/// The rows as Markdown, with the machine's round trip below; rows whose case was not measured are left out.
pub fn markdown(report: &Report, rows: &[Row]) -> String {
    let mut text = String::from("| work | ours, ns | beside it | ns | ratio | goal |\n|---|---:|---|---:|---:|---:|\n");
    for row in rows {
        let Some(outcome) = report.results.iter().find(|outcome| outcome.name == row.case) else { continue };
        let (Some(limit_ns), Some(ratio)) = (outcome.limit_ns, outcome.ratio) else { continue };
        let (ours, theirs, goal, reached) = match row.goal {
            Goal::AtMost(most) => (outcome.median_ns, limit_ns, format!("≤ {most}"), ratio <= most),
            Goal::AtLeast(least) => (limit_ns, outcome.median_ns, format!("≥ {least}"), ratio >= least),
        };
        let missed = if reached { "" } else { " (missed)" };
        let _ =
            writeln!(text, "| {} | {ours:.1} | {} | {theirs:.1} | {ratio:.2} | {goal}{missed} |", row.work, row.beside);
    }
    if let Some(ns) = report.line_round_trip_ns {
        let _ =
            writeln!(text, "\nA cache line takes {ns:.0} ns to another core and back on this machine, at that moment.");
    }
    text
}

/// `text` with what stands between the two marks replaced; `None` where it does not have both, in this order.
pub fn between(text: &str, begin: &str, end: &str, new: &str) -> Option<String> {
    let (before, rest) = text.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}\n{new}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    const ROWS: [Row; 3] = [
        Row { work: "pair", beside: "the floor", case: "ours", goal: Goal::AtMost(2.0) },
        Row { work: "pair", beside: "a peer", case: "peer", goal: Goal::AtLeast(4.0) },
        Row { work: "other", beside: "nothing", case: "absent", goal: Goal::AtMost(1.0) },
    ];

    fn report() -> Report {
        let results = vec![
            Outcome::new("ours", &[3.0], Some(("floor", &[2.0]))),
            Outcome::new("peer", &[9.0], Some(("ours", &[3.0]))),
        ];
        Report { results, line_round_trip_ns: Some(65.4) }
    }

    #[test]
    fn a_limit_is_below_us_and_a_peer_above() {
        let table = markdown(&report(), &ROWS);
        assert!(table.contains("| pair | 3.0 | the floor | 2.0 | 1.50 | ≤ 2 |"), "{table}");
        assert!(table.contains("| pair | 3.0 | a peer | 9.0 | 3.00 | ≥ 4 (missed) |"), "{table}");
        assert!(!table.contains("| other") && table.contains("65 ns"), "{table}");
    }

    #[test]
    fn only_what_stands_between_the_marks_changes() {
        assert_eq!(between("a<b>old<e>z", "<b>", "<e>", "new\n").as_deref(), Some("a<b>\nnew\n<e>z"));
        for text in ["a<b>z", "a<e>z", "<e><b>"] {
            assert_eq!(between(text, "<b>", "<e>", "new"), None, "{text}");
        }
    }
}
