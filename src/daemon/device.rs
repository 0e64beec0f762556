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
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// What the channel is called in the descriptor store.
const CHANNEL: &str = "device";

/// The mode of the node: who may have a set, the policy says at each open. As in the RFC.
const MODE: u32 = 0o666;

/// What was chosen.
#[derive(Debug)]
pub(super) enum Backend {
    /// No device.
    None,
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
        if kind == DeviceKind::None || (kind == DeviceKind::Auto && user) {
            return Ok(Self::None);
        }
        if let Some(Ok(channel)) = parked.map(Channel::resume) {
            return Ok(Self::Cuse(channel));
        }
        match kind {
            DeviceKind::None => Ok(Self::None),
            DeviceKind::Cuse => make(path).map(Self::Cuse),
            DeviceKind::Kernel => KernelIds::open(path).map(|ids| Self::Kernel(Arc::new(ids))),
            DeviceKind::Auto => Ok(Self::best(path).unwrap_or_else(|fault| {
                tracing::warn!("no device: {fault}");
                Self::None
            })),
        }
    }

    /// The kernel's own device, else one of ours, else none.
    fn best(path: &Path) -> Result<Self, Fault> {
        if is_device(path) && !cuse::serves(path) {
            return KernelIds::open(path).map(|ids| Self::Kernel(Arc::new(ids)));
        }
        if cuse::is_offered() { make(path).map(Self::Cuse) } else { Ok(Self::None) }
    }

    /// Who has the last word on ids.
    pub(super) fn id_source(&self) -> Option<Arc<dyn IdSource>> {
        match self {
            Self::Kernel(ids) => Some(Arc::<KernelIds>::clone(ids)),
            Self::None | Self::Cuse(_) => None,
        }
    }

    /// What `status` calls it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::None => "userspace",
            Self::Cuse(_) => "cuse",
            Self::Kernel(_) => "kernel",
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
