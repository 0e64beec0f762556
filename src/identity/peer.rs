//! One peer, and where it stands in the cgroup tree.

use super::Host;
use super::standing::Standing;
use crate::model::{CgroupId, CgroupPath, Failure, Fault, Refusal};
use crate::sys::cgroup::membership;
use crate::sys::socket_option::{peer_credentials, peer_groups, peer_pidfd};
use crate::sys::{pidfd, readiness};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// How often a peer is looked at again that moves while it is being read.
const ATTEMPTS: usize = 8;

/// Who is at the other end: a process that cannot be mistaken for a later one of the same pid.
#[derive(Debug)]
pub struct Peer {
    /// Its pid in our pid namespace. For messages and for reading under the pidfd; no authority.
    pub pid: u32,
    /// The process itself.
    pub pidfd: Arc<OwnedFd>,
    /// Its uid when it connected, in our user namespace.
    pub uid: u32,
    /// Its gid when it connected.
    pub gid: u32,
    /// Its supplementary groups when it connected.
    pub groups: Vec<u32>,
    /// Whether it was an administrator when it was pinned: uid 0 with CAP_SYS_ADMIN, both in the initial user namespace;
    /// with `--user` the service's own uid.
    privileged: bool,
    /// With `--user`: what it may do goes by its uid alone.
    by_uid: bool,
    /// Where it was last found: the id of its own cgroup (which may be threaded), and what is charged for it.
    last: Mutex<Option<(CgroupId, Located)>>,
}

/// A peer's cgroup: the one that is charged for it, its domain cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Its id.
    pub id: CgroupId,
    /// Its path.
    pub path: CgroupPath,
    /// Itself and its ancestors, near to far, the root last; shared, not copied.
    pub lineage: Arc<[(CgroupId, CgroupPath)]>,
}

impl Peer {
    /// Who connected to this AF_UNIX socket (or made the pair).
    ///
    /// Refused: NotFound where the process has ended meanwhile or lives in another pid namespace than ours. Reads; never
    /// waits for the peer.
    pub fn of_socket(socket: BorrowedFd<'_>, host: &Host) -> Result<Self, Failure> {
        let credentials = peer_credentials(socket).map_err(|error| fault(error, "read SO_PEERCRED"))?;
        let groups = peer_groups(socket).map_err(|error| fault(error, "read SO_PEERGROUPS"))?;
        let pinned =
            if host.offer.peer_pidfd { peer_pidfd(socket) } else { pin(socket, credentials.pid, credentials.uid) };
        let pinned = pinned.map_err(|error| gone_or(error, "pin the peer's process"))?;
        Self::new(pinned, credentials.uid, Some((credentials.gid, groups)), host)
    }

    /// The process behind `pidfd`, whose uid somebody trusted (the bus) tells; groups are read from the process.
    ///
    /// Refused: NotFound where it has ended.
    pub fn of_pidfd(pidfd: OwnedFd, uid: u32, host: &Host) -> Result<Self, Failure> {
        Self::new(pidfd, uid, None, host)
    }

    /// The process with this pid, where nothing better than pid and uid is told: the device, a bus without process
    /// descriptors. Believed only as far as the process that has the pid now also has the uid.
    ///
    /// Refused: NotFound where it has ended or has another uid.
    pub fn of_pid(pid: u32, uid: u32, host: &Host) -> Result<Self, Failure> {
        let pinned = pidfd::open(pid).map_err(|error| gone_or(error, "pin the peer's process"))?;
        let standing = Standing::of(pid).map_err(|error| gone_or(error, "read /proc/PID/status"))?;
        if !standing.uids.contains(&uid) {
            return Err(gone().into());
        }
        Self::new(pinned, uid, None, host)
    }

    fn new(pinned: OwnedFd, uid: u32, groups: Option<(u32, Vec<u32>)>, host: &Host) -> Result<Self, Failure> {
        let pid = pidfd::pid(pinned.as_fd()).map_err(|error| gone_or(error, "read the peer's pid"))?;
        let standing = Standing::of(pid).map_err(|error| gone_or(error, "read /proc/PID/status"))?;
        let by_uid = host.administrator_uid.is_some();
        let privileged = match host.administrator_uid {
            Some(administrator) => uid == administrator,
            // Both then and now: who connected as root and then gave it up is none, nor is who became root since.
            None => uid == 0 && standing.is_administrator(pid),
        };
        let (gid, groups) = groups.unwrap_or((standing.gid, standing.groups));
        let peer = Self { pid, pidfd: Arc::new(pinned), uid, gid, groups, privileged, by_uid, last: Mutex::new(None) };
        peer.check_alive()?;
        Ok(peer)
    }

    /// Whether it is an administrator, then and now: a connection outlives the privileges of who made it, as that of a
    /// service manager does which then becomes the unit's user.
    pub fn is_administrator(&self) -> bool {
        let still = || Standing::of(self.pid).is_ok_and(|standing| standing.is_administrator(self.pid));
        self.privileged && (self.by_uid || still() && self.is_alive())
    }

    /// Whether its process still runs.
    pub fn is_alive(&self) -> bool {
        pidfd::is_alive(self.pidfd.as_fd()).unwrap_or(false)
    }

