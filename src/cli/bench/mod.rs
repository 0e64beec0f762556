//! `bench`: what this host does in which time, each figure beside its physical limit.
//!
//! Lives here: the cases that take a service. How cases are measured is [`crate::bench`]'s.

mod peer;

pub(super) use peer::answer;

use super::context::Context;
use super::outcome::{Failed, Outcome};
use super::values;
use crate::bench::{Case, FastPath, Measure, Report, interleave};
use crate::bitmap::limits;
use crate::client::{ClientError, MappedSet, Service, Session};
use crate::model::{Pasid, SetRequest};
use crate::sys::{seqpacket, socket_option};
use peer::{Peer, Wish};
use std::cell::RefCell;
use std::os::fd::AsFd;

/// Operations between two looks at the clock: of calls without a system call, of those with one, of round trips.
const MEMORY: u64 = 256;
const CALLS: u64 = 64;
const TRIPS: u64 = 8;
/// What a set of ours may lease: a batch is enough.
const QUOTA: u32 = 64;

/// Measures this host with the service that answers.
pub(super) fn bench(context: &Context, rounds: &str) -> Outcome {
    let rounds: usize = values::number("rounds", rounds, "a number of rounds")?;
    let request = || SetRequest { quota: Some(QUOTA), label: "ioasidctl bench".to_owned(), ..SetRequest::default() };
    let mut service = context.service()?;
    let (set, _) = service.create_set(request())?;
    let mut session = set.session()?;
    let pasid = session.alloc()?;
    let mapped = set.map()?;
    let peer = Peer::start().map_err(|error| Failed::fault("start a process to measure against", &error))?;
    let (socket, _other) = seqpacket::pair().map_err(|error| Failed::fault("make a socket pair", &error))?;
    let fast_path = FastPath::new().ok_or_else(|| ClientError::Fault("the bitmaps were not made".to_owned()))?;

    let trouble = Trouble::default();
    let mut cases = fast_path.cases();
    cases.extend([
        Case::new("ioctl", |m| {
            m.one(|| {
                trouble.counted(CALLS, || socket_option::pending_bytes(socket.as_fd()).map(drop).map_err(peer_fault))
            })
        }),
        Case::new("mapped_set_pair", |m| m.one(|| trouble.counted(MEMORY, || mapped_pair(&mapped))))
            .against("set_and_clear"),
        Case::new("ping_pong", |m| m.one(|| trouble.counted(TRIPS, || peer.ask(Wish::Echo).map_err(peer_fault)))),
        Case::new("session_round_trip", |m| m.one(|| trouble.counted(TRIPS, || round_trip(&mut session, pasid))))
            .against("ping_pong"),
        Case::new("ping_pong_fd", |m| {
            m.one(|| trouble.counted(TRIPS, || peer.ask(Wish::Descriptor).map_err(peer_fault)))
        }),
        Case::new("set_create", |m| m.one(|| trouble.counted(TRIPS, || create(&mut service, request()))))
            .against("ping_pong_fd"),
    ]);
    let report = interleave(rounds, &Measure::default(), &mut cases);
    drop(cases);
    if let Some(error) = trouble.0.into_inner() {
        return Err(error.into());
    }
    let report = Report { line_round_trip_ns: Some(limits::line_round_trip(|_| {})), ..report };
    context.print(&report, ToString::to_string)
}

fn mapped_pair(mapped: &MappedSet) -> Result<(), ClientError> {
    let pasid = mapped.alloc()?;
    mapped.free(pasid).map(drop)
}

fn round_trip(session: &mut Session, pasid: Pasid) -> Result<(), ClientError> {
    session.verify(pasid).map(drop)
}

/// A set is made, its FD comes here, and is closed.
fn create(service: &mut Service, request: SetRequest) -> Result<(), ClientError> {
    service.create_set(request).map(drop)
}

fn peer_fault(error: std::io::Error) -> ClientError {
    ClientError::Fault(format!("measure against a process: {error}"))
}

/// The first thing that went wrong inside a case; after it nothing is done any more.
#[derive(Debug, Default)]
struct Trouble(RefCell<Option<ClientError>>);

impl Trouble {
    /// Does it so many times and says how many.
    fn counted(&self, times: u64, mut deed: impl FnMut() -> Result<(), ClientError>) -> u64 {
        for _ in 0..times {
            if self.0.borrow().is_some() {
                break;
            }
            if let Err(error) = deed() {
                *self.0.borrow_mut() = Some(error);
            }
        }
        times
    }
}
