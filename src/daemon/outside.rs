//! `ioasidd --outside`: does for the service what its sandbox keeps it from.
//!
//! The service lives in a mount namespace of its own, without CAP_SYS_ADMIN, CAP_SYS_RESOURCE and network sockets. This
//! process stays outside, started by its socket when the service asks for something, and ends when nothing was asked for
//! a while. It believes nothing: who asks is root in the cgroup of the service's unit, the one beside its own, so that
//! nobody with a cgroup to himself can make one of that name; a [`Request`] names one of five things and no path, and
//! what else comes in has the connection closed.

use super::Arguments;
use super::privileged::{Privileged, SOCKET};
use crate::identity::{Host, Peer};
use crate::model::{CgroupPath, Failure, Fault};
use crate::proto::outside::{MAX_REQUEST, Request};
use crate::sys::cgroup::membership;
use crate::sys::listener::Listener;
use crate::sys::process::{self, CAP_SYS_ADMIN};
use crate::sys::seqpacket::{self, Received};
use crate::sys::service_manager::Inherited;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The unit that is served.
const UNIT: &str = "ioasidd.service";
/// How long to wait for the next connection before the end.
const IDLE: Duration = Duration::from_secs(30);
/// How long a connection may take to ask and to listen.
const PATIENCE: Duration = Duration::from_secs(5);
/// CAP_SYS_ADMIN, and CAP_SYS_RESOURCE (24) for the accounting of an iommufd.
const CAPABILITIES: u64 = 1 << CAP_SYS_ADMIN | 1 << 24;
/// Said where an error has no number of its own.
const EIO: i32 = 5;

/// Serves the socket that came with the start until nobody asks any more.
pub(super) fn serve(arguments: &Arguments, inherited: Vec<Inherited>) -> Result<ExitCode, Fault> {
    let socket = inherited.into_iter().find(|passed| passed.name == SOCKET);
    let socket = socket.ok_or_else(|| Fault::new("--outside is started by its socket, ioasidd-outside.socket"))?;
    let listener = Listener::inherited(socket.fd);
    let host = Host::find(arguments.cgroup_root.as_deref(), None)?;
    let service = beside(&membership(std::process::id())?)?;
    let runtime_dir = arguments.runtime_dir().map_err(Fault::new)?;
    let files = arguments.cgroup_fs(&runtime_dir);
    process::limit_capabilities(CAPABILITIES)?;
    process::forbid_new_privileges()?;
    loop {
        let connection = match listener.accept(Some(Instant::now() + IDLE)) {
            Ok(connection) => connection,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(ExitCode::SUCCESS),
            Err(error) => return Err(Fault::from(error).while_doing("accept a connection")),
        };
        let outcome = check(connection.as_fd(), &host, &service)
            .and_then(|()| converse(connection.as_fd(), |request| act(request, files.as_deref())));
        if let Err(why) = outcome {
            tracing::warn!("not served: {why}");
        }
    }
}

/// The cgroup of the service's unit: beside `own`, where the service manager has both in one slice.
fn beside(own: &CgroupPath) -> Result<CgroupPath, Fault> {
    let slice = own.parent().ok_or_else(|| Fault::new("--outside is a unit of its own, beside that of the service"))?;
    slice.child(UNIT).map_err(|malformed| Fault::new(malformed.to_string()))
}

/// Whether the service is at the other end, root in cgroup `service`; else who it is.
fn check(connection: BorrowedFd<'_>, host: &Host, service: &CgroupPath) -> Result<(), String> {
    let who = || -> Result<_, Failure> {
        let peer = Peer::of_socket(connection, host)?;
        Ok((peer.uid, peer.cgroup(host)?.path))
    };
    match who() {
        Ok((0, cgroup)) if cgroup == *service => Ok(()),
        Ok((uid, cgroup)) => Err(format!("uid {uid} in {cgroup} is not root in {service}")),
        Err(failure) => Err(failure.to_string()),
    }
}

/// Reads the one request of a connection and answers it.
fn converse(
    connection: BorrowedFd<'_>,
    mut act: impl FnMut(Request) -> io::Result<Option<OwnedFd>>,
) -> Result<(), String> {
    let deadline = Some(Instant::now() + PATIENCE);
    let mut buffer = [0; MAX_REQUEST];
    let request = match seqpacket::receive(connection, &mut buffer, deadline).map_err(|e| e.to_string())? {
        Received::Message { len, fds } if fds.is_empty() => buffer.get(..len).and_then(Request::parse),
        Received::Message { .. } | Received::Truncated(_) | Received::Closed => None,
    };
    let request = request.ok_or("what came is no request")?;
    let (errno, opened) = match act(request) {
        Ok(opened) => (0, opened),
        Err(error) => (error.raw_os_error().filter(|errno| *errno > 0).unwrap_or(EIO), None),
    };
    let fds: Vec<BorrowedFd<'_>> = opened.iter().map(AsFd::as_fd).collect();
    let sent = seqpacket::send(connection, errno.to_string().as_bytes(), &fds, deadline);
    if sent.is_err() && request == Request::Mount && opened.is_some() {
        // Who asked gave up meanwhile, and nobody is to meet files that nobody serves.
        act(Request::Unmount).map_err(|e| format!("{request} for nobody: {e}"))?;
    }
    sent.map_err(|e| format!("{request}: {e}"))
}

