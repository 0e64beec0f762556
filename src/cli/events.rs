//! `events` and `watch`: what happens, one a line, until nobody tells or nobody reads.

use super::arguments::FdArgument;
use super::context::{Context, held_session, to_json};
use super::outcome::{Outcome, print_line};
use super::table::{moment, printable, runs};
use crate::client::ClientError;
use crate::model::Refusal;
use crate::proto::{Event, Happening, Phase, WatchEvent, WatchKind};
use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a freed id waits for a watcher that only prints.
const WATCH_TIMEOUT: Duration = Duration::from_secs(1);

/// What happened in the service lately.
pub(super) fn events(context: &Context, follow: bool) -> Outcome {
    let tell = |event: &Event| print_line(&if context.json() { to_json(event) } else { words(event) });
    let mut service = context.service()?;
    let mut reads = service.events(follow)?.iter().all(tell);
    while follow && reads {
        match service.next_event()? {
            Some(event) => reads = tell(&event),
            None => break,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What happens to the set held, until it is revoked and its ids are gone. The first line is the snapshot that the events go on from.
pub(super) fn watch(context: &Context, fd: &FdArgument) -> Outcome {
    let (_set, mut session) = held_session(fd)?;
    let snapshot = session.watch(&[], Phase::Last, WATCH_TIMEOUT)?;
    let first =
        json!({"event": "SNAPSHOT", "serial": snapshot.serial, "pasids": snapshot.pasids, "bound": snapshot.bound});
    let mut reads = print_line(&match context.json() {
        true => first.to_string(),
        false => format!("{} SNAPSHOT {}", snapshot.serial, runs(&snapshot.pasids)).trim_end().to_owned(),
    });
    let mut revoked = false;
    while reads {
        // A revoked set still tells which ids go; this process may hold its last FD, so nobody else ends the wait.
        match session.next_event(revoked.then(|| Instant::now() + WATCH_TIMEOUT)) {
            Ok(Some(event)) => {
                revoked |= event.event == WatchKind::Revoke;
                reads = print_line(&if context.json() { to_json(&event) } else { watch_words(&event) });
                if event.ack {
                    session.ack(&event)?;
                }
            }
            Ok(None) | Err(ClientError::Refused(Refusal::Revoked { .. })) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn watch_words(event: &WatchEvent) -> String {
    let kind = to_json(&event.event);
    let text = format!("{} {} {} {}", event.serial, kind.trim_matches('"'), runs(&event.pasids), event.detail);
    printable(text.split_whitespace().collect::<Vec<_>>().join(" ").as_str())
}

/// One event as a line.
pub(super) fn words(event: &Event) -> String {
    let by = |uid: &Option<u32>| uid.map_or_else(|| "by the service".to_owned(), |uid| format!("by uid {uid}"));
    let what = match &event.what {
        Happening::LimitHit { cgroup, max, asked, requester_cgroup } => {
            format!("limit hit: {asked} more for {requester_cgroup} would exceed ioasids.max {max} of {cgroup}")
        }
        Happening::SetAdded { set, label, cgroup, uid } if label.is_empty() => {
            format!("set {set} made by uid {uid}, charged to {cgroup}")
        }
        Happening::SetAdded { set, label, cgroup, uid } => {
            format!("set {set} ({label}) made by uid {uid}, charged to {cgroup}")
        }
        Happening::SetRemoved { set, reason } => format!("set {set} removed: {reason}"),
        Happening::SetRevoked { set, reason, by_uid } => format!("set {set} revoked {}: {reason}", by(by_uid)),
        Happening::MaxChanged { cgroup, max, by_uid } => {
            format!("ioasids.max of {cgroup} set to {max} by uid {by_uid}")
        }
        Happening::Recharged { set, from, to, by_uid } => {
            format!("set {set} recharged from {from} to {to} by uid {by_uid}")
        }
        Happening::PeakReset { cgroup, by_uid } => format!("peak of {cgroup} reset by uid {by_uid}"),
        Happening::PolicyReloaded { by_uid } => format!("policy read again {}", by(by_uid)),
    };
    format!("{}  {}", moment(event.time_usec), printable(&what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Pasid, SetId};

    #[test]
    fn an_event_is_one_line() {
        let what = Happening::SetRevoked { set: SetId(4), reason: "a\nb".to_owned(), by_uid: Some(0) };
        assert_eq!(words(&Event { time_usec: 0, what }), "1970-01-01T00:00:00Z  set 4 revoked by uid 0: a\\nb");
        let event = WatchEvent {
            serial: 9,
            event: WatchKind::Alloc,
            phase: None,
            pasids: vec![Pasid::FIRST],
            ack: false,
            detail: String::new(),
        };
        assert_eq!(watch_words(&event), "9 ALLOC 1");
    }
}
