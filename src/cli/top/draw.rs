//! The screen.

use super::sample::{History, REMEMBERED};
use super::view::{List, Mode, View, share};
use crate::cli::events;
use crate::cli::table::{self, printable, span};
use crate::model::Limit;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Sparkline, Table, TableState};
use std::collections::VecDeque;

const BAR: usize = 12;
const TREND: usize = 16;
/// Below this width bars are short and cgroups have no trend, so that the numbers of a terminal of 80 columns are whole.
const WIDE: u16 = 101;
const NARROW_BAR: usize = 8;
/// The most wanted first: a narrow terminal cuts the end off.
const KEYS: &str = "q quit  ? help  s sort  / filter  Tab sets/cgroups  x revoke  r reverse  Enter sets of it";

/// Draws all of it.
pub(super) fn screen(frame: &mut Frame<'_>, history: &History, view: &View) {
    let [head, list, foot] =
        Layout::vertical([Constraint::Length(4), Constraint::Min(3), Constraint::Length(2)]).areas(frame.area());
    draw_head(frame, head, history);
    match view.list {
        List::Cgroups => draw_cgroups(frame, list, history, view),
        List::Sets => draw_sets(frame, list, history, view),
    }
    draw_foot(frame, foot, history, view);
    match view.mode {
        Mode::Help => popup(frame, "Keys", &KEYS.split("  ").collect::<Vec<_>>().join("\n")),
        Mode::Confirm(set) => {
            popup(
                frame,
                "Revoke",
                &format!("Revoke set {set}?\nWho holds it is refused from then on.\n\ny yes   any other key no"),
            );
        }
        Mode::List | Mode::Filter => {}
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, history: &History) {
    let Some(sample) = &history.sample else { return };
    let [words, trend] = Layout::horizontal([Constraint::Min(62), Constraint::Max(REMEMBERED as u16)]).areas(area);
    let status = &sample.status;
    let mut lines = vec![Line::from(vec![
        format!("ioasidd {} ", status.version).bold(),
        Span::from(format!("{} ids, {} set(s)", status.backend, status.sets)),
    ])];
    for domain in status.domains.iter().take(3) {
        let used = domain.current as f64 / domain.capacity.max(1) as f64;
        lines.push(Line::from(vec![
            Span::from(format!("{} ", domain.name)),
            bar(used, BAR),
            Span::from(format!(
                " {} of {}  peak {}  resting {}",
                domain.current, domain.capacity, domain.peak, domain.resting
            )),
        ]));
    }
    frame.render_widget(Paragraph::new(lines), words);
    let values: Vec<u64> = last(&history.leased, usize::from(trend.width)).copied().collect();
    frame.render_widget(Sparkline::default().data(&values).style(Style::new().fg(Color::Cyan)), trend);
}

fn head_row<'a>(names: impl IntoIterator<Item = &'a str>) -> Row<'a> {
    Row::new(names.into_iter().map(Cell::from)).style(Style::new().add_modifier(Modifier::REVERSED))
}

fn draw_cgroups(frame: &mut Frame<'_>, area: Rect, history: &History, view: &View) {
    let wide = area.width >= WIDE;
    let bar_columns = if wide { BAR } else { NARROW_BAR };
    let rows = view.cgroups(history).into_iter().map(|node| {
        let track = history.track(node.id);
        let (rate, hits) = track.map_or((0.0, 0.0), |track| (track.rate, track.hits));
        let dying = if node.dying { " (dying)" } else { "" };
        let used = match node.effective_max {
            Limit::Count(_) => bar(share(node), bar_columns),
            Limit::Max => Span::from(""),
        };
        let refused = Span::from(format!("{:>6}", node.events_local.max));
        let mut cells = vec![
            Cell::from(format!("{}{dying}", printable(node.path.as_str()))),
            Cell::from(format!("{:>7}", node.current)),
            Cell::from(format!("{:>7}", node.effective_max.to_string())),
            Cell::from(used),
            Cell::from(format!("{:>7}", node.peak)),
            Cell::from(format!("{rate:>+7.1}")),
            Cell::from(if hits > 0.0 { refused.red() } else { refused }),
            Cell::from(format!("{hits:>6.1}")),
        ];
        if wide {
            cells.push(Cell::from(track.map_or_else(String::new, |track| sparkline(&track.current))));
        }
        Row::new(cells)
    });
    let mut widths = vec![
        Constraint::Min(20),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(bar_columns as u16 + 5),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(6),
    ];
    let mut names = vec!["CGROUP", "CURRENT", "    MAX", "USE", "   PEAK", "  IDS/S", "  HITS", "HITS/S"];
    if wide {
        widths.push(Constraint::Length(TREND as u16));
        names.push("LAST 16 S");
    }
    draw_table(frame, area, Table::new(rows, widths).header(head_row(names)), view);
}

