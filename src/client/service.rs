//! A connection to `ioasid.sock`.

use super::connection::{Broken, Connection, Message};
use super::set::number_called;
use super::{ClientError, PATIENCE, Set};
use crate::model::{Refusal, SetRequest};
use crate::proto::{
    Call, CreateSet, Event, GetEvents, Greeting, Hello, Identified, IdentifySet, Kind, OpenSet, SetInfo,
};
use crate::sys::{inherited, listener, socket_option};
use std::env;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the service listens on a host.
pub const DEFAULT_SOCKET: &str = "/run/ioasidd/ioasid.sock";

/// What a connection to it is called in `LISTEN_FDNAMES`: what systemd takes from the path.
const CONNECTION_NAME: &str = "ioasid.sock";

/// A connection to the service. The service knows the caller by it: process, uid and cgroup.
#[derive(Debug)]
pub struct Service {
    path: PathBuf,
    connection: Connection,
    greeting: Greeting,
    next_id: u64,
    patience: Duration,
}

impl Service {
    /// Connects and shakes hands. Blocks for at most the patience.
    ///
    /// `Unreachable` at once where nobody listens. A service that took the connection and left is one that restarts: it is
    /// waited for.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path = path.as_ref().to_owned();
        let deadline = Instant::now() + PATIENCE;
        let (connection, greeting) = match shake_hands(&path, deadline) {
            Err(ClientError::Unreachable(error)) if left_in_the_middle(&error) => shake_hands_until(&path, deadline)?,
            outcome => outcome?,
        };
        Ok(Self { path, connection, greeting, next_id: 2, patience: PATIENCE })
    }

    /// The connection that this process was started with: the descriptor called `ioasid.sock` under the LISTEN_FDS
    /// protocol, which `OpenFile=/run/ioasidd/ioasid.sock` in a unit gives. `None` where it has none.
    ///
    /// Takes it over: nobody else may read it, another call of this would shake hands in the middle of what goes on there.
    /// Where the service restarts, it is connected to at [`DEFAULT_SOCKET`].
    pub fn from_env() -> Result<Option<Self>, ClientError> {
        let variable = |name: &str| env::var(name).ok();
        let Some(number) = number_called(CONNECTION_NAME, variable, std::process::id()) else { return Ok(None) };
        let refused = |why: String| Refusal::invalid("fd", number, format!("a connection to the service: {why}"));
        let socket = inherited::duplicate(number).map_err(|error| refused(error.to_string()))?;
        if !socket_option::is_unix_seqpacket(socket.as_fd()) {
            return Err(refused("it is no AF_UNIX SEQPACKET socket".to_owned()).into());
        }
        match greet(socket, Instant::now() + PATIENCE) {
            // It restarted since.
            Err(ClientError::Unreachable(error)) if left_in_the_middle(&error) => {
                Self::connect(DEFAULT_SOCKET).map(Some)
            }
            Err(error) => Err(error),
            Ok((connection, greeting)) => {
                Ok(Some(Self { path: DEFAULT_SOCKET.into(), connection, greeting, next_id: 2, patience: PATIENCE }))
            }
        }
    }

    /// The same, with how long the service may stay away before a call gives up.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Who answers, and what it can do.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Asks for something; gives the reply and the descriptors that came with it. Blocks until it is answered.
    ///
    /// Where the service goes away in between, it is repeated over a new connection.
    pub fn call<C: Call>(&mut self, call: &C, fds: &[BorrowedFd<'_>]) -> Result<(C::Reply, Vec<OwnedFd>), ClientError> {
        let mut give_up = None;
        let message = loop {
            match self.exchange(call, fds) {
                Err(Broken::Gone(_)) => {
                    let give_up = *give_up.get_or_insert_with(|| Instant::now() + self.patience);
                    self.connect_again(give_up)?;
                }
                other => break other?,
            }
        };
        match message.error() {
            Some(error) => Err(error),
            None => Ok((message.read()?, message.fds)),
        }
    }

    fn exchange<C: Call>(&mut self, call: &C, fds: &[BorrowedFd<'_>]) -> Result<Message, Broken> {
        let id = self.next_id;
        self.next_id += 1;
        self.connection.send(id, call, fds, None)?;
        loop {
            let message = self.connection.receive(None)?;
            // Events of an earlier subscription may stand before the answer; id 0 answers what could not be read.
            if message.header.kind != Kind::Event && (message.header.id == id || message.header.id == 0) {
                return Ok(message);
            }
        }
    }

    fn connect_again(&mut self, deadline: Instant) -> Result<(), ClientError> {
        (self.connection, self.greeting) = shake_hands_until(&self.path, deadline)?;
        Ok(())
    }

    /// Makes a set.
    pub fn create_set(&mut self, request: SetRequest) -> Result<(Set, SetInfo), ClientError> {
        let (info, mut fds) = self.call(&CreateSet { request }, &[])?;
        // An iommufd that was asked for is dropped here: `create_set_with_iommufd` gives it.
        fds.truncate(1);
        Ok((set_of(fds)?, info))
    }

    /// Makes a set and has an iommufd opened for it, whose pinned memory counts on the process that maps it.
    ///
    /// Refused with `Unsupported` where the host has none; then there is no set either.
    pub fn create_set_with_iommufd(&mut self, request: SetRequest) -> Result<(Set, OwnedFd, SetInfo), ClientError> {
        let (info, mut fds) = self.call(&CreateSet { request: SetRequest { iommufd: true, ..request } }, &[])?;
        match (fds.len(), fds.pop()) {
            (2, Some(iommufd)) => Ok((set_of(fds)?, iommufd, info)),
            _ => Err(ClientError::Protocol("a set and an iommufd without their two descriptors".to_owned())),
        }
    }

    /// Another FD of a set.
    pub fn open_set(&mut self, set: u64) -> Result<(Set, SetInfo), ClientError> {
        let (info, fds) = self.call(&OpenSet { set }, &[])?;
        Ok((set_of(fds)?, info))
    }

    /// Which set is it?
    pub fn identify(&mut self, set: &Set) -> Result<Identified, ClientError> {
        self.call(&IdentifySet {}, &[set.as_fd()]).map(|(identified, _)| identified)
    }

    /// What happened lately; with `follow` [`Service::next_event`] goes on from there.
    pub fn events(&mut self, follow: bool) -> Result<Vec<Event>, ClientError> {
        self.call(&GetEvents { follow }, &[]).map(|(events, _)| events)
    }

    /// The next event of a subscription; `None` when the service is gone. Blocks until there is one.
    pub fn next_event(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            match self.connection.receive(None) {
                Ok(message) if message.header.kind == Kind::Event => return message.read().map(Some),
                Ok(message) => {
                    if let Some(error) = message.error() {
                        return Err(error);
                    }
                }
                Err(Broken::Gone(_)) => return Ok(None),
                Err(broken) => return Err(broken.into()),
            }
        }
    }
}

