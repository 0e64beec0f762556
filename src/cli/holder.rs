//! What acts on the set FD held: over a session, without a path or a bus. The set is never mapped.

use super::arguments::{AliasVerb, CommandArgument, FdArgument};
use super::context::{Context, held_session};
use super::outcome::{Failed, Outcome, mention};
use super::{launch, sets, values};
use serde_json::json;

/// Allocates ids.
pub(super) fn alloc(context: &Context, fd: &FdArgument, count: &str, min: Option<&str>, max: Option<&str>) -> Outcome {
    let count = values::count(count)?;
    let range = values::range(min, max)?;
    let (_set, mut session) = held_session(fd)?;
    let pasids = session.alloc_many(count, range)?;
    context.print(&json!({"pasids": pasids}), |_| pasids.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// Gives ids back.
pub(super) fn free(context: &Context, fd: &FdArgument, pasids: &[String]) -> Outcome {
    let pasids = pasids.iter().map(|text| values::pasid(text)).collect::<Result<Vec<_>, Failed>>()?;
    let (_set, mut session) = held_session(fd)?;
    let pending = session.free(&pasids)?.pending;
    let freed: Vec<_> = pasids.iter().filter(|pasid| !pending.contains(pasid)).collect();
    context.print(&json!({"freed": freed, "pending": pending}), |_| {
        let wait = |pasid| format!("{pasid} is free-pending: it returns when the last holder puts it");
        pending.iter().map(wait).collect::<Vec<_>>().join("\n")
    })
}

/// The set held, with its ids.
pub(super) fn info(context: &Context, fd: &FdArgument) -> Outcome {
    let (_set, mut session) = held_session(fd)?;
    context.print(&session.info()?, sets::details)
}

/// Other names of ids.
pub(super) fn alias(context: &Context, fd: &FdArgument, deed: &AliasVerb) -> Outcome {
    match deed {
        AliasVerb::Add { pasid, vpasid } => {
            let (pasid, vpasid) = (values::pasid(pasid)?, values::vpasid(vpasid)?);
            let (_set, mut session) = held_session(fd)?;
            session.alias_add(pasid, vpasid)?;
            context.print(&json!({"pasid": pasid, "vpasid": vpasid}), |_| String::new())
        }
        AliasVerb::Find { vpasid } => {
            let vpasid = values::vpasid(vpasid)?;
            let (_set, mut session) = held_session(fd)?;
            let pasid = session.alias_find(vpasid)?;
            context.print(&json!({"pasid": pasid, "vpasid": vpasid}), |_| pasid.to_string())
        }
        AliasVerb::Del { vpasid } => {
            let vpasid = values::vpasid(vpasid)?;
            let (_set, mut session) = held_session(fd)?;
            session.alias_del(vpasid)?;
            context.print(&json!({"vpasid": vpasid}), |_| String::new())
        }
    }
}

/// Changes the quota.
pub(super) fn set_quota(context: &Context, fd: &FdArgument, quota: &str) -> Outcome {
    let quota = values::quota(quota)?;
    let (_set, mut session) = held_session(fd)?;
    context.print(&session.set_quota(quota)?, |_| String::new())
}

/// Gives unused leases back.
pub(super) fn trim(context: &Context, fd: &FdArgument) -> Outcome {
    let (_set, mut session) = held_session(fd)?;
    let returned = session.trim()?;
    context.print(&json!({"returned": returned}), |_| returned.to_string())
}

/// Which set is held.
pub(super) fn identify(context: &Context, fd: &FdArgument) -> Outcome {
    let (_set, session) = held_session(fd)?;
    let set = session.set();
    context.print(&json!({"set": set}), |_| set.to_string())
}

/// Whether an id is leased to the set held. That it is not is an answer, and the exit status says it too.
pub(super) fn verify(context: &Context, fd: &FdArgument, pasid: &str) -> Outcome {
    let pasid = values::pasid(pasid)?;
    let (_set, mut session) = held_session(fd)?;
    let leased = session.verify(pasid)?;
    let answer = json!({"set": session.set(), "pasid": pasid, "leased": leased});
    if !leased {
        let message = format!("ioasidctl: pasid {pasid} is not leased to set {}", session.set());
        return Err(Failed::Verdict { json: answer, message });
    }
    context.print(&answer, |_| format!("pasid {pasid} is leased to set {}", session.set()))
}

/// Runs CMD while holding a reference on an id. Ending this process in whatever way puts it too.
pub(super) fn hold(fd: &FdArgument, pasid: &str, command: &CommandArgument) -> Outcome {
    let pasid = values::pasid(pasid)?;
    let (_set, mut session) = held_session(fd)?;
    session.hold(pasid)?;
    let status = launch::run(command)?;
    if let Err(error) = session.put(pasid) {
        // CMD ran: its status counts. The reference ends with this session anyway.
        mention(&format!("pasid {pasid} was not put: {error}"));
    }
    Ok(launch::exit_code(status))
}
