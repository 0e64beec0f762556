//! `cgroup`: the tree.

use super::context::Context;
use super::outcome::Outcome;
use super::table::{Side, Table, bar, printable};
use super::values;
use crate::model::Limit;
use crate::proto::{CgroupInfo, GetCgroup};

/// A cgroup and all below it; for people without those that have nothing to tell, unless `all`.
pub(super) fn cgroup(context: &Context, path: Option<&str>, all: bool) -> Outcome {
    let path = path.map(values::cgroup).transpose()?;
    context.print(&context.ask(&GetCgroup { path, recurse: true })?, |top| {
        if all {
            return render(top);
        }
        let mut shown = top.clone();
        match leave_out_quiet(&mut shown) {
            0 => render(&shown),
            quiet => {
                format!("{}{quiet} cgroup(s) without a limit or a charge left out; --all shows them\n", render(&shown))
            }
        }
    })
}

/// Leaves out the cgroups below `node` that have no limit and were never charged, and so have all below them; says how
/// many.
fn leave_out_quiet(node: &mut CgroupInfo) -> usize {
    let mut quiet = 0;
    node.children.retain_mut(|child| {
        quiet += leave_out_quiet(child);
        let tells = child.max != Limit::Max || child.peak > 0 || child.events.max > 0 || child.dying;
        let keep = tells || child.deeper || !child.children.is_empty();
        quiet += usize::from(!keep);
        keep
    });
    quiet
}

fn render(top: &CgroupInfo) -> String {
    let right = Side::Right;
    let mut table = Table::new(&[
        ("CGROUP", Side::Left),
        ("MAX", right),
        ("EFFECTIVE", right),
        ("CURRENT", right),
        ("USE", Side::Left),
        ("PEAK", right),
        ("EVENTS", right),
        ("LOCAL", right),
        ("SET BY", Side::Left),
    ]);
    add(&mut table, top, top.path.as_str(), "", "");
    table.render()
}

/// Adds `node` under the name, with what is drawn before it and before what is below it.
fn add(table: &mut Table, node: &CgroupInfo, name: &str, branch: &str, trunk: &str) {
    let dying = if node.dying { " (dying)" } else { "" };
    // Their own paths show them.
    let deeper = if node.deeper { " (deeper ones not shown)" } else { "" };
    let at_root = node.path.is_root();
    let limit = |max: &dyn ToString| if at_root { "-".to_owned() } else { max.to_string() };
    table.row([
        format!("{branch}{}{dying}{deeper}", printable(name)),
        limit(&node.max),
        limit(&node.effective_max),
        node.current.to_string(),
        used(node),
        node.peak.to_string(),
        node.events.max.to_string(),
        node.events_local.max.to_string(),
        set_by(node),
    ]);
    for (n, child) in node.children.iter().enumerate() {
        let (turn, down) = if n + 1 == node.children.len() { ("└─", "  ") } else { ("├─", "│ ") };
        let name = child.path.name().unwrap_or("/");
        add(table, child, name, &format!("{trunk}{turn}"), &format!("{trunk}{down}"));
    }
}

/// How much of what it may have it has, as a bar; at the root of what there is.
fn used(node: &CgroupInfo) -> String {
    let most = match node.effective_max {
        _ if node.path.is_root() => node.capacity,
        Limit::Count(count) => Some(count),
        Limit::Max => None,
    };
    match most {
        Some(0) => "-".to_owned(),
        // One word, for those who take the table apart at blanks.
        Some(most) => bar(node.current as f64 / most as f64, 8).replace(' ', "░"),
        None => "-".to_owned(),
    }
}

/// What stands behind the limit: the line of the policy, else a word.
fn set_by(node: &CgroupInfo) -> String {
    match (&node.source, node.set_by.as_str()) {
        _ if node.path.is_root() => node.capacity.map_or_else(String::new, |capacity| format!("capacity {capacity}")),
        (Some(source), "" | "policy") => format!("{}:{}", source.file, source.line),
        (Some(source), word) => format!("{word}, over {}:{}", source.file, source.line),
        (None, "" | "unset") => "-".to_owned(),
        (None, word) => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CgroupId;
    use crate::proto::{EventCounts, LimitSource};

    fn node(path: &str, max: Limit, current: u64, children: Vec<CgroupInfo>) -> CgroupInfo {
        CgroupInfo {
            path: path.parse().unwrap(),
            id: CgroupId(1),
            max,
            effective_max: max,
            current,
            peak: current,
            events: EventCounts { max: 2 },
            events_local: EventCounts::default(),
            dying: false,
            source: None,
            set_by: String::new(),
            capacity: None,
            children,
            deeper: false,
        }
    }

    #[test]
    fn the_tree_is_drawn_with_the_line_behind_each_limit() {
        let source = Some(LimitSource { file: "p.toml".to_owned(), line: 7 });
        let mut a = node("/a", Limit::Count(64), 5, vec![node("/a/x", Limit::Max, 5, vec![])]);
        a.source = source.clone();
        let mut b = node("/b", Limit::Count(9), 0, vec![node("/b/y z", Limit::Max, 0, vec![])]);
        (b.source, b.set_by, b.dying) = (source, "administrator".to_owned(), true);
        let mut root = node("/", Limit::Max, 5, vec![a, b]);
        root.capacity = Some(1000);
        let lines = [
            "CGROUP       MAX  EFFECTIVE  CURRENT  USE       PEAK  EVENTS  LOCAL  SET BY",
            "/              -          -        5  ░░░░░░░░     5       2      0  capacity 1000",
            "├─a           64         64        5  ▋░░░░░░░     5       2      0  p.toml:7",
            "│ └─x        max        max        5  -            5       2      0  -",
            "└─b (dying)    9          9        0  ░░░░░░░░     0       2      0  administrator, over p.toml:7",
            "  └─y z      max        max        0  -            0       2      0  -",
        ];
        assert_eq!(render(&root).lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn what_has_nothing_to_tell_is_left_out_and_counted() {
        let quiet =
            |path: &str, children| CgroupInfo { events: EventCounts::default(), ..node(path, Limit::Max, 0, children) };
        let limited = CgroupInfo { max: Limit::Count(4), ..quiet("/a/b", vec![quiet("/a/b/c", vec![])]) };
        let mut root = quiet("/", vec![quiet("/a", vec![limited]), quiet("/x", vec![quiet("/x/y", vec![])])]);
        assert_eq!(leave_out_quiet(&mut root), 3);
        assert_eq!(root.children.len(), 1);
        assert_eq!(root.children[0].children[0].path.as_str(), "/a/b");
    }
}
