//! The keys of each table, spelled once: the checker takes these, the schema describes the same.

pub(super) const TOP: &[&str] = &["version", "space", "bus", "guard", "lease", "metrics", "cgroup", "rule"];
pub(super) const SPACE: &[&str] = &["bits", "reserved", "quarantine", "profile"];
pub(super) const BUS: &[&str] = &["trust_pid"];
pub(super) const GUARD: &[&str] = &["sets", "sessions", "requests_per_second"];
pub(super) const LEASE: &[&str] = &["batch"];
pub(super) const METRICS: &[&str] = &["port"];
pub(super) const CGROUP: &[&str] = &["path", "max"];
pub(super) const RULE: &[&str] =
    &["name", "cgroup", "users", "groups", "action", "quota", "sets_per_cgroup", "range", "domains", "on_behalf_of"];
pub(super) const QUOTA: &[&str] = &["default", "max"];
