//! What a socket tells about itself.

use super::{done, size_of_socklen};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The uid, gid and pid of who connected, as SO_PEERCRED has it: taken at connect(2), in our namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id; 0 where it has none in our pid namespace.
    pub pid: u32,
    /// Effective uid at connect(2).
    pub uid: u32,
    /// Effective gid at connect(2).
    pub gid: u32,
}

/// Reads a SOL_SOCKET option of fixed size.
fn get<T: Copy>(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut size = size_of_socklen::<T>();
    let at = value.as_mut_ptr().cast();
    // SAFETY: `value` has room for `size` bytes; the kernel writes no more.
    done(unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, at, &raw mut size) })?;
    if size != size_of_socklen::<T>() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: zeroed, then written whole by the kernel; T is an integer or a C structure of integers, any bits are valid.
    Ok(unsafe { value.assume_init() })
}

/// The socket's cookie: a number that no other socket of this boot has or will have. Source: SO_COOKIE, socket(7).
pub fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    get(socket, libc::SO_COOKIE)
}

/// The inode of a descriptor's file; for a socket what sock_diag(7) knows it by. May be used again after it is gone.
pub fn inode(fd: BorrowedFd<'_>) -> io::Result<u64> {
    file(fd).map(|(_, inode)| inode)
}

/// Device and inode of a descriptor's file: the same for every copy, another for every other file open now.
pub fn file(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `stat` has room for what the call writes.
    done(unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: zeroed, then written by the kernel.
    let stat = unsafe { stat.assume_init() };
    Ok((stat.st_dev, stat.st_ino))
}

/// Whether it is an AF_UNIX socket of type SEQPACKET; false for every other kind of descriptor.
pub fn is_unix_seqpacket(fd: BorrowedFd<'_>) -> bool {
    get::<libc::c_int>(fd, libc::SO_DOMAIN).is_ok_and(|family| family == libc::AF_UNIX)
        && get::<libc::c_int>(fd, libc::SO_TYPE).is_ok_and(|kind| kind == libc::SOCK_SEQPACKET)
}

/// Whether somebody else's end is there: connected, and not hung up.
pub fn peer_is_connected(socket: BorrowedFd<'_>) -> bool {
    name_length(socket, libc::getpeername).is_ok()
        && super::readiness::now(socket).is_ok_and(|ready| !ready.hung_up && !ready.peer_closed_writing)
}

/// Whether neither end has a name: so it is for a socket pair, and for nothing that went through listen(2).
pub fn is_unnamed_pair(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let unnamed = size_of::<libc::sa_family_t>() as libc::socklen_t;
    Ok(name_length(socket, libc::getsockname)? <= unnamed && name_length(socket, libc::getpeername)? <= unnamed)
}

type NameCall = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn name_length(socket: BorrowedFd<'_>, call: NameCall) -> io::Result<libc::socklen_t> {
    let mut address = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut size = size_of_socklen::<libc::sockaddr_storage>();
    // SAFETY: `address` has room for `size` bytes; the kernel writes no more.
    done(unsafe { call(socket.as_raw_fd(), address.as_mut_ptr().cast(), &raw mut size) })?;
    Ok(size)
}

/// How many bytes wait in the queue, of all messages; 0 also for an empty packet. Source: SIOCINQ, unix(7).
pub fn pending_bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    // FIONREAD is the same number.
    queued(socket, libc::FIONREAD)
}

/// How much of the queue the messages take that the peer has not read, in bytes of the kernel's; 0 once it read or closed.
/// Source: SIOCOUTQ, unix(7).
pub fn unread_by_peer(socket: BorrowedFd<'_>) -> io::Result<usize> {
    // TIOCOUTQ is the same number.
    queued(socket, libc::TIOCOUTQ)
}

fn queued(socket: BorrowedFd<'_>, which: libc::Ioctl) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: both callers' requests write one integer.
    done(unsafe { libc::ioctl(socket.as_raw_fd(), which, &raw mut count) })?;
    usize::try_from(count).map_err(io::Error::other)
}

/// Who connected: SO_PEERCRED.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    let found: libc::ucred = get(socket, libc::SO_PEERCRED)?;
    Ok(PeerCredentials { pid: found.pid.cast_unsigned(), uid: found.uid, gid: found.gid })
}

/// The process that connected, pinned: SO_PEERPIDFD, Linux 6.5. ENOPROTOOPT on older kernels, ESRCH (EINVAL before 6.16)
/// where it was reaped.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let number: libc::c_int = get(socket, libc::SO_PEERPIDFD)?;
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: the kernel just installed this number for us (close-on-exec, as all pidfds); nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The supplementary groups of who connected, at connect(2): SO_PEERGROUPS.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut size = libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        let at = groups.as_mut_ptr().cast();
        // SAFETY: `groups` has room for `size` bytes; the kernel writes no more and says how many.
        let found = done(unsafe {
            libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, at, &raw mut size)
        });
        let count = size as usize / size_of::<libc::gid_t>();
        match found {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // It said how many there are; NGROUPS_MAX bounds it.
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() && count <= 65536 => {
                groups.resize(count, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seqpacket;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn only_seqpacket_sockets_are_taken_for_one() {
        let (a, _b) = seqpacket::pair().unwrap();
        assert!(is_unix_seqpacket(a.as_fd()) && is_unnamed_pair(a.as_fd()).unwrap());
        let (stream, _other) = UnixStream::pair().unwrap();
        assert!(!is_unix_seqpacket(stream.as_fd()));
        assert!(!is_unix_seqpacket(std::fs::File::open("/dev/null").unwrap().as_fd()));
    }

    #[test]
    fn cookies_are_of_the_socket_not_of_the_descriptor() {
        let (a, b) = seqpacket::pair().unwrap();
        let copy = a.try_clone().unwrap();
        assert_eq!(cookie(a.as_fd()).unwrap(), cookie(copy.as_fd()).unwrap());
        assert_ne!(cookie(a.as_fd()).unwrap(), cookie(b.as_fd()).unwrap());
        assert_ne!(inode(a.as_fd()).unwrap(), inode(b.as_fd()).unwrap());
    }

    #[test]
    fn a_pair_knows_its_maker_and_its_end() {
        let (a, b) = seqpacket::pair().unwrap();
        assert_eq!(peer_credentials(a.as_fd()).unwrap().pid, std::process::id());
        peer_pidfd(a.as_fd()).unwrap();
        peer_groups(a.as_fd()).unwrap();
        seqpacket::try_send(b.as_fd(), b"abc", &[]).unwrap();
        assert_eq!(pending_bytes(a.as_fd()).unwrap(), 3);
        assert!(peer_is_connected(a.as_fd()));
        drop(b);
        assert!(!peer_is_connected(a.as_fd()));
    }
}
