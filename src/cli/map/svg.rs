//! The picture as SVG, with a legend and titles for who hovers over it.

use super::canvas::{Canvas, Ink, WIDTH};
use crate::cli::table::printable;
use std::fmt::Write;

/// Pixels of a dot.
const DOT: u32 = 6;
const MARGIN: u32 = 16;
const LINE: u32 = 20;

/// Colours for cgroups in turn, that people who see few colours can tell apart. Source: Okabe and Ito.
const COLOURS: [&str; 8] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#b8a900", "#7f5fc4"];

/// The picture as a document of its own.
pub(super) fn draw(canvas: &Canvas) -> String {
    let legend = canvas.legend();
    let height = canvas.lines().count() as u32 * DOT;
    let (width, all) = (WIDTH * DOT + 2 * MARGIN, height + (legend.len() as u32 + 2) * LINE + 2 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {all}\" font-family=\"monospace\" font-size=\"13\">\n\
         <rect width=\"{width}\" height=\"{all}\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"{}\">{}</text>\n\
         <g transform=\"translate({MARGIN} {})\">\n<rect width=\"{}\" height=\"{height}\" fill=\"#f2f2f2\"/>\n",
        MARGIN + 4,
        escaped(&canvas.title(canvas.scale, "dot")),
        MARGIN + LINE,
        WIDTH * DOT,
    );
    for (row, line) in canvas.lines().enumerate() {
        let mut column = 0;
        for run in line.chunk_by(|a, b| a == b) {
            if let Some(ink) = run.first().copied().flatten() {
                let first = (row as u32 * WIDTH + column) * canvas.scale;
                let last = first + run.len() as u32 * canvas.scale - 1;
                let name = legend.get(ink).map_or("", |(_, name, _)| name);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"><title>{first}-{last} {}</title></rect>",
                    column * DOT,
                    row as u32 * DOT,
                    run.len() as u32 * DOT - 1,
                    DOT - 1,
                    colour(canvas, ink),
                    escaped(name),
                );
            }
            column += run.len() as u32;
        }
    }
    svg.push_str("</g>\n");
    for (n, (ink, name, count)) in legend.iter().enumerate() {
        let y = MARGIN + 2 * LINE + height + n as u32 * LINE;
        let fill = ink.map_or("#f2f2f2", |ink| colour(canvas, ink));
        let _ = writeln!(
            svg,
            "<rect x=\"{MARGIN}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{fill}\"/><text x=\"{}\" y=\"{y}\">{count} {}</text>",
            y - 10,
            MARGIN + 20,
            escaped(name),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn colour(canvas: &Canvas, ink: usize) -> &'static str {
    match canvas.inks.get(ink) {
        Some((Ink::Leased(_), _)) => COLOURS.get(ink % COLOURS.len()).copied().unwrap_or("#000000"),
        Some((Ink::Resting, _)) => "#a8a8a8",
        _ => "#d4d4d4",
    }
}

fn escaped(text: &str) -> String {
    printable(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::canvas::tests::space;
    use super::*;

    #[test]
    fn neighbours_are_one_rectangle_and_names_cannot_forge_one() {
        let svg = draw(&Canvas::of(&space(12, &[(0, 1023, ""), (1030, 1040, "/a<b>&")])));
        assert!(svg.contains("<title>1030-1040 /a&lt;b&gt;&amp;</title>"), "{svg}");
        assert_eq!(svg.matches("<title>").count(), 8 + 1);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }
}
