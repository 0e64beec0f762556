//! Text to policy: every mistake of every file is reported, and only a policy without any comes out.

use super::glob::Pattern;
use super::limits::{CgroupLine, Limits};
use super::problem::{Problem, Problems};
use super::read::{At, File, Place, Report, Table, shortened};
use super::rule::{Action, DEFAULT_QUOTA, DEFAULT_SETS_PER_CGROUP, Rule, Who};
use super::settings::{Bits, Profile, covered};
use super::value::{IDS, domain, duration, pattern, range, word};
use super::{Accounts, Policy, keys};
use crate::model::{Limit, MAX_BITS, PasidRange, is_printable};
use std::collections::HashMap;
use toml::de::DeTable;

/// The version of the format.
pub const VERSION: u64 = 1;
/// What the files say so far; of a key that several files have, the last one's value.
#[derive(Default)]
struct Draft {
    policy: Policy,
    reserved: Option<At<Vec<At<PasidRange>>>>,
    bits: Option<At<Bits>>,
    lines: Vec<CgroupLine>,
    rules: Vec<(Rule, Option<Place>)>,
    names: HashMap<String, Place>,
}

/// Checks the files of one policy, each a name for people and a text, in the order in which they apply. No files
/// are an empty policy.
pub fn check(files: &[(String, String)], accounts: &dyn Accounts) -> Result<Policy, Problems> {
    let report = Report::default();
    let mut draft = Draft::default();
    for (name, text) in files {
        let file = File::new(name, text);
        let (top, errors) = DeTable::parse_recoverable(&file.text);
        // What follows on the same line is mostly of the parser's making.
        let mut last_line = 0;
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            let line = file.line(span.start);
            if std::mem::replace(&mut last_line, line) == line {
                continue;
            }
            let reason = error.message().lines().collect::<Vec<_>>().join(", ");
            report.push(Problem::at(name, &file.text, span, "", reason));
        }
        // A value lost to a syntax error comes with made-up contents: what it means cannot be checked.
        if errors.is_empty() {
            read_file(&report, accounts, file.clone(), top.get_ref(), &mut draft);
        }
    }
    check_space(&report, &draft);
    let Draft { mut policy, lines, rules, .. } = draft;
    policy.limits = Limits::new(lines);
    policy.rules = rules.into_iter().map(|(rule, _)| rule).collect();
    policy.files = files.iter().map(|(name, _)| name.clone()).collect();
    match Problems::new(report.into_problems()) {
        None => Ok(policy),
        Some(problems) => Err(problems.in_order_of(files.iter().map(|(name, _)| name.as_str()))),
    }
}

fn read_file(report: &Report, accounts: &dyn Accounts, file: File, top: &DeTable<'_>, draft: &mut Draft) {
    let top = Table::top(report, file, top, keys::TOP);
    match top.number("version", 0..=u64::MAX) {
        Some(At { value: VERSION, .. }) => {}
        Some(At { value, place }) => {
            report.with_hint(&place, format!("version {value} is not known"), Some("this one reads version = 1"));
        }
        None if !top.has("version") => {
            let reason = "there is no version";
            report.with_hint(&top.place_of("version"), reason, Some("begin the file with: version = 1"));
        }
        None => {}
    }
    read_settings(&top, draft);
    for table in top.tables("cgroup", keys::CGROUP) {
        draft.lines.extend(read_line(report, &table));
    }
    for table in top.tables("rule", keys::RULE) {
        read_rule(report, accounts, &table, draft);
    }
}

