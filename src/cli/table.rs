//! Text for people: columns that line up, spans, moments and runs of ids.

use crate::model::Pasid;
pub(super) use crate::model::escaped as printable;
use std::env;
use std::fmt::Write;
use std::io::IsTerminal;

/// Whether what goes there may have colours: it is a terminal that can do more than `dumb`, and nobody set NO_COLOR.
/// Source: no-color.org.
pub(super) fn has_colours(to: &impl IsTerminal) -> bool {
    let wished = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    to.is_terminal() && wished && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Which side a column's cells stand at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table: a head, then rows of as many cells.
#[derive(Debug)]
pub(super) struct Table {
    sides: Vec<Side>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with this head.
    pub fn new(head: &[(&str, Side)]) -> Self {
        Self {
            sides: head.iter().map(|(_, side)| *side).collect(),
            rows: vec![head.iter().map(|(name, _)| (*name).to_owned()).collect()],
        }
    }

    /// Adds a row; what is not printable in it comes escaped.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// The text; without trailing blanks.
    pub fn render(&self) -> String {
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| columns(cell)).max();
        let widths: Vec<usize> = (0..self.sides.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, side), width) in row.iter().zip(&self.sides).zip(&widths) {
                let blanks = " ".repeat(width.saturating_sub(columns(cell)));
                let (before, after) = if *side == Side::Left { ("", &*blanks) } else { (&*blanks, "") };
                let _ = write!(line, "{before}{cell}{after}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn columns(text: &str) -> usize {
    text.chars().count()
}

/// A share as a bar of eighths of blocks, `width` columns wide; what is above 1 fills it.
pub(super) fn bar(share: f64, width: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"].get(eighths % 8).copied().unwrap_or_default();
    let drawn = format!("{}{rest}", "█".repeat(eighths / 8));
    format!("{drawn:<width$}")
}

/// A time span in its two greatest units: `3m12s`.
pub(super) fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        (days, hours, ..) => format!("{days}d{hours:02}h"),
    }
}

/// Ids in order as runs: `1024-1030, 1050`.
pub(super) fn runs(pasids: &[Pasid]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in pasids.iter().map(|pasid| pasid.get()) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let words = runs.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// Microseconds since 1970 as `2026-11-22T17:40:01Z`.
pub(super) fn moment(usec: u64) -> String {
    let seconds = usec / 1_000_000;
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute) = (seconds / 3_600 % 24, seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", seconds % 60)
}

/// The Gregorian date of a day counted from 1970-01-01: year by year, then month by month.
fn date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // 400 years are the same number of days wherever they begin.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[("NAME", Side::Left), ("N", Side::Right), ("X", Side::Left)]);
        table.row(["é".to_owned(), "5".to_owned(), String::new()]);
        table.row(["a\nb".to_owned(), "1234".to_owned(), "y".to_owned()]);
        assert_eq!(table.render(), "NAME     N  X\né        5\na\\nb  1234  y\n");
    }

    #[test]
    fn ids_that_follow_each_other_are_a_run() {
        let ids = |numbers: &[u32]| numbers.iter().map(|n| Pasid::new(*n).unwrap()).collect::<Vec<_>>();
        assert_eq!(runs(&ids(&[5, 6, 7, 9, 11, 12])), "5-7, 9, 11-12");
        assert_eq!(runs(&[]), "");
    }

    #[test]
    fn a_bar_has_eighths_and_one_width() {
        assert_eq!([0.0, 0.25, 0.3, 1.0, 7.0].map(|share| bar(share, 4)), ["    ", "█   ", "█▎  ", "████", "████"]);
    }

    #[test]
    fn spans_have_two_units() {
        let texts = [0, 59, 60, 3_599, 3_600, 86_399, 86_400].map(span);
        assert_eq!(texts, ["0s", "59s", "1m00s", "59m59s", "1h00m", "23h59m", "1d00h"]);
    }

    #[test]
    fn moments_are_utc() {
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
        assert_eq!(moment(951_782_400_000_000), "2000-02-29T00:00:00Z");
        assert_eq!(moment(1_795_369_201_999_999), "2026-11-22T17:40:01Z");
        assert_eq!(moment(4_107_542_400_000_000), "2100-03-01T00:00:00Z");
        assert_eq!(moment(1_735_689_599_000_000), "2024-12-31T23:59:59Z");
    }
}
