//! What takes more privilege than a service in its sandbox has: done here, or by `ioasidd --outside`.

use crate::model::PciAddress;
use crate::proto::outside::{MAX_ANSWER, Request, parse_answer};
use crate::sys::fuse::{self, Channel, is_mounted};
use crate::sys::pci::Functions;
use crate::sys::process::{CAP_SYS_ADMIN, has_capability};
use crate::sys::seqpacket::{self, Received};
use crate::sys::{iommufd, listener};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The socket of `ioasidd --outside`, below the runtime directory.
pub(super) const SOCKET: &str = "outside.sock";
/// How long an answer may take: it may have to be started first.
const PATIENCE: Duration = Duration::from_secs(10);

/// Mounts of dead services that may lie on each other.
const MOST_STALE: usize = 16;
/// Where the kernel shows its devices.
const SYSFS: &str = "/sys";
/// Where iommufds are opened.
const IOMMUFD: &str = "/dev/iommu";

/// Who does it.
#[derive(Clone, Debug)]
pub(super) enum Privileged {
    /// This process.
    Here,
    /// The process that is asked at this socket.
    Outside(PathBuf),
}

impl Privileged {
    /// This process where it may, or where there is nobody to ask.
    pub(super) fn find(runtime_dir: &Path) -> Self {
        let socket = runtime_dir.join(SOCKET);
        if has_capability(CAP_SYS_ADMIN) || !socket.exists() { Self::Here } else { Self::Outside(socket) }
    }

    /// Mounts the cgroup files on `dir`, in place of what dead services left mounted there.
    pub(super) fn mount(&self, dir: &Path) -> io::Result<Channel> {
        let Self::Outside(socket) = self else { return mount(dir) };
        let channel = opened(socket, Request::Mount).and_then(Channel::resume).inspect_err(|_| {
            // It ended, or its answer came too late, after it had mounted them: they are served by nobody.
            if is_mounted(dir).unwrap_or(false) {
                let _ = ask(socket, Request::Unmount);
            }
        })?;
        // The request names no directory. What is mounted outside shows in the service's mount namespace at once.
        if is_mounted(dir)? {
            return Ok(channel);
        }
        ask(socket, Request::Unmount)?;
        Err(io::Error::other("the unit of ioasidd --outside has another --cgroup-fs or --runtime-dir"))
    }

    /// Unmounts them.
    pub(super) fn unmount(&self, dir: &Path) -> io::Result<()> {
        match self {
            Self::Here => fuse::unmount(dir),
            Self::Outside(socket) => ask(socket, Request::Unmount).map(drop),
        }
    }

    /// Listens on a TCP port of the loopback address.
    pub(super) fn listen(&self, port: NonZeroU16) -> io::Result<TcpListener> {
        match self {
            Self::Here => TcpListener::bind((Ipv4Addr::LOCALHOST, port.get())),
            Self::Outside(socket) => opened(socket, Request::Listen(port)).map(TcpListener::from),
        }
    }

    /// Opens a function's configuration space so that all of it can be read.
    pub(super) fn config(&self, address: &PciAddress) -> io::Result<OwnedFd> {
        match self {
            Self::Here => functions().open_config(address),
            Self::Outside(socket) => opened(socket, Request::Config(*address)),
        }
    }

    /// Opens an iommufd whose pinned memory counts on who maps it.
    pub(super) fn iommufd(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Here => iommufd::open(Path::new(IOMMUFD)),
            Self::Outside(socket) => opened(socket, Request::Iommufd),
        }
    }
}

/// The PCI functions of this host.
pub(super) fn functions() -> Functions {
    Functions::at(Path::new(SYSFS))
}

fn mount(dir: &Path) -> io::Result<Channel> {
    for _ in 0..MOST_STALE {
        if !is_mounted(dir)? {
            break;
        }
        fuse::unmount(dir)?;
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    fuse::mount(dir)
}

fn opened(socket: &Path, request: Request) -> io::Result<OwnedFd> {
    ask(socket, request)?.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Asks and waits for the answer. A connection for each: what is asked is rare.
fn ask(socket: &Path, request: Request) -> io::Result<Option<OwnedFd>> {
    let deadline = Some(Instant::now() + PATIENCE);
    // Without ENOENT: what is asked for may be there.
    let nobody = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::other("there is no socket of ioasidd --outside any more"),
        _ => error,
    };
    let connection = listener::connect(socket, deadline).map_err(nobody)?;
    seqpacket::send(connection.as_fd(), request.to_string().as_bytes(), &[], deadline)?;
    let mut answer = [0; MAX_ANSWER];
    match seqpacket::receive(connection.as_fd(), &mut answer, deadline)? {
        Received::Message { len, mut fds } => match answer.get(..len).and_then(parse_answer) {
            Some(0) => Ok(fds.pop()),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(io::ErrorKind::InvalidData.into()),
        },
        Received::Truncated(_) => Err(io::ErrorKind::InvalidData.into()),
        Received::Closed => Err(io::Error::other("ioasidd --outside does not serve this process")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who took over the service can write where the files are mounted, and is not to choose the place.
    #[test]
    fn a_link_in_place_of_the_directory_has_nothing_mounted_behind_it() {
        let scratch = tempfile::tempdir().unwrap();
        let (link, behind) = (scratch.path().join("cgroup"), scratch.path().join("behind"));
        std::fs::create_dir(&behind).unwrap();
        std::os::unix::fs::symlink(&behind, &link).unwrap();
        let outcome = Privileged::Here.mount(&link);
        let mounted = is_mounted(&behind).unwrap();
        fuse::unmount(&behind).unwrap();
        assert!(outcome.is_err() && !mounted, "{outcome:?}");
    }

    /// An answer of the host is believed; that nobody answers says nothing of the host.
    #[test]
    fn without_anybody_outside_nothing_is_said_not_to_be_there() {
        let nobody = Privileged::Outside("/nonexistent/outside.sock".into());
        let function = "0000:00:00.0".parse().unwrap();
        for error in [nobody.config(&function).unwrap_err(), nobody.iommufd().unwrap_err()] {
            assert!(error.kind() != io::ErrorKind::NotFound && error.to_string().contains("--outside"), "{error:?}");
        }
    }
}
