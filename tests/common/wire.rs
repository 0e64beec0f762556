//! Frames by hand, for what the client would never send.

use super::deadline;
use ioasid::client::Set;
use ioasid::model::{Refusal, SetRequest};
use ioasid::proto::{
    Call, CreateSet, FaultNotice, Header, Hello, Kind, MAX_FRAME, OpenSession, OpenSet, SetInfo, decode_body, encode,
    parse_frame,
};
use ioasid::sys::{listener, seqpacket};
use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A SEQPACKET connection that frames go over: to `ioasid.sock`, a set FD, or a session.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    next_id: Cell<u64>,
}

/// What came in.
#[derive(Debug)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Its body; of a long one all pieces.
    pub body: Vec<u8>,
    /// What rode on it.
    pub fds: Vec<OwnedFd>,
}

impl Frame {
    /// The refusal that it is.
    pub fn refusal(&self) -> Refusal {
        assert_eq!(self.header.kind, Kind::Refusal, "{}", String::from_utf8_lossy(&self.body));
        decode_body(&self.body).unwrap()
    }
}

impl Wire {
    /// Over a socket that is connected already.
    pub fn over(socket: OwnedFd) -> Self {
        Self { socket, next_id: Cell::new(1) }
    }

    /// Connects as this process, without a handshake.
    pub fn connect(path: &Path) -> Self {
        Self::over(listener::connect(path, Some(deadline())).unwrap())
    }

    /// Sends these bytes as one message.
    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        seqpacket::send(self.socket.as_fd(), bytes, fds, Some(deadline()))
    }

    /// Sends a request; gives its id.
    pub fn send<C: Call>(&self, call: &C, fds: &[BorrowedFd<'_>]) -> u64 {
        let id = self.next_id.replace(self.next_id.get() + 1);
        let frame = encode(Header { kind: Kind::Request, op: C::OP, flags: 0, id }, call);
        self.send_bytes(&frame, fds).unwrap();
        id
    }

    /// The first piece of the next message; `None` where the other end hung up. What came before it broke is still read.
    pub fn receive_first(&self) -> Option<Frame> {
        let mut buffer = vec![0; MAX_FRAME];
        match seqpacket::receive(self.socket.as_fd(), &mut buffer, Some(deadline())) {
            Ok(seqpacket::Received::Message { len, fds }) => {
                let (header, piece) = parse_frame(&buffer[..len]).unwrap();
                Some(Frame { header, body: piece.to_vec(), fds })
            }
            Ok(seqpacket::Received::Closed) => None,
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => None,
            other => panic!("{other:?}"),
        }
    }

    /// The next message, its pieces joined; `None` where the other end hung up.
    pub fn receive(&self) -> Option<Frame> {
        let mut buffer = vec![0; MAX_FRAME];
        let (mut body, mut fds) = (Vec::new(), Vec::new());
        loop {
            match seqpacket::receive(self.socket.as_fd(), &mut buffer, Some(deadline())) {
                Ok(seqpacket::Received::Message { len, fds: more }) => {
                    let (header, piece) = parse_frame(&buffer[..len]).unwrap();
                    body.extend_from_slice(piece);
                    fds.extend(more);
                    if header.flags & Header::MORE == 0 {
                        return Some(Frame { header, body, fds });
                    }
                }
                Ok(seqpacket::Received::Closed) => return None,
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return None,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Makes a call and waits for its answer; a fault fails the test.
    pub fn call<C: Call>(&self, call: &C, fds: &[BorrowedFd<'_>]) -> Result<(C::Reply, Vec<OwnedFd>), Refusal> {
        let id = self.send(call, fds);
        let frame = self.receive().expect("an answer");
        assert_eq!((frame.header.op, frame.header.id), (C::OP, id), "{}", String::from_utf8_lossy(&frame.body));
        match frame.header.kind {
            Kind::Reply => Ok((decode_body(&frame.body).unwrap(), frame.fds)),
            Kind::Refusal => Err(frame.refusal()),
            Kind::Fault => panic!("a fault: {}", decode_body::<FaultNotice>(&frame.body).unwrap().message),
            Kind::Request | Kind::Event => panic!("{:?}", frame.header),
        }
    }

    /// The same for calls that take and give no descriptors.
    pub fn ask<C: Call>(&self, call: &C) -> Result<C::Reply, Refusal> {
        self.call(call, &[]).map(|(reply, fds)| {
            assert!(fds.is_empty(), "a descriptor that nobody asked for");
            reply
        })
    }

    /// Shakes hands.
    pub fn greet(self) -> Self {
        self.ask(&Hello::default()).unwrap();
        self
    }

    /// Makes a set.
    pub fn create_set(&self, request: SetRequest) -> Result<(Set, SetInfo), Refusal> {
        self.call(&CreateSet { request }, &[]).map(|(info, fds)| (only_set(fds), info))
    }

    /// Makes a set with this quota.
    pub fn create_set_of(&self, quota: u32) -> Result<(Set, SetInfo), Refusal> {
        self.create_set(SetRequest { quota: Some(quota), ..SetRequest::default() })
    }

    /// Opens a set again.
    pub fn open_set(&self, set: u64) -> Result<(Set, SetInfo), Refusal> {
        self.call(&OpenSet { set }, &[]).map(|(info, fds)| (only_set(fds), info))
    }

    /// Opens a session over `set_fd` with this pair: one end stays here, the other rides.
    pub fn open_session(set_fd: BorrowedFd<'_>, (ours, theirs): (OwnedFd, OwnedFd)) -> Result<Self, Refusal> {
        let frame =
            encode(Header { kind: Kind::Request, op: OpenSession::OP, flags: 0, id: 1 }, &OpenSession { key: 0 });
        seqpacket::send(set_fd, &frame, &[theirs.as_fd()], Some(deadline())).unwrap();
        drop(theirs);
        let session = Self { socket: ours, next_id: Cell::new(2) };
        let answer = session.receive().expect("an answer on the session");
        assert_eq!(answer.header.op, OpenSession::OP);
        if answer.header.kind == Kind::Reply { Ok(session) } else { Err(answer.refusal()) }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn only_set(mut fds: Vec<OwnedFd>) -> Set {
    assert_eq!(fds.len(), 1, "a set comes with one descriptor");
    Set::from_fd(fds.remove(0)).unwrap()
}
