//! The manager's side, for `--supervise`: hearing what the service says, and keeping what it parks.

use super::notify::{Notifier, valid};
use crate::sys::address::with_manager_address;
use crate::sys::{done, seqpacket, size_of_socklen, socket_option};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One message of the service.
#[derive(Debug)]
pub struct Notice {
    /// Who sent it: its pid and uid as the kernel tells them; `None` where it has none in our pid namespace.
    pub sender: Option<(u32, u32)>,
    /// Its lines, `NAME=value`.
    pub fields: Vec<(String, String)>,
    /// What came with it.
    pub fds: Vec<OwnedFd>,
}

impl Notice {
    /// The value of the first field with this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Whether the field is there with the value 1.
    pub fn has(&self, name: &str) -> bool {
        self.get(name) == Some("1")
    }
}

/// The socket that NOTIFY_SOCKET names. Closing it does not remove its file.
#[derive(Debug)]
pub struct NoticeSocket(OwnedFd);

impl NoticeSocket {
    /// Binds `address`: a path (nothing may be there), or `@NAME` for an abstract one.
    pub fn bind(address: &OsStr) -> io::Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers; on success the number is open and nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(done(libc::socket(libc::AF_UNIX, kind, 0))?) };
        let on: libc::c_int = 1;
        let (at, size) = ((&raw const on).cast(), size_of_socklen::<libc::c_int>());
        // SAFETY: `at` points to an integer of the size given.
        done(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, at, size) })?;
        with_manager_address(address, |address, size| {
            // SAFETY: `address` is a sockaddr_un of which `size` bytes are set.
            done(unsafe { libc::bind(socket.as_raw_fd(), address, size) }).map(drop)
        })?;
        Ok(Self(socket))
    }

    /// Whether somebody reads at `address`: an address whose reader is gone is a name and nothing more.
    pub fn is_read(address: &OsStr) -> bool {
        Notifier::to(address).is_ok()
    }

    /// The next message; never blocks (`WouldBlock`). One that is cut short is `InvalidData`, its descriptors closed.
    pub fn try_receive(&self) -> io::Result<Notice> {
        let mut buffer = [0; 4096];
        let packet = seqpacket::try_receive_packet(self.as_fd(), &mut buffer)?;
        if packet.cut {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a notice was cut short"));
        }
        let text = String::from_utf8_lossy(buffer.get(..packet.len).unwrap_or_default());
        let field = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let sender = packet.sender.filter(|(pid, _)| *pid != 0);
        Ok(Notice { sender, fields: text.lines().filter_map(field).collect(), fds: packet.fds })
    }
}

impl AsFd for NoticeSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A file under a name: name, device, inode.
type Place = (String, u64, u64);

/// What the service parked.
#[derive(Debug, Default)]
pub struct FdStore {
    kept: BTreeMap<Place, OwnedFd>,
    limit: usize,
}

impl FdStore {
    /// An empty one for at most `limit` descriptors.
    pub fn new(limit: usize) -> Self {
        Self { kept: BTreeMap::new(), limit }
    }

    /// Does what the notice says about parked descriptors; returns whether it said something.
    ///
    /// As systemd does: one above the limit is closed, removing takes all of that name. A file that is kept under that
    /// name already is not kept twice: the newer one stays, for channels of one device node are all the same inode.
    pub fn apply(&mut self, notice: &mut Notice) -> bool {
        let name = notice.get("FDNAME").unwrap_or("stored").to_owned();
        if notice.has("FDSTOREREMOVE") {
            let of_name = (name.clone(), 0, 0)..=(name, u64::MAX, u64::MAX);
            let places: Vec<Place> = self.kept.range(of_name).map(|(place, _)| place.clone()).collect();
            places.iter().for_each(|place| drop(self.kept.remove(place)));
        } else if notice.has("FDSTORE") {
            notice.fds.drain(..).for_each(|fd| self.keep(&name, fd));
        } else {
            return false;
        }
        true
    }

    /// Keeps a descriptor, where there is room for it.
    pub fn keep(&mut self, name: &str, fd: OwnedFd) {
        let Ok((device, inode)) = socket_option::file(fd.as_fd()) else { return };
        let place = (name.to_owned(), device, inode);
        if valid(name).is_ok() && (self.kept.len() < self.limit || self.kept.contains_key(&place)) {
            self.kept.insert(place, fd);
        }
    }

