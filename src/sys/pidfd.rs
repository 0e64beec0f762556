//! Processes pinned by descriptor: a pidfd names one process for ever, a pid only while it lives.

use super::{done, readiness};
use crate::model::CgroupId;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// PIDFD_GET_INFO: `_IOWR(0xFF, 11, 64 bytes)`, `include/uapi/linux/pidfd.h`, Linux 6.13.
const PIDFD_GET_INFO: libc::Ioctl = 0xC040_FF0B;
const INFO_PID: u64 = 1 << 0;
const INFO_CGROUPID: u64 = 1 << 2;

/// The first version of `struct pidfd_info`; later kernels take the smaller size.
#[repr(C)]
#[derive(Clone, Copy)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    pid: u32,
    rest: [u32; 11],
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);

/// What this kernel offers to know a peer by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// SO_PEERPIDFD: the peer's process comes pinned. Without it its pid is pinned afterwards and checked again.
    pub peer_pidfd: bool,
    /// PIDFD_GET_INFO with the cgroup id: a process's cgroup without /proc. Without it /proc is read under the pidfd.
    pub pidfd_cgroup: bool,
}

impl Offer {
    /// Tries both on ourselves.
    pub fn of_this_kernel() -> Self {
        let peer_pidfd =
            super::seqpacket::pair().is_ok_and(|(a, _b)| super::socket_option::peer_pidfd(a.as_fd()).is_ok());
        let pidfd_cgroup = open(std::process::id()).is_ok_and(|me| cgroup_id(me.as_fd()).is_ok());
        Self { peer_pidfd, pidfd_cgroup }
    }

    /// Neither: what an older kernel has. For tests of the fallbacks.
    pub const NONE: Self = Self { peer_pidfd: false, pidfd_cgroup: false };
}

/// Pins the process that has this pid now. ESRCH where there is none.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    // SAFETY: no pointers.
    let number = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let number = done(libc::c_int::try_from(number).unwrap_or(-1))?;
    // SAFETY: the call succeeded: the number is open (close-on-exec) and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whether the process still runs; a zombie does not. Never blocks.
pub fn is_alive(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    // pidfds are readable from the moment the process (all its threads) ended: pidfd_open(2).
    Ok(!readiness::now(pidfd)?.readable)
}

fn info(pidfd: BorrowedFd<'_>) -> io::Result<PidfdInfo> {
    // SAFETY: integers; zeros are valid.
    let mut info: PidfdInfo = unsafe { mem::zeroed() };
    info.mask = INFO_PID | INFO_CGROUPID;
    // SAFETY: the call reads and writes one structure of the 64 bytes that its number carries.
    done(unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) })?;
    Ok(info)
}

/// The id of the cgroup2 cgroup of the process's leading thread: `st_ino` of its directory.
///
/// Answers for the dead too; ask [`is_alive`] afterwards. ENOTTY before Linux 6.13.
pub fn cgroup_id(pidfd: BorrowedFd<'_>) -> io::Result<CgroupId> {
    let info = info(pidfd)?;
    if info.mask & INFO_CGROUPID == 0 {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    Ok(CgroupId(info.cgroup_id))
}

/// The pid of the process in our pid namespace. ESRCH where it is gone or not in it.
pub fn pid(pidfd: BorrowedFd<'_>) -> io::Result<u32> {
    let gone = || io::Error::from_raw_os_error(libc::ESRCH);
    match info(pidfd) {
        Ok(info) if info.mask & INFO_PID != 0 && info.pid != 0 => Ok(info.pid),
        Ok(_) => Err(gone()),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(error),
        // An older kernel: the descriptor's description has it.
        Err(_) => {
            let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
            let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
            pid.and_then(|pid| pid.parse().ok()).filter(|pid| *pid != 0).ok_or_else(gone)
        }
    }
}

/// Whether a descriptor that somebody sent is a pidfd, by the name that the kernel gives it: a file's begins with a slash.
pub fn is_one(fd: BorrowedFd<'_>) -> bool {
    let name = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default();
    // Since Linux 6.9 it has a number of its own.
    let name = name.as_os_str().as_encoded_bytes();
    name == b"anon_inode:[pidfd]" || name.starts_with(b"pidfd:[")
}

/// Sends a signal to the process. ESRCH where it is gone.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no siginfo is given; the kernel makes one.
    let returned = unsafe {
        let none = std::ptr::null::<libc::siginfo_t>();
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0)
    };
    done(libc::c_int::try_from(returned).unwrap_or(-1)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_pidfd_outlives_its_process() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = open(child.id()).unwrap();
        assert!(is_alive(pidfd.as_fd()).unwrap());
        assert_eq!(pid(pidfd.as_fd()).unwrap(), child.id());
        assert!(is_one(pidfd.as_fd()));
        assert!(!is_one(std::fs::File::open("/proc/self/status").unwrap().as_fd()));
        send_signal(pidfd.as_fd(), libc::SIGKILL).unwrap();
        readiness::wait(pidfd.as_fd(), readiness::Interest::Read, None).unwrap();
        assert!(!is_alive(pidfd.as_fd()).unwrap(), "a zombie is dead");
        child.wait().unwrap();
        assert!(!is_alive(pidfd.as_fd()).unwrap());
        assert!(pid(pidfd.as_fd()).is_err());
        assert!(send_signal(pidfd.as_fd(), libc::SIGKILL).is_err());
    }

    #[test]
    fn the_cgroup_id_is_the_directorys_inode() {
        use std::os::unix::fs::MetadataExt;
        if !Offer::of_this_kernel().pidfd_cgroup {
            return;
        }
        let me = open(std::process::id()).unwrap();
        let root = crate::sys::cgroup::Root::find(None).unwrap();
        let text = std::fs::read("/proc/self/cgroup").unwrap();
        let path = crate::sys::cgroup::parse_membership(&text).unwrap();
        let dir = root.mount_point().join(path.relative());
        assert_eq!(cgroup_id(me.as_fd()).unwrap().0, std::fs::metadata(dir).unwrap().ino());
    }
}
