//! The mount that a FUSE channel serves.

use super::Channel;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Mounts a new channel on `directory`, for everybody. Who may open what, the kernel says by the modes and owners that
/// the server shows, then the server. It stays mounted until [`unmount`]; without a copy of its channel it is dead.
///
/// Faults: `ENOENT` and `ENXIO` where the kernel has no FUSE, `EPERM` without CAP_SYS_ADMIN, `ENOTDIR` for a link to a
/// directory: who may write beside it does not say where a mount goes.
pub fn mount(directory: &Path) -> io::Result<Channel> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let place = OpenOptions::new().read(true).custom_flags(flags).open(directory)?;
    let channel = Channel::open(Path::new("/dev/fuse"))?;
    let options =
        format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", channel.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    // What was opened, whatever the path leads to by now.
    let directory = format!("/proc/self/fd/{}", place.as_raw_fd());
    nix::mount::mount(Some("ioasidd"), directory.as_str(), Some("fuse.ioasidd"), flags, Some(options.as_str()))?;
    Ok(channel)
}

/// Unmounts what is mounted on `path`; nothing there is fine. Never asks the file system's server, and waits for nobody.
///
/// Lazily, for others may have it open, and by force, which ends the connection: they and who waits for an answer see
/// `ENOTCONN` or `ECONNABORTED` at once, also where somebody keeps a copy of the channel.
pub fn unmount(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a file system of ours is mounted on `path`. Never asks its server, which may be dead, or the caller.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(mounted_in(&std::fs::read("/proc/self/mountinfo")?, path))
}

/// Source: `proc_pid_mountinfo(5)`: the fifth field is the mount point, the first after ` - ` the type.
fn mounted_in(mountinfo: &[u8], path: &Path) -> bool {
    let path = path.as_os_str().as_bytes();
    mountinfo.split(|b| *b == b'\n').any(|line| {
        let mut fields = line.split(|b| *b == b' ');
        let point = fields.nth(4).map(crate::sys::unescaped);
        let kind = fields.skip_while(|field| *field != b"-").nth(1);
        point.is_some_and(|point| point == path) && kind == Some(b"fuse.ioasidd")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_told_by_its_point_and_its_type() {
        let info = b"30 1 0:26 / / rw shared:1 - ext4 /dev/vda rw\n\
            31 30 0:27 / /run/a\\040b rw,nosuid - fuse.ioasidd ioasidd rw,user_id=0\n\
            32 30 0:28 / /run/other rw - fuse.sshfs x rw\n";
        assert!(mounted_in(info, Path::new("/run/a b")));
        assert!(!mounted_in(info, Path::new("/run/other")) && !mounted_in(info, Path::new("/")));
        assert!(!mounted_in(b"", Path::new("/run/a b")) && !mounted_in(b"- - -\n\n", Path::new("/run")));
    }
}
