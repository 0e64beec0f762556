//! Where cgroup2 is mounted.

use crate::sys::done;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Whether the file is on a cgroup2 file system.
pub(super) fn is_cgroup2(file: &File) -> bool {
    let mut found = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `found` has room for what the call writes.
    if done(unsafe { libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr()) }).is_err() {
        return false;
    }
    // SAFETY: zeroed, then written by the kernel.
    let found = unsafe { found.assume_init() };
    found.f_type == libc::CGROUP2_SUPER_MAGIC as libc::__fsword_t
}

/// Where /proc/self/mountinfo has whole cgroup2 trees mounted. Source: proc_pid_mountinfo(5).
pub(super) fn cgroup2_mounts(text: &[u8]) -> Vec<PathBuf> {
    let lines = text.split(|byte| *byte == b'\n');
    let mount = |line: &[u8]| {
        let mut words = line.split(|byte| *byte == b' ');
        let shown = words.nth(3)?;
        let at = words.next()?;
        let kind = words.skip_while(|word| *word != b"-").nth(1)?;
        (kind == b"cgroup2" && shown == b"/")
            .then(|| PathBuf::from(std::ffi::OsString::from_vec(crate::sys::unescaped(at))))
    };
    lines.filter_map(mount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_type_and_only_when_whole() {
        let text = b"38 31 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n41 31 0:38 / /sys/fs/cgroup/unified rw shared:1 master:2 - cgroup2 none rw\n\
            42 31 0:38 /sub /mnt rw - cgroup2 none rw\n43 31 0:38 / /a\\040b rw - cgroup2 none rw\n\njunk\n";
        assert_eq!(cgroup2_mounts(text), [PathBuf::from("/sys/fs/cgroup/unified"), PathBuf::from("/a b")]);
    }
}
