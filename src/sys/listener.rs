//! SEQPACKET sockets with a path: listening and connecting.
//!
//! A path appears when it can be connected to, not before: the socket is bound under another name, made to listen and
//! renamed. A socket file that nobody listens on is stale and replaced; a living one is left alone.

use super::address::with_address;
use super::{done, readiness};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A listening SEQPACKET socket, non-blocking.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: Option<PathBuf>,
}

impl Listener {
    /// Listens on `path` with the file's permissions `mode` (0o666: everybody may connect).
    ///
    /// Faults: `AddrInUse` when somebody listens there; `AlreadyExists` when another kind of file is there.
    pub fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        remove_stale(path)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut hidden = std::ffi::OsString::from(format!(".{}.", std::process::id()));
        hidden.push(name);
        let hidden = path.with_file_name(hidden);
        if let Err(error) = fs::remove_file(&hidden)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let socket = new_socket()?;
        with_address(&hidden, |address, size| {
            // SAFETY: `address` is a sockaddr_un of which `size` bytes are set.
            done(unsafe { libc::bind(socket.as_raw_fd(), address, size) }).map(drop)
        })?;
        let finish = || {
            fs::set_permissions(&hidden, fs::Permissions::from_mode(mode))?;
            // SAFETY: no pointers.
            done(unsafe { libc::listen(socket.as_raw_fd(), 4096) })?;
            fs::rename(&hidden, path)
        };
        finish().inspect_err(|_| drop(fs::remove_file(&hidden)))?;
        Ok(Self { socket, path: Some(path.to_owned()) })
    }

    /// Takes a listening socket that somebody else bound, the service manager for one; its file is not ours to remove.
    pub fn inherited(socket: OwnedFd) -> Self {
        Self { socket, path: None }
    }

    /// The next connection, close-on-exec and non-blocking. Never blocks: `WouldBlock` when there is none.
    ///
    /// EMFILE and ENFILE leave the connection in the queue: wait before the next try.
    pub fn try_accept(&self) -> io::Result<OwnedFd> {
        // An inherited socket may be a blocking one.
        if !readiness::now(self.as_fd())?.readable {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        loop {
            let null = std::ptr::null_mut();
            // SAFETY: no address is asked for.
            match done(unsafe { libc::accept4(self.socket.as_raw_fd(), null, std::ptr::null_mut(), flags) }) {
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {
                }
                // SAFETY: the call succeeded: the number is open and nobody else owns it.
                Ok(number) => return Ok(unsafe { OwnedFd::from_raw_fd(number) }),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next connection, waited for until `deadline` (`TimedOut`), for ever without one.
    pub fn accept(&self, deadline: Option<Instant>) -> io::Result<OwnedFd> {
        loop {
            match self.try_accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    readiness::wait(self.as_fd(), readiness::Interest::Read, deadline)?;
                }
                other => return other,
            }
        }
    }

    /// Closes it and removes its file, where it made one.
    pub fn close(self) -> io::Result<()> {
        self.path.map_or(Ok(()), fs::remove_file)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Connects to `path`. Blocks only while the listener's queue is full, until `deadline` (`TimedOut`).
///
/// The socket comes non-blocking and close-on-exec. Faults: NotFound, ConnectionRefused (nobody listens),
/// PermissionDenied, EPROTOTYPE (another type of socket listens there).
pub fn connect(path: &Path, deadline: Option<Instant>) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    loop {
        match try_connect(&socket, path) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // AF_UNIX has no event for "the queue has room": ask again.
                if deadline.is_some_and(|at| at <= Instant::now()) {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            other => return other.map(|()| socket),
        }
    }
}

fn try_connect(socket: &OwnedFd, path: &Path) -> io::Result<()> {
    with_address(path, |address, size| {
        // SAFETY: `address` is a sockaddr_un of which `size` bytes are set.
        done(unsafe { libc::connect(socket.as_raw_fd(), address, size) }).map(drop)
    })
}

fn new_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers; on success the number is open and nobody else owns it.
    done(unsafe { libc::socket(libc::AF_UNIX, kind, 0) }).map(|number| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Removes the socket file at `path` if nobody listens there.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => {}
    }
    match try_connect(&new_socket()?, path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Connected, queue full, or a listener of another type.
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seqpacket::{self, Received};
    use std::time::Duration;

    #[test]
    fn a_stale_file_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(Listener::bind(&path, 0o666).unwrap());
        assert!(path.exists(), "dropped, not closed: the file stays behind");
        let listener = Listener::bind(&path, 0o666).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        assert_eq!(Listener::bind(&path, 0o666).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        listener.close().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fs::write(&path, "").unwrap();
        assert_eq!(Listener::bind(&path, 0o666).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn long_paths_connect_too() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200));
        fs::create_dir(&deep).unwrap();
        let path = deep.join("socket");
        let listener = Listener::bind(&path, 0o600).unwrap();
        let deadline = Some(Instant::now() + Duration::from_secs(10));
        assert_eq!(listener.try_accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let client = connect(&path, deadline).unwrap();
        let served = listener.accept(deadline).unwrap();
        seqpacket::try_send(client.as_fd(), b"hi", &[]).unwrap();
        assert!(matches!(
            seqpacket::receive(served.as_fd(), &mut [0; 8], deadline).unwrap(),
            Received::Message { len: 2, .. }
        ));
    }

    #[test]
    fn nobody_there_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert_eq!(connect(&path, None).unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(Listener::bind(&path, 0o666).unwrap());
        assert_eq!(connect(&path, None).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
