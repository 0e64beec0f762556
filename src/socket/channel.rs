//! One SEQPACKET socket that frames go over.

use super::backlog::{Backlog, Place};
use crate::controller::too_many_on_the_way;
use crate::model::{Failure, Refusal};
use crate::proto::{
    Call, FAULT_NAME, FaultNotice, GetMap, Header, Kind, MAX_FRAME, decode_body, decode_request, encode, parse_frame,
    split_reply,
};
use crate::sys::closing::Riders;
use crate::sys::readiness::Registered;
use crate::sys::seqpacket::{self, Received};
use crate::sys::socket_option::unread_by_peer;
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

thread_local! {
    /// Where messages are received before their bytes are copied out: one for the thread, for 10,000 sockets with
    /// one each would take 640 MiB.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_FRAME + 1]);
}

/// How long a reply waits for a reader of `ioasid.sock`.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many answers with descriptors may be on their way to who reads none of them. The kernel counts each such descriptor
/// as the service's, for all who are served, and past RLIMIT_NOFILE lets it send none to anybody.
const MOST_CARRYING: u32 = 4;
/// The pauses while one that carries descriptors waits for the reader of those before it.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// So many bytes of an answer of many pieces take the time of a request.
const BYTES_OF_A_REQUEST: usize = 4096;
/// So many requests take the time of a look at the whole of a space of 20 bits.
const REQUESTS_OF_A_MAP: u32 = 64;

/// What came in.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A request, with the descriptors that rode on it.
    Request(Header, Vec<u8>, Riders),
    /// Something that is no frame; what rode on it is closed.
    Malformed(Refusal),
    /// It is over: closed, shut down, broken, or the peer sent a frame that is no request.
    Over,
    /// The other end was closed by its last holder with something unread in it. No shutdown(2) looks like this.
    Gone,
}

/// An answer: one frame, and what rides on it.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) header: Header,
    pub(super) frame: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

impl Reply {
    /// Whether it goes out in many pieces.
    pub(super) fn is_long(&self) -> bool {
        self.frame.len() > MAX_FRAME
    }

    /// What it costs beside the request that it answers, in requests: making a long listing is work, and so is a look at
    /// each id of a space.
    pub(super) fn cost(&self) -> u32 {
        let pieces = u32::try_from(self.frame.len().saturating_sub(MAX_FRAME) / BYTES_OF_A_REQUEST).unwrap_or(u32::MAX);
        let looks = if self.header.op == GetMap::OP { REQUESTS_OF_A_MAP } else { 0 };
        pieces.saturating_add(looks)
    }

    /// The refusal that it tells, if it is one.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        if self.header.kind != Kind::Refusal {
            return None;
        }
        decode_body(self.frame.get(Header::BYTES..)?).ok()
    }
}

