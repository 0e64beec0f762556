//! `sets`, `show`, `exec`, `open`: sets by their number, and new ones.

use super::arguments::{CommandArgument, SetArguments};
use super::context::Context;
use super::outcome::Outcome;
use super::table::{Side, Table, moment, printable, runs, span};
use super::{launch, values};
use crate::proto::{ListSets, SetInfo, ShowSet};
use std::fmt::Write;
use std::os::fd::AsFd;
use std::time::{SystemTime, UNIX_EPOCH};

/// The sets.
pub(super) fn sets(context: &Context, cgroup: Option<&str>) -> Outcome {
    let cgroup = cgroup.map(values::cgroup).transpose()?;
    let mut sets = context.ask(&ListSets { cgroup })?;
    sets.sort_by_key(|info| info.set);
    context.print(&sets, |sets| table_of(sets, now_usec()))
}

/// One set.
pub(super) fn show(context: &Context, set: &str) -> Outcome {
    let set = values::set(set)?;
    context.print(&context.ask(&ShowSet { set })?, details)
}

/// Runs CMD with a new set.
pub(super) fn exec(context: &Context, wanted: &SetArguments) -> Outcome {
    let request = values::set_request(wanted)?;
    if wanted.iommufd {
        let (set, iommufd, _) = context.service()?.create_set_with_iommufd(request)?;
        return launch::replace(&set, Some(iommufd.as_fd()), &wanted.command);
    }
    let (set, _) = context.service()?.create_set(request)?;
    launch::replace(&set, None, &wanted.command)
}

/// Runs CMD with another FD of a set.
pub(super) fn open(context: &Context, set: &str, command: &CommandArgument) -> Outcome {
    let number = values::set(set)?;
    let (set, _) = context.service()?.open_set(number)?;
    launch::replace(&set, None, command)
}

/// One set on lines of its own.
pub(super) fn details(info: &SetInfo) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<9}{}", printable(&value));
    };
    line("set", info.set.to_string());
    if !info.label.is_empty() {
        line("label", info.label.clone());
    }
    line("cgroup", format!("{} (id {})", info.cgroup.as_str(), info.cgroup_id));
    line("owner", format!("uid {}", info.owner_uid));
    line("domain", info.domain.to_string());
    line("quota", info.quota.to_string());
    line("leased", info.leased.to_string());
    line("in use", info.in_use.to_string());
    line("state", info.state.to_string());
    line("created", moment(info.created_usec));
    if !info.rule.is_empty() {
        line("rule", info.rule.clone());
    }
    if let Some(pasids) = &info.pasids {
        line("pasids", if pasids.is_empty() { "none".to_owned() } else { runs(pasids) });
    }
    text
}

fn table_of(sets: &[SetInfo], now_usec: u64) -> String {
    let (left, right) = (Side::Left, Side::Right);
    let mut table = Table::new(&[
        ("SET", right),
        ("LABEL", left),
        ("CGROUP", left),
        ("OWNER", right),
        ("QUOTA", right),
        ("LEASED", right),
        ("IN USE", right),
        ("DOMAIN", left),
        ("STATE", left),
        ("AGE", right),
    ]);
    for info in sets {
        table.row([
            info.set.to_string(),
            if info.label.is_empty() { "-".to_owned() } else { info.label.clone() },
            info.cgroup.as_str().to_owned(),
            info.owner_uid.to_string(),
            info.quota.to_string(),
            info.leased.to_string(),
            info.in_use.to_string(),
            info.domain.to_string(),
            info.state.to_string(),
            span(now_usec.saturating_sub(info.created_usec) / 1_000_000),
        ]);
    }
    table.render()
}

fn now_usec() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CgroupId, CgroupPath, Domain, Pasid, SetId, SetState};

    fn info() -> SetInfo {
        SetInfo {
            set: SetId(12),
            label: "vm one".to_owned(),
            cgroup: CgroupPath::root().child("a").unwrap(),
            cgroup_id: CgroupId(77),
            owner_uid: 1000,
            domain: Domain::Global,
            quota: 64,
            leased: 3,
            in_use: 3,
            state: SetState::Active,
            created_usec: 1_000_000,
            rule: "guests".to_owned(),
            pasids: Some([1030, 1031, 1040].map(|n| Pasid::new(n).unwrap()).to_vec()),
        }
    }

    #[test]
    fn a_set_is_a_row() {
        let lines = [
            "SET  LABEL   CGROUP  OWNER  QUOTA  LEASED  IN USE  DOMAIN  STATE     AGE",
            " 12  vm one  /a       1000     64       3       3  global  active  1m04s",
        ];
        assert_eq!(table_of(&[info()], 65_000_000).lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn details_end_with_the_ids_as_runs() {
        let text = details(&info());
        assert!(text.starts_with("set      12\nlabel    vm one\ncgroup   /a (id 77)\n"), "{text}");
        assert!(text.ends_with("rule     guests\npasids   1030-1031, 1040\n"), "{text}");
    }
}
