//! A picture of costs: a line for each who is measured, on a logarithmic scale.

use std::fmt::Write;

/// One line: what it costs at each of the plot's places.
pub struct Line {
    /// Whose costs they are.
    pub name: String,
    /// Nanoseconds, one for each place; those without a figure above 0 are left out.
    pub ns: Vec<f64>,
}

const WIDTH: f64 = 840.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 260.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 52.0;
/// Colours that people who see few can tell apart. Source: Okabe and Ito.
const COLOURS: [&str; 7] = ["#0072b2", "#56b4e9", "#009e73", "#8fbf4d", "#d55e00", "#e69f00", "#cc79a7"];

/// An SVG of `lines` over `places`, which stand at equal distances under `axis`.
pub fn plot(title: &str, axis: &str, places: &[String], lines: &[Line]) -> String {
    let all = lines.iter().flat_map(|line| &line.ns).copied().filter(|ns| *ns > 0.0);
    let (low, high) = all.fold((f64::MAX, f64::MIN), |(low, high), ns| (low.min(ns), high.max(ns)));
    let (low, high) = if low <= high { (low, high) } else { (1.0, 10.0) };
    // Whole steps of 1, 2 and 5 around what is there.
    let steps: Vec<f64> = (0..9).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power))).collect();
    let floor = steps.iter().copied().rfind(|step| *step <= low).unwrap_or(low);
    let roof = steps.iter().copied().find(|step| *step >= high && *step > floor).unwrap_or(high.max(2.0 * floor));
    let x = |at: usize| LEFT + (WIDTH - LEFT - RIGHT) * at as f64 / (places.len().max(2) - 1) as f64;
    let y = |ns: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - (ns / floor).ln() / (roof / floor).ln());

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>\n",
        escaped(title)
    );
    for step in steps.iter().filter(|step| (floor..=roof).contains(step)) {
        let at = y(*step);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{step}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
    }
    for (at, place) in places.iter().enumerate() {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(at),
            HEIGHT - BOTTOM + 20.0,
            escaped(place)
        );
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n<text x=\"{}\" y=\"{}\" text-anchor=\"end\">ns</text>",
        HEIGHT - 10.0,
        escaped(axis),
        LEFT - 8.0,
        TOP - 14.0
    );
    let mut ends: Vec<(f64, usize)> = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let points: Vec<String> = (line.ns.iter().enumerate().filter(|(_, ns)| **ns > 0.0))
            .map(|(at, ns)| format!("{:.1},{:.1}", x(at), y(*ns)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"2\" points=\"{}\"><title>{}</title></polyline>",
            colour(number),
            points.join(" "),
            escaped(&line.name)
        );
        if let Some(last) = line.ns.iter().rfind(|ns| **ns > 0.0) {
            ends.push((y(*last), number));
        }
    }
    // Names at the ends of their lines, as far apart as they need.
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = TOP;
    for (at, number) in ends {
        let at = at.max(free);
        free = at + 17.0;
        let name = lines.get(number).map_or("", |line| line.name.as_str());
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" fill=\"{}\">{}</text>",
            WIDTH - RIGHT + 10.0,
            at + 4.0,
            colour(number),
            escaped(name)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn colour(number: usize) -> &'static str {
    COLOURS.get(number % COLOURS.len()).copied().unwrap_or("#000000")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends_of(svg: &str) -> Vec<(f64, f64)> {
        let of_point = |point: &str| {
            let (x, y) = point.split_once(',').expect("a point");
            (x.parse().expect("x"), y.parse().expect("y"))
        };
        let lines = svg.split("points=\"").skip(1).filter_map(|rest| rest.split('"').next());
        lines.flat_map(|points| points.split(' ').map(of_point).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn ten_times_the_cost_is_the_same_distance_everywhere_and_within_the_frame() {
        let line = Line { name: "a < b".into(), ns: vec![10.0, 100.0, 1000.0] };
        let svg = plot("t & t", "x", &["1".into(), "2".into(), "3".into()], &[line]);
        let points = ends_of(&svg);
        assert_eq!(points.len(), 3);
        assert!((points[0].1 - points[1].1 - (points[1].1 - points[2].1)).abs() < 0.2, "{points:?}");
        assert!(points.iter().all(|(x, y)| (LEFT..=WIDTH - RIGHT).contains(x) && (TOP..=HEIGHT - BOTTOM).contains(y)));
        assert!(svg.contains("a &lt; b") && svg.contains("t &amp; t"));
    }

    #[test]
    fn names_of_equal_lines_do_not_lie_on_each_other_and_nothing_measured_is_no_fault() {
        let line = |name: &str| Line { name: name.into(), ns: vec![7.0, 7.0] };
        let svg = plot("", "", &["1".into(), "2".into()], &[line("one"), line("two")]);
        let height = |name: &str| -> f64 {
            let line = svg.lines().find(|line| line.starts_with("<text") && line.contains(name)).expect("a name");
            line.split("y=\"").nth(1).and_then(|rest| rest.split('"').next()).and_then(|y| y.parse().ok()).expect("y")
        };
        assert!((height("one") - height("two")).abs() >= 17.0);
        assert!(plot("", "", &[], &[Line { name: String::new(), ns: vec![0.0] }]).ends_with("</svg>\n"));
    }
}