fn draw_sets(frame: &mut Frame<'_>, area: Rect, history: &History, view: &View) {
    let (label, cgroup, bar_columns) = if area.width >= WIDE { (16, 16, BAR) } else { (10, 12, NARROW_BAR) };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let rows = view.sets(history).into_iter().map(|set| {
        Row::new([
            Cell::from(format!("{:>6}", set.set.0)),
            Cell::from(printable(&set.label)),
            Cell::from(printable(set.cgroup.as_str())),
            Cell::from(format!("{:>5}", set.owner_uid)),
            Cell::from(format!("{:>6}", set.leased)),
            Cell::from(format!("{:>6}", set.quota)),
            Cell::from(bar(f64::from(set.leased) / f64::from(set.quota.max(1)), bar_columns)),
            Cell::from(set.state.to_string()),
            Cell::from(format!("{:>6}", span(now.saturating_sub(set.created_usec / 1_000_000)))),
        ])
    });
    let widths = [
        Constraint::Length(6),
        Constraint::Length(label),
        Constraint::Min(cgroup),
        Constraint::Length(5),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(bar_columns as u16 + 5),
        Constraint::Length(8),
        Constraint::Length(6),
    ];
    let head = head_row(["   SET", "LABEL", "CGROUP", "  UID", "LEASED", " QUOTA", "USE", "STATE", "   AGE"]);
    draw_table(frame, area, Table::new(rows, widths).header(head), view);
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, table: Table<'_>, view: &View) {
    let mut state = TableState::default().with_selected(Some(view.chosen));
    let table = table.row_highlight_style(Style::new().bg(Color::DarkGray).add_modifier(Modifier::BOLD));
    frame.render_stateful_widget(table, area, &mut state);
}

fn draw_foot(frame: &mut Frame<'_>, area: Rect, history: &History, view: &View) {
    let last = history.sample.as_ref().and_then(|sample| sample.events.last());
    let news = match (&view.trouble, &view.message, last) {
        (Some(trouble), ..) => Line::from(format!("no news: {trouble}")).red(),
        (None, Some(message), _) => Line::from(message.clone()).yellow(),
        (None, None, Some(event)) => Line::from(events::words(event)).dim(),
        (None, None, None) => Line::default(),
    };
    let direction = if view.reversed { ", reversed" } else { "" };
    let cursor = if view.mode == Mode::Filter { "▏" } else { "" };
    let how = match view.filter.is_empty() && view.mode != Mode::Filter {
        true => format!("by {}{direction}", view.order.name()),
        false => format!("by {}{direction}, filter /{}{cursor}", view.order.name(), view.filter),
    };
    frame.render_widget(Paragraph::new(vec![news, Line::from(format!("{how}  {KEYS}"))]), area);
}

fn popup(frame: &mut Frame<'_>, title: &str, text: &str) {
    let (width, height) = (46, text.lines().count() as u16 + 2);
    let area = frame.area();
    let middle = Rect {
        x: area.width.saturating_sub(width) / 2,
        y: area.height.saturating_sub(height) / 2,
        width: width.min(area.width),
        height: height.min(area.height),
    };
    frame.render_widget(Clear, middle);
    frame.render_widget(Paragraph::new(text).block(Block::bordered().title(title)), middle);
}

