//! `/dev/iommu`, opened for somebody else.
//!
//! Source: `include/uapi/linux/iommufd.h`, `Documentation/userspace-api/iommufd.rst`.

use super::done;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// `struct iommu_option`.
#[repr(C)]
struct IommuOption {
    size: u32,
    option_id: u32,
    op: u16,
    reserved: u16,
    object_id: u32,
    val64: u64,
}

/// `_IO(';', IOMMUFD_CMD_OPTION)`.
const IOMMU_OPTION: libc::Ioctl = 0x3b87;
const IOMMU_OPTION_RLIMIT_MODE: u32 = 0;
const IOMMU_OPTION_OP_SET: u16 = 0;
/// Pinned memory counts on the process that maps it, not on the user who opened the file, which is the service.
const BY_PROCESS: u64 = 1;

/// Opens an iommufd whose pinned memory is accounted to the process that maps it.
///
/// Fails closed: one whose accounting cannot be set is not given. Faults: ENOENT, ENXIO or ENODEV where the kernel has
/// none, EACCES and EPERM without the privilege, ENOTTY where `path` is something else.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    // std opens with O_CLOEXEC.
    let fd = OwnedFd::from(OpenOptions::new().read(true).write(true).open(path)?);
    let mut option = IommuOption {
        size: size_of::<IommuOption>() as u32,
        option_id: IOMMU_OPTION_RLIMIT_MODE,
        op: IOMMU_OPTION_OP_SET,
        reserved: 0,
        object_id: 0,
        val64: BY_PROCESS,
    };
    // SAFETY: the kernel reads and writes `size` bytes at the address, which is `option`, alive through the call.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), IOMMU_OPTION, &raw mut option) })?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_iommufd_is_not_given() {
        assert_eq!(open(Path::new("/dev/null")).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(open(Path::new("/nonexistent/iommu")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert_eq!(size_of::<IommuOption>(), 24);
    }
}
