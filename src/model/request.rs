//! What is asked for, and the sets it is asked of.

use super::{CgroupPath, Domain, PasidRange};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The number of a set: counted up from 1, never used twice while the host is up, restarts included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SetId(pub u64);

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a set stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetState {
    /// Somebody holds its FD, or hung up without closing it: it can be used.
    Active,
    /// Revoked: every use is refused; its ids return when the last FD closes.
    Revoked,
    /// The last FD is closed; ids that sessions still hold are charged until they are put.
    Draining,
}

impl fmt::Display for SetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Draining => "draining",
        })
    }
}

/// What a new set shall be. What is left out is decided by the policy rule that matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SetRequest {
    /// The most ids the set may lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<u32>,
    /// Ids come from this range only, both ends included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<PasidRange>,
    /// The number space.
    pub domain: Domain,
    /// A word for people, at most 64 bytes of printable text ([`is_printable`](super::is_printable)); not unique, no authority.
    pub label: String,
    /// The cgroup to charge, where it is not the requester's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<CgroupPath>,
    /// An iommufd beside it: refused where there is none.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub iommufd: bool,
}
