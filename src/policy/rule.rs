//! The `[[rule]]` entries: who may get a set, and within which bounds.

use super::Source;
use super::glob::{Glob, Pattern};
use crate::model::{CgroupPath, Domain, PasidRange, Refusal, SetRequest};

/// What a request without a quota gets, where its rule says nothing either.
pub const DEFAULT_QUOTA: u32 = 64;
/// How many sets a cgroup may have, where the rule says nothing.
pub const DEFAULT_SETS_PER_CGROUP: u32 = 64;
/// The `rule` of a refusal that no rule decided.
pub const NO_RULE: &str = "no rule matches";

/// Who asks, as the kernel knows them.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Its user.
    pub uid: u32,
    /// Its groups, the primary one too.
    pub gids: &'a [u32],
    /// Its cgroup.
    pub cgroup: &'a CgroupPath,
}

/// What a set may be, by the rule that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The rule's name.
    pub rule: String,
    /// Where it stands.
    pub source: Source,
    /// The most ids the set may lease: what was asked for, else the rule's default.
    pub quota: u32,
    /// The most its quota may be raised to later.
    pub quota_max: u32,
    /// Where its ids come from, both ends included; `None` for all that is not reserved.
    pub range: Option<PasidRange>,
    /// The number space.
    pub domain: Domain,
    /// How many sets may be charged to the cgroup at a time.
    pub sets_per_cgroup: u32,
    /// The cgroup that is charged.
    pub cgroup: CgroupPath,
}

/// What the policy says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow(Grant),
    /// Yes, if polkit says so too.
    AskPolkit(Grant),
    /// No, and why.
    Deny(Refusal),
}

/// What a rule does with a request that it matches and that keeps its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Allows it.
    Allow,
    /// Denies it.
    Deny,
    /// Leaves it to polkit.
    Polkit,
}

/// Users or groups that a rule names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Who {
    pub anybody: bool,
    pub uids: Vec<u32>,
    pub gids: Vec<u32>,
}

/// A number space, or a pattern of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DomainGlob {
    pub text: String,
    pub glob: Glob,
}

/// One rule, checked.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(super) name: String,
    pub(super) source: Source,
    pub(super) cgroup: Option<Pattern>,
    pub(super) who: Who,
    pub(super) action: Action,
    pub(super) quota_default: u32,
    /// `None`: whatever the space has.
    pub(super) quota_max: Option<u32>,
    pub(super) sets_per_cgroup: u32,
    pub(super) range: Option<PasidRange>,
    /// Empty: `global`.
    pub(super) domains: Vec<DomainGlob>,
    pub(super) on_behalf_of: Vec<Pattern>,
}

impl Rule {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it stands.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Whether it is this one that decides for who asks: its cgroup pattern is the asker's cgroup, and one of its
    /// users or groups is the asker's. Nothing of the request itself matters.
    pub fn matches(&self, asker: &Asker<'_>) -> bool {
        let who = &self.who;
        let named = who.anybody || who.uids.contains(&asker.uid) || asker.gids.iter().any(|gid| who.gids.contains(gid));
        named && self.cgroup.as_ref().is_none_or(|pattern| pattern.matches(asker.cgroup))
    }

    /// What the rule says to a request of an asker it matches. `most` is the most ids the space has.
    pub(super) fn apply(&self, asker: &Asker<'_>, request: &SetRequest, most: u32) -> Decision {
        if self.action == Action::Deny {
            return self.refuse("its action is deny".to_owned());
        }
        let quota_max = self.quota_max.unwrap_or(most);
        let quota = request.quota.unwrap_or(self.quota_default.min(quota_max));
        if quota > quota_max {
            return self.refuse(format!("quota {quota} is above its max {quota_max}"));
        }
        if let (Some(asked), Some(bound)) = (request.range, self.range)
            && !bound.covers(asked)
        {
            return self.refuse(format!("range {asked} is outside its range {bound}"));
        }
        let domain = request.domain.to_string();
        let listed = match self.domains.as_slice() {
            [] => request.domain == Domain::Global,
            globs => globs.iter().any(|listed| listed.glob.matches(&domain)),
        };
        if !listed {
            let names: Vec<&str> = self.domains.iter().map(|listed| listed.text.as_str()).collect();
            let names = if names.is_empty() { "global".to_owned() } else { names.join(", ") };
            return self.refuse(format!("domain {domain} is not among its domains {names}"));
        }
        let cgroup = request.cgroup.as_ref().unwrap_or(asker.cgroup);
        if cgroup != asker.cgroup && !self.on_behalf_of.iter().any(|pattern| pattern.matches(cgroup)) {
            let names: Vec<String> = self.on_behalf_of.iter().map(ToString::to_string).collect();
            let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            return self.refuse(format!("cgroup {cgroup} is not the requester's own; its on_behalf_of covers {names}"));
        }
        let grant = Grant {
            rule: self.name.clone(),
            source: self.source.clone(),
            quota,
            quota_max,
            range: request.range.or(self.range),
            domain: request.domain,
            sets_per_cgroup: self.sets_per_cgroup,
            cgroup: cgroup.clone(),
        };
        match self.action {
            Action::Polkit => Decision::AskPolkit(grant),
            _ => Decision::Allow(grant),
        }
    }