/// A bar of so many columns with its percentage: green, yellow from three quarters, red when full.
fn bar(share: f64, columns: usize) -> Span<'static> {
    let colour = match share {
        share if share >= 1.0 => Color::Red,
        share if share >= 0.75 => Color::Yellow,
        _ => Color::Green,
    };
    Span::styled(format!("{}{:>4.0}%", table::bar(share, columns), share * 100.0), Style::new().fg(colour))
}

/// The last `most` values.
fn last(values: &VecDeque<u64>, most: usize) -> impl Iterator<Item = &u64> + Clone {
    values.iter().skip(values.len().saturating_sub(most))
}

/// The last values in eight steps of their greatest.
fn sparkline(values: &VecDeque<u64>) -> String {
    let last = last(values, TREND);
    let most = last.clone().copied().max().unwrap_or(0).max(1);
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let step = |value: &u64| usize::try_from((value * 7).div_ceil(most)).ok().and_then(|step| STEPS.get(step).copied());
    last.map(|value| step(value).unwrap_or(' ')).collect()
}

#[cfg(test)]
mod tests {
    use super::super::sample::tests::sample;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::time::Instant;

    fn lines(history: &History, view: &View, width: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, 14)).unwrap();
        terminal.draw(|frame| screen(frame, history, view)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..14).map(line).collect()
    }

    #[test]
    fn cgroups_have_bars_and_sets_their_owners() {
        let (mut history, mut view) = (History::default(), View::default());
        history.add(sample(12, 3, 2), Instant::now());
        let shown = lines(&history, &view, 120);
        assert!(shown[0].starts_with("ioasidd 1 userspace ids, 2 set(s)"), "{shown:#?}");
        assert!(shown[1].contains("15 of 3072  peak 99  resting 4"), "{shown:#?}");
        assert!(shown[5].starts_with("/a ") && shown[5].contains("█████████     75%"), "{shown:#?}");
        assert!(shown[6].starts_with("/b ") && !shown[6].contains('%'), "{shown:#?}");
        view.list = List::Sets;
        let shown = lines(&history, &view, 120);
        assert!(shown[5].contains("1 vm1") && shown[5].contains("active"), "{shown:#?}");
        view.mode = Mode::Confirm(1);
        assert!(lines(&history, &view, 120).iter().any(|line| line.contains("Revoke set 1?")));
    }

    #[test]
    fn numbers_and_keys_are_whole_on_80_columns() {
        let (mut history, mut view) = (History::default(), View::default());
        history.add(sample(12, 3, 2), Instant::now());
        let shown = lines(&history, &view, 80);
        assert!(shown[1].contains("15 of 3072  peak 99  resting 4"), "{shown:#?}");
        assert!(shown[4].ends_with("HITS/S") && shown[5].contains(" 75%"), "{shown:#?}");
        assert!(shown[13].contains("? help") && shown[13].contains("x revoke"), "{shown:#?}");
        view.list = List::Sets;
        let shown = lines(&history, &view, 80);
        assert!(shown[4].ends_with("AGE") && shown[5].contains(" active "), "{shown:#?}");
    }

    #[test]
    fn any_size_of_screen_will_do() {
        let (mut history, mut view) = (History::default(), View::default());
        for width in [1, 7, 40, 300] {
            lines(&history, &view, width);
        }
        history.add(sample(1, 1, 1), Instant::now());
        view.mode = Mode::Help;
        for width in [1, 7, 40, 300] {
            lines(&history, &view, width);
        }
    }

    #[test]
    fn sparklines_rise_to_their_greatest() {
        assert_eq!(sparkline(&VecDeque::from([0, 1, 7, 14])), "▁▂▅█");
    }
}
