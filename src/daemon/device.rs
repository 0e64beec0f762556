//! What stands behind `/dev/ioasid`: chosen, made, served.

use super::DeviceKind;
use crate::controller::{Controller, IdSource};
use crate::device::kernel::KernelIds;
use crate::device::{self, Device};
use crate::identity::Host;
use crate::model::Fault;
use crate::sys::cuse;
use crate::sys::fuse::Channel;
use crate::sys::service_manager::Notifier;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// What the channel is called in the descriptor store.
const CHANNEL: &str = "device";

/// The mode of the node: who may have a set, the policy says at each open. As in the RFC.
const MODE: u32 = 0o666;

/// What was chosen.
#[derive(Debug)]
pub(super) enum Backend {
    /// No device, and why.
    None(&'static str),
    /// A device of ours.
    Cuse(Channel),
    /// The kernel's: ids come from there.
    Kernel(Arc<KernelIds>),
}

impl Backend {
    /// Looks at the host and makes the device where one is to be made; with the channel that an earlier process left
    /// (`parked`), where it still lives, that is the device.
    ///
    /// With `auto` what cannot be had is done without, said once at the level that fits; else it is a fault.
    pub(super) fn choose(kind: DeviceKind, path: &Path, user: bool, parked: Option<OwnedFd>) -> Result<Self, Fault> {
        let parked = parked.map(Channel::resume).and_then(Result::ok);
        match (kind, parked) {
            (DeviceKind::None, _) => Ok(Self::None("the service was started with --device none")),
            (DeviceKind::Auto, _) if user => Ok(Self::None("a service with --user makes none")),
            (DeviceKind::Kernel, _) => KernelIds::open(path).map(|ids| Self::Kernel(Arc::new(ids))),
            (DeviceKind::Cuse | DeviceKind::Auto, Some(channel)) => Ok(Self::Cuse(channel)),
            (DeviceKind::Cuse, None) => make(path).map(Self::Cuse),
            (DeviceKind::Auto, None) => Ok(Self::best(path).unwrap_or_else(|fault| {
                tracing::warn!("no device: {fault}");
                Self::None("it could not be made, the log says why")
            })),
        }
    }

    /// The kernel's own device, else one of ours, else none.
    fn best(path: &Path) -> Result<Self, Fault> {
        if is_device(path) && !cuse::serves(path) {
            return KernelIds::open(path).map(|ids| Self::Kernel(Arc::new(ids)));
        }
        if cuse::is_offered() { make(path).map(Self::Cuse) } else { Ok(Self::None("this kernel offers no CUSE")) }
    }

    /// Whether ids can be had from the node at `path` past this service, for `status`: asked anew each time.
    pub(super) fn standing(&self, path: &Path) -> Standing {
        let path = path.to_owned();
        match self {
            Self::None(why) => Standing::Absent { path, why },
            Self::Cuse(_) => Standing::Ours { path },
            Self::Kernel(_) => Standing::Kernels { path },
        }
    }

    /// Who has the last word on ids.
    pub(super) fn id_source(&self) -> Option<Arc<dyn IdSource>> {
        match self {
            Self::Kernel(ids) => Some(Arc::<KernelIds>::clone(ids)),
            Self::None(_) | Self::Cuse(_) => None,
        }
    }

    /// What `status` calls it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::None(_) => "userspace",
            Self::Cuse(_) => "cuse",
            Self::Kernel(_) => "kernel",
        }
    }
}

/// Who answers those who open the device.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// Nobody, unless something else makes the node.
    Absent { path: PathBuf, why: &'static str },
    /// This service.
    Ours { path: PathBuf },
    /// The kernel.
    Kernels { path: PathBuf },
}

impl Standing {
    /// The state and the reason, as `status` shows them.
    pub(super) fn look(&self) -> (&'static str, String) {
        match self {
            Self::Absent { path, why } if is_device(path) => {
                ("open", format!("{} is served by others: {why}", path.display()))
            }
            Self::Absent { path, why } => ("enforced", format!("there is no {}: {why}", path.display())),
            Self::Ours { path } => ("enforced", format!("this service answers at {}, by CUSE", path.display())),
            Self::Kernels { path } => {
                let others = std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0);
                let state = if others { "open" } else { "observed" };
                (state, format!("the kernel answers at {}: who opens it takes ids past every quota", path.display()))
            }
        }
    }
}

fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_char_device())
}

fn make(path: &Path) -> Result<Channel, Fault> {
    let failed = |error: std::io::Error| Fault::from(error).while_doing(format!("make {}", path.display()));
    let name =
        path.strip_prefix("/dev").ok().and_then(Path::to_str).filter(|name| !name.contains('/') && !name.is_empty());
    let Some(name) = name else {
        return Err(Fault::new(format!("{}: a device is made directly below /dev", path.display())));
    };
    // A node whose service died is gone with it; another one of this name is somebody else's.
    if path.exists() {
        return Err(Fault::new(format!("{} exists: another service or the kernel serves it", path.display())));
    }
    let channel = cuse::create(name).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE)).map_err(failed)?;
    Ok(channel)
}

/// The task that serves a device of ours.
#[derive(Debug)]
pub(super) struct Served {
    task: JoinHandle<()>,
}

impl Served {
    /// Serves the device behind `backend`, if it is ours; its channel is kept with `manager` for the next process.
    pub(super) fn start(
        backend: Backend,
        controller: Arc<Controller>,
        host: Arc<Host>,
        manager: Option<&Notifier>,
    ) -> Result<Option<Self>, Fault> {
        let Backend::Cuse(channel) = backend else { return Ok(None) };
        if let Some(manager) = manager {
            manager.store(CHANNEL, channel.as_fd())?;
        }
        let served = device::serve(Device::new(controller, host), channel);
        let task = tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(MESSAGE_ID = crate::proto::message_ids::FAULT, %error, "the device is no longer served");
            }
        });
        Ok(Some(Self { task }))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}
