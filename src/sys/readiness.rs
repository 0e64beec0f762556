//! Waiting for descriptors: `poll` for those who may block, tokio's reactor for the service.

use super::done;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// What a descriptor has to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// A read would not block: data, an end of file or an error.
    pub readable: bool,
    /// A write would not block.
    pub writable: bool,
    /// The peer can send nothing more: closed or shut down.
    pub peer_closed_writing: bool,
    /// Nothing goes either way any more: the peer closed, or both directions were shut down.
    pub hung_up: bool,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Until a read would not block.
    Read,
    /// Until a write would not block.
    Write,
}

/// Waits until `fd` is ready for `interest` or hung up; for ever without a deadline.
///
/// Blocks, also where the descriptor is non-blocking. Faults: `TimedOut` when the deadline passes, else poll(2)'s. A
/// signal does not end the wait.
pub fn wait(fd: BorrowedFd<'_>, interest: Interest, deadline: Option<Instant>) -> io::Result<Ready> {
    let events = match interest {
        Interest::Read => libc::POLLIN | libc::POLLRDHUP,
        Interest::Write => libc::POLLOUT,
    };
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        match poll(fd, events, left) {
            Ok(Some(ready)) => return Ok(ready),
            Ok(None) if deadline.is_some_and(|at| at <= Instant::now()) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What `fd` is ready for now. Never blocks.
pub fn now(fd: BorrowedFd<'_>) -> io::Result<Ready> {
    let events = libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP;
    loop {
        match poll(fd, events, Some(Duration::ZERO)) {
            Ok(ready) => return Ok(ready.unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// One ppoll(2); `None` when the time is over and nothing happened.
fn poll(fd: BorrowedFd<'_>, events: libc::c_short, limit: Option<Duration>) -> io::Result<Option<Ready>> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    let limit = limit.map(|left| libc::timespec {
        tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(left.subsec_nanos().cast_signed()),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: one entry, as counted, and a time that outlives the call; no signal mask. `fd` is open: it is borrowed.
    let count = done(unsafe { libc::ppoll(&raw mut entry, 1, limit, std::ptr::null()) })?;
    if entry.revents & libc::POLLNVAL != 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    let has = |bit| entry.revents & bit != 0;
    Ok((count > 0).then(|| Ready {
        readable: has(libc::POLLIN | libc::POLLERR | libc::POLLHUP),
        writable: has(libc::POLLOUT),
        peer_closed_writing: has(libc::POLLRDHUP | libc::POLLHUP),
        hung_up: has(libc::POLLHUP),
    }))
}

#[cfg(feature = "daemon")]
pub use registered::Registered;

#[cfg(feature = "daemon")]
mod registered {
    use crate::sys::closing::Queue;
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    /// A descriptor in tokio's reactor: a socket, pidfd, inotify or device whose readiness can be awaited.
    ///
    /// Give it to one owner per open file: readiness is edge-triggered, and [`Registered::read`] clears it only when
    /// the operation says `WouldBlock`.
    #[derive(Debug)]
    pub struct Registered(AsyncFd<Queue>);

    impl Registered {
        /// Registers `fd` for reading and writing. Must be called inside a tokio runtime with IO enabled (panics
        /// otherwise). Faults: EPERM for files that cannot be polled (regular files).
        pub fn new(fd: OwnedFd) -> io::Result<Self> {
            // SAFETY: `Queue` keeps one descriptor open for as long as the AsyncFd owns it, and always names that one.
            unsafe { AsyncFd::register(Queue::from(fd)) }.map(Self).map_err(io::Error::from)
        }

        /// The same for reading only: pidfds, inotify.
        pub fn for_reading(fd: OwnedFd) -> io::Result<Self> {
            // SAFETY: as in `new`.
            unsafe { AsyncFd::register_with_interest(Queue::from(fd), Interest::READABLE) }
                .map(Self)
                .map_err(io::Error::from)
        }

        /// Runs `operation` when the descriptor may be readable, again after each `WouldBlock`.
        ///
        /// `operation` must not block: use the `try_` calls. Cancel safe: dropped while waiting, nothing was read.
        pub async fn read<R>(&self, mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<R>) -> io::Result<R> {
            loop {
                let mut guard = self.0.readable().await?;
                if let Ok(result) = guard.try_io(|fd| operation(fd.as_fd())) {
                    return result;
                }
            }
        }

        /// Runs `operation` when the descriptor may be writable, again after each `WouldBlock`. Cancel safe.
        pub async fn write<R>(&self, mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<R>) -> io::Result<R> {
            loop {
                let mut guard = self.0.writable().await?;
                if let Ok(result) = guard.try_io(|fd| operation(fd.as_fd())) {
                    return result;
                }
            }
        }

        /// Waits until it is readable, and consumes nothing: for pidfds, which stay readable once the process ended.
        pub async fn readable(&self) -> io::Result<()> {
            let mut guard = self.0.readable().await?;
            guard.retain_ready();
            Ok(())
        }

        /// Takes it out of the reactor.
        pub fn into_inner(self) -> OwnedFd {
            self.0.into_inner().into_fd()
        }
    }

    impl AsFd for Registered {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.get_ref().as_fd()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seqpacket;
    use std::os::fd::AsFd;

    #[test]
    fn a_deadline_ends_the_wait() {
        let (a, _b) = seqpacket::pair().unwrap();
        let error = wait(a.as_fd(), Interest::Read, Some(Instant::now())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(wait(a.as_fd(), Interest::Write, None).unwrap().writable);
    }

    #[test]
    fn hang_up_shows() {
        let (a, b) = seqpacket::pair().unwrap();
        assert!(!now(a.as_fd()).unwrap().hung_up);
        drop(b);
        assert!(now(a.as_fd()).unwrap().hung_up);
    }

    #[cfg(feature = "daemon")]
    #[test]
    fn a_registered_socket_wakes_its_reader() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let (a, b) = seqpacket::pair().unwrap();
            let a = Registered::new(a).unwrap();
            let mut buffer = [0; 8];
            let reader = async { a.read(|fd| seqpacket::try_receive(fd, &mut buffer)).await };
            let writer = async { seqpacket::try_send(b.as_fd(), b"x", &[]) };
            let (read, written) = tokio::join!(reader, writer);
            written.unwrap();
            assert!(matches!(read.unwrap(), seqpacket::Received::Message { len: 1, .. }));
        });
    }
}