/// Does it, as a service without a sandbox does it for itself.
fn act(request: Request, files: Option<&Path>) -> io::Result<Option<OwnedFd>> {
    let files = || files.ok_or(io::ErrorKind::NotFound);
    let here = Privileged::Here;
    match request {
        Request::Mount => here.mount(files()?).map(|channel| Some(channel.into())),
        Request::Unmount => here.unmount(files()?).map(|()| None),
        Request::Listen(port) => here.listen(port).map(|socket| Some(socket.into())),
        Request::Config(address) => here.config(&address).map(Some),
        Request::Iommufd => here.iommufd().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket_option;

    /// What `bytes` and `fds` are answered with, and what was done.
    fn said(bytes: &[u8], fds: &[BorrowedFd<'_>]) -> (Received, Option<Request>, [u8; 16]) {
        let (ours, theirs) = seqpacket::pair().unwrap();
        seqpacket::try_send(ours.as_fd(), bytes, fds).unwrap();
        let (mut done, mut answer) = (None, [0; 16]);
        let (kept, _other) = seqpacket::pair().unwrap();
        let mut kept = Some(kept);
        let outcome = converse(theirs.as_fd(), |request| {
            done = Some(request);
            match request {
                Request::Iommufd => Err(io::Error::from_raw_os_error(2)),
                Request::Unmount => Err(io::ErrorKind::NotFound.into()),
                _ => Ok(kept.take()),
            }
        });
        drop(theirs);
        assert_eq!(outcome.is_ok(), done.is_some());
        (seqpacket::try_receive(ours.as_fd(), &mut answer).unwrap(), done, answer)
    }

    #[test]
    fn what_was_opened_comes_back_and_what_failed_says_why() {
        let (received, done, answer) = said(b"mount", &[]);
        let Received::Message { len: 1, fds } = received else { panic!("{received:?}") };
        assert!(socket_option::is_unix_seqpacket(fds[0].as_fd()));
        assert_eq!((done, answer[0]), (Some(Request::Mount), b'0'));
        for (request, errno) in [(&b"iommufd"[..], b'2'), (b"unmount", b'5')] {
            let (received, _, answer) = said(request, &[]);
            assert!(matches!(&received, Received::Message { len: 1, fds } if fds.is_empty()), "{received:?}");
            assert_eq!(answer[0], errno);
        }
    }

    #[test]
    fn what_is_no_request_has_nothing_done_and_no_answer() {
        let (a, _b) = seqpacket::pair().unwrap();
        let hostile: [(&[u8], &[BorrowedFd<'_>]); 5] = [
            (b"mount /etc", &[]),
            (b"\0", &[]),
            (&[b'm'; MAX_REQUEST + 1], &[]),
            (b"mount", &[a.as_fd()]),
            (b"unmount", &[a.as_fd(); seqpacket::MAX_FDS]),
        ];
        for (bytes, fds) in hostile {
            let (received, done, _) = said(bytes, fds);
            assert!(matches!(received, Received::Closed), "{bytes:?}: {received:?}");
            assert_eq!(done, None);
        }
    }

    /// This process is root, but in no cgroup of that name; nor would one elsewhere do.
    #[test]
    fn nobody_but_the_service_is_served() {
        let host = Host::find(None, None).unwrap();
        let (_ours, theirs) = seqpacket::pair().unwrap();
        let cgroup = |path: &str| path.parse::<CgroupPath>().unwrap();
        let service = beside(&cgroup("/system.slice/ioasidd-outside.service")).unwrap();
        assert_eq!(service, cgroup("/system.slice/ioasidd.service"));
        let why = check(theirs.as_fd(), &host, &service).unwrap_err();
        assert!(why.ends_with("is not root in /system.slice/ioasidd.service"), "{why}");
        let own = membership(std::process::id()).unwrap();
        check(theirs.as_fd(), &host, &own).unwrap();
        let elsewhere = own.child(UNIT).unwrap();
        assert!(check(theirs.as_fd(), &host, &elsewhere).is_err());
        assert!(beside(&CgroupPath::root()).is_err());
    }
}
