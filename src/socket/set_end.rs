//! The service's end of a set FD: sessions are opened here, and the last close is noticed.

use super::channel::{self, Channel, Incoming, NOBODY, failed, reply_to};
use super::{Edge, session};
use crate::controller::{Closed, SetEnd, refuse_when_scarce};
use crate::model::{Failure, Refusal};
use crate::proto::{Call, Header, Kind, OpenSession, Opened, decode_request};
use crate::sys::closing::Riders;
use crate::sys::readiness::{self, Registered};
use crate::sys::socket_option;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Serves the end until its last holder is gone.
pub(super) async fn serve(edge: &Arc<Edge>, socket: Registered, end: SetEnd) {
    loop {
        match channel::receive_on_set(&socket).await {
            Incoming::Request(header, body, riders) => open_session(edge, end, header, &body, riders),
            // Nothing is answered here: all holders share one queue. A wrong frame is dropped with what rode on it.
            Incoming::Malformed(_) => {}
            // A frame that is no request. The end of what a holder can say, by half a shutdown(2), is a hang-up: read
            // on, and it would be read for ever.
            Incoming::Over if still_speaks(&socket) => {}
            Incoming::Over => break,
            Incoming::Gone => {
                edge.controller.end_closed(&end);
                return;
            }
        }
    }
    // The hang-up may be a holder's shutdown(2): the end is not over while the other end exists. Only then is there
    // a timer.
    let (mut wait, since) = (Duration::from_millis(50), Instant::now());
    loop {
        match edge.controller.end_hung_up(&end) {
            Ok(Closed::OthersOpen | Closed::Last) => return,
            Ok(Closed::Lingers) => {}
            Err(fault) => {
                tracing::error!(MESSAGE_ID = crate::proto::message_ids::FAULT, set = end.set.0, %fault, "cannot tell whether a set FD is closed")
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(longest_wait(since.elapsed()));
    }
}

/// How long to wait at most before the next look for who kept an FD that was shut down for so long. Each look is a walk over
/// the host's sockets, and a user may keep thousands: an eighth of the time so far, from 2 to 30 seconds.
fn longest_wait(so_far: Duration) -> Duration {
    (so_far / 8).clamp(Duration::from_secs(2), Duration::from_secs(30))
}

fn still_speaks(socket: &Registered) -> bool {
    readiness::now(socket.as_fd()).is_ok_and(|ready| !ready.hung_up && !ready.peer_closed_writing)
}

/// Opens the session whose end rides on the request, and says on it that it is open, or why not.
fn open_session(edge: &Arc<Edge>, end: SetEnd, header: Header, body: &[u8], mut riders: Riders) {
    let ([offered], OpenSession::OP) = (&*riders, header.op) else { return };
    if !is_fresh_pair(edge, offered.as_fd()).unwrap_or(false) {
        tracing::debug!(set = end.set.0, "a session end that is no fresh SEQPACKET pair");
        return;
    }
    let Some(offered) = riders.pop() else { return };
    let opened =
        refuse_when_scarce(offered.as_fd()).map_err(Failure::from).and_then(|()| open(edge, end, &offered, body));
    let Ok(channel) = Channel::new(offered) else {
        if let Ok((session, _)) = opened {
            edge.controller.close_session(end.set, session.id);
        }
        return;
    };
    match opened {
        Ok((id, opened)) => {
            let header = Header { kind: Kind::Request, ..header };
            channel.send_now(reply_to::<OpenSession>(header, Ok((opened, Vec::new()))));
            let edge = Arc::clone(edge);
            tokio::spawn(async move { session::serve(&edge, channel, end.set, id, session::Told::nothing()).await });
        }
        Err(failure) => {
            channel.send_now(failed(Header { op: OpenSession::OP, ..NOBODY }, failure));
        }
    }
}

fn open(edge: &Edge, end: SetEnd, offered: &OwnedFd, body: &[u8]) -> Result<(session::Opener, Opened), Failure> {
    let call: OpenSession = decode_request(body)?;
    let uid = socket_option::peer_credentials(offered.as_fd())
        .map_err(|e| Refusal::invalid("session", e, "an end of a socket pair whose maker the kernel names"))?
        .uid;
    let id = edge.controller.open_session(end.set, uid, call.key)?;
    let features = crate::proto::features();
    Ok((session::Opener { id, uid, resumed: false }, Opened { set: end.set, features, resumed: false }))
}

/// Whether this is one end of an unnamed, connected SEQPACKET pair with nothing in its queue, and no set FD.
///
/// A set FD that were kept as a session would hide its own last close; a socket with a name would connect the service
/// to itself.
fn is_fresh_pair(edge: &Edge, offered: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(socket_option::is_unix_seqpacket(offered)
        && socket_option::is_unnamed_pair(offered)?
        && socket_option::peer_is_connected(offered)
        && socket_option::pending_bytes(offered)? == 0
        && edge.controller.identify(offered).is_err())
}
