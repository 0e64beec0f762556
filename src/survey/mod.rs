//! The survey: what this host has for PASIDs, and what goes past the service.
//!
//! Lives here: reading `/proc`, `/sys`, `/dev` and `/run` below a root, which is `/` or a recording of another host, and
//! saying what of it matters. It asks no service and changes nothing. `ioasidctl doctor` shows the [findings], the service
//! tells [what is enforced](enforcement) in its status: one piece, so they cannot disagree.

mod devices;
mod host;
mod iommu;
mod nodes;
mod system;

pub use host::Host;
pub use nodes::enforcement;
pub use system::policy_from;

use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Something does less than it could, or goes past the service.
    Warning,
    /// Something cannot work.
    Problem,
}

/// One thing about the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about; a word for programs, the same in all versions.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What was found, in one line.
    pub found: String,
    /// What to do about it; lines to copy are indented.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn new(id: &'static str, severity: Severity, found: impl Into<String>) -> Self {
        Self { id, severity, found: found.into(), remedy: None }
    }

    fn ok(id: &'static str, found: impl Into<String>) -> Self {
        Self::new(id, Severity::Ok, found)
    }

    fn note(id: &'static str, found: impl Into<String>) -> Self {
        Self::new(id, Severity::Note, found)
    }

    fn warning(id: &'static str, found: impl Into<String>) -> Self {
        Self::new(id, Severity::Warning, found)
    }

    fn problem(id: &'static str, found: impl Into<String>) -> Self {
        Self::new(id, Severity::Problem, found)
    }

    fn mend(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// All findings about a host, in the order in which one would mend them.
pub fn findings(host: &Host) -> Vec<Finding> {
    let mut all = iommu::findings(host);
    all.extend(devices::findings(host));
    all.extend(system::findings(host));
    all.extend(nodes::findings(host));
    all
}
