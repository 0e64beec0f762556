//! A session on a set FD.
//!
//! # Opening, and opening again
//!
//! A session sends one end of a fresh pair over the set FD, with a key drawn at random, and reads `Opened` on the
//! other end. When that end breaks, the service is away or back already: the session is opened again with the same key
//! until its patience ends, and the request under way is sent once more under the same id. Request ids only go up.
//!
//! The session does not keep the set open: when the [`Set`](super::Set) is dropped, it goes on while its own
//! connection lasts and cannot be opened again.
//!
//! # A child of fork(2)
//!
//! It has a copy of the connection, and two readers would take each other's answers. So the first call in a process
//! that did not open the session opens one of its own, with a key of its own and without the holds and watches, which
//! stay the parent's. The parent's session lasts until the child has dropped its copy, too: by that call or at its end.

use super::ClientError;
use super::connection::{Broken, Connection, Message, request};
use crate::model::{Pasid, PasidRange, Refusal, SetId};
use crate::proto::{
    Ack, AliasAdd, AliasDel, AliasFind, Alloc, Call, Free, Freed, Hold, Info, Kind, OpenSession, Opened, Phase, Put,
    SetInfo, SetQuota, Snapshot, Trim, Verify, Watch, WatchEvent, WatchKind,
};
use crate::sys::{random, seqpacket};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A session: requests one after the other. Threads and processes that work side by side open one each.
///
/// Ids that it allocates are the set's and stay when it ends; holds and watches are its own and end with it.
#[derive(Debug)]
pub struct Session {
    set_fd: Weak<OwnedFd>,
    connection: Connection,
    opened: Opened,
    key: u64,
    next_id: u64,
    patience: Duration,
    /// The process that opened it.
    pid: u32,
    /// Holds and watches that the service keeps for this session.
    kept: u64,
    events: VecDeque<WatchEvent>,
    revoked: Option<Refusal>,
}

impl Session {
    pub(super) fn open(set_fd: &Arc<OwnedFd>, patience: Duration) -> Result<Self, ClientError> {
        let key = draw_key()?;
        let (connection, opened) = open_connection(set_fd.as_fd(), 1, key, Instant::now() + patience)?;
        Ok(Self {
            set_fd: Arc::downgrade(set_fd),
            connection,
            opened,
            key,
            next_id: 2,
            patience,
            pid: std::process::id(),
            kept: 0,
            events: VecDeque::new(),
            revoked: None,
        })
    }

    /// The set it acts on.
    pub fn set(&self) -> SetId {
        self.opened.set
    }

    /// What the service can do.
    pub fn features(&self) -> &[String] {
        &self.opened.features
    }

