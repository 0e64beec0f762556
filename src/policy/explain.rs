//! What the policy says, and the lines that say it.

use super::rule::{Asker, Decision, NO_RULE};
use super::{Policy, Source};
use crate::model::{CgroupPath, Limit, Refusal, SetRequest};
use serde::Serialize;

/// What the policy says to a request, as `policy explain` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `allow`, `deny` or `polkit`.
    pub decision: &'static str,
    /// The rule that decides, or `no rule matches`.
    pub rule: String,
    /// The file it stands in; `None` where no rule matches.
    pub file: Option<String>,
    /// Its line, from 1.
    pub line: Option<u32>,
    /// The quota a set would get; `None` where it would get none.
    pub quota: Option<u32>,
    /// The bound of the rule that the request leaves, or what is wrong with it; empty where it is not denied.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bound: String,
    /// The limits over the cgroup that would be charged: its own and its ancestors', from near to far. The policy's; the
    /// controller puts what is in force in their place.
    pub limits: Vec<LimitLine>,
}

/// A limit and what sets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitLine {
    /// The level.
    pub cgroup: CgroupPath,
    /// Its `max`.
    pub max: Limit,
    /// The file with the line for this level; `None` where the policy has none.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<u32>,
    /// What stands over the policy, as `cgroup` calls it; empty where nothing does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub set_by: String,
}

impl Policy {
    /// What [`Policy::decide`] says, with the rule behind it and the limits on the way to the root.
    pub fn explain(&self, asker: &Asker<'_>, request: &SetRequest) -> Explanation {
        let source = self.rule_for(asker).map(|rule| rule.source().clone());
        let charged = request.cgroup.as_ref().unwrap_or(asker.cgroup);
        let limits = charged.lineage().filter_map(|cgroup| {
            let (max, Source { file, line }) = self.limit(&cgroup)?;
            Some(LimitLine { cgroup, max, file: Some(file.to_string()), line: Some(line), set_by: String::new() })
        });
        let (decision, quota, bound) = match self.decide(asker, request) {
            Decision::Allow(grant) => ("allow", Some(grant.quota), String::new()),
            Decision::AskPolkit(grant) => ("polkit", Some(grant.quota), String::new()),
            Decision::Deny(Refusal::NotPermitted { bound, .. }) => ("deny", None, bound),
            Decision::Deny(refusal) => ("deny", None, refusal.to_string()),
        };
        Explanation {
            decision,
            rule: self.rule_for(asker).map_or_else(|| NO_RULE.to_owned(), |rule| rule.name().to_owned()),
            file: source.as_ref().map(|source| source.file.to_string()),
            line: source.map(|source| source.line),
            quota,
            bound,
            limits: limits.collect(),
        }
    }
}