    /// Believes what was read by pid: its process lived all the while.
    fn check_alive(&self) -> Result<(), Failure> {
        match pidfd::is_alive(self.pidfd.as_fd()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(gone().into()),
            Err(error) => Err(fault(error, "poll the peer's pidfd")),
        }
    }

    /// The cgroup to charge for it now: its own, or the domain cgroup above a threaded one.
    ///
    /// Read anew at each call, some microseconds; the path is worked out only when the process has moved. Refused:
    /// NotFound where the process has ended, Stale where its cgroup goes away or it keeps moving while being read,
    /// Unsupported where it is outside the service's cgroup namespace or in one whose name is not UTF-8.
    pub fn cgroup(&self, host: &Host) -> Result<Located, Failure> {
        let mut seen = CgroupPath::root();
        for _ in 0..ATTEMPTS {
            let own = self.own_cgroup_id(host)?;
            if let Some(located) = own.and_then(|id| self.unmoved(id, host)) {
                self.check_alive()?;
                return Ok(located);
            }
            let path = self.own_cgroup_path()?;
            seen = path.clone();
            match self.locate(&path, own, host) {
                Ok(Some((id, located))) => {
                    self.check_alive()?;
                    *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((id, located.clone()));
                    return Ok(located);
                }
                // Moved meanwhile: once more.
                Ok(None) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(fault(error, &format!("read cgroup {path}"))),
            }
            self.check_alive()?;
        }
        Err(Refusal::Stale { cgroup: seen }.into())
    }

    /// The id of its own cgroup by the pidfd alone; `None` where the kernel does not offer that.
    fn own_cgroup_id(&self, host: &Host) -> Result<Option<CgroupId>, Failure> {
        if !host.offer.pidfd_cgroup {
            return Ok(None);
        }
        pidfd::cgroup_id(self.pidfd.as_fd()).map(Some).map_err(|error| gone_or(error, "read the peer's cgroup id"))
    }

    fn own_cgroup_path(&self) -> Result<CgroupPath, Failure> {
        membership(self.pid).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => {
                let why = error.to_string();
                Refusal::Unsupported { what: "a peer in this cgroup".to_owned(), why }.into()
            }
            _ => gone_or(error, "read /proc/PID/cgroup"),
        })
    }

    /// What was found last time, if the process is still there.
    ///
    /// While it lives there the path of this id cannot change: the kernel removes no cgroup with a living process in it or
    /// below it, and renames none. What was charged for it can have been made threaded, in a moment when it was
    /// empty (`cgroup_enable_threaded` in kernel/cgroup/cgroup.c; there is no way back), so that is looked at.
    fn unmoved(&self, own: CgroupId, host: &Host) -> Option<Located> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, located) = last.as_ref().filter(|(id, _)| *id == own)?;
        host.cgroups.is_domain(&located.path).then(|| located.clone())
    }

    /// Works out what is charged for a process in `path`; `None` where it is no longer there.
    fn locate(&self, path: &CgroupPath, own: Option<CgroupId>, host: &Host) -> io::Result<Option<(CgroupId, Located)>> {
        let found = host.cgroups.id_of(path)?;
        let lineage = host.cgroups.charged_lineage(path)?;
        // Still there after its path was taken apart? By id where the kernel tells it, else by path and id.
        let still = match own {
            Some(own) => own == found && pidfd::cgroup_id(self.pidfd.as_fd())? == found,
            None => membership(self.pid)? == *path && host.cgroups.id_of(path)? == found,
        };
        let Some((id, charged)) = lineage.first().cloned().filter(|_| still) else { return Ok(None) };
        Ok(Some((found, Located { id, path: charged, lineage: lineage.into() })))
    }
}

/// Pins the process that SO_PEERCRED names, where the kernel has no SO_PEERPIDFD.
///
/// Between connect(2) and now the process may have ended and its pid have gone to another. So whoever has the pid must have
/// the uid too, and the connection must still be held by somebody. What remains: a pid that came round to the same user.
fn pin(socket: BorrowedFd<'_>, pid: u32, uid: u32) -> io::Result<OwnedFd> {
    let ended = || io::Error::from(io::ErrorKind::NotFound);
    let pinned = pidfd::open(pid)?;
    let standing = Standing::of(pid)?;
    if !standing.uids.contains(&uid) || readiness::now(socket)?.hung_up || !pidfd::is_alive(pinned.as_fd())? {
        return Err(ended());
    }
    Ok(pinned)
}

fn gone() -> Refusal {
    Refusal::not_found("the peer's process")
}

/// Whether an error says that a process or a cgroup went away: NotFound, ESRCH, ENODEV, ENXIO.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || matches!(error.raw_os_error(), Some(3 | 6 | 19))
}

fn gone_or(error: io::Error, step: &str) -> Failure {
    // EINVAL: SO_PEERPIDFD of a reaped process before Linux 6.16; EREMOTE: a process outside our pid namespace.
    if is_gone(&error) || matches!(error.raw_os_error(), Some(22 | 66)) { gone().into() } else { fault(error, step) }
}

fn fault(error: io::Error, step: &str) -> Failure {
    Fault::from(error).while_doing(step).into()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
