//! Refusals: what the contract lets a caller be told.

use super::{CgroupPath, Domain, Fault, Limit, Malformed, Pasid, PasidRange, SetId};
use serde::{Deserialize, Serialize};

/// A request that is refused, with what the caller needs to know to do better.
///
/// It reads as a lower-case clause that names subject and value; what to do about it is [`Refusal::hint`].
/// Its codes on every edge are in `proto`. Serialised as an object whose `error` is the variant's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error")]
pub enum Refusal {
    /// A cgroup on the way to the root has no room under its `max`.
    #[error("{asked} more would exceed ioasids.max of {cgroup}: max {max}, current {current}")]
    LimitExceeded {
        /// The level whose limit was hit.
        cgroup: CgroupPath,
        /// Its limit.
        max: Limit,
        /// What was charged to it, in ids.
        current: u64,
        /// What was asked for, in ids.
        asked: u64,
    },
    /// The set has no room under its quota.
    #[error("{asked} more would exceed the quota of set {set}: quota {quota}, leased {leased}")]
    QuotaExceeded {
        /// The set.
        set: SetId,
        /// The most ids it may lease.
        quota: u32,
        /// How many it leases.
        leased: u32,
        /// What was asked for, in ids.
        asked: u32,
    },
    /// The number space has not enough free ids in the range.
    #[error("domain {domain} has {free} free in {range}, asked for {asked}")]
    NoSpace {
        /// The number space.
        domain: Domain,
        /// Where ids were looked for, both ends included.
        range: PasidRange,
        /// How many are free there.
        free: u32,
        /// What was asked for, in ids.
        asked: u32,
    },
    /// The policy, or the lack of a privilege, forbids it.
    #[error("not permitted ({rule}){}{bound}", if .bound.is_empty() { "" } else { ": " })]
    NotPermitted {
        /// The policy rule that refused, `no rule matches`, or the privilege that is missing.
        rule: String,
        /// What of the request is out of bounds, and the bound.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        bound: String,
    },
    /// The id is leased to another set.
    #[error("pasid {pasid} belongs to another set")]
    ForeignPasid {
        /// The id.
        pasid: Pasid,
    },
    /// There is no such thing.
    #[error("{what} not found")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// The id is being freed and waits for those who hold it.
    #[error("pasid {pasid} is being freed and waits for {holders} holder(s)")]
    Busy {
        /// The id.
        pasid: Pasid,
        /// How many references are still held.
        holders: u32,
    },
    /// It is there already.
    #[error("{what} exists")]
    Exists {
        /// What is there.
        what: String,
    },
    /// The set's cgroup was removed: what is charged can be freed, nothing can be added.
    #[error("cgroup {cgroup} was removed")]
    Stale {
        /// The path it had.
        cgroup: CgroupPath,
    },
    /// The set was revoked, or its last FD was closed.
    #[error("set {set} was revoked: {reason}")]
    Revoked {
        /// The set.
        set: SetId,
        /// Why, in the words of who did it.
        reason: String,
    },
    /// A field of the request has no meaning.
    #[error("{field} {value:?} is not {expected}")]
    InvalidArgument {
        /// The field.
        field: String,
        /// What it was, shortened where long.
        value: String,
        /// What it can be.
        expected: String,
    },
    /// The caller used up a bound that protects the service or the policy's rule.
    #[error("too many: {limit} is {value}")]
    TooMany {
        /// Which bound.
        limit: String,
        /// Its value.
        value: u64,
    },
    /// This host, this version or this connection cannot do it.
    #[error("{what} is not supported: {why}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why not.
        why: String,
    },
}

impl Refusal {
    /// `field` was `value`, which is not `expected`.
    pub fn invalid(field: &str, value: impl ToString, expected: impl Into<String>) -> Self {
        let value = value.to_string();
        let value = match value.char_indices().nth(128) {
            Some((at, _)) => format!("{}…", value.get(..at).unwrap_or_default()),
            None => value,
        };
        Self::InvalidArgument { field: field.to_owned(), value, expected: expected.into() }
    }

    /// The text in `field` does not parse.
    pub fn malformed(field: &str, malformed: &Malformed) -> Self {
        Self::invalid(field, &malformed.value, malformed.expected)
    }

    /// There is no `what`.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    /// Only an administrator may do `what`.
    pub fn administrators_only(what: &str) -> Self {
        Self::NotPermitted {
            rule: "administrators only".to_owned(),
            bound: format!("{what} takes uid 0 with CAP_SYS_ADMIN in the initial user namespace"),
        }
    }

    /// What the caller can do about it; `None` where the message says all there is.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::LimitExceeded { cgroup, .. } => format!(
                "free ids that are charged below it, or let an administrator raise it: ioasidctl set-max '{cgroup}' N"
            ),
            Self::QuotaExceeded { .. } => {
                "free ids, or raise it within the rule's max: ioasidctl set-quota N".to_owned()
            }
            Self::NoSpace { .. } => "ask for a wider range; `ioasidctl status` shows what each domain has".to_owned(),
            Self::NotPermitted { rule, .. } if rule == "administrators only" => {
                "run it as root, or let polkit allow it over D-Bus".to_owned()
            }
            Self::NotPermitted { .. } => {
                "`ioasidctl policy explain --user U --cgroup C` shows which rule decides and why; yours are what `id -u` \
                 prints and what follows 0:: in /proc/self/cgroup"
                    .to_owned()
            }
            Self::Busy { .. } => "it returns when the last holder puts it or ends".to_owned(),
            Self::Stale { .. } => "close the set and ask for a new one from a cgroup that exists".to_owned(),
            Self::Revoked { .. } => "close the set FD and ask for a new set".to_owned(),
            Self::TooMany { .. } => {
                "close what is no longer used; [guard] and sets_per_cgroup set the bounds".to_owned()
            }
            Self::ForeignPasid { .. }
            | Self::NotFound { .. }
            | Self::Exists { .. }
            | Self::InvalidArgument { .. }
            | Self::Unsupported { .. } => return None,
        })
    }
}

/// Why a request was not done: refused by contract, or a fault of the service's own.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Refused: the caller's to handle.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A fault: the administrator's to look at.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Failure {
    /// The refusal in it, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Fault(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_an_object_that_names_itself() {
        let refusal = Refusal::LimitExceeded { cgroup: CgroupPath::root(), max: Limit::Count(4), current: 4, asked: 1 };
        let json = serde_json::to_value(&refusal).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"error": "LimitExceeded", "cgroup": "/", "max": 4, "current": 4, "asked": 1})
        );
        assert_eq!(serde_json::from_value::<Refusal>(json).unwrap(), refusal);
        assert_eq!(refusal.to_string(), "1 more would exceed ioasids.max of /: max 4, current 4");
    }

    #[test]
    fn long_values_are_shortened() {
        let Refusal::InvalidArgument { value, .. } = Refusal::invalid("label", "é".repeat(500), "short") else {
            panic!("not InvalidArgument")
        };
        assert_eq!(value.chars().count(), 129);
    }
}
