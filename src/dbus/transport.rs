//! The stream to the bus.
//!
//! Whoever the bus lets in may send us descriptors, and zbus closes by itself, on the thread that serves everybody, what no
//! method took. A close may take as long as whoever made the descriptor likes: see [`closing`](crate::sys::closing). So it
//! is given only what is closed at once, and in place of all else a descriptor of nothing.

use crate::controller::Controller;
use crate::model::{Failure, Fault};
use crate::sys::closing::Riders;
use crate::sys::pidfd;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use zbus::address::Transport;
use zbus::address::transport::UnixSocket;
use zbus::connection::socket::{ReadHalf, Socket, Split};
use zbus::fdo::ConnectionCredentials;

/// A stream to a bus on this host.
#[derive(Debug)]
pub(super) struct BusStream {
    stream: UnixStream,
    sieve: Sieve,
}

impl BusStream {
    /// Connects to the bus at `address`; `None` where it is not at a Unix socket: no descriptors come over others.
    pub async fn connect(address: &zbus::Address, controller: &Arc<Controller>) -> Result<Option<Self>, Failure> {
        let Transport::Unix(unix) = address.transport() else { return Ok(None) };
        let path = match unix.path() {
            UnixSocket::File(path) => path.clone(),
            // As tokio takes the name of one that is in no directory.
            UnixSocket::Abstract(name) => {
                let mut path = OsString::from("\0");
                path.push(name);
                PathBuf::from(path)
            }
            _ => return Ok(None),
        };
        let failed = |error: io::Error| Fault::from(error).while_doing(format!("connect to {address}"));
        let stream = UnixStream::connect(path).await.map_err(failed)?;
        let nothing = File::open("/dev/null").map_err(failed)?.into();
        Ok(Some(Self { stream, sieve: Sieve { controller: Arc::clone(controller), nothing } }))
    }
}

impl Socket for BusStream {
    type ReadHalf = Reader;
    type WriteHalf = OwnedWriteHalf;

    fn split(self) -> Split<Reader, OwnedWriteHalf> {
        let (read, write) = self.stream.into_split();
        Split::new(Reader { stream: read, sieve: self.sieve }, write)
    }
}

/// What is read from the bus.
#[derive(Debug)]
pub(super) struct Reader {
    stream: OwnedReadHalf,
    sieve: Sieve,
}

#[async_trait::async_trait]
impl ReadHalf for Reader {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let (len, fds) = self.stream.recvmsg(buffer).await?;
        Ok((len, self.sieve.pass(fds)))
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }

    async fn peer_credentials(&mut self) -> io::Result<ConnectionCredentials> {
        self.stream.peer_credentials().await
    }
}

/// Lets through what methods take and the bus itself gives: set FDs and processes.
#[derive(Debug)]
struct Sieve {
    controller: Arc<Controller>,
    /// Stands for what is held back.
    nothing: OwnedFd,
}

impl Sieve {
    fn pass(&self, fds: Vec<OwnedFd>) -> Vec<OwnedFd> {
        let mut held_back = Vec::new();
        let passed = fds.into_iter().filter_map(|fd| {
            if self.controller.identify(fd.as_fd()).is_ok() || pidfd::is_one(fd.as_fd()) {
                return Some(fd);
            }
            held_back.push(fd);
            // Where there is none to be had the message is one short, and its call is refused.
            self.nothing.try_clone().ok()
        });
        let passed = passed.collect();
        drop(Riders::from(held_back));
        passed
    }
}
