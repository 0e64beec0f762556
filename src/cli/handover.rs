//! `send` and `receive`: a set FD from one process to another over an AF_UNIX socket with a path.
//!
//! One SEQPACKET message offers the set FD; the receiver opens a session on it, which only the service's set FDs
//! answer, and says whether it takes it. Who must not offer, or offers something else, is told so and the receiver
//! goes on waiting: a stranger cannot end the wait.

use super::arguments::{CommandArgument, FdArgument};
use super::context::{Context, held_session};
use super::outcome::{Failed, Outcome, PEER_UID, mention};
use super::{launch, values};
use crate::client::{ClientError, Set};
use crate::model::{Refusal, SetId};
use crate::proto::{Header, Identified, Kind, decode_body, encode, parse_frame};
use crate::sys::ending;
use crate::sys::listener::{self, Listener};
use crate::sys::seqpacket::{self, Received};
use crate::sys::socket_option;
use serde_json::json;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one side waits for the other once they are connected.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the service may take to answer on an offered set FD.
const PROOF: Duration = Duration::from_secs(3);
/// The op of an offer: no call of the service.
const OFFER: u16 = 0x7f01;
/// The longest message between the two.
const MAX_MESSAGE: usize = 4096;

/// Waits for a set FD, then runs CMD with it.
pub(super) fn receive(from: &Path, peer_uid: Option<&str>, command: &CommandArgument) -> Outcome {
    let peer_uid = peer_uid.map(values::uid).transpose()?;
    // With a uid to check anybody may knock; else the file's owner and root.
    let mode = if peer_uid.is_some() { 0o666 } else { 0o600 };
    let file = Arc::new(Mutex::new(None));
    let left_over = Arc::clone(&file);
    let guarded =
        ending::before_end(move || remove(&left_over)).map_err(|error| Failed::fault("wait for signals", &error))?;
    let listener = {
        // Held, so that no signal comes between the file and the note of it.
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let listener = Listener::bind(from, mode).map_err(|error| not_listening(from, &error))?;
        *file = Some(from.to_owned());
        listener
    };
    let taken = loop {
        let socket = listener.accept(None).map_err(|error| Failed::fault("accept", &error))?;
        match take(socket.as_fd(), peer_uid) {
            Ok(set) => break set,
            Err(refusal) => {
                mention(&format!("an offer was refused: {refusal}"));
                answer(socket.as_fd(), Kind::Refusal, &refusal);
            }
        }
    };
    // Given up first: once the file is gone its name may be another receiver's.
    file.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Err(error) = listener.close() {
        mention(&format!("{} was not removed: {error}", from.display()));
    }
    guarded.release().map_err(|error| Failed::fault("give the signals back", &error))?;
    launch::replace(&taken, None, command)
}

/// Removes the file of a listener that a signal ends.
fn remove(file: &Mutex<Option<PathBuf>>) {
    if let Some(file) = file.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // The process ends: nobody is left to be told.
        let _ = std::fs::remove_file(file);
    }
}

/// Takes the set FD that comes over `socket`, and says so there.
fn take(socket: BorrowedFd<'_>, peer_uid: Option<u32>) -> Result<Set, Refusal> {
    check_peer(socket, peer_uid)?;
    let deadline = Some(Instant::now() + PATIENCE);
    let mut buffer = [0; MAX_MESSAGE];
    let mut fds = match seqpacket::receive(socket, &mut buffer, deadline) {
        Ok(Received::Message { len, fds }) => {
            let (header, _) = parse_frame(buffer.get(..len).unwrap_or_default())?;
            if header.op != OFFER || fds.len() != 1 {
                return Err(Refusal::invalid("offer", format!("{} descriptors", fds.len()), "one set FD"));
            }
            fds
        }
        Ok(Received::Truncated(_)) => return Err(Refusal::invalid("offer", "a message cut short", "one set FD")),
        Ok(Received::Closed) => return Err(Refusal::invalid("offer", "nothing", "one set FD")),
        Err(error) => return Err(Refusal::invalid("offer", error, "one set FD")),
    };
    let fd = fds.pop().ok_or_else(|| Refusal::invalid("offer", "nothing", "one set FD"))?;
    let (set, identified) = prove(fd)?;
    answer(socket, Kind::Reply, &identified);
    Ok(set)
}