    /// The descriptor to poll for [`Session::next_event`]; nothing else may read it.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.connection.socket()
    }

    /// Makes a call. Blocks until it is answered; transparent to a restart of the service.
    pub fn call<C: Call>(&mut self, call: &C) -> Result<C::Reply, ClientError> {
        self.call_with_fds(call).map(|(reply, _)| reply)
    }

    /// The same, with the descriptors that come with the reply.
    pub fn call_with_fds<C: Call>(&mut self, call: &C) -> Result<(C::Reply, Vec<OwnedFd>), ClientError> {
        if let Some(revoked) = &self.revoked {
            return Err(revoked.clone().into());
        }
        self.leave_to_parent()?;
        let id = self.next_id;
        self.next_id += 1;
        let message = self.exchange(id, call)?;
        match message.error() {
            Some(ClientError::Refused(refusal @ Refusal::Revoked { .. })) => {
                self.revoked = Some(refusal.clone());
                Err(refusal.into())
            }
            Some(error) => Err(error),
            None => Ok((message.read()?, message.fds)),
        }
    }

    /// Sends a request until it is answered, over new connections where the old one broke.
    fn exchange<C: Call>(&mut self, id: u64, call: &C) -> Result<Message, ClientError> {
        let mut give_up = None;
        loop {
            let broken = match self.connection.send(id, call, &[], None) {
                Ok(()) => match self.await_answer(id, call) {
                    Ok(message) => return Ok(message),
                    Err(broken) => broken,
                },
                // The service may have said why before it closed.
                Err(Broken::Gone(error)) => match self.connection.receive(Some(Instant::now())) {
                    Ok(message) if message.error().is_some() => return Ok(message),
                    _ => Broken::Gone(error),
                },
                Err(broken) => broken,
            };
            let Broken::Gone(_) = broken else { return Err(broken.into()) };
            let give_up = *give_up.get_or_insert_with(|| Instant::now() + self.patience);
            self.open_again(give_up)?;
        }
    }

    fn await_answer<C: Call>(&mut self, id: u64, call: &C) -> Result<Message, Broken> {
        loop {
            let message = self.connection.receive(None)?;
            match message.header.kind {
                Kind::Event => self.events.push_back(message.read().map_err(Broken::Other)?),
                // A restarted service took over this very connection: the request may have been lost with the old one.
                Kind::Reply if message.header.op == OpenSession::OP => self.connection.send(id, call, &[], None)?,
                Kind::Reply | Kind::Refusal | Kind::Fault if message.header.id == id => return Ok(message),
                // To nobody's request, so to whatever was asked last: the set ends, or a frame could not be read.
                Kind::Refusal | Kind::Fault if message.header.id == 0 => return Ok(message),
                // The answer to a request that was repeated and is answered already.
                Kind::Reply | Kind::Refusal | Kind::Fault => {}
                Kind::Request => return Err(Broken::Other(ClientError::Protocol("a request".to_owned()))),
            }
        }
    }

    /// In a process that did not open this session: opens one of its own in its place.
    fn leave_to_parent(&mut self) -> Result<(), ClientError> {
        let pid = std::process::id();
        if self.pid == pid {
            return Ok(());
        }
        self.key = draw_key()?;
        self.kept = 0;
        self.events.clear();
        self.open_again(Instant::now() + self.patience)?;
        self.pid = pid;
        Ok(())
    }

    fn open_again(&mut self, deadline: Instant) -> Result<(), ClientError> {
        let Some(set_fd) = self.set_fd.upgrade() else {
            let gone = io::Error::new(io::ErrorKind::BrokenPipe, "the session is gone and the set FD is closed");
            return Err(ClientError::Unreachable(gone));
        };
        let id = self.next_id;
        self.next_id += 1;
        let (connection, opened) = open_connection(set_fd.as_fd(), id, self.key, deadline)?;
        self.connection = connection;
        let resumed = opened.resumed;
        self.opened = opened;
        if self.kept > 0 && !resumed {
            let lost = std::mem::take(&mut self.kept);
            return Err(ClientError::Fault(format!("it forgot this session and with it {lost} hold(s) and watches")));
        }
        Ok(())
    }

    /// Allocates one id.
    pub fn alloc(&mut self) -> Result<Pasid, ClientError> {
        self.alloc_one(None)
    }

    /// Allocates one id of a range, both ends included.
    pub fn alloc_in(&mut self, range: PasidRange) -> Result<Pasid, ClientError> {
        self.alloc_one(Some(range))
    }

    fn alloc_one(&mut self, range: Option<PasidRange>) -> Result<Pasid, ClientError> {
        let pasids = self.alloc_many(1, range)?;
        pasids.first().copied().ok_or_else(|| ClientError::Protocol("no id".to_owned()))
    }

    /// Allocates `count` ids, all of them or none.
    pub fn alloc_many(&mut self, count: u32, range: Option<PasidRange>) -> Result<Vec<Pasid>, ClientError> {
        self.call(&Alloc { count, range }).map(|reply| reply.pasids)
    }

    /// Gives ids back; again is no error. Says which wait for other holders.
    pub fn free(&mut self, pasids: &[Pasid]) -> Result<Freed, ClientError> {
        self.call(&Free { pasids: pasids.iter().map(|pasid| pasid.get()).collect() })
    }

    /// The set, with its ids.
    pub fn info(&mut self) -> Result<SetInfo, ClientError> {
        self.call(&Info {})
    }

    /// Gives an id another name in this set.
    pub fn alias_add(&mut self, pasid: Pasid, alias: u64) -> Result<(), ClientError> {
        self.call(&AliasAdd { pasid: pasid.get(), alias }).map(drop)
    }

    /// The id behind an alias.
    pub fn alias_find(&mut self, alias: u64) -> Result<Pasid, ClientError> {
        self.call(&AliasFind { alias }).map(|reply| reply.pasid)
    }

    /// Forgets an alias.
    pub fn alias_del(&mut self, alias: u64) -> Result<(), ClientError> {
        self.call(&AliasDel { alias }).map(drop)
    }

    /// Takes a reference on an id. It is this session's and ends with it.
    pub fn hold(&mut self, pasid: Pasid) -> Result<(), ClientError> {
        // Counted after: what a restart in the middle of the call lost, the repeated request takes again.
        self.call(&Hold { pasid: pasid.get() })?;
        self.kept += 1;
        Ok(())
    }

    /// Puts one reference that this session took.
    pub fn put(&mut self, pasid: Pasid) -> Result<(), ClientError> {
        self.call(&Put { pasid: pasid.get() })?;
        self.kept = self.kept.saturating_sub(1);
        Ok(())
    }

    /// Changes the set's quota, within the max of the rule that allowed the set.
    pub fn set_quota(&mut self, quota: u32) -> Result<SetInfo, ClientError> {
        self.call(&SetQuota { quota })
    }

    /// Gives unused leases back; says how many.
    pub fn trim(&mut self) -> Result<u32, ClientError> {
        self.call(&Trim {}).map(|reply| reply.returned)
    }

    /// Whether an id is leased to this set.
    pub fn verify(&mut self, pasid: Pasid) -> Result<bool, ClientError> {
        self.call(&Verify { pasid: pasid.get() }).map(|reply| reply.leased)
    }

    /// Subscribes to the set's events, none named: all of them. They go on from the snapshot, nothing lost or doubled.
    pub fn watch(&mut self, events: &[WatchKind], phase: Phase, timeout: Duration) -> Result<Snapshot, ClientError> {
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let snapshot = self.call(&Watch { events: events.to_vec(), phase, timeout_ms })?;
        self.kept += 1;
        Ok(snapshot)
    }

    /// The next event of a watch. Blocks until `deadline` (`None`), for ever without one.
    ///
    /// `Revoked` when the set ended; the event that says so comes before.
    pub fn next_event(&mut self, deadline: Option<Instant>) -> Result<Option<WatchEvent>, ClientError> {
        self.leave_to_parent()?;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if let Some(revoked) = &self.revoked {
                return Err(revoked.clone().into());
            }
            match self.connection.receive(deadline) {
                Ok(message) if message.header.kind == Kind::Event => self.events.push_back(message.read()?),
                Ok(message) => match message.error() {
                    Some(ClientError::Refused(refusal)) => self.revoked = Some(refusal),
                    Some(error) => return Err(error),
                    None => {}
                },
                Err(Broken::Late) => return Ok(None),
                Err(Broken::Gone(_)) => self.open_again(Instant::now() + self.patience)?,
                Err(broken) => return Err(broken.into()),
            }
        }
    }

    /// Says that what an event asked for is done.
    pub fn ack(&mut self, event: &WatchEvent) -> Result<(), ClientError> {
        self.call(&Ack { serial: event.serial }).map(drop)
    }
}

