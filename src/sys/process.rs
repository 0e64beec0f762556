//! This process: who it is, what it may have open, and which privileges it gives up.

use super::done;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Ends a process in an orderly way.
pub const SIGTERM: i32 = libc::SIGTERM;
/// Asks for a reload.
pub const SIGHUP: i32 = libc::SIGHUP;
/// Asks a supervised service to make room for its successor.
pub const SIGUSR2: i32 = libc::SIGUSR2;

/// The effective uid.
pub fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// How many descriptors this process may have open: the soft limit.
pub fn max_files() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
}

/// Raises the soft limit of open descriptors to the hard one.
pub fn raise_max_files() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Under the unit it is there already, and the call is not allowed.
    if soft < hard { Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?) } else { Ok(()) }
}

/// How many descriptors are left, as a new one shows: the kernel gives the lowest free number (open(2)), so all below it
/// are taken.
pub fn files_left(newest: BorrowedFd<'_>) -> u64 {
    max_files().saturating_sub(u64::from(newest.as_raw_fd().cast_unsigned()) + 1)
}

/// Has a write past RLIMIT_FSIZE fail with EFBIG like any other, in place of SIGXFSZ that ends the process.
pub fn survive_file_size_limit() -> io::Result<()> {
    // SAFETY: no handler of ours is installed: the signal is ignored.
    match unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// When the process with this pid was started, in clock ticks since boot. Source: proc_pid_stat(5), field 22.
pub fn start_time(pid: u32) -> io::Result<u64> {
    let text = std::fs::read(format!("/proc/{pid}/stat"))?;
    // The name stands in parentheses and may have any byte in it: what follows the last one is numbers.
    let text = String::from_utf8_lossy(&text);
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_whitespace().nth(19).and_then(|field| field.parse().ok()).ok_or(io::ErrorKind::InvalidData.into())
}

/// Gives up what no service needs: new privileges through execve (PR_SET_NO_NEW_PRIVS).
pub fn forbid_new_privileges() -> io::Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

/// Asks for SIGTERM when the parent ends. Of the calling thread's parent thread: call it from the main thread.
pub fn end_with_parent() -> io::Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0) }).map(drop)
}

/// CAP_SYS_ADMIN, `include/uapi/linux/capability.h`.
pub const CAP_SYS_ADMIN: u32 = 21;

/// Capabilities that the service keeps where it has them: CAP_DAC_OVERRIDE (1), CAP_DAC_READ_SEARCH (2: cgroups by id),
/// CAP_SYS_PTRACE (19: a peer's namespaces), CAP_SYS_ADMIN (21: mounting the FUSE tree, whole configuration spaces),
/// CAP_SYS_RESOURCE (24: an iommufd whose pinned memory counts on who maps it).
pub const SERVICE_CAPABILITIES: u64 = 1 << 1 | 1 << 2 | 1 << 19 | 1 << CAP_SYS_ADMIN | 1 << 24;

/// `struct __user_cap_header_struct` with _LINUX_CAPABILITY_VERSION_3: two words of each set.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// capget(2) or capset(2), of the calling thread.
fn capability_call(number: libc::c_long, data: &mut [Data; 2]) -> io::Result<()> {
    let mut header = Header { version: 0x2008_0522, pid: 0 };
    // SAFETY: both structures have the layout of capget(2), version 3, and live through the call.
    let returned = unsafe { libc::syscall(number, &raw mut header, data.as_mut_ptr()) };
    done(libc::c_int::try_from(returned).unwrap_or(-1)).map(drop)
}

/// Whether the calling thread has a capability now. Asking it of oneself cannot fail.
pub fn has_capability(capability: u32) -> bool {
    let mut data = [Data::default(); 2];
    let asked = capability_call(libc::SYS_capget, &mut data);
    let [low, high] = data.map(|half| u64::from(half.effective));
    asked.is_ok() && (high << 32 | low) >> capability & 1 == 1
}

/// Drops every capability that is not in `keep` (bit n: capability n), for good.
///
/// Of the calling thread, inherited by those it starts: call it before there are others.
pub fn limit_capabilities(keep: u64) -> io::Result<()> {
    let mut data = [Data::default(); 2];
    capability_call(libc::SYS_capget, &mut data)?;
    for capability in 0..64_u64 {
        // SAFETY: no pointers.
        let bounded = unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) };
        // Without CAP_SETPCAP the bounding set stays; with no_new_privs it makes no difference.
        if bounded == 1 && keep >> capability & 1 == 0 {
            // SAFETY: no pointers.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
    }
    for (half, keep) in data.iter_mut().zip([keep as u32, (keep >> 32) as u32]) {
        *half = Data { effective: half.effective & keep, permitted: half.permitted & keep, inheritable: 0 };
    }
    capability_call(libc::SYS_capset, &mut data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_time_is_the_process_own() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let (ours, childs) = (start_time(std::process::id()).unwrap(), start_time(child.id()).unwrap());
        assert!(0 < ours && ours <= childs, "{ours} {childs}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(start_time(child.id()).is_err());
    }

    #[test]
    fn limits_are_raised() {
        raise_max_files().unwrap();
        assert!(max_files() > 0);
    }

    #[test]
    fn a_new_descriptor_shows_how_many_are_left() {
        use std::os::fd::AsFd;
        let first = std::fs::File::open("/dev/null").unwrap();
        let far = nix::fcntl::fcntl(&first, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(1000)).unwrap();
        // SAFETY: the call succeeded: the number is open and nobody else owns it.
        let far = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(far) };
        assert!(files_left(far.as_fd()) <= max_files() - 1001);
        assert!(files_left(first.as_fd()) > files_left(far.as_fd()));
    }

    #[test]
    fn dropped_capabilities_stay_dropped() {
        // Capabilities belong to a thread.
        let thread = std::thread::spawn(|| {
            assert!(has_capability(0) && has_capability(CAP_SYS_ADMIN));
            limit_capabilities(1 << CAP_SYS_ADMIN).unwrap();
            assert!(!has_capability(0) && has_capability(CAP_SYS_ADMIN));
            std::fs::read_to_string("/proc/thread-self/status").unwrap()
        });
        let status = thread.join().unwrap();
        for name in ["CapEff", "CapPrm", "CapBnd"] {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).unwrap();
            assert_eq!(u64::from_str_radix(line, 16).unwrap(), 1 << CAP_SYS_ADMIN, "{name}");
        }
    }
}
