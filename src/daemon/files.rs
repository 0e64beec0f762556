//! The cgroup files: mounted, served, unmounted.

use super::privileged::Privileged;
use crate::cgroupfs::{self, Pollers, Tree};
use crate::controller::Controller;
use crate::identity::Host;
use crate::model::Fault;
use crate::sys::fuse::{Channel, is_mounted};
use crate::sys::service_manager::Notifier;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// What the channel is called in the descriptor store.
pub(super) const CHANNEL: &str = "cgroup-files";

/// The file in the state directory that names who waits in `poll(2)`.
const POLLERS: &str = "pollers";

/// The mounted tree and the task that serves it. Dropped, it is unmounted.
#[derive(Debug)]
pub(super) struct CgroupFiles {
    /// Unmounts when it is dropped.
    _mount: Mount,
    task: JoinHandle<()>,
}

/// A mounted directory. Dropped, it is unmounted: who still has it open sees `ENOTCONN`.
#[derive(Debug)]
struct Mount {
    dir: PathBuf,
    privileged: Privileged,
}

impl Drop for Mount {
    fn drop(&mut self) {
        let path = self.dir.display();
        match (self.privileged.unmount(&self.dir), &self.privileged) {
            (Ok(()), _) => {}
            // While the host goes down nobody is started to do it; then the unit of the socket does it when it stops.
            (Err(error), Privileged::Outside(_)) => tracing::debug!(%error, %path, "the cgroup files are left mounted"),
            (Err(error), Privileged::Here) => tracing::warn!(%error, %path, "the cgroup files stay mounted"),
        }
    }
}

impl CgroupFiles {
    /// Mounts the tree on `dir` and serves it; with the channel that an earlier process left (`parked`), where its mount is
    /// still there, without mounting. What a service that died left mounted is unmounted first.
    ///
    /// The channel is kept with `manager` for the next process, and in `state` who is to be woken by it.
    pub(super) fn start(
        controller: Arc<Controller>,
        host: Arc<Host>,
        (dir, privileged): (&Path, &Privileged),
        state: &Path,
        parked: Option<OwnedFd>,
        manager: Option<&Notifier>,
    ) -> Result<Self, Fault> {
        let step = || format!("mount the cgroup files on {}", dir.display());
        let start = || {
            let resumed = match parked.map(Channel::resume) {
                Some(Ok(channel)) if is_mounted(dir)? => Some(channel),
                _ => None,
            };
            let (pollers, mut waiting) = Pollers::take_over(&state.join(POLLERS))?;
            let channel = match resumed {
                Some(channel) => channel,
                None => {
                    waiting.clear();
                    privileged.mount(dir)?
                }
            };
            let mount = Mount { dir: dir.to_owned(), privileged: privileged.clone() };
            if let Some(manager) = manager {
                manager.store(CHANNEL, channel.as_fd())?;
            }
            let tree = Tree::new(controller, host, pollers);
            let task = tokio::spawn(async move {
                if let Err(error) = cgroupfs::serve(tree, channel, &waiting).await {
                    tracing::error!(MESSAGE_ID = crate::proto::message_ids::FAULT, %error, "the cgroup files are no longer served");
                }
            });
            Ok(Self { _mount: mount, task })
        };
        start().map_err(|error: std::io::Error| Fault::from(error).while_doing(step()))
    }
}

/// Takes down the tree that an earlier process left mounted on `dir`, for there is nobody to serve it: a mount without a
/// server, whose channel somebody keeps, would have its readers wait for ever.
pub(super) fn take_down(dir: &Path, privileged: &Privileged, manager: &Notifier) {
    let take_down = || {
        if is_mounted(dir)? {
            privileged.unmount(dir)?;
        }
        manager.remove(CHANNEL)
    };
    if let Err(error) = take_down() {
        tracing::warn!(%error, path = %dir.display(), "the cgroup files may stay mounted");
    }
}

impl Drop for CgroupFiles {
    fn drop(&mut self) {
        self.task.abort();
    }
}
