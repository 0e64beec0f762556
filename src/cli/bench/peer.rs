//! What a round trip costs at best: another process that answers over a bare SEQPACKET pair.

use crate::cli::outcome::{Failed, Outcome};
use crate::sys::inherited;
use crate::sys::seqpacket::{self, Received};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitCode, Stdio};

/// What is asked of the process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    /// Say something.
    Echo,
    /// Make a socket pair, and hand one end over.
    Descriptor,
}

const ECHO: &[u8] = b"e";
const DESCRIPTOR: &[u8] = b"d";

/// The other process. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Peer {
    socket: Option<OwnedFd>,
    child: Child,
}

impl Peer {
    /// This program once more, as `ioasidctl bench --answer`.
    pub fn start() -> io::Result<Self> {
        let (socket, theirs) = seqpacket::pair()?;
        let child = Command::new("/proc/self/exe")
            .args(["bench", "--answer"])
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        let peer = Self { socket: Some(socket), child };
        // Started: what is measured is not its start.
        peer.ask(Wish::Echo)?;
        Ok(peer)
    }

    /// One question, one answer; a descriptor that comes is closed.
    pub fn ask(&self, wish: Wish) -> io::Result<()> {
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let word = match wish {
            Wish::Echo => ECHO,
            Wish::Descriptor => DESCRIPTOR,
        };
        seqpacket::send(socket.as_fd(), word, &[], None)?;
        match seqpacket::receive(socket.as_fd(), &mut [0; 16], None)? {
            Received::Message { .. } => Ok(()),
            Received::Truncated(_) | Received::Closed => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.socket = None;
        // It ends when the socket does.
        let _ = self.child.wait();
    }
}

/// Answers on standard input until nobody asks any more.
pub(in crate::cli) fn answer() -> Outcome {
    let failed = |error: io::Error| Failed::fault("answer", &error);
    let socket = inherited::duplicate(0).map_err(failed)?;
    let mut buffer = [0; 16];
    while let Received::Message { len, .. } = seqpacket::receive(socket.as_fd(), &mut buffer, None).map_err(failed)? {
        if buffer.get(..len) == Some(DESCRIPTOR) {
            let (ours, theirs) = seqpacket::pair().map_err(failed)?;
            seqpacket::send(socket.as_fd(), DESCRIPTOR, &[theirs.as_fd()], None).map_err(failed)?;
            drop(ours);
        } else {
            seqpacket::send(socket.as_fd(), ECHO, &[], None).map_err(failed)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
