//! The program that a check runs by `ioasidctl exec --iommufd`: it has the set FD and the iommufd, and no path to the
//! service or to `/dev/iommu`.

use super::iommufd::{Iommufd, VfioDevice};
use ioasid::client::Set;
use ioasid::sys::inherited;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The environment variable with the address of the function.
pub const FUNCTION: &str = "IOASIDD_VM_FUNCTION";

/// The device file of a function that vfio-pci drives.
fn device_file(address: &str) -> PathBuf {
    let directory = Path::new("/sys/bus/pci/devices").join(address).join("vfio-dev");
    let name = fs::read_dir(directory).unwrap().next().unwrap().unwrap().file_name();
    Path::new("/dev/vfio/devices").join(name)
}

#[test]
#[ignore = "run by a check in the virtual machine"]
fn attaches_an_id_of_its_set() {
    let address = std::env::var(FUNCTION).unwrap();
    let number = std::env::var("IOASID_IOMMUFD").unwrap().parse().unwrap();
    let iommufd = Iommufd(inherited::duplicate(number).unwrap());
    assert!(iommufd.counts_on_process().unwrap());
    let set = Set::from_env().unwrap();
    let mut session = set.session().unwrap();
    assert_eq!(session.info().unwrap().domain.to_string(), format!("pci:{address}"));
    let pasid = session.alloc().unwrap();

    let device = VfioDevice(File::options().read(true).write(true).open(device_file(&address)).unwrap().into());
    let bound = device.bind(&iommufd).unwrap();
    assert_eq!(iommufd.pasid_bits(bound).unwrap(), 20);
    let ioas = iommufd.alloc_ioas().unwrap();
    // What the function does without a PASID takes a table of the same kind, or no PASID can be attached.
    device.attach(iommufd.alloc_hwpt(bound, ioas).unwrap(), None).unwrap();
    let table = iommufd.alloc_hwpt(bound, ioas).unwrap();
    device.attach(table, Some(pasid.get())).unwrap();
    device.detach(pasid.get()).unwrap();
    assert_eq!(device.attach(table, Some(1 << 20)).unwrap_err().raw_os_error(), Some(libc::EINVAL), "too wide");
}
