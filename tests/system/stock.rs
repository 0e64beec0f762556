//! The machine with a kernel from Debian's archive, as Debian built it.

use super::initramfs::Files;
use super::machine::{Machine, write};
use super::{output, which};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::NamedTempFile;

/// What the archive calls the kernel of the 6.12 line; the version it depends on is resolved each time.
const KERNEL_PACKAGE: &str = "linux-image-6.12-amd64";

/// The machine and the file it boots from; says what is missing.
pub fn machine() -> Result<(Machine, NamedTempFile), String> {
    for tool in ["qemu-system-x86_64", "ldd", "xz", "strip"] {
        which(tool).ok_or(format!("{tool} is not installed"))?;
    }
    let (kernel, cuse) = kernel()?;
    let mut files = Files::with_checks()?;
    files.put("/lib/cuse.ko", 0o644, output(Command::new("xz").arg("-dc").arg(&cuse))?);
    files.tool("/sbin/apparmor_parser", "apparmor_parser")?;
    for directory in ["abi", "abstractions", "tunables"] {
        files.tree(&Path::new("/etc/apparmor.d").join(directory))?;
    }
    let initramfs = write(&files.archive(), &std::env::temp_dir())?;
    let mut qemu = Command::new("qemu-system-x86_64");
    // Functions to look at and to remove.
    qemu.args(["-machine", "q35", "-device", "virtio-rng-pci", "-device", "virtio-rng-pci"]);
    let parameters = "apparmor=1 security=apparmor".to_owned();
    let machine =
        Machine { qemu, kernel, initramfs: initramfs.path().to_owned(), parameters, checks: "guest::".to_owned() };
    Ok((machine, initramfs))
}

/// The kernel image and `cuse.ko.xz`: from the cache, else from the archive.
fn kernel() -> Result<(PathBuf, PathBuf), String> {
    let cache = cache();
    let unpacked = cache.join("kernel");
    if let Some(found) = find(&unpacked) {
        return Ok(found);
    }
    fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    let depends = output(Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]))?;
    let package = String::from_utf8_lossy(&depends)
        .lines()
        .find_map(|line| {
            line.trim().strip_prefix("Depends: ").filter(|p| p.starts_with("linux-image-")).map(str::to_owned)
        })
        .ok_or(format!("the archive has no {KERNEL_PACKAGE}; try apt-get update"))?;
    let scratch = tempfile::tempdir_in(&cache).map_err(|e| e.to_string())?;
    // Not installed, so apt's own user need not read the directory.
    output(
        Command::new("apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root", "download", &package])
            .current_dir(&scratch),
    )?;
    let deb = fs::read_dir(&scratch)
        .map_err(|e| e.to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|x| x == "deb"))
        .ok_or(format!("apt-get download {package} left no package"))?;
    output(Command::new("dpkg").arg("-x").arg(deb).arg(scratch.path().join("kernel")))?;
    // A rename, so that a cache is whole or not there; who lost a race uses the winner's.
    let _ = fs::rename(scratch.path().join("kernel"), &unpacked);
    find(&unpacked).ok_or(format!("{package} has no kernel or no cuse.ko.xz"))
}

fn cache() -> PathBuf {
    let system = PathBuf::from("/var/cache/ioasidd-test");
    if fs::create_dir_all(&system).is_ok() {
        return system;
    }
    let user = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    user.or(std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_default()
        .join("ioasidd-test")
}

fn find(unpacked: &Path) -> Option<(PathBuf, PathBuf)> {
    let first = |dir: &Path, prefix: &str| {
        fs::read_dir(dir)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
    };
    let kernel = first(&unpacked.join("boot"), "vmlinuz-")?;
    let modules = [unpacked.join("lib/modules"), unpacked.join("usr/lib/modules")];
    let cuse = modules.iter().find_map(|dir| first(dir, "6."))?.join("kernel/fs/fuse/cuse.ko.xz");
    cuse.exists().then_some((kernel, cuse))
}
