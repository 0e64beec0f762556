//! Whether a socket still exists: sock_diag(7) for AF_UNIX.
//!
//! A hang-up is no proof that the last copy of the other end was closed: any holder can shutdown(2) it. The kernel's
//! table of sockets is: a socket is in it from its making until its last copy is closed, wherever those copies are,
//! in a queue among the places.

use super::{counted, done, size_of_socklen, socket_option};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `include/uapi/linux/sock_diag.h`, `unix_diag.h`, `netlink.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const HEADER: usize = 16;
const REQUEST: usize = 24;
const NO_COOKIE: u64 = u64::MAX;

/// A socket as the kernel's table names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketName {
    /// Its inode; used again some time after it is gone.
    pub inode: u32,
    /// Its cookie; never used again.
    pub cookie: u64,
}

impl SocketName {
    /// The name of an open socket.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let inode = u32::try_from(socket_option::inode(socket)?).map_err(io::Error::other)?;
        Ok(Self { inode, cookie: socket_option::cookie(socket)? })
    }
}

/// A question line to the kernel, opened once. In the network namespace of who opened it, as are the sockets it knows.
#[derive(Debug)]
pub struct SocketTable {
    /// `None` where the kernel has no unix_diag: /proc/net/unix is read instead.
    netlink: Option<OwnedFd>,
    sequence: u32,
}

impl SocketTable {
    /// Opens it, and asks once to see whether the kernel answers for AF_UNIX.
    pub fn open() -> io::Result<Self> {
        let (probe, _other) = super::seqpacket::pair()?;
        let mut table = Self { netlink: netlink().ok(), sequence: 0 };
        if !matches!(table.ask(SocketName::of(std::os::fd::AsFd::as_fd(&probe))?), Ok(true)) {
            table.netlink = None;
        }
        Ok(table)
    }

    /// The slower way alone, for tests of it and for kernels without unix_diag.
    pub fn by_proc() -> Self {
        Self { netlink: None, sequence: 0 }
    }

    /// Whether that socket still exists: somebody, somewhere, has a copy open.
    ///
    /// Does not wait: the kernel answers inside the call (some microseconds; by /proc one pass over the host's sockets).
    /// Faults: what netlink or /proc refuses; then nothing is known, and the caller must take it for existing.
    pub fn exists(&mut self, name: SocketName) -> io::Result<bool> {
        if self.netlink.is_some() { self.ask(name) } else { in_proc(name.inode) }
    }

    fn ask(&mut self, name: SocketName) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let Some(netlink) = &self.netlink else { return Err(io::ErrorKind::Unsupported.into()) };
        let request = request(name, sequence);
        let fd = netlink.as_raw_fd();
        // SAFETY: `request` is read for its length.
        counted(unsafe { libc::send(fd, request.as_ptr().cast(), request.len(), libc::MSG_DONTWAIT) })?;
        let mut buffer = [0_u8; 1024];
        loop {
            // SAFETY: `buffer` has room for its length.
            let read = counted(unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) });
            let len = match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if let Some(answer) = answer(buffer.get(..len).unwrap_or_default(), sequence) {
                return answer;
            }
        }
    }
}

fn netlink() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers; on success the number is open and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(done(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG))?) };
    // SAFETY: a sockaddr_nl of zeros is the kernel's.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    let size = size_of_socklen::<libc::sockaddr_nl>();
    // SAFETY: `address` is set and of the size given.
    done(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) })?;
    Ok(socket)
}

/// A nlmsghdr and a unix_diag_req.
fn request(name: SocketName, sequence: u32) -> [u8; HEADER + REQUEST] {
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    // Family, protocol, padding; all states; inode; nothing to show; the cookie, low half first.
    bytes.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(name.inode.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend((name.cookie as u32).to_ne_bytes());
    bytes.extend(((name.cookie >> 32) as u32).to_ne_bytes());
    let mut request = [0; HEADER + REQUEST];
    request.copy_from_slice(&bytes);
    request
}

/// What the kernel says to question `sequence`; `None` for an answer to another one.
fn answer(bytes: &[u8], sequence: u32) -> Option<io::Result<bool>> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    if word(8)? != sequence {
        return None;
    }
    if kind == SOCK_DIAG_BY_FAMILY {
        return Some(Ok(true));
    }
    // NLMSG_ERROR with a negative errno. ESTALE: the inode has another cookie by now.
    match word(HEADER).map_or(0, u32::cast_signed).wrapping_neg() {
        libc::ENOENT | libc::ESTALE => Some(Ok(false)),
        number => Some(Err(io::Error::from_raw_os_error(number))),
    }
}

/// Whether /proc/net/unix has the inode. It may belong to a later socket: then a gone one is taken for existing for
/// as long as that one lives.
fn in_proc(inode: u32) -> io::Result<bool> {
    let text = std::fs::read("/proc/net/unix")?;
    let wanted = inode.to_string();
    // Num RefCount Protocol Flags Type St Inode Path
    let inodes = text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).nth(6));
    Ok(inodes.into_iter().any(|found| found == wanted.as_bytes()))
}

/// For a socket known by its inode alone.
impl From<u32> for SocketName {
    fn from(inode: u32) -> Self {
        Self { inode, cookie: NO_COOKIE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{readiness, seqpacket};
    use std::net::Shutdown;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn tables() -> [SocketTable; 2] {
        [SocketTable::open().unwrap(), SocketTable::by_proc()]
    }

    #[test]
    fn this_kernel_answers_by_netlink() {
        assert!(SocketTable::open().unwrap().netlink.is_some());
    }

    #[test]
    fn a_hang_up_by_shutdown_is_no_close() {
        for mut table in tables() {
            let (service, holder) = seqpacket::pair().unwrap();
            let name = SocketName::of(holder.as_fd()).unwrap();
            // The same call on the descriptor, whatever std takes it for.
            let holder = UnixStream::from(holder);
            holder.shutdown(Shutdown::Both).unwrap();
            assert!(readiness::now(service.as_fd()).unwrap().hung_up);
            assert!(table.exists(name).unwrap());
            let copy = holder.try_clone().unwrap();
            drop(holder);
            assert!(table.exists(name).unwrap(), "a copy is left");
            drop(copy);
            assert!(!table.exists(name).unwrap());
        }
    }

    #[test]
    fn an_end_in_a_queue_exists() {
        for mut table in tables() {
            let (_service, holder) = seqpacket::pair().unwrap();
            let (from, to) = seqpacket::pair().unwrap();
            let name = SocketName::of(holder.as_fd()).unwrap();
            seqpacket::try_send(from.as_fd(), b"x", &[holder.as_fd()]).unwrap();
            drop(holder);
            assert!(table.exists(name).unwrap());
            drop((from, to));
            assert!(!table.exists(name).unwrap());
        }
    }

    #[test]
    fn another_socket_of_the_same_inode_is_told_by_its_cookie() {
        let (a, _b) = seqpacket::pair().unwrap();
        let name = SocketName::of(a.as_fd()).unwrap();
        let mut table = SocketTable::open().unwrap();
        assert!(table.exists(SocketName::from(name.inode)).unwrap());
        assert!(!table.exists(SocketName { cookie: name.cookie + 1, ..name }).unwrap());
    }
}
