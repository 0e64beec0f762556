//! The one place that says who may do what.
//!
//! Every edge asks [`Controller::authorize`] before it asks for a deed, and hands the [`Permit`] it gets to the
//! method that does it. A permit can be had in no other way: from a verdict that permits, or from polkit's answer
//! to the [`Question`] of a verdict that asks. On the set FD path there is nothing to ask: the FD is the authority.

use super::{Caller, Controller, State};
use crate::model::{CgroupPath, Failure, Refusal, SetId, SetRequest, is_printable};
use crate::policy::{Asker, Decision, Grant};
use crate::proto::{ACTION_CREATE_SET, ACTION_MANAGE_SETS, ACTION_RELOAD, ACTION_SET_LIMITS};

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub enum Deed<'a> {
    /// Look at sets, cgroups, status, events: anybody.
    Look,
    /// Make a set: the policy decides.
    CreateSet(&'a SetRequest),
    /// Have another FD of a set: its creator's uid from its creator's cgroup, or an administrator.
    OpenSet(SetId),
    /// Look at the ids of a set: its creator's uid, or an administrator.
    SeeIds(SetId),
    /// Change a set's quota within its rule: as for opening it.
    SetQuota(SetId),
    /// Revoke a set: as for opening it.
    Revoke(SetId),
    /// Move a set's charge: an administrator.
    Recharge(SetId),
    /// Set a cgroup's `max`: an administrator, or who owns a delegated cgroup above it.
    SetLimit(&'a CgroupPath),
    /// Reset a cgroup's `peak`: an administrator.
    ResetPeak(&'a CgroupPath),
    /// Read the policy again: an administrator.
    Reload,
}

/// A deed that is permitted, to be shown to the method that does it.
#[derive(Debug)]
pub struct Permit(pub(super) Permitted);

/// What a permit is for.
#[derive(Debug)]
pub(super) enum Permitted {
    Look,
    Create(Box<(SetRequest, Grant)>),
    Set(SetId),
    Limit { cgroup: CgroupPath, delegated: bool },
    Peak(CgroupPath),
    Reload,
}

/// What [`Controller::authorize`] says.
#[derive(Debug)]
pub enum Verdict {
    /// Go ahead.
    Permitted(Permit),
    /// Ask polkit.
    Ask(Question),
}

impl Verdict {
    /// The permit, where there is nobody to ask: then the question's refusal.
    pub fn without_polkit(self) -> Result<Permit, Refusal> {
        match self {
            Self::Permitted(permit) => Ok(permit),
            Self::Ask(question) => Err(question.refusal),
        }
    }
}

/// What polkit is asked.
#[derive(Debug)]
pub struct Question {
    /// The polkit action.
    pub action: &'static str,
    /// Details for polkit's rules: `cgroup`, `label`, `quota`.
    pub details: Vec<(&'static str, String)>,
    permit: Permit,
    refusal: Refusal,
}

impl Question {
    /// The permit if polkit said yes, else the refusal.
    pub fn answered(self, yes: bool) -> Result<Permit, Refusal> {
        if yes { Ok(self.permit) } else { Err(self.refusal) }
    }

    /// The refusal where polkit did not say yes or no, with the reason.
    pub fn unanswered(self, why: &str) -> Refusal {
        match self.refusal {
            Refusal::NotPermitted { rule, bound } => Refusal::NotPermitted { rule, bound: format!("{bound}; {why}") },
            other => other,
        }
    }
}

impl Controller {
    /// Says whether `caller` may do `deed`.
    ///
    /// Refused where the answer is no whatever polkit says: a policy rule that denies, a set that does not exist.
    pub fn authorize(&self, caller: &Caller, deed: Deed<'_>) -> Result<Verdict, Failure> {
        let state = self.lock();
        let permitted = |permitted| Ok(Verdict::Permitted(Permit(permitted)));
        match deed {
            Deed::Look => permitted(Permitted::Look),
            Deed::CreateSet(request) => state.authorize_create(caller, request),
            Deed::OpenSet(id) | Deed::SetQuota(id) | Deed::Revoke(id) => {
                let set = state.set(id)?;
                let creator = caller.uid == set.owner_uid && caller.located.id == set.creator_cgroup;
                state.creator_or_administrator(caller, id, creator, deed)
            }
            Deed::SeeIds(id) => {
                let creator = caller.uid == state.set(id)?.owner_uid;
                state.creator_or_administrator(caller, id, creator, deed)
            }
            Deed::Recharge(id) => {
                state.set(id)?;
                state.creator_or_administrator(caller, id, false, deed)
            }
            Deed::SetLimit(cgroup) => {
                let delegated = !caller.privileged;
                let permit = Permitted::Limit { cgroup: cgroup.clone(), delegated };
                if caller.privileged || self.owns_above(caller, cgroup)? {
                    return permitted(permit);
                }
                let permit = Permitted::Limit { cgroup: cgroup.clone(), delegated: false };
                Ok(administrators(ACTION_SET_LIMITS, permit, "set-max", Some(cgroup)))
            }
            Deed::ResetPeak(cgroup) if caller.privileged => permitted(Permitted::Peak(cgroup.clone())),
            Deed::ResetPeak(cgroup) => {
                Ok(administrators(ACTION_SET_LIMITS, Permitted::Peak(cgroup.clone()), "reset-peak", Some(cgroup)))
            }
            Deed::Reload if caller.privileged => permitted(Permitted::Reload),
            Deed::Reload => Ok(administrators(ACTION_RELOAD, Permitted::Reload, "policy reload", None)),
        }
    }

    /// Whether the caller owns a cgroup strictly above `cgroup`, the root left out: what is below it was delegated
    /// to it. Source: `cgroup-v2.rst`, "Delegation Containment".
    fn owns_above(&self, caller: &Caller, cgroup: &CgroupPath) -> Result<bool, Failure> {
        // What root owns was delegated to nobody: uid 0 without the capability, a container's, is an ordinary user.
        if caller.uid == 0 {
            return Ok(false);
        }
        for above in cgroup.lineage().skip(1).filter(|path| !path.is_root()) {
            if self.world.cgroups.owner(&above)? == Some(caller.uid) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl State {
    fn authorize_create(&self, caller: &Caller, request: &SetRequest) -> Result<Verdict, Failure> {
        if request.label.len() > 64 || !request.label.chars().all(is_printable) {
            return Err(Refusal::invalid("label", &request.label, "at most 64 bytes of printable text").into());
        }
        let asker = Asker { uid: caller.uid, gids: &caller.groups, cgroup: &caller.located.path };
        let permit = |grant: Grant| Permit(Permitted::Create(Box::new((request.clone(), grant))));
        match self.policy.decide(&asker, request) {
            Decision::Allow(grant) => Ok(Verdict::Permitted(permit(grant))),
            // The administrator passes what polkit would be asked.
            Decision::AskPolkit(grant) if caller.privileged => Ok(Verdict::Permitted(permit(grant))),
            Decision::AskPolkit(grant) => {
                let details = vec![
                    ("cgroup", grant.cgroup.as_str().to_owned()),
                    ("label", request.label.clone()),
                    ("quota", grant.quota.to_string()),
                ];
                let bound = format!("it takes polkit's consent ({ACTION_CREATE_SET})");
                let refusal = Refusal::NotPermitted { rule: grant.rule.clone(), bound };
                Ok(Verdict::Ask(Question { action: ACTION_CREATE_SET, details, permit: permit(grant), refusal }))
            }
            Decision::Deny(refusal) => Err(refusal.into()),
        }
    }

    fn creator_or_administrator(
        &self,
        caller: &Caller,
        id: SetId,
        creator: bool,
        deed: Deed<'_>,
    ) -> Result<Verdict, Failure> {
        let set = self.set(id)?;
        if creator || caller.privileged {
            return Ok(Verdict::Permitted(Permit(Permitted::Set(id))));
        }
        let what = match deed {
            Deed::OpenSet(_) => "open a set of another user or cgroup",
            Deed::SeeIds(_) => "see the ids of another user's set",
            Deed::SetQuota(_) => "set-quota on a set of another user or cgroup",
            Deed::Revoke(_) => "revoke a set of another user or cgroup",
            _ => "recharge",
        };
        let mut verdict = administrators(ACTION_MANAGE_SETS, Permitted::Set(id), what, Some(&set.cgroup));
        if let Verdict::Ask(question) = &mut verdict {
            question.details.push(("label", set.label.clone()));
            question.details.push(("quota", set.quota.to_string()));
        }
        Ok(verdict)
    }
}

fn administrators(action: &'static str, permitted: Permitted, what: &str, cgroup: Option<&CgroupPath>) -> Verdict {
    let details = cgroup.map(|path| ("cgroup", path.as_str().to_owned())).into_iter().collect();
    Verdict::Ask(Question { action, details, permit: Permit(permitted), refusal: Refusal::administrators_only(what) })
}
