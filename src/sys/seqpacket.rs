//! Messages over AF_UNIX SEQPACKET sockets, with descriptors (SCM_RIGHTS).
//!
//! Room is always made for every descriptor the kernel can deliver in one message, so none is ever installed without an
//! owner; what was cut short is closed whole. `try_` calls never block, whatever the socket's flags are; the others
//! block until a deadline, whatever the flags are.

use super::{counted, done, readiness};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Instant;

/// The most descriptors in one message: SCM_MAX_FD, `include/net/scm.h`.
pub const MAX_FDS: usize = 253;

/// Bytes for control messages: 253 descriptors take 1,032; the rest is for credentials, pidfd, security label and
/// timestamps, which whoever shares the socket can switch on.
const CONTROL_WORDS: usize = 256;

/// SCM_PIDFD, `include/linux/socket.h`; not in libc.
const SCM_PIDFD: libc::c_int = 4;

/// What a receive call found.
#[derive(Debug)]
pub enum Received {
    /// One message.
    Message {
        /// How many bytes of the buffer it took; 0 for an empty packet.
        len: usize,
        /// What came with it, close-on-exec.
        fds: Vec<OwnedFd>,
    },
    /// A message larger than the buffer, or with control data cut short (a full descriptor table among the reasons).
    /// It is gone; what came with it is for the receiver to close.
    Truncated(Vec<OwnedFd>),
    /// The end: the peer closed or shut down, and nothing is left to read.
    Closed,
}

/// A connected pair, close-on-exec and non-blocking.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [libc::c_int; 2] = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: `fds` has room for the two numbers the call writes.
    done(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: the call succeeded: both numbers are open and nobody else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Lets the kernel do the waiting of [`receive`] on this socket: one call instead of three. For who alone has the open file.
pub fn wait_in_kernel(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    let flags = done(unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: no pointers.
    done(unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) }).map(drop)
}

/// Ends the connection for both sides, whoever has copies of this end.
pub fn shut_down(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) }).map(drop)
}

/// Sends one message. Never blocks: `WouldBlock` when the queue is full. EPIPE without a signal when nobody reads.
///
/// An empty message is refused (EINVAL): the receiver could not tell it from the end.
pub fn try_send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if bytes.is_empty() || fds.len() > MAX_FDS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: a msghdr of zeros is one without name, data or control.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !fds.is_empty() {
        // At most 253 * 4 bytes: fits u32 and, by CONTROL_WORDS, the buffer.
        let size = size_of_val(fds_numbers(fds).as_slice()) as u32;
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: pure arithmetic.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as _;
        // SAFETY: msg_control points to `control`, aligned for a cmsghdr (u64) and larger than CMSG_SPACE(size), so
        // the first header and `size` bytes of data after it are within it.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(size) as _;
            let data = libc::CMSG_DATA(first).cast::<libc::c_int>();
            for (index, number) in fds_numbers(fds).into_iter().enumerate() {
                data.add(index).write_unaligned(number);
            }
        }
    }
    loop {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: `header` points to `part` and `control`, both alive; the kernel only reads them.
        match counted(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // SEQPACKET sends all or nothing.
            other => return other.map(drop),
        }
    }
}

fn fds_numbers(fds: &[BorrowedFd<'_>]) -> Vec<libc::c_int> {
    fds.iter().map(AsRawFd::as_raw_fd).collect()
}

/// Whether a send failed as so many descriptors are on their way, from this user to all who have not read them, that the
/// kernel takes no more (ETOOMANYREFS, unix(7)): more than RLIMIT_NOFILE, from who has no CAP_SYS_RESOURCE.
pub fn is_too_many_on_the_way(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ETOOMANYREFS)
}

/// Sends one message, waiting for room until `deadline` (`TimedOut`), for ever without one.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    loop {
        match try_send(socket, bytes, fds) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                readiness::wait(socket, readiness::Interest::Write, deadline)?;
            }
            other => return other,
        }
    }
}

/// Receives one message. Never blocks: `WouldBlock` when there is none.
pub fn try_receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    receive_with(socket, buffer, libc::MSG_DONTWAIT, false)
}

/// The same, but `ConnectionReset`, once and before anything else, where the peer was closed by its last holder with
/// something of ours unread in it; [`try_receive`] passes over that.
pub fn try_receive_or_reset(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    receive_with(socket, buffer, libc::MSG_DONTWAIT, true)
}