fn read_settings(top: &Table<'_>, draft: &mut Draft) {
    let policy = &mut draft.policy;
    if let Some(space) = top.table("space", keys::SPACE) {
        if let Some(At { value, place }) = space.number_or("bits", "auto", 1..=u64::from(MAX_BITS)) {
            let bits = value.and_then(|bits| u32::try_from(bits).ok()).map_or(Bits::Auto, Bits::Fixed);
            policy.space.bits = bits;
            draft.bits = Some(At { value: bits, place });
        }
        if let Some(reserved) = space.list("reserved", range) {
            policy.space.reserved = reserved.value.iter().map(|range| range.value).collect();
            policy.space.reserved_set = true;
            draft.reserved = Some(reserved);
        }
        if let Some(At { value, .. }) = space.parsed("quarantine", duration) {
            policy.space.quarantine = value;
        }
        let words = [("cgroup-v2", Profile::CgroupV2), ("rfc-v4", Profile::RfcV4)];
        if let Some(At { value, .. }) = space.parsed("profile", |text| word(text, &words)) {
            policy.space.profile = value;
        }
    }
    if let Some(At { value, .. }) = top.table("bus", keys::BUS).and_then(|bus| bus.boolean("trust_pid")) {
        policy.bus.trust_pid = value;
    }
    if let Some(guard) = top.table("guard", keys::GUARD) {
        let number = |name, value: &mut u32| {
            if let Some(number) = guard.number(name, 1..=u64::from(u32::MAX)) {
                *value = number.value.try_into().unwrap_or(u32::MAX);
            }
        };
        number("sets", &mut policy.guard.sets);
        number("sessions", &mut policy.guard.sessions);
        number("requests_per_second", &mut policy.guard.requests_per_second);
    }
    if let Some(batch) = top.table("lease", keys::LEASE).and_then(|lease| lease.number("batch", 1..=IDS)) {
        policy.lease.batch = batch.value.try_into().unwrap_or(u32::MAX);
    }
    if let Some(port) = top.table("metrics", keys::METRICS).and_then(|metrics| metrics.number("port", 1..=65_535)) {
        policy.metrics.port = port.value.try_into().ok();
    }
}

/// What the settings of all files mean together.
fn check_space(report: &Report, draft: &Draft) {
    let space = &draft.policy.space;
    let bits = match space.bits {
        Bits::Auto => MAX_BITS,
        Bits::Fixed(bits) => bits,
    };
    let last = (1u32 << bits) - 1;
    if let Some(At { value: ranges, place }) = &draft.reserved {
        for At { value: range, place } in ranges.iter().filter(|range| range.value.max() > last) {
            let hint = match &draft.bits {
                Some(At { place, .. }) => format!("{} sets bits = {bits}", place.source()),
                None => "there are 20 bits at the most".to_owned(),
            };
            report.with_hint(place, format!("range {range} leaves the space, 0-{last}"), Some(hint));
        }
        if covered(space.reserved_at(bits)) == last + 1 {
            report.at(place, format!("all of the space, 0-{last}, is reserved"));
        }
    }
    for (rule, place) in &draft.rules {
        let (Some(range), Some(place)) = (rule.range, place) else { continue };
        if range.max() > last && draft.bits.is_some() {
            let hint = draft.bits.as_ref().map(|bits| format!("{} sets the width", bits.place.source()));
            report.with_hint(place, format!("range {range} leaves the space, 0-{last}"), hint);
            continue;
        }
        let reserved = space.reserved_at(bits).iter().filter_map(|reserved| reserved.intersect(range)).collect();
        if covered(reserved) == range.count() {
            report.at(place, format!("all of the range {range} is reserved"));
        }
    }
}

fn read_line(report: &Report, table: &Table<'_>) -> Option<CgroupLine> {
    let path = table.parsed("path", pattern);
    let max = table.number_or("max", "max", 0..=u64::MAX);
    for name in ["path", "max"] {
        if !table.has(name) {
            report.at(&table.place_of(name), format!("there is no {name}"));
        }
    }
    if let Some(At { place, .. }) = path.as_ref().filter(|path| path.value.literal().as_deref() == Some("/")) {
        report.with_hint(place, "the root has no max", Some("`/**` is every cgroup below it"));
    }
    let max = max?;
    let source = max.place.source();
    Some(CgroupLine { pattern: path?.value, max: max.value.map_or(Limit::Max, Limit::Count), source })
}

