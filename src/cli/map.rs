//! `map`: a picture of a number space, in text or as SVG.

use super::context::Context;
use super::outcome::Outcome;
use super::table::{Side, Table};
use super::values;
use crate::model::{Domain, Refusal};
use crate::proto::{GetMap, MapRun, RunState, SpaceMap};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Cells of a line of text.
const COLUMNS: u64 = 64;
/// Lines of text, at most.
const LINES: u64 = 16;
/// Lines of the picture.
const BANDS: u64 = 64;
/// Width of the picture, and height of one of its lines, in pixels.
const WIDTH: u64 = 1024;
const BAND: u64 = 10;

/// Who has which ids of a domain.
pub(super) fn map(context: &Context, domain: Option<&str>, svg: Option<&Path>) -> Outcome {
    let domain = domain.map_or(Ok(Domain::Global), |text| values::parse("domain", text))?;
    let map = context.ask(&GetMap { domain })?;
    if let Some(path) = svg {
        std::fs::write(path, picture(&map))
            .map_err(|error| Refusal::invalid("svg", path.display(), format!("a file to write: {error}")))?;
    }
    context.print(&map, |map| if svg.is_some() { String::new() } else { text(map) })
}

fn size(map: &SpaceMap) -> u64 {
    1 << map.domain.bits.min(crate::model::MAX_BITS)
}

/// The space in cells, each with a mark for what most of it is, and who has how many.
fn text(map: &SpaceMap) -> String {
    let cells = size(map).min(COLUMNS * LINES);
    let each = size(map) / cells;
    let mut counts = vec![[0_u64; 3]; usize::try_from(cells).unwrap_or(0)];
    for run in &map.runs {
        let (min, max) = (u64::from(run.range.min()), u64::from(run.range.max()));
        for cell in min / each..=max / each {
            let from = min.max(cell * each);
            let to = max.min(cell * each + each - 1);
            let of = usize::try_from(cell).ok().and_then(|cell| counts.get_mut(cell));
            if let Some(count) = of.and_then(|counts| counts.get_mut(slot(run.state))) {
                *count += to + 1 - from;
            }
        }
    }
    let mut text = format!("{}: {} ids, each mark is {each}\n", map.domain.name, size(map));
    let columns = usize::try_from(COLUMNS).unwrap_or(1);
    for (line, marks) in counts.chunks(columns).enumerate() {
        let first = u64::try_from(line).unwrap_or(0) * COLUMNS * each;
        let _ = writeln!(text, "{first:>8} {}", marks.iter().map(|count| mark(*count, each)).collect::<String>());
    }
    text.push_str(". free  - some leased  + half  # nearly all or all  r reserved  ~ resting\n\n");
    let mut owners = Table::new(&[("CGROUP", Side::Left), ("IDS", Side::Right)]);
    let mut ids = BTreeMap::<&str, u64>::new();
    for run in map.runs.iter().filter(|run| run.state == RunState::Leased) {
        *ids.entry(owner(run)).or_default() += u64::from(run.range.count());
    }
    for (cgroup, count) in ids {
        owners.row([cgroup.to_owned(), count.to_string()]);
    }
    text + &owners.render()
}

fn slot(state: RunState) -> usize {
    match state {
        RunState::Reserved => 0,
        RunState::Leased => 1,
        RunState::Resting => 2,
    }
}

/// What is leased shows before what rests, that before what is reserved.
fn mark([reserved, leased, resting]: [u64; 3], each: u64) -> char {
    match leased * 8 {
        0 if resting > 0 => '~',
        0 if reserved > 0 => 'r',
        0 => '.',
        eighths if eighths >= each * 7 => '#',
        eighths if eighths >= each * 4 => '+',
        _ => '-',
    }
}

fn owner(run: &MapRun) -> &str {
    run.cgroup.as_ref().map_or("(not shown)", |cgroup| cgroup.as_str())
}

