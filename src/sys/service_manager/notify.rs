//! The service's side: telling the manager what happens, and parking descriptors with it.

use crate::sys::address::with_manager_address;
use crate::sys::{clock, done, readiness, seqpacket};
use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// A line to the service manager. Without one (NOTIFY_SOCKET unset) every message is dropped silently, and
/// [`Notifier::is_connected`] says so.
#[derive(Debug, Default)]
pub struct Notifier(Option<OwnedFd>);

impl Notifier {
    /// The manager that NOTIFY_SOCKET names; read once, at the start.
    pub fn from_environment() -> io::Result<Self> {
        match env::var_os("NOTIFY_SOCKET") {
            None => Ok(Self(None)),
            Some(address) => Self::to(&address),
        }
    }

    /// The manager at this address: a path, or `@NAME` for an abstract one.
    pub fn to(address: &OsStr) -> io::Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers; on success the number is open and nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(done(libc::socket(libc::AF_UNIX, kind, 0))?) };
        with_manager_address(address, |address, size| {
            // SAFETY: `address` is a sockaddr_un of which `size` bytes are set.
            done(unsafe { libc::connect(socket.as_raw_fd(), address, size) }).map(drop)
        })?;
        Ok(Self(Some(socket)))
    }

    /// Whether there is a manager.
    pub fn is_connected(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the manager keeps descriptors: FDSTORE, set by systemd 254 and by `--supervise`; `None` where it does not say.
    pub fn store_size() -> Option<usize> {
        env::var("FDSTORE").ok()?.parse().ok()
    }

    /// How often [`Notifier::watchdog`] is expected, where the manager watches this process: WATCHDOG_USEC.
    pub fn watchdog_interval() -> Option<Duration> {
        let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
        if env::var_os("WATCHDOG_PID").is_some() && number("WATCHDOG_PID") != Some(u64::from(std::process::id())) {
            return None;
        }
        number("WATCHDOG_USEC").filter(|usec| *usec > 0).map(Duration::from_micros)
    }

    /// The start, or a reload, is done.
    pub fn ready(&self) -> io::Result<()> {
        self.send("READY=1", &[])
    }

    /// A reload begins; [`Notifier::ready`] ends it (Type=notify-reload).
    pub fn reloading(&self) -> io::Result<()> {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic_usec()), &[])
    }

    /// A line for `systemctl status`; line feeds become blanks.
    pub fn status(&self, text: &str) -> io::Result<()> {
        self.send(&format!("STATUS={}", text.replace(char::is_control, " ")), &[])
    }

    /// The end begins.
    pub fn stopping(&self) -> io::Result<()> {
        self.send("STOPPING=1", &[])
    }

    /// Alive.
    pub fn watchdog(&self) -> io::Result<()> {
        self.send("WATCHDOG=1", &[])
    }

    /// Parks a copy of `fd` under `name`: it comes back with the next start. FDPOLL=0: else the manager would drop
    /// sockets that hung up.
    ///
    /// Names are ASCII without colon and control characters, at most 255 bytes (InvalidInput). Blocks while the manager's
    /// queue is full, 5 s at most. That it was kept is not told.
    pub fn store(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.send(&format!("FDSTORE=1\nFDNAME={}\nFDPOLL=0", valid(name)?), &[fd])
    }

    /// Drops what is parked under `name`, every copy.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={}", valid(name)?), &[])
    }

    /// Waits until the manager has taken in all that was said so far, what was parked above all; `TimedOut` at `limit`.
    ///
    /// Blocks. Without it a kill -9 right after [`Notifier::store`] can lose the descriptor: the manager asks whose message
    /// it is when it reads it, and nobody's is dropped. Source: sd_notify_barrier(3).
    pub fn barrier(&self, limit: Duration) -> io::Result<()> {
        if !self.is_connected() {
            return Ok(());
        }
        let (taken, given) = io::pipe()?;
        // The manager closes what came with it when it gets there; so do we, and the pipe hangs up.
        self.send("BARRIER=1", &[given.as_fd()])?;
        drop(given);
        readiness::wait(taken.as_fd(), readiness::Interest::Read, Some(Instant::now() + limit)).map(drop)
    }

    fn send(&self, text: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some(socket) = &self.0 else { return Ok(()) };
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match seqpacket::try_send(socket.as_fd(), text.as_bytes(), fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    readiness::wait(socket.as_fd(), readiness::Interest::Write, Some(deadline))?;
                }
                other => return other,
            }
        }
    }
}

/// Refuses what cannot be the name of a parked descriptor. Source: fdname_is_valid in systemd's fd-util.c.
pub(super) fn valid(name: &str) -> io::Result<&str> {
    let fits = (1..=255).contains(&name.len()) && name.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b':');
    if fits { Ok(name) } else { Err(io::ErrorKind::InvalidInput.into()) }
}