    fn refuse(&self, bound: String) -> Decision {
        Decision::Deny(Refusal::NotPermitted { rule: self.name.clone(), bound })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Accounts, Policy, check};

    struct Few;
    impl Accounts for Few {
        fn uid(&self, name: &str) -> Result<Option<u32>, String> {
            Ok(match name {
                "root" => Some(0),
                "ana" => Some(1000),
                _ => None,
            })
        }
        fn gid(&self, name: &str) -> Result<Option<u32>, String> {
            Ok((name == "kvm").then_some(36))
        }
    }

    const RULES: &str = r#"
version = 1
[space]
reserved = ["0-1023"]
[[rule]]
name = "nobody below /off"
cgroup = "/off/**"
users = ["*"]
action = "deny"
[[rule]]
name = "guests"
cgroup = "/m/**"
users = ["ana"]
groups = ["kvm"]
action = "allow"
quota = { default = 16, max = 32 }
sets_per_cgroup = 3
range = "2048-4095"
domains = ["global", "pci:*"]
on_behalf_of = ["/m/guest[0-9]"]
[[rule]]
name = "rest"
users = ["root"]
action = "polkit"
"#;

    fn policy() -> Policy {
        check(&[("t".to_owned(), RULES.to_owned())], &Few).unwrap()
    }

    fn decide(uid: u32, gids: &[u32], cgroup: &str, request: &SetRequest) -> Decision {
        policy().decide(&Asker { uid, gids, cgroup: &cgroup.parse().unwrap() }, request)
    }

    fn refused(rule: &str, bound: &str) -> Decision {
        Decision::Deny(Refusal::NotPermitted { rule: rule.to_owned(), bound: bound.to_owned() })
    }

    #[test]
    fn the_first_match_decides_by_user_or_group_and_cgroup() {
        let plain = SetRequest::default();
        let Decision::Allow(grant) = decide(1000, &[], "/m/x", &plain) else { panic!() };
        let range = PasidRange::new(2048, 4095);
        assert_eq!((grant.rule.as_str(), grant.source.line, grant.quota, grant.quota_max), ("guests", 10, 16, 32));
        assert_eq!((grant.range, grant.sets_per_cgroup, grant.cgroup.as_str()), (range, 3, "/m/x"));
        assert!(matches!(decide(1, &[5, 36], "/m", &plain), Decision::Allow(_)));
        assert_eq!(decide(1, &[5], "/m", &plain), refused(NO_RULE, ""));
        assert_eq!(decide(1000, &[], "/x", &plain), refused(NO_RULE, ""));
        assert_eq!(decide(0, &[], "/off/x", &plain), refused("nobody below /off", "its action is deny"));
        let Decision::AskPolkit(grant) = decide(0, &[], "/x", &plain) else { panic!() };
        assert_eq!((grant.quota, grant.quota_max, grant.sets_per_cgroup, grant.range), (64, 1_047_552, 64, None));
    }

    #[test]
    fn what_leaves_the_bounds_is_refused_with_rule_and_bound() {
        let ask = |request: SetRequest| decide(1000, &[], "/m/x", &request);
        let quota = |quota| ask(SetRequest { quota: Some(quota), ..SetRequest::default() });
        assert!(matches!(quota(32), Decision::Allow(Grant { quota: 32, .. })));
        assert_eq!(quota(33), refused("guests", "quota 33 is above its max 32"));
        assert_eq!(quota(0), Decision::Deny(Refusal::invalid("quota", 0, "a number of ids, at least 1")));

        let range = |min, max| ask(SetRequest { range: PasidRange::new(min, max), ..SetRequest::default() });
        assert!(matches!(range(2048, 4095), Decision::Allow(_)));
        assert_eq!(range(2047, 4095), refused("guests", "range 2047-4095 is outside its range 2048-4095"));
        assert_eq!(range(2048, 4096), refused("guests", "range 2048-4096 is outside its range 2048-4095"));

        let cgroup = |path: &str| ask(SetRequest { cgroup: path.parse().ok(), ..SetRequest::default() });
        assert!(matches!(cgroup("/m/guest7"), Decision::Allow(grant) if grant.cgroup.as_str() == "/m/guest7"));
        let bound = "cgroup /m/guest is not the requester's own; its on_behalf_of covers /m/guest[0-9]";
        assert_eq!(cgroup("/m/guest"), refused("guests", bound));

        let pci = SetRequest { domain: "pci:0000:3a:00.0".parse().unwrap(), ..SetRequest::default() };
        assert!(matches!(ask(pci.clone()), Decision::Allow(_)));
        let bound = "domain pci:0000:3a:00.0 is not among its domains global";
        assert_eq!(decide(0, &[], "/x", &pci), refused("rest", bound));
    }

    #[test]
    fn an_empty_policy_refuses_and_says_so() {
        let root = CgroupPath::root();
        let decision = Policy::default().decide(&Asker { uid: 0, gids: &[0], cgroup: &root }, &SetRequest::default());
        assert_eq!(decision, refused(NO_RULE, "there is no policy"));
    }
}