/// The space as an SVG document: lines of ids from left to right, a colour a cgroup, what each run is as its title.
fn picture(map: &SpaceMap) -> String {
    let per_band = (size(map) / BANDS).max(1);
    let height = BANDS * BAND;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\">\n\
         <title>{}</title>\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\" stroke=\"#888\"/>\n",
        escaped(&map.domain.name.to_string())
    );
    for run in &map.runs {
        let what = match run.state {
            RunState::Reserved => "reserved".to_owned(),
            RunState::Resting => "resting".to_owned(),
            RunState::Leased => {
                let set = run.set.map(|set| format!(", set {set}")).unwrap_or_default();
                format!("{}{set}", owner(run))
            }
        };
        let _ = writeln!(svg, "<g fill=\"{}\"><title>{}: {}</title>", colour(run), run.range, escaped(&what));
        let (min, end) = (u64::from(run.range.min()), u64::from(run.range.max()) + 1);
        for band in min / per_band..=(end - 1) / per_band {
            let from = min.max(band * per_band) - band * per_band;
            let to = end.min((band + 1) * per_band) - band * per_band;
            // In hundredths of a pixel, for a space of 2^20 has 16 ids in one.
            let (x, width) = (from * WIDTH * 100 / per_band, ((to - from) * WIDTH * 100 / per_band).max(25));
            let _ = writeln!(
                svg,
                "<rect x=\"{}.{:02}\" y=\"{}\" width=\"{}.{:02}\" height=\"{BAND}\"/>",
                x / 100,
                x % 100,
                band * BAND,
                width / 100,
                width % 100
            );
        }
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn colour(run: &MapRun) -> String {
    match run.state {
        RunState::Reserved => "#bbb".to_owned(),
        RunState::Resting => "#e8e0c8".to_owned(),
        RunState::Leased => {
            // The same cgroup has the same colour in every picture.
            let hue = owner(run).bytes().fold(7_u32, |hash, byte| (hash * 31 + u32::from(byte)) % 360_007) % 360;
            format!("hsl({hue},65%,45%)")
        }
    }
}

fn escaped(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in super::table::printable(text).chars() {
        match c {
            '&' => clean.push_str("&amp;"),
            '<' => clean.push_str("&lt;"),
            '>' => clean.push_str("&gt;"),
            '"' => clean.push_str("&quot;"),
            c => clean.push(c),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SetId;
    use crate::proto::DomainInfo;

    fn space() -> SpaceMap {
        let run = |range: &str, state, cgroup: Option<&str>| MapRun {
            range: range.parse().unwrap(),
            state,
            cgroup: cgroup.map(|path| path.parse().unwrap()),
            set: cgroup.map(|_| SetId(4)),
        };
        SpaceMap {
            domain: DomainInfo {
                name: Domain::Global,
                bits: 12,
                capacity: 3072,
                current: 8,
                peak: 8,
                reserved: 1024,
                resting: 4,
            },
            runs: vec![
                run("0-1023", RunState::Reserved, None),
                run("1024-1029", RunState::Leased, Some("/a<b")),
                run("1032-1033", RunState::Leased, Some("/c")),
                run("1036-1039", RunState::Resting, None),
            ],
        }
    }

    #[test]
    fn each_mark_says_what_its_ids_are() {
        let text = text(&space());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "global: 4096 ids, each mark is 4");
        assert_eq!(lines[1], format!("       0 {}", "r".repeat(64)));
        assert_eq!(lines[5], format!("    1024 #++~{}", ".".repeat(60)));
        assert_eq!(lines[16], format!("    3840 {}", ".".repeat(64)));
        assert_eq!(lines[19..], ["CGROUP  IDS", "/a<b      6", "/c        2"]);
    }

    #[test]
    fn the_picture_has_every_run_and_escapes_names() {
        let svg = picture(&space());
        assert_eq!(svg.matches("<g ").count(), 4);
        // 1,024 reserved ids fill 16 lines of 64.
        assert_eq!(svg.matches("<rect ").count(), 1 + 16 + 3);
        assert!(svg.contains("<title>1024-1029: /a&lt;b, set 4</title>"), "{svg}");
        assert!(svg.contains("<rect x=\"0.00\" y=\"160\" width=\"96.00\" height=\"10\"/>"), "{svg}");
    }
}