fn shake_hands(path: &Path, deadline: Instant) -> Result<(Connection, Greeting), ClientError> {
    let unreachable = |error: io::Error| {
        ClientError::Unreachable(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    greet(listener::connect(path, Some(deadline)).map_err(unreachable)?, deadline)
}

fn greet(socket: OwnedFd, deadline: Instant) -> Result<(Connection, Greeting), ClientError> {
    let mut connection = Connection::new(socket).map_err(ClientError::Unreachable)?;
    let message = match connection.send(1, &Hello::default(), &[], Some(deadline)) {
        Ok(()) => connection.receive(Some(deadline))?,
        // A service without room for one more says so and closes, without reading.
        Err(Broken::Gone(error)) => connection.receive(Some(Instant::now())).map_err(|_| Broken::Gone(error))?,
        Err(broken) => return Err(broken.into()),
    };
    match message.error() {
        Some(error) => Err(error),
        None => Ok((connection, message.read()?)),
    }
}

/// Shakes hands with a service that is expected back.
fn shake_hands_until(path: &Path, deadline: Instant) -> Result<(Connection, Greeting), ClientError> {
    loop {
        match shake_hands(path, deadline) {
            Err(ClientError::Unreachable(_)) if Instant::now() < deadline => {
                // A path has no event for "somebody listens again".
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}

/// Whether somebody was there and went away, rather than nobody listened.
fn left_in_the_middle(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}

fn set_of(fds: Vec<OwnedFd>) -> Result<Set, ClientError> {
    let mut fds = fds.into_iter();
    match (fds.next(), fds.next()) {
        (Some(fd), None) => Set::from_fd(fd),
        _ => Err(ClientError::Protocol("a set without its one descriptor".to_owned())),
    }
}
