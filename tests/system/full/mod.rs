//! The machine with a kernel that has iommufd, a virtual IOMMU, and two functions with PASIDs.
//!
//! `prepare` is a script beside this file: it makes the kernel and the QEMU, once, below `target/vm`.

mod checks;
mod holder;
mod iommufd;
mod vfio_user;

use super::initramfs::Files;
use super::machine::{Machine, write};
use super::{output, which};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::{NamedTempFile, TempDir};

/// How wide the PASIDs of the two functions are. The IOMMU takes 20 bits.
pub const WIDTHS: [u8; 2] = [20, 8];

/// The directory with what was made.
pub struct Prepared(PathBuf);

/// Makes what is not there yet.
pub fn prepare() -> Result<Prepared, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = source.join("target/vm/full");
    which("mmdebstrap").ok_or("mmdebstrap is not installed")?;
    output(Command::new(source.join("tests/system/full/prepare")).arg(&directory))?;
    Ok(Prepared(directory))
}

impl Prepared {
    /// The machine, and what has to stay while it runs.
    pub fn machine(&self) -> Result<(Machine, (TempDir, NamedTempFile)), String> {
        let root = self.0.join("root");
        // Below the root that QEMU runs in: sockets, kernel and initramfs.
        let scratch = tempfile::tempdir_in(root.join("tmp")).map_err(|e| e.to_string())?;
        let inside = Path::new("/tmp").join(scratch.path().file_name().unwrap_or_default());
        std::fs::copy(self.0.join("bzImage"), scratch.path().join("kernel")).map_err(|e| e.to_string())?;
        let initramfs = write(&Files::with_checks()?.archive(), scratch.path())?;
        let mut qemu = Command::new("chroot");
        qemu.arg(&root).arg("qemu-system-x86_64");
        qemu.args(["-machine", "q35,kernel-irqchip=split"]);
        qemu.args(["-device", "intel-iommu,scalable-mode=on,pasid-bits=20,caching-mode=on,intremap=on"]);
        for width in WIDTHS {
            let name = format!("function-{width}");
            vfio_user::serve(&scratch.path().join(&name), width).map_err(|e| format!("{name}: {e}"))?;
            let socket = inside.join(&name);
            qemu.arg("-device").arg(format!(
                r#"{{"driver":"vfio-user-pci","socket":{{"type":"unix","path":"{}"}}}}"#,
                socket.display()
            ));
        }
        let machine = Machine {
            qemu,
            kernel: inside.join("kernel"),
            initramfs: inside.join(initramfs.path().file_name().unwrap_or_default()),
            parameters: "intel_iommu=on,sm_on".to_owned(),
            // Of the others those that a newer kernel may answer in another way.
            checks: "full::checks::,guest::device,guest::channel,guest::restart".to_owned(),
        };
        Ok((machine, (scratch, initramfs)))
    }
}