    /// Names and descriptors as the next start gets them, by ascending number: so they can be handed on without copies.
    pub fn kept(&self) -> Vec<(&str, BorrowedFd<'_>)> {
        let mut kept: Vec<_> = self.kept.iter().map(|((name, ..), fd)| (name.as_str(), fd.as_fd())).collect();
        kept.sort_unstable_by_key(|(_, fd)| fd.as_raw_fd());
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::readiness;
    use std::time::{Duration, Instant};

    #[test]
    fn what_is_parked_is_kept_until_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("@ioasidd-test-{}", std::process::id());
        for address in [path.as_os_str(), OsStr::new(&abstract_name)] {
            let socket = NoticeSocket::bind(address).unwrap();
            let notifier = Notifier::to(address).unwrap();
            let (a, b) = seqpacket::pair().unwrap();
            notifier.ready().unwrap();
            notifier.store("set-1", a.as_fd()).unwrap();
            notifier.store("set-1", a.as_fd()).unwrap();
            notifier.store("set-2", b.as_fd()).unwrap();
            notifier.store("set-3", socket.as_fd()).unwrap();
            assert!(notifier.store("a:b", a.as_fd()).is_err());
            let mut store = FdStore::new(2);
            let ready = socket.try_receive().unwrap();
            // SAFETY: no pointers.
            assert_eq!(ready.sender, Some((std::process::id(), unsafe { libc::getuid() })));
            assert!(ready.has("READY"));
            for _ in 0..4 {
                assert!(store.apply(&mut socket.try_receive().unwrap()));
            }
            let kept = store.kept();
            assert!(kept.windows(2).all(|two| two[0].1.as_raw_fd() < two[1].1.as_raw_fd()));
            let cookie = |fd: BorrowedFd<'_>| socket_option::cookie(fd).unwrap();
            let mut found: Vec<_> = kept.iter().map(|(name, fd)| (*name, cookie(*fd))).collect();
            found.sort_unstable();
            assert_eq!(found, [("set-1", cookie(a.as_fd())), ("set-2", cookie(b.as_fd()))]);
            notifier.remove("set-1").unwrap();
            assert!(store.apply(&mut socket.try_receive().unwrap()));
            assert_eq!(store.kept().len(), 1);
            assert_eq!(socket.try_receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
            assert!(NoticeSocket::is_read(address));
            drop(socket);
            assert!(!NoticeSocket::is_read(address), "the name alone is left");
        }
    }

    #[test]
    fn a_reload_carries_the_time_and_a_status_no_line_feed() {
        let address = format!("@ioasidd-test-reload-{}", std::process::id());
        let socket = NoticeSocket::bind(OsStr::new(&address)).unwrap();
        let notifier = Notifier::to(OsStr::new(&address)).unwrap();
        notifier.reloading().unwrap();
        notifier.status("a\nREADY=1").unwrap();
        let notice = socket.try_receive().unwrap();
        assert!(notice.has("RELOADING") && notice.get("MONOTONIC_USEC").unwrap().parse::<u64>().unwrap() > 0);
        assert_eq!(socket.try_receive().unwrap().fields, [("STATUS".to_owned(), "a READY=1".to_owned())]);
    }

    #[test]
    fn a_barrier_ends_when_its_notice_is_dropped() {
        let address = format!("@ioasidd-test-barrier-{}", std::process::id());
        let socket = NoticeSocket::bind(OsStr::new(&address)).unwrap();
        let notifier = Notifier::to(OsStr::new(&address)).unwrap();
        let late = notifier.barrier(Duration::from_millis(5)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| notifier.barrier(Duration::from_secs(10)));
            // The one that timed out, then this one.
            for _ in 0..2 {
                let deadline = Some(Instant::now() + Duration::from_secs(10));
                readiness::wait(socket.as_fd(), readiness::Interest::Read, deadline).unwrap();
                assert!(!FdStore::new(9).apply(&mut socket.try_receive().unwrap()));
            }
            waiter.join().unwrap().unwrap();
        });
    }

    #[test]
    fn without_a_manager_nothing_is_said() {
        let notifier = Notifier::default();
        assert!(!notifier.is_connected());
        notifier.ready().unwrap();
    }
}
