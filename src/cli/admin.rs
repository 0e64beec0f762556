//! `set-max`, `reset-peak`, `recharge`, `revoke`: for administrators. The service records each with who asked.

use super::context::Context;
use super::outcome::Outcome;
use super::values;
use crate::model::trim_blanks;
use crate::proto::{Recharge, ResetPeak, RevokeSet, SetCgroupMax};
use serde_json::json;

/// Sets a cgroup's limit.
pub(super) fn set_max(context: &Context, cgroup: &str, max: &str, persist: bool) -> Outcome {
    let cgroup = String::from(values::cgroup(cgroup)?);
    values::check_max(max)?;
    context.ask(&SetCgroupMax { cgroup: cgroup.clone(), max: max.to_owned(), persist })?;
    context.print(&json!({"cgroup": cgroup, "max": trim_blanks(max), "persist": persist}), |_| String::new())
}

/// Makes a cgroup's current use its peak.
pub(super) fn reset_peak(context: &Context, cgroup: &str) -> Outcome {
    let cgroup = String::from(values::cgroup(cgroup)?);
    context.ask(&ResetPeak { cgroup: cgroup.clone() })?;
    context.print(&json!({"cgroup": cgroup}), |_| String::new())
}

/// Moves a set's charge.
pub(super) fn recharge(context: &Context, set: &str, cgroup: &str) -> Outcome {
    let set = values::set(set)?;
    let cgroup = String::from(values::cgroup(cgroup)?);
    context.ask(&Recharge { set, cgroup: cgroup.clone() })?;
    context.print(&json!({"set": set, "cgroup": cgroup}), |_| String::new())
}

/// Ends a set.
pub(super) fn revoke(context: &Context, set: &str, reason: Option<&str>) -> Outcome {
    let set = values::set(set)?;
    let reason = reason.unwrap_or_default().to_owned();
    context.ask(&RevokeSet { set, reason: reason.clone() })?;
    context.print(&json!({"set": set, "reason": reason}), |_| String::new())
}