fn read_rule(report: &Report, accounts: &dyn Accounts, table: &Table<'_>, draft: &mut Draft) {
    let name = table.string("name");
    match &name {
        Some(At { value, place }) if value.trim().is_empty() || !value.chars().all(is_printable) => {
            report.at(place, format!("{:?} is no name", shortened(value)));
        }
        Some(At { value, place }) => match draft.names.get(value) {
            Some(first) => {
                report.with_hint(
                    place,
                    format!("a second rule {value:?}"),
                    Some(format!("first at {}", first.source())),
                );
            }
            None => drop(draft.names.insert(value.clone(), place.clone())),
        },
        None if !table.has("name") => report.at(&table.place_of("name"), "there is no name"),
        None => {}
    }
    let actions = [("allow", Action::Allow), ("deny", Action::Deny), ("polkit", Action::Polkit)];
    let action = table.parsed("action", |text| word(text, &actions));
    if !table.has("action") {
        let hint = Some("write one of: action = \"allow\", \"deny\", \"polkit\"");
        report.with_hint(&table.place_of("action"), "there is no action", hint);
    }
    let cgroup = table.parsed("cgroup", pattern);
    let who = read_who(report, accounts, table);
    let (quota_default, quota_max) = read_quota(report, table);
    let range = table.parsed("range", range);
    let domains = table.list("domains", domain);
    let on_behalf_of = table.list("on_behalf_of", pattern);
    let sets = table.number("sets_per_cgroup", 1..=u64::from(u32::MAX));
    if let Some(At { place, .. }) =
        domains.as_ref().filter(|domains| domains.value.is_empty() && !report.spoke_of(&domains.place))
    {
        report.with_hint(place, "there is no domain in it", Some("leave the key out for global"));
    }
    let (Some(name), Some(action)) = (name, action) else { return };
    let place = range.as_ref().map(|range| range.place.clone());
    let values = |list: Option<At<Vec<At<Pattern>>>>| list.map(|list| list.value).unwrap_or_default();
    let rule = Rule {
        name: name.value,
        source: table.place.source(),
        cgroup: cgroup.map(|cgroup| cgroup.value),
        who,
        action: action.value,
        quota_default,
        quota_max,
        sets_per_cgroup: sets.and_then(|sets| sets.value.try_into().ok()).unwrap_or(DEFAULT_SETS_PER_CGROUP),
        range: range.map(|range| range.value),
        domains: domains.map(|list| list.value.into_iter().map(|item| item.value).collect()).unwrap_or_default(),
        on_behalf_of: values(on_behalf_of).into_iter().map(|item| item.value).collect(),
    };
    draft.rules.push((rule, place));
}

fn read_who(report: &Report, accounts: &dyn Accounts, table: &Table<'_>) -> Who {
    let mut who = Who::default();
    // Not a warning: with a misspelt name a rule that denies would let everybody through whom it is to stop.
    let account = |kind: &str, name: &str, found: Result<Option<u32>, String>| match found {
        _ if name == "*" => Ok(None),
        Ok(Some(id)) => Ok(Some(id)),
        Ok(None) => Err((
            format!("there is no {kind} {:?} on this host", shortened(name)),
            Some(format!(
                "take it out where it is not needed, or create it; a {kind} named by its number need not exist"
            )),
        )),
        Err(error) => Err((format!("the {kind} {:?} cannot be looked up: {error}", shortened(name)), None)),
    };
    let users = table.list("users", |name| {
        account("user", name, by_number(name).map_or_else(|| accounts.uid(name), |id| Ok(Some(id))))
    });
    let groups = table.list("groups", |name| {
        account("group", name, by_number(name).map_or_else(|| accounts.gid(name), |id| Ok(Some(id))))
    });
    for At { value, .. } in users.iter().flat_map(|users| &users.value) {
        who.uids.extend(value);
        who.anybody |= value.is_none();
    }
    for At { value, .. } in groups.iter().flat_map(|groups| &groups.value) {
        who.gids.extend(value);
        who.anybody |= value.is_none();
    }
    let missing = |name, list: &Option<At<Vec<_>>>| {
        list.as_ref().map_or(!table.has(name), |list| list.value.is_empty() && !report.spoke_of(&list.place))
    };
    if missing("users", &users) && missing("groups", &groups) {
        let hint = "name who it is for; users = [\"*\"] is anybody";
        report.with_hint(&table.place_of("users"), "the rule has neither users nor groups", Some(hint));
    }
    who
}

fn by_number(name: &str) -> Option<u32> {
    // The last number means "no account" to the kernel.
    name.parse().ok().filter(|id| *id != u32::MAX && name.bytes().all(|byte| byte.is_ascii_digit()))
}

fn read_quota(report: &Report, table: &Table<'_>) -> (u32, Option<u32>) {
    let Some(quota) = table.table("quota", keys::QUOTA) else { return (DEFAULT_QUOTA, None) };
    let number = |name| quota.number(name, 1..=IDS);
    let (default, max) = (number("default"), number("max"));
    if let (Some(default), Some(max)) = (&default, &max)
        && default.value > max.value
    {
        let reason = format!("the default, {}, is above the max, {}", default.value, max.value);
        report.at(&default.place, reason);
    }
    let narrow = |number: At<u64>| u32::try_from(number.value).unwrap_or(u32::MAX);
    (default.map_or(DEFAULT_QUOTA, narrow), max.map(narrow))
}
