//! PCI functions as sysfs shows them: whether they are there, and how wide their PASIDs are.

use crate::model::{MAX_BITS, PciAddress, Refusal};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where extended capabilities begin in configuration space; what is before it anybody may read.
const EXTENDED: usize = 0x100;
/// The PASID extended capability. Source: PCI Express Base Specification, "PASID Extended Capability Structure".
const PASID: u16 = 0x1b;
/// The size of configuration space.
const SPACE: usize = 4096;
/// It has room for this many capabilities: a list that is longer runs in a circle.
const MOST: usize = (SPACE - EXTENDED) / 8;

/// Max PASID Width from a function's configuration space, in bits; `None` where it has no PASID capability, or one of
/// zero width.
///
/// Never panics, whatever the bytes; a list that runs in a circle or out of the space ends there.
pub fn pasid_width(config: &[u8]) -> Option<u32> {
    let mut at = EXTENDED;
    for _ in 0..MOST {
        let header = u32::from_le_bytes(config.get(at..at + 4)?.try_into().ok()?);
        let [low, high, ..] = header.to_le_bytes();
        if u16::from_le_bytes([low, high]) == PASID {
            // The capability register is the low half of the second word; bits 12:8 are the width.
            let register = u16::from_le_bytes(config.get(at + 4..at + 6)?.try_into().ok()?);
            let width = u32::from(register >> 8 & 0x1f);
            return (width > 0).then_some(width.min(MAX_BITS));
        }
        let next = usize::try_from(header >> 20).ok()? & !3;
        if next < EXTENDED {
            return None;
        }
        at = next;
    }
    None
}

/// The PCI functions of this host.
#[derive(Clone, Debug)]
pub struct Functions {
    devices: PathBuf,
}

impl Functions {
    /// Those under `sysfs`, `/sys` on a host.
    pub fn at(sysfs: &Path) -> Self {
        Self { devices: sysfs.join("bus/pci/devices") }
    }

    /// Whether there is such a function now.
    pub fn exists(&self, address: &PciAddress) -> bool {
        self.devices.join(address.to_string()).exists()
    }

    /// The functions there are now, in order of address.
    pub fn addresses(&self) -> Vec<PciAddress> {
        let Ok(entries) = fs::read_dir(&self.devices) else { return Vec::new() };
        let mut found: Vec<PciAddress> =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        found.sort_unstable();
        found
    }

    /// Opens a function's configuration space for reading. How much of it can be read goes by the privilege of who opened
    /// it: all with CAP_SYS_ADMIN, else the first 64 bytes. Source: `pci_read_config`, `drivers/pci/pci-sysfs.c`.
    pub fn open_config(&self, address: &PciAddress) -> io::Result<OwnedFd> {
        File::open(self.devices.join(address.to_string()).join("config")).map(OwnedFd::from)
    }

    /// Max PASID Width of a function, in bits.
    ///
    /// Refused: as [`pasid_width_in`].
    pub fn pasid_width(&self, address: &PciAddress) -> Result<u32, Refusal> {
        pasid_width_in(address, self.open_config(address))
    }

    /// Every function that has PASIDs, with their width in bits, in order of address. What cannot be read is left out.
    pub fn with_pasids(&self) -> Vec<(PciAddress, u32)> {
        self.addresses().into_iter().filter_map(|address| Some((address, self.pasid_width(&address).ok()?))).collect()
    }
}

/// Max PASID Width of the function whose configuration space was opened, in bits.
///
/// Refused: `NotFound` where there is none, `Unsupported` where it has no PASIDs or its configuration space cannot
/// be read (that takes CAP_SYS_ADMIN).
pub fn pasid_width_in(address: &PciAddress, config: io::Result<OwnedFd>) -> Result<u32, Refusal> {
    let unsupported = |why: String| Refusal::Unsupported { what: format!("domain pci:{address}"), why };
    let read = |fd: OwnedFd| {
        let mut config = Vec::new();
        File::from(fd).take(SPACE as u64).read_to_end(&mut config).map(|_| config)
    };
    match config.and_then(read) {
        Ok(config) if config.len() <= EXTENDED => {
            Err(unsupported("its configuration space shows no extended capabilities".to_owned()))
        }
        Ok(config) => pasid_width(&config).ok_or_else(|| unsupported("it has no PASID capability".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Refusal::not_found(format!("PCI function {address}")))
        }
        Err(error) => Err(unsupported(format!("its configuration space cannot be read: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A space with capabilities `(at, id, next, second word)`.
    fn space(capabilities: &[(usize, u16, u32, u32)]) -> Vec<u8> {
        let mut config = vec![0; 4096];
        for (at, id, next, word) in capabilities {
            let header = u32::from(*id) | 1 << 16 | next << 20;
            config[*at..at + 4].copy_from_slice(&header.to_le_bytes());
            config[at + 4..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        config
    }

    #[test]
    fn the_width_is_bits_12_to_8_of_capability_1b() {
        let ats = (0x100, 0x0f, 0x140, 0xffff_ffff);
        for (word, width) in [(0x0006 | 20 << 8, Some(20)), (0xffff_0100, Some(1)), (0x0000, None), (31 << 8, Some(20))]
        {
            assert_eq!(pasid_width(&space(&[ats, (0x140, PASID, 0, word)])), width, "{word:#x}");
        }
        assert_eq!(pasid_width(&space(&[ats, (0x140, 0x13, 0, 20 << 8)])), None);
    }

    #[test]
    fn circles_and_short_spaces_have_no_width() {
        assert_eq!(pasid_width(&space(&[(0x100, 1, 0x100, 0)])), None);
        assert_eq!(pasid_width(&space(&[(0x100, 1, 0xffc, 0)])), None);
        assert_eq!(pasid_width(&vec![0xff; 4096]), None);
        assert_eq!(pasid_width(&[0; 64]), None);
        let whole = space(&[(0x100, PASID, 0, 20 << 8)]);
        assert_eq!(pasid_width(&whole[..0x105]), None);
        assert_eq!(pasid_width(&whole[..0x106]), Some(20));
    }

    #[test]
    fn functions_are_read_from_sysfs() {
        let sysfs = tempfile::tempdir().unwrap();
        let functions = Functions::at(sysfs.path());
        let (wide, plain) = ("0000:3a:00.0".parse().unwrap(), "0000:00:02.0".parse().unwrap());
        assert!(matches!(functions.pasid_width(&wide), Err(Refusal::NotFound { .. })));
        for (name, config) in [("0000:3a:00.0", space(&[(0x100, PASID, 0, 16 << 8)])), ("0000:00:02.0", vec![0; 256])] {
            let directory = functions.devices.join(name);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("config"), config).unwrap();
        }
        assert_eq!(functions.pasid_width(&wide).unwrap(), 16);
        assert!(matches!(functions.pasid_width(&plain), Err(Refusal::Unsupported { .. })));
        assert_eq!(functions.with_pasids(), [(wide, 16)]);
        assert!(functions.exists(&plain));
    }

    proptest! {
        #[test]
        fn no_configuration_space_makes_it_panic(config in proptest::collection::vec(any::<u8>(), 0..4200)) {
            let _ = pasid_width(&config);
        }
    }
}
