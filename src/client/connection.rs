//! One connection: requests out, whole answers in. Knows frames, not what they mean.

use super::ClientError;
use crate::model::Refusal;
use crate::proto::{Call, FaultNotice, Header, Kind, MAX_FRAME, decode_body, encode, parse_frame};
use crate::sys::seqpacket;
use serde::de::DeserializeOwned;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// The longest answer in bytes that is put together; a service that says more is not ours.
const MAX_ANSWER: usize = 256 << 20;

/// Why a message did not get through.
#[derive(Debug)]
pub(super) enum Broken {
    /// The other end is gone: closed, reset, shut down.
    Gone(io::Error),
    /// The deadline passed.
    Late,
    /// Anything else.
    Other(ClientError),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Late,
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => {
                Self::Gone(error)
            }
            _ => Self::Other(ClientError::Unreachable(error)),
        }
    }
}

impl From<Broken> for ClientError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Gone(error) => Self::Unreachable(error),
            Broken::Late => Self::Unreachable(io::ErrorKind::TimedOut.into()),
            Broken::Other(error) => error,
        }
    }
}

/// A whole message of the service: pieces joined.
#[derive(Debug)]
pub(super) struct Message {
    /// Its header; of a long one the last piece's.
    pub header: Header,
    /// Its body.
    pub body: Vec<u8>,
    /// The descriptors that came with any piece.
    pub fds: Vec<OwnedFd>,
}

impl Message {
    /// Its body as `T`.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        decode_body(&self.body).map_err(|refusal| ClientError::Protocol(refusal.to_string()))
    }

    /// The error that it says, where it is a refusal or a fault.
    pub fn error(&self) -> Option<ClientError> {
        match self.header.kind {
            Kind::Refusal => Some(self.read::<Refusal>().map_or_else(|error| error, ClientError::Refused)),
            Kind::Fault => {
                Some(self.read::<FaultNotice>().map_or_else(|error| error, |notice| ClientError::Fault(notice.message)))
            }
            Kind::Request | Kind::Reply | Kind::Event => None,
        }
    }
}

/// A SEQPACKET connection that this process alone reads.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Connection {
    /// Takes over the socket; nobody else may read it.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        seqpacket::wait_in_kernel(socket.as_fd())?;
        Ok(Self { socket, buffer: vec![0; MAX_FRAME] })
    }

    /// Its descriptor, to wait on.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends one request. Blocks while the queue is full, until `deadline`.
    pub fn send<C: Call>(
        &self,
        id: u64,
        call: &C,
        fds: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> Result<(), Broken> {
        let frame = request(id, call)?;
        Ok(seqpacket::send(self.socket.as_fd(), &frame, fds, deadline)?)
    }

    /// The next message of the service. Blocks until `deadline`, for ever without one.
    pub fn receive(&mut self, deadline: Option<Instant>) -> Result<Message, Broken> {
        let mut body = Vec::new();
        let mut all_fds = Vec::new();
        loop {
            let (header, piece, fds) = self.receive_piece(deadline)?;
            body.extend_from_slice(piece);
            all_fds.extend(fds);
            if header.flags & Header::MORE == 0 {
                return Ok(Message { header, body, fds: all_fds });
            }
            if body.len() > MAX_ANSWER {
                return Err(Broken::Other(ClientError::Protocol("an answer without an end".to_owned())));
            }
        }
    }

    fn receive_piece(&mut self, deadline: Option<Instant>) -> Result<(Header, &[u8], Vec<OwnedFd>), Broken> {
        let protocol = |what: &str| Broken::Other(ClientError::Protocol(what.to_owned()));
        match seqpacket::receive(self.socket.as_fd(), &mut self.buffer, deadline)? {
            seqpacket::Received::Closed => Err(Broken::Gone(io::ErrorKind::ConnectionReset.into())),
            seqpacket::Received::Truncated(_) => Err(protocol("a message that is cut short")),
            seqpacket::Received::Message { len, fds } => {
                let bytes = self.buffer.get(..len).unwrap_or_default();
                let (header, body) = parse_frame(bytes).map_err(|refusal| protocol(&refusal.to_string()))?;
                Ok((header, body, fds))
            }
        }
    }
}

/// The frame of a request; refused here where the service would refuse its size.
pub(super) fn request<C: Call>(id: u64, call: &C) -> Result<Vec<u8>, Broken> {
    let frame = encode(Header { kind: Kind::Request, op: C::OP, flags: 0, id }, call);
    if frame.len() > MAX_FRAME {
        let refusal =
            Refusal::invalid("request", format!("{} bytes", frame.len()), format!("at most {MAX_FRAME} bytes"));
        return Err(Broken::Other(refusal.into()));
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Hello, MAX_BODY, split_reply};

    #[test]
    fn pieces_are_joined() {
        let (ours, theirs) = seqpacket::pair().unwrap();
        let header = Header { kind: Kind::Reply, op: 20, flags: 0, id: 4 };
        let text = "x".repeat(2 * MAX_BODY);
        for piece in split_reply(header, encode(header, &text)) {
            seqpacket::send(theirs.as_fd(), &piece, &[], None).unwrap();
        }
        let message = Connection::new(ours).unwrap().receive(None).unwrap();
        assert_eq!(message.read::<String>().unwrap(), text);
        assert_eq!(message.header, header);
    }

    #[test]
    fn a_closed_end_is_gone_and_a_silent_one_is_late() {
        let (ours, theirs) = seqpacket::pair().unwrap();
        let mut connection = Connection::new(ours).unwrap();
        assert!(matches!(connection.receive(Some(Instant::now())), Err(Broken::Late)));
        drop(theirs);
        assert!(matches!(connection.receive(None), Err(Broken::Gone(_))));
        assert!(matches!(connection.send(1, &Hello::default(), &[], None), Err(Broken::Gone(_))));
    }

    #[test]
    fn junk_is_an_error_of_the_protocol() {
        let (ours, theirs) = seqpacket::pair().unwrap();
        seqpacket::send(theirs.as_fd(), b"junk", &[], None).unwrap();
        let broken = Connection::new(ours).unwrap().receive(None).unwrap_err();
        assert!(matches!(broken, Broken::Other(ClientError::Protocol(_))), "{broken:?}");
    }
}