/// Opens a connection for a session over the set FD, again and again where the service goes away in between.
fn open_connection(
    set_fd: BorrowedFd<'_>,
    id: u64,
    key: u64,
    deadline: Instant,
) -> Result<(Connection, Opened), ClientError> {
    loop {
        match try_open(set_fd, id, key, deadline) {
            // The pair reached the service and broke there. The set FD's own end is still there, or the send had failed.
            Err(Broken::Gone(_)) if Instant::now() < deadline && !is_over(set_fd) => {
                // A service that dies while it starts must not be asked without a pause.
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(Broken::Gone(_)) if is_over(set_fd) => {
                let over = "the set is over: the service that had it ended and left it to no other";
                return Err(ClientError::Unreachable(io::Error::new(io::ErrorKind::BrokenPipe, over)));
            }
            Err(Broken::Late) => {
                let late = io::Error::new(io::ErrorKind::TimedOut, "nobody answers on the set FD");
                return Err(ClientError::Unreachable(late));
            }
            other => return Ok(other?),
        }
    }
}

/// Whether the service's end of the set FD is closed: the set is over.
fn is_over(set_fd: BorrowedFd<'_>) -> bool {
    crate::sys::readiness::now(set_fd).is_ok_and(|ready| ready.hung_up || ready.peer_closed_writing)
}

fn try_open(set_fd: BorrowedFd<'_>, id: u64, key: u64, deadline: Instant) -> Result<(Connection, Opened), Broken> {
    let (ours, theirs) = seqpacket::pair()?;
    let frame = request(id, &OpenSession { key })?;
    seqpacket::send(set_fd, &frame, &[theirs.as_fd()], Some(deadline))?;
    // Only the service's copy may keep the pair open, or its end would never show here.
    drop(theirs);
    let mut connection = Connection::new(ours)?;
    let message = connection.receive(Some(deadline))?;
    match message.error() {
        Some(error) => Err(Broken::Other(error)),
        None if message.header.op == OpenSession::OP => {
            let opened = message.read().map_err(Broken::Other)?;
            Ok((connection, opened))
        }
        None => Err(Broken::Other(ClientError::Protocol("no session was opened".to_owned()))),
    }
}

/// A number that nobody else draws. Not the standard library's hash keys: children of fork(2) have copies of one state,
/// and in pid namespaces also one pid.
fn draw_key() -> Result<u64, ClientError> {
    random::number().map_err(ClientError::Unreachable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Set;
    use crate::proto::{Header, Pasids, decode_body, encode, parse_frame};
    use serde::Serialize;

    /// The service's side, as far as these tests need one.
    struct Fake(OwnedFd);

    impl Fake {
        fn pair() -> (Set, Self) {
            let (ours, theirs) = seqpacket::pair().unwrap();
            (Set::from_fd(ours).unwrap().with_patience(Duration::from_secs(5)), Self(theirs))
        }

        fn next(&self) -> (Header, Vec<u8>, Vec<OwnedFd>) {
            let mut buffer = vec![0; 4096];
            let deadline = Instant::now() + Duration::from_secs(5);
            match seqpacket::receive(self.0.as_fd(), &mut buffer, Some(deadline)).unwrap() {
                seqpacket::Received::Message { len, fds } => {
                    let (header, body) = parse_frame(&buffer[..len]).unwrap();
                    (header, body.to_vec(), fds)
                }
                other => panic!("{other:?}"),
            }
        }

        fn say(&self, kind: Kind, op: u16, id: u64, body: &impl Serialize) {
            let frame = encode(Header { kind, op, flags: 0, id }, body);
            seqpacket::send(self.0.as_fd(), &frame, &[], None).unwrap();
        }

        /// Reads OpenSession, answers, gives the key and the session's end.
        fn open(&self, resumed: bool) -> (u64, Fake) {
            let (header, body, mut fds) = self.next();
            let session = Fake(fds.pop().unwrap());
            session.say(Kind::Reply, OpenSession::OP, header.id, &opened(resumed));
            (decode_body::<OpenSession>(&body).unwrap().key, session)
        }
    }

    fn opened(resumed: bool) -> Opened {
        Opened { set: SetId(3), features: vec![], resumed }
    }

    fn ids(numbers: &[u32]) -> Pasids {
        Pasids { pasids: numbers.iter().map(|n| Pasid::new(*n).unwrap()).collect() }
    }

    #[test]
    fn a_broken_session_is_opened_again_with_its_key_and_the_request_repeated_under_its_id() {
        let (set, fake) = Fake::pair();
        let service = std::thread::spawn(move || {
            let (key, session) = fake.open(false);
            let (first, body, _) = session.next();
            drop(session);
            let (again, session) = fake.open(false);
            let (second, repeated, _) = session.next();
            session.say(Kind::Reply, second.op, second.id, &ids(&[77]));
            assert_eq!((key, first, body), (again, second, repeated));
        });
        assert_eq!(set.session().unwrap().alloc().unwrap().get(), 77);
        service.join().unwrap();
    }

    #[test]
    fn a_service_that_takes_over_a_living_session_is_asked_again() {
        let (set, fake) = Fake::pair();
        let service = std::thread::spawn(move || {
            let (_, session) = fake.open(false);
            let (first, ..) = session.next();
            session.say(Kind::Reply, OpenSession::OP, 0, &opened(true));
            let (second, ..) = session.next();
            assert_eq!(first, second);
            // Both are answered: the client takes one and skips the other.
            session.say(Kind::Reply, first.op, first.id, &ids(&[5]));
            session.say(Kind::Reply, first.op, first.id, &ids(&[5]));
            let (third, ..) = session.next();
            session.say(Kind::Reply, third.op, third.id, &ids(&[6]));
        });
        let mut session = set.session().unwrap();
        assert_eq!((session.alloc().unwrap().get(), session.alloc().unwrap().get()), (5, 6));
        service.join().unwrap();
    }

    #[test]
    fn a_revoked_set_says_so_for_ever() {
        let (set, fake) = Fake::pair();
        let revoked = Refusal::Revoked { set: SetId(3), reason: "test".to_owned() };
        let said = revoked.clone();
        let service = std::thread::spawn(move || {
            let (_, session) = fake.open(false);
            session.say(Kind::Refusal, OpenSession::OP, 0, &said);
        });
        let mut session = set.session().unwrap();
        service.join().unwrap();
        for _ in 0..2 {
            assert_eq!(session.alloc().unwrap_err().refusal(), Some(&revoked));
        }
    }

    #[test]
    fn holds_that_are_lost_are_an_error() {
        let (set, fake) = Fake::pair();
        let service = std::thread::spawn(move || {
            let (_, session) = fake.open(false);
            let (hold, ..) = session.next();
            session.say(Kind::Reply, hold.op, hold.id, &crate::proto::Done {});
            drop(session);
            fake.open(false)
        });
        let mut session = set.session().unwrap();
        session.hold(Pasid::FIRST).unwrap();
        assert!(matches!(session.info(), Err(ClientError::Fault(_))));
        service.join().unwrap();
    }

    #[test]
    fn a_set_whose_service_is_gone_for_good_is_said_to_be_over() {
        let (set, fake) = Fake::pair();
        drop(fake);
        let error = set.session().unwrap_err();
        assert!(error.errno() == 32 && error.to_string().contains("the set is over"), "{error}");
    }

    #[test]
    fn without_its_set_a_session_does_not_come_back() {
        let (set, fake) = Fake::pair();
        let service = std::thread::spawn(move || fake.open(false));
        let mut session = set.session().unwrap();
        drop(service.join().unwrap());
        drop(set);
        assert!(matches!(session.alloc(), Err(ClientError::Unreachable(_))));
    }
}