/// A socket that frames go over.
#[derive(Debug)]
pub(super) struct Channel {
    socket: Registered,
    /// Answers with descriptors that were sent since the peer was known to have read everything.
    carrying: Mutex<u32>,
}

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: Registered::new(socket)?, carrying: Mutex::new(0) })
    }

    /// The socket: to leave a copy with the service manager.
    pub(super) fn end(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Ends it for the peer, too: a copy may be with the service manager.
    pub(super) fn end_both(&self) {
        // Where it fails it is over already.
        let _ = seqpacket::shut_down(self.socket.as_fd());
    }

    /// The next thing that comes in. Cancel safe.
    pub(super) async fn receive(&self) -> Incoming {
        receive(&self.socket, seqpacket::try_receive).await
    }

    /// Sends an answer, waiting for the reader where its queue is full; `false` ends the connection.
    ///
    /// What waits is kept in `backlog` for `uid`. Where that has no room, an answer of many pieces is refused before the
    /// first goes out, and one that cannot go out at once ends the connection. Descriptors wait until those before them were
    /// read, but for the first few.
    pub(super) async fn send(&self, reply: Reply, backlog: &Backlog, uid: u32) -> bool {
        let mut place = None;
        let reply = match reply.frame.len() {
            0..=MAX_FRAME => reply,
            bytes => match backlog.enter(uid, bytes) {
                Ok(room) => {
                    place = Some(room);
                    reply
                }
                Err(refusal) => failed(reply.header, refusal.into()),
            },
        };
        if !reply.fds.is_empty() && !self.can_carry() {
            let waits = has_place(&mut place, backlog, uid, reply.frame.len());
            if !waits || tokio::time::timeout(PATIENCE, self.until_read()).await.is_err() {
                return false;
            }
        }
        let Reply { header, frame, fds } = reply;
        let mut riders: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        for piece in split_reply(header, frame) {
            let sent = match seqpacket::try_send(self.socket.as_fd(), &piece, &riders) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !has_place(&mut place, backlog, uid, piece.len()) {
                        return false;
                    }
                    let sent = self.socket.write(|socket| seqpacket::try_send(socket, &piece, &riders));
                    tokio::time::timeout(PATIENCE, sent).await.unwrap_or_else(|late| Err(late.into()))
                }
                at_once => at_once,
            };
            match sent {
                // Descriptors ride on the first piece.
                Ok(()) => riders.clear(),
                // They are closed with this answer, and with them ends what was made.
                Err(error) if seqpacket::is_too_many_on_the_way(&error) => {
                    return self.send_now(failed(header, too_many_on_the_way().into()));
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// Whether an answer with descriptors may go out now: then it counts.
    fn can_carry(&self) -> bool {
        let mut carrying = self.carrying.lock().unwrap_or_else(PoisonError::into_inner);
        if *carrying >= MOST_CARRYING {
            // An error is the peer's end: the send tells.
            if unread_by_peer(self.socket.as_fd()).unwrap_or(0) > 0 {
                return false;
            }
            *carrying = 0;
        }
        *carrying += 1;
        true
    }

    /// Waits until the peer has read what came before an answer with descriptors. The kernel wakes nobody for it.
    async fn until_read(&self) {
        let mut pause = FIRST_PAUSE;
        while !self.can_carry() {
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(2 * pause);
        }
    }

    /// Sends an answer at once or not at all: who asks on and on and reads nothing has its session ended.
    pub(super) fn send_now(&self, reply: Reply) -> bool {
        let riders: Vec<BorrowedFd<'_>> = reply.fds.iter().map(AsFd::as_fd).collect();
        let mut pieces = split_reply(reply.header, reply.frame).into_iter();
        let first = pieces.next().is_none_or(|piece| seqpacket::try_send(self.socket.as_fd(), &piece, &riders).is_ok());
        first && pieces.all(|piece| seqpacket::try_send(self.socket.as_fd(), &piece, &[]).is_ok())
    }
}

/// Whether an answer that has to wait may: it has its place, or gets one.
fn has_place<'a>(place: &mut Option<Place<'a>>, backlog: &'a Backlog, uid: u32, bytes: usize) -> bool {
    if place.is_none() {
        *place = backlog.enter(uid, bytes).ok();
    }
    place.is_some()
}

/// How a message is received.
type Receive = fn(BorrowedFd<'_>, &mut [u8]) -> io::Result<Received>;

/// The next thing that comes in on the service's end of a set FD; [`Incoming::Gone`] when its last holder closed it.
/// Cancel safe.
pub(super) async fn receive_on_set(socket: &Registered) -> Incoming {
    receive(socket, seqpacket::try_receive_or_reset).await
}

async fn receive(socket: &Registered, receive: Receive) -> Incoming {
    let received = socket.read(|socket| {
        BUFFER.with_borrow_mut(|buffer| {
            let received = receive(socket, buffer)?;
            let bytes = match &received {
                Received::Message { len, .. } => buffer.get(..*len).unwrap_or_default().to_vec(),
                Received::Truncated(_) | Received::Closed => Vec::new(),
            };
            Ok((received, bytes))
        })
    });
    match received.await {
        Ok((Received::Message { fds, .. }, mut bytes)) => {
            let riders = Riders::from(fds);
            match parse_frame(&bytes) {
                Ok((header, _)) if header.kind == Kind::Request && header.flags == 0 => {
                    Incoming::Request(header, bytes.split_off(Header::BYTES), riders)
                }
                // Two of our own ends connected to each other would answer answers for ever.
                Ok(_) => Incoming::Over,
                Err(refusal) => Incoming::Malformed(refusal),
            }
        }
        Ok((Received::Truncated(fds), _)) => {
            drop(Riders::from(fds));
            Incoming::Malformed(Refusal::invalid(
                "frame",
                "a message that was cut short",
                "at most 65552 bytes, with descriptors that the service has room for",
            ))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Incoming::Gone,
        Ok((Received::Closed, _)) | Err(_) => Incoming::Over,
    }
}

/// Does what the call asks with `act`, and makes the frame that answers.
pub(super) fn answer<C: Call>(header: Header, body: &[u8], act: impl FnOnce(C) -> Result<C::Reply, Failure>) -> Reply {
    reply_to::<C>(header, decode_request(body).map_err(Failure::from).and_then(act).map(|reply| (reply, Vec::new())))
}

/// The frame that answers the call with `outcome`.
pub(super) fn reply_to<C: Call>(header: Header, outcome: Result<(C::Reply, Vec<OwnedFd>), Failure>) -> Reply {
    match outcome {
        Ok((reply, fds)) => {
            let header = Header { kind: Kind::Reply, ..header };
            Reply { header, frame: encode(header, &reply), fds }
        }
        Err(failure) => failed(header, failure),
    }
}

/// The frame that says why not. A fault is logged here, where it stops.
pub(super) fn failed(header: Header, failure: Failure) -> Reply {
    match failure {
        Failure::Refused(refusal) => {
            let header = Header { kind: Kind::Refusal, ..header };
            Reply { header, frame: encode(header, &refusal), fds: Vec::new() }
        }
        Failure::Fault(fault) => {
            tracing::error!(MESSAGE_ID = crate::proto::message_ids::FAULT, op = header.op, %fault, "a request failed");
            let header = Header { kind: Kind::Fault, ..header };
            let notice = FaultNotice { error: FAULT_NAME.to_owned(), message: fault.to_string() };
            Reply { header, frame: encode(header, &notice), fds: Vec::new() }
        }
    }
}

/// The header of an answer to something that has none.
pub(super) const NOBODY: Header = Header { kind: Kind::Request, op: 0, flags: 0, id: 0 };

/// The refusal of an op that nobody knows here.
pub(super) fn unknown_op(op: u16, place: &str) -> Failure {
    let what = crate::proto::call_name(op).map_or_else(|| format!("op {op}"), |name| format!("{name} (op {op})"));
    Refusal::Unsupported { what, why: format!("not a call of {place}") }.into()
}