/// Receives one message, waiting until `deadline` (`TimedOut`), for ever without one.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], deadline: Option<Instant>) -> io::Result<Received> {
    // Without a deadline the kernel does the waiting where the socket's flags let it: one call instead of three.
    let flags = if deadline.is_some() { libc::MSG_DONTWAIT } else { 0 };
    loop {
        match receive_with(socket, buffer, flags, false) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                readiness::wait(socket, readiness::Interest::Read, deadline)?;
            }
            other => return other,
        }
    }
}

fn receive_with(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: libc::c_int,
    tell_reset: bool,
) -> io::Result<Received> {
    let mut control = [0_u64; CONTROL_WORDS];
    let Packet { len, fds, cut, .. } = loop {
        match receive_once(socket, buffer, &mut control, flags) {
            // ECONNRESET: the peer closed with our messages unread. It is told once; what is queued here can be read.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !tell_reset => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if cut {
        return Ok(Received::Truncated(fds));
    }
    if len == 0 {
        // An empty packet looks like the end; only the socket's state tells.
        let ready = readiness::now(socket)?;
        if ready.peer_closed_writing || ready.hung_up {
            return Ok(Received::Closed);
        }
    }
    Ok(Received::Message { len, fds })
}

/// What one recvmsg(2) brought.
pub(super) struct Packet {
    pub(super) len: usize,
    pub(super) fds: Vec<OwnedFd>,
    /// Something was cut short.
    pub(super) cut: bool,
    /// Pid and uid of the sender, where the socket asks for them (SO_PASSCRED).
    pub(super) sender: Option<(u32, u32)>,
}

/// The same for datagram sockets: one packet, without waiting.
pub(super) fn try_receive_packet(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Packet> {
    let mut control = [0_u64; CONTROL_WORDS];
    loop {
        match receive_once(socket, buffer, &mut control, libc::MSG_DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn receive_once(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    control: &mut [u64; CONTROL_WORDS],
    flags: libc::c_int,
) -> io::Result<Packet> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a msghdr of zeros is one without name, data or control.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(control) as _;
    // SAFETY: `header` points to `part` and `control`, both alive and writable for the lengths given.
    let len = counted(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags | libc::MSG_CMSG_CLOEXEC) })?;
    let mut fds = Vec::new();
    let mut sender = None;
    // SAFETY: the kernel filled `control` up to msg_controllen; the CMSG calls walk inside that.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !message.is_null() {
        // SAFETY: not null: CMSG_FIRSTHDR and CMSG_NXTHDR return headers that lie within the control buffer.
        let (level, kind, length) =
            unsafe { ((*message).cmsg_level, (*message).cmsg_type, (*message).cmsg_len as usize) };
        // SAFETY: pure arithmetic.
        let overhead = unsafe { libc::CMSG_LEN(0) } as usize;
        if level == libc::SOL_SOCKET && kind == libc::SCM_CREDENTIALS && length >= overhead + size_of::<libc::ucred>() {
            // SAFETY: cmsg_len says that a whole ucred is there.
            let found = unsafe { libc::CMSG_DATA(message).cast::<libc::ucred>().read_unaligned() };
            sender = Some((found.pid.cast_unsigned(), found.uid));
        }
        if level == libc::SOL_SOCKET && matches!(kind, libc::SCM_RIGHTS | SCM_PIDFD) {
            for index in 0..length.saturating_sub(overhead) / size_of::<libc::c_int>() {
                // SAFETY: `index` is below what cmsg_len says the kernel wrote there.
                let number = unsafe { libc::CMSG_DATA(message).cast::<libc::c_int>().add(index).read_unaligned() };
                // SCM_PIDFD may be an error number instead.
                if number >= 0 {
                    // SAFETY: the kernel just installed this number for us; nobody else owns it.
                    let fd = unsafe { OwnedFd::from_raw_fd(number) };
                    // A pidfd nobody asked for is closed here.
                    if kind == libc::SCM_RIGHTS {
                        fds.push(fd);
                    }
                }
            }
        }
        // SAFETY: `message` came from the same header.
        message = unsafe { libc::CMSG_NXTHDR(&raw const header, message) };
    }
    let cut = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    Ok(Packet { len, fds, cut, sender })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket_option;
    use std::os::fd::AsFd;
    use std::time::Duration;

    fn message(received: io::Result<Received>) -> (usize, Vec<OwnedFd>) {
        match received.unwrap() {
            Received::Message { len, fds } => (len, fds),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn descriptors_arrive_up_to_the_kernels_bound() {
        let (a, b) = pair().unwrap();
        let (c, d) = pair().unwrap();
        let many = vec![c.as_fd(); MAX_FDS];
        try_send(a.as_fd(), b"hello", &many).unwrap();
        let mut buffer = [0; 64];
        let (len, fds) = message(try_receive(b.as_fd(), &mut buffer));
        assert_eq!((&buffer[..len], fds.len()), (b"hello".as_slice(), MAX_FDS));
        assert_eq!(socket_option::cookie(fds[252].as_fd()).unwrap(), socket_option::cookie(c.as_fd()).unwrap());
        drop((c, fds));
        assert!(readiness::now(d.as_fd()).unwrap().hung_up, "all copies are closed");
        assert!(try_send(a.as_fd(), b"x", &vec![b.as_fd(); MAX_FDS + 1]).is_err());
    }

    #[test]
    fn a_cut_message_closes_what_it_brought() {
        let (a, b) = pair().unwrap();
        let (c, d) = pair().unwrap();
        try_send(a.as_fd(), b"too long", &[c.as_fd(), c.as_fd()]).unwrap();
        drop(c);
        assert!(matches!(try_receive(b.as_fd(), &mut [0; 4]).unwrap(), Received::Truncated(_)));
        assert!(readiness::now(d.as_fd()).unwrap().hung_up);
        assert_eq!(try_receive(b.as_fd(), &mut [0; 4]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn control_data_that_the_sharer_switched_on_neither_cuts_nor_stays() {
        let (a, b) = pair().unwrap();
        let on: libc::c_int = 1;
        // SO_PASSCRED, SO_PASSSEC, SO_PASSPIDFD, SO_TIMESTAMP: where the kernel has them.
        for option in [libc::SO_PASSCRED, libc::SO_PASSSEC, 76, libc::SO_TIMESTAMP] {
            // SAFETY: an integer of the size given.
            unsafe { libc::setsockopt(b.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const on).cast(), 4) };
        }
        try_send(a.as_fd(), b"hello", &vec![a.as_fd(); MAX_FDS]).unwrap();
        let mut control = [0_u64; CONTROL_WORDS];
        let packet = receive_once(b.as_fd(), &mut [0; 8], &mut control, libc::MSG_DONTWAIT).unwrap();
        assert_eq!((packet.len, packet.fds.len(), packet.cut), (5, MAX_FDS, false));
        assert_eq!(packet.sender.map(|(pid, _)| pid), Some(std::process::id()));
    }

    #[test]
    fn the_end_is_no_empty_packet() {
        let (a, b) = pair().unwrap();
        assert!(try_send(a.as_fd(), b"", &[]).is_err());
        // SAFETY: sends no bytes from nowhere.
        assert_eq!(unsafe { libc::send(a.as_raw_fd(), std::ptr::null(), 0, 0) }, 0);
        try_send(a.as_fd(), b"last", &[]).unwrap();
        assert_eq!(message(try_receive(b.as_fd(), &mut [0; 8])).0, 0);
        drop(a);
        assert_eq!(message(try_receive(b.as_fd(), &mut [0; 8])).0, 4);
        assert!(matches!(try_receive(b.as_fd(), &mut [0; 8]).unwrap(), Received::Closed));
        assert_eq!(try_send(b.as_fd(), b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_reset_is_an_end() {
        let (a, b) = pair().unwrap();
        try_send(b.as_fd(), b"unread", &[]).unwrap();
        drop(a);
        assert!(matches!(try_receive(b.as_fd(), &mut [0; 8]).unwrap(), Received::Closed));
    }

    #[test]
    fn blocking_calls_wait_for_the_peer_and_their_deadline() {
        let (a, b) = pair().unwrap();
        let soon = Some(Instant::now() + Duration::from_millis(10));
        assert_eq!(receive(b.as_fd(), &mut [0; 8], soon).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let peer = std::thread::spawn(move || send(a.as_fd(), b"now", &[], None));
        assert_eq!(message(receive(b.as_fd(), &mut [0; 8], None)).0, 3);
        peer.join().unwrap().unwrap();
    }
}
