//! Letters: for where there are no colours. A character is a letter of the cgroup, or a sign of what is no lease.

use super::canvas::{Canvas, Ink};
use crate::cli::table::printable;
use crate::proto::SpaceMap;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Characters in a line, and in all, at most.
const WIDTH: usize = 64;
const MOST: u32 = 1024;
/// For cgroups in turn; what comes after them shares the last sign.
const LETTERS: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";
const FURTHER: char = '*';
const RESTING: char = '~';
const RESERVED: char = '#';
const FREE: char = '.';

/// What is in the ids that a character stands for, by ink.
type Cell = BTreeMap<usize, u64>;

/// The picture with its legend, in ASCII: a terminal that has no colours may have few characters, too.
pub(super) fn draw(space: &SpaceMap) -> String {
    let canvas = Canvas::of(space);
    let ids = 1_u32 << space.domain.bits.min(20);
    let scale = (ids / MOST).max(1);
    let cells = cells(space, &canvas, scale, ids / scale);
    let mut text = format!("{}\n", canvas.title(scale, "character"));
    for (row, line) in cells.chunks(WIDTH).enumerate() {
        let first = row as u32 * WIDTH as u32 * scale;
        let shown: String = line.iter().map(|cell| character(&canvas, cell, scale)).collect();
        let _ = writeln!(text, "{first:>7} {shown}");
    }
    for (ink, name, count) in canvas.legend() {
        let sign = ink.map_or(FREE, |ink| sign(&canvas, ink));
        let _ = writeln!(text, "      {sign} {count:>8}  {}", printable(&name));
    }
    if scale > 1 {
        let half = scale / 2;
        let _ = writeln!(
            text,
            "A letter is the cgroup that has the most of the {scale} ids, a capital: {half} of them or more.\n\
             {RESTING} has none that are leased, {RESERVED} none that rest, {FREE} is free."
        );
    }
    text
}

/// How many ids of each ink there are in each stretch of `scale` ids.
fn cells(space: &SpaceMap, canvas: &Canvas, scale: u32, count: u32) -> Vec<Cell> {
    let mut cells = vec![Cell::new(); count as usize];
    for run in &space.runs {
        let Some(ink) = canvas.ink(run) else { continue };
        let (first, last) = (run.range.min(), run.range.max());
        for at in first / scale..=last / scale {
            let (from, to) = (first.max(at * scale), last.min(at * scale + (scale - 1)));
            if let Some(cell) = cells.get_mut(at as usize) {
                *cell.entry(ink).or_default() += u64::from(to - from) + 1;
            }
        }
    }
    cells
}

/// What is leased goes before what rests, that before what is reserved: a single id shall be seen.
fn character(canvas: &Canvas, cell: &Cell, scale: u32) -> char {
    let rank = |ink: usize| match canvas.inks.get(ink) {
        Some((Ink::Leased(_), _)) => 2,
        Some((Ink::Resting, _)) => 1,
        _ => 0,
    };
    // Of equals the first of the legend.
    let shown = cell.iter().max_by_key(|(ink, count)| (rank(**ink), **count, std::cmp::Reverse(**ink)));
    let Some((ink, count)) = shown else { return FREE };
    let sign = sign(canvas, *ink);
    // Where a character is one id there is no half.
    if scale > 1 && 2 * count >= u64::from(scale) { sign.to_ascii_uppercase() } else { sign }
}

fn sign(canvas: &Canvas, ink: usize) -> char {
    match canvas.inks.get(ink) {
        Some((Ink::Leased(_), _)) => LETTERS.get(ink).map_or(FURTHER, |letter| char::from(*letter)),
        Some((Ink::Resting, _)) => RESTING,
        _ => RESERVED,
    }
}

#[cfg(test)]
mod tests {
    use super::super::canvas::tests::space;
    use super::*;

    #[test]
    fn what_is_leased_rests_or_is_reserved_looks_different_without_colours() {
        let text = draw(&space(7, &[(0, 3, ""), (4, 5, "/a"), (6, 6, "~"), (7, 7, "/b"), (127, 127, "/a")]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "global: 128 ids, 4 of 124 leased; a character is an id");
        assert_eq!(lines[1], format!("      0 ####aa~b{}", ".".repeat(56)));
        assert_eq!(lines[2], format!("     64 {}a", ".".repeat(63)));
        assert_eq!(
            lines[3..],
            [
                "      a        3  /a",
                "      b        1  /b",
                "      #        4  reserved",
                "      ~        1  resting",
                "      .      119  free"
            ]
        );
        assert!(text.is_ascii());
    }

    #[test]
    fn one_leased_id_of_many_shows_and_half_of_them_is_a_capital() {
        // 16 ids in a character.
        let runs =
            [(0, 15, ""), (16, 23, "/a"), (32, 38, "/a"), (48, 48, "/b"), (49, 63, "~"), (64, 64, "~"), (65, 79, "")];
        let text = draw(&space(14, &runs));
        assert!(
            text.starts_with("global: 16384 ids, 16 of 16353 leased; a character is 16 ids\n      0 #Aab~."),
            "{text}"
        );
        assert!(text.ends_with("~ has none that are leased, # none that rest, . is free.\n"), "{text}");
        assert_eq!(text.lines().filter(|line| line.len() == 8 + 64).count(), 16);
    }

    #[test]
    fn there_are_more_cgroups_than_letters() {
        let names: Vec<String> = (0..30).map(|n| format!("/{n:02}")).collect();
        let runs: Vec<_> = names.iter().zip(0..).map(|(name, n)| (n + 1, n + 1, name.as_str())).collect();
        let text = draw(&space(6, &runs));
        assert!(text.contains("0 .abcdefghijklmnopqrstuvwxyz****..."), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("      * ")).count(), 4);
    }
}
