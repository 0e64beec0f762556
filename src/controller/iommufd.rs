//! An iommufd for who has a set, so that nobody but the service needs `/dev/iommu`.

use super::authority::Permitted;
use super::life::misused;
use super::{Controller, Permit};
use crate::model::{Failure, Fault, Refusal};
use std::io;
use std::os::fd::OwnedFd;

/// Opens an iommufd; `daemon` hands in the real thing.
pub type OpenIommufd = Box<dyn Fn() -> io::Result<OwnedFd> + Send + Sync>;

impl Controller {
    /// An iommufd for who may have another FD of the set that the permit names, as long as it can be used.
    ///
    /// Refused with `Unsupported` where the host has none, or none whose accounting can be set.
    pub fn open_iommufd(&self, permit: &Permit) -> Result<OwnedFd, Failure> {
        let Permitted::Set(id) = permit.0 else { return Err(misused("open an iommufd").into()) };
        self.lock().set(id)?.must_be_active()?;
        self.iommufd()
    }

    /// An iommufd, or why there is none.
    pub(super) fn iommufd(&self) -> Result<OwnedFd, Failure> {
        (self.world.open_iommufd)().map_err(|error| {
            // ENXIO and ENODEV, with no ErrorKind of their own: a node without a driver. ENOTTY: another driver's node.
            let why = match (error.kind(), error.raw_os_error()) {
                (io::ErrorKind::NotFound, _) | (_, Some(6 | 19)) => {
                    "this host has no /dev/iommu: its kernel lacks CONFIG_IOMMUFD, or the module is not loaded"
                        .to_owned()
                }
                (io::ErrorKind::Unsupported, _) | (_, Some(25)) => {
                    format!("the kernel does not take IOMMU_OPTION_RLIMIT_MODE: {error}")
                }
                (io::ErrorKind::PermissionDenied, _) => format!("the service may not: {error}"),
                (_, Some(23 | 24)) => return super::descriptor_failure(error, "open /dev/iommu"),
                _ => return Fault::from(error).while_doing("open /dev/iommu").into(),
            };
            Refusal::Unsupported { what: "iommufd".to_owned(), why }.into()
        })
    }
}