/// Opens a session on what was offered: only a set FD whose set lives answers.
fn prove(fd: OwnedFd) -> Result<(Set, Identified), Refusal> {
    let prove = || -> Result<(Set, SetId), ClientError> {
        let set = Set::from_fd(fd)?.with_patience(PROOF);
        let id = set.session()?.set();
        Ok((set, id))
    };
    match prove() {
        Ok((set, id)) => Ok((set, Identified { set: id })),
        Err(ClientError::Refused(refusal)) => Err(refusal),
        Err(error) => Err(Refusal::invalid("fd", "this descriptor", format!("a set FD: {error}"))),
    }
}

/// Passes the set FD held to who listens.
pub(super) fn send(context: &Context, fd: &FdArgument, to: &Path, peer_uid: Option<&str>) -> Outcome {
    let peer_uid = peer_uid.map(values::uid).transpose()?;
    // What is no set FD is not offered.
    let (set, session) = held_session(fd)?;
    let deadline = Some(Instant::now() + PATIENCE);
    let socket = listener::connect(to, deadline).map_err(|error| nobody_listens(to, &error))?;
    check_peer(socket.as_fd(), peer_uid)?;
    let header = Header { kind: Kind::Request, op: OFFER, flags: 0, id: 1 };
    let offered = encode(header, &Identified { set: session.set() });
    let sent = seqpacket::send(socket.as_fd(), &offered, &[set.as_fd()], deadline);
    // Where it was not sent the receiver may have said why before it closed.
    let taken = match (await_answer(socket.as_fd(), deadline), sent) {
        (Err(Failed::Call(ClientError::Fault(_))), Err(error)) => Err(Failed::fault("offer the set FD", &error)),
        (answered, _) => answered,
    }?;
    context.print(&json!({"set": taken.set}), |_| String::new())
}

fn await_answer(socket: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<Identified, Failed> {
    let mut buffer = [0; MAX_MESSAGE];
    let received = seqpacket::receive(socket, &mut buffer, deadline)
        .map_err(|error| Failed::fault("wait for the receiver", &error))?;
    let Received::Message { len, .. } = received else {
        return Err(ClientError::Fault("the receiver went away without an answer".to_owned()).into());
    };
    let (header, body) = parse_frame(buffer.get(..len).unwrap_or_default())?;
    match header.kind {
        Kind::Reply => Ok(decode_body(body)?),
        _ => Err(decode_body::<Refusal>(body)?.into()),
    }
}

fn answer(socket: BorrowedFd<'_>, kind: Kind, body: &impl serde::Serialize) {
    let frame = encode(Header { kind, op: OFFER, flags: 0, id: 1 }, body);
    // Who offered and does not wait for the answer has gone: the set FD counts, not the answer.
    let _ = seqpacket::try_send(socket, &frame, &[]);
}

/// Whether the other side is this user; of a listener the kernel tells who made it listen.
fn check_peer(socket: BorrowedFd<'_>, wanted: Option<u32>) -> Result<(), Refusal> {
    let Some(wanted) = wanted else { return Ok(()) };
    let found = socket_option::peer_credentials(socket)
        .map_err(|error| Refusal::invalid("peer-uid", error, "a socket whose peer the kernel names"))?
        .uid;
    if found == wanted {
        return Ok(());
    }
    Err(Refusal::NotPermitted {
        rule: PEER_UID.to_owned(),
        bound: format!("the other side is uid {found}, not {wanted}"),
    })
}

fn not_listening(path: &Path, error: &io::Error) -> Failed {
    match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::AlreadyExists => {
            Refusal::Exists { what: path.display().to_string() }.into()
        }
        _ => Refusal::invalid("from", path.display(), format!("a path to listen on: {error}")).into(),
    }
}

fn nobody_listens(path: &Path, error: &io::Error) -> Failed {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Refusal::not_found(format!("a receiver at {}", path.display())).into()
        }
        _ => Refusal::invalid("to", path.display(), format!("a path where somebody receives: {error}")).into(),
    }
}
