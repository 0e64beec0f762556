//! The ioctls of iommufd and of VFIO's device files that attach a PASID.
//!
//! Source: the kernel's `include/uapi/linux/iommufd.h` and `vfio.h`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const IOMMU_IOAS_ALLOC: u64 = 0x3b81;
const IOMMU_OPTION: u64 = 0x3b87;
const IOMMU_HWPT_ALLOC: u64 = 0x3b89;
const IOMMU_GET_HW_INFO: u64 = 0x3b8a;
const VFIO_DEVICE_BIND_IOMMUFD: u64 = 0x3b76;
const VFIO_DEVICE_ATTACH_IOMMUFD_PT: u64 = 0x3b77;
const VFIO_DEVICE_DETACH_IOMMUFD_PT: u64 = 0x3b78;

const IOMMU_OPTION_RLIMIT_MODE: u32 = 0;
const IOMMU_OPTION_OP_GET: u32 = 1;
const IOMMU_HWPT_ALLOC_PASID: u32 = 1 << 3;
/// VFIO_DEVICE_ATTACH_PASID and VFIO_DEVICE_DETACH_PASID.
const WITH_PASID: u32 = 1;

/// An ioctl whose argument is a structure of 32-bit words, the first of which is its size.
fn ioctl<const WORDS: usize>(fd: &OwnedFd, command: u64, words: &mut [u32; WORDS]) -> io::Result<()> {
    words[0] = u32::try_from(size_of::<[u32; WORDS]>()).unwrap();
    // SAFETY: the kernel reads and writes as many bytes at the address as the first word says, which is all of `words`.
    match unsafe { libc::ioctl(fd.as_raw_fd(), command, words.as_mut_ptr()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// An open `/dev/iommu`.
#[derive(Debug)]
pub struct Iommufd(pub OwnedFd);

impl Iommufd {
    /// Whether pinned memory counts on the process that maps it, not on the user who opened the file.
    pub fn counts_on_process(&self) -> io::Result<bool> {
        // size, option_id, op and a half word of nothing, object_id, val64
        let mut option = [0, IOMMU_OPTION_RLIMIT_MODE, IOMMU_OPTION_OP_GET, 0, 0, 0];
        ioctl(&self.0, IOMMU_OPTION, &mut option)?;
        Ok(option[4] == 1)
    }

    /// A new address space.
    pub fn alloc_ioas(&self) -> io::Result<u32> {
        let mut alloc = [0; 3];
        ioctl(&self.0, IOMMU_IOAS_ALLOC, &mut alloc)?;
        Ok(alloc[2])
    }

    /// A page table over an address space for a bound device, that can be attached to its PASIDs.
    pub fn alloc_hwpt(&self, device: u32, ioas: u32) -> io::Result<u32> {
        let mut alloc = [0; 12];
        alloc[1..4].copy_from_slice(&[IOMMU_HWPT_ALLOC_PASID, device, ioas]);
        ioctl(&self.0, IOMMU_HWPT_ALLOC, &mut alloc)?;
        Ok(alloc[4])
    }

    /// How wide the PASIDs are that the kernel takes for a bound device.
    pub fn pasid_bits(&self, device: u32) -> io::Result<u32> {
        let mut info = [0; 10];
        info[2] = device;
        ioctl(&self.0, IOMMU_GET_HW_INFO, &mut info)?;
        Ok(info[7] & 0xff)
    }
}

/// A device file below `/dev/vfio/devices`.
#[derive(Debug)]
pub struct VfioDevice(pub OwnedFd);

impl VfioDevice {
    /// Binds it; gives its number in the iommufd.
    pub fn bind(&self, iommufd: &Iommufd) -> io::Result<u32> {
        let mut bind = [0, 0, iommufd.0.as_raw_fd().cast_unsigned(), 0];
        ioctl(&self.0, VFIO_DEVICE_BIND_IOMMUFD, &mut bind)?;
        Ok(bind[3])
    }

    /// Attaches a page table to a PASID, or to what has none.
    pub fn attach(&self, hwpt: u32, pasid: Option<u32>) -> io::Result<()> {
        let flags = if pasid.is_some() { WITH_PASID } else { 0 };
        ioctl(&self.0, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &mut [0, flags, hwpt, pasid.unwrap_or(0)])
    }

    /// Detaches what is attached to a PASID.
    pub fn detach(&self, pasid: u32) -> io::Result<()> {
        ioctl(&self.0, VFIO_DEVICE_DETACH_IOMMUFD_PT, &mut [0, WITH_PASID, pasid])
    }
}
