//! Braille: two dots by four in a character, coloured by the ink that most of its dots have. Without colours all inks
//! look alike: see `letters`.

use super::canvas::{Canvas, Ink, WIDTH};
use crate::cli::table::printable;
use std::fmt::Write;

/// Colours that can be told apart on dark and on light, for cgroups in turn. Source: xterm's 256 colours.
const COLOURS: [u8; 8] = [39, 208, 76, 171, 220, 44, 204, 105];
const GREY: u8 = 242;

/// The bits of a character's dots, line by line. Source: Unicode, "Braille Patterns".
const BITS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

/// The picture with its legend.
pub(super) fn draw(canvas: &Canvas) -> String {
    let mut text = format!("{}\n", canvas.title(canvas.scale, "dot"));
    let lines: Vec<_> = canvas.lines().collect();
    for (row, four) in lines.chunks(4).enumerate() {
        let first = row as u32 * 4 * WIDTH * canvas.scale;
        let _ = write!(text, "{first:>7} ");
        let mut last = None;
        for column in 0..WIDTH as usize / 2 {
            let (shape, ink) = character(four, column);
            let colour = ink.map(|ink| colour(canvas, ink));
            if colour.is_some() && colour != last {
                let _ = write!(text, "\x1b[38;5;{}m", colour.unwrap_or(GREY));
                last = colour;
            }
            text.push(shape);
        }
        text.push_str(if last.is_some() { "\x1b[0m\n" } else { "\n" });
    }
    for (ink, name, count) in canvas.legend() {
        let swatch = match ink {
            Some(ink) => format!("\x1b[38;5;{}m⣿⣿\x1b[0m", colour(canvas, ink)),
            None => "⠀⠀".to_owned(),
        };
        let _ = writeln!(text, "     {swatch} {count:>8}  {}", printable(&name));
    }
    text
}

/// The character at a column of four lines of dots, and the ink that most of its dots have.
fn character(four: &[&[Option<usize>]], column: usize) -> (char, Option<usize>) {
    let mut bits = 0;
    let mut inks: Vec<usize> = Vec::with_capacity(8);
    for (line, weights) in four.iter().zip(BITS) {
        for (dot, weight) in line.iter().skip(2 * column).zip(weights) {
            if let Some(ink) = dot {
                bits |= weight;
                inks.push(*ink);
            }
        }
    }
    let count = |ink: usize| inks.iter().filter(|other| **other == ink).count();
    // Of equals the first of the legend.
    let most = inks.iter().copied().max_by_key(|ink| (count(*ink), std::cmp::Reverse(*ink)));
    (char::from_u32(0x2800 + bits).unwrap_or(' '), most)
}

fn colour(canvas: &Canvas, ink: usize) -> u8 {
    match canvas.inks.get(ink) {
        Some((Ink::Leased(_), _)) => COLOURS.get(ink % COLOURS.len()).copied().unwrap_or(GREY),
        Some((Ink::Resting, _)) => GREY + 5,
        _ => GREY - 4,
    }
}

#[cfg(test)]
mod tests {
    use super::super::canvas::tests::space;
    use super::*;

    /// The text without its colours.
    fn plain(text: &str) -> String {
        text.split('\x1b')
            .map(|part| part.strip_prefix('[').map_or(part, |code| code.split_once('m').unwrap().1))
            .collect()
    }

    #[test]
    fn eight_dots_are_a_character() {
        let runs = [(0, 1, ""), (2, 2, "/a"), (130, 130, "/a"), (511, 511, "/b")];
        let text = plain(&draw(&Canvas::of(&space(9, &runs))));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("global: 512 ids, 3 of 510 leased; a dot is an id"), "{text}");
        let picture: Vec<char> = lines[1].trim_start_matches("      0 ").chars().collect();
        assert_eq!(picture.len(), 64);
        assert_eq!((picture[0], picture[1], picture[2], picture[63]), ('⠉', '⠃', '⠀', '⢀'));
        assert_eq!(
            lines[2..],
            ["     ⣿⣿        2  /a", "     ⣿⣿        1  /b", "     ⣿⣿        2  reserved", "     ⠀⠀      507  free"]
        );
    }

    #[test]
    fn what_is_leased_rests_or_is_reserved_has_a_colour_of_its_own() {
        let text = draw(&Canvas::of(&space(9, &[(0, 1, ""), (2, 2, "/a"), (3, 3, "~"), (4, 4, "/b")])));
        let legend = text.lines().filter(|line| line.contains("⣿⣿"));
        let colours: std::collections::BTreeSet<&str> = legend.map(|line| line.split('m').next().unwrap()).collect();
        assert_eq!(colours.len(), 4, "{text}");
    }

    #[test]
    fn colours_end_with_the_line() {
        let text = draw(&Canvas::of(&space(9, &[(2, 2, "/a")])));
        assert_eq!(text.matches("\x1b[0m").count(), text.matches("\x1b[38;5;").count());
    }
}
