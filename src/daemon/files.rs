//! The cgroup files: mounted, served, unmounted.

use crate::cgroupfs::{self, Pollers, Tree};
use crate::controller::Controller;
use crate::identity::Host;
use crate::model::Fault;
use crate::sys::fuse::{Channel, Mount, is_mounted, unmount};
use crate::sys::service_manager::Notifier;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// What the channel is called in the descriptor store.
pub(super) const CHANNEL: &str = "cgroup-files";

/// The file in the state directory that names who waits in `poll(2)`.
const POLLERS: &str = "pollers";

/// Mounts of dead services that may lie on each other.
const MOST_STALE: usize = 16;

/// The mounted tree and the task that serves it. Dropped, it is unmounted.
#[derive(Debug)]
pub(super) struct CgroupFiles {
    /// Unmounts when it is dropped.
    _mount: Mount,
    task: JoinHandle<()>,
}

impl CgroupFiles {
    /// Mounts the tree on `dir` and serves it; with the channel that an earlier process left (`parked`), where its mount is
    /// still there, without mounting. What a service that died left mounted is unmounted first.
    ///
    /// The channel is kept with `manager` for the next process, and in `state` who is to be woken by it.
    pub(super) fn start(
        controller: Arc<Controller>,
        host: Arc<Host>,
        dir: &Path,
        state: &Path,
        parked: Option<OwnedFd>,
        manager: Option<&Notifier>,
    ) -> Result<Self, Fault> {
        let step = || format!("mount the cgroup files on {}", dir.display());
        let start = || {
            let resumed = match parked.map(Channel::resume) {
                Some(Ok(channel)) if is_mounted(dir)? => Some((channel, Mount::resume(dir))),
                _ => None,
            };
            let (pollers, mut waiting) = Pollers::take_over(&state.join(POLLERS))?;
            let (channel, mount) = match resumed {
                Some(resumed) => resumed,
                None => {
                    waiting.clear();
                    mounted(dir)?
                }
            };
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
pub(super) fn take_down(dir: &Path, manager: &Notifier) {
    let take_down = || {
        if is_mounted(dir)? {
            unmount(dir)?;
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

fn mounted(dir: &Path) -> std::io::Result<(Channel, Mount)> {
    for _ in 0..MOST_STALE {
        if !is_mounted(dir)? {
            break;
        }
        unmount(dir)?;
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    Mount::new(dir)
}
