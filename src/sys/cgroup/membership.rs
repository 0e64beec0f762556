//! `/proc/PID/cgroup`: which cgroup a process is in.

use crate::model::{CgroupPath, Malformed};
use std::io;

const EXPECTED: &str = "a cgroup below the root of the service's cgroup namespace, in UTF-8";

/// The cgroup2 path in the text of `/proc/PID/cgroup`.
///
/// Only the line that begins with `0::` counts; on a hybrid host the others are of version 1. The path is as the
/// kernel wrote it: a removed cgroup's ends with ` (deleted)`, which is also a legal end of a name, so look whether it
/// exists. Refused: no such line, a path outside our cgroup namespace (`/../x`), and names that are not UTF-8, which
/// no policy could name either. Takes any bytes; never panics.
///
/// Source: cgroups(7), `proc_cgroup_show` in the kernel's `kernel/cgroup/cgroup.c`.
pub fn parse_membership(text: &[u8]) -> Result<CgroupPath, Malformed> {
    let line = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"));
    let Some(line) = line else {
        return Err(Malformed::new(shown(text), "a process with a cgroup2 line (0::)"));
    };
    let path = str::from_utf8(line).map_err(|_| Malformed::new(shown(line), EXPECTED))?;
    // The parser of paths forgives one trailing slash, for people; the kernel never writes one.
    if path.len() > 1 && path.ends_with('/') {
        return Err(Malformed::new(shown(line), EXPECTED));
    }
    path.parse().map_err(|_| Malformed::new(shown(line), EXPECTED))
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..128).unwrap_or(bytes)).into_owned()
}

/// The cgroup2 path of the process with this pid; it means something only while the process is pinned and alive.
///
/// Faults: NotFound or ESRCH where there is no such process, `InvalidData` where [`parse_membership`] refuses.
pub fn membership(pid: u32) -> io::Result<CgroupPath> {
    let text = std::fs::read(format!("/proc/{pid}/cgroup"))?;
    parse_membership(&text).map_err(|malformed| io::Error::new(io::ErrorKind::InvalidData, malformed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> String {
        parse_membership(text.as_bytes()).unwrap().into()
    }

    #[test]
    fn only_the_cgroup2_line_counts() {
        assert_eq!(path("0::/\n"), "/");
        assert_eq!(path("12:cpu,cpuacct:/v1\n1:name=systemd:/0::/x\n0::/a/b\n"), "/a/b");
        assert_eq!(path("0::/a"), "/a");
        for bad in ["", "\n", "1:cpu:/x\n", "10::/x\n", "0:x:/y\n", " 0::/x\n"] {
            assert!(parse_membership(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn odd_names_come_through_whole() {
        for name in ["/a b", "/a:b::c", "/x (deleted)", "/machine-qemu\\x2d1\\x2dtiny.scope/libvirt", "/tab\there"] {
            assert_eq!(path(&format!("0::{name}\n")), name);
        }
        let long = "/abcdefg".repeat(500);
        assert_eq!(path(&format!("0::{long}\n")), long);
    }

    #[test]
    fn what_cannot_be_named_is_refused() {
        for bad in
            [&b"0::/\xff\xfe\n"[..], b"0::/../../x\n", b"0::x\n", b"0::\n", b"0:://\n", b"0::/a/\n", b"0::/a\0b\n"]
        {
            assert!(parse_membership(bad).is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = parse_membership(&bytes);
            let mut line = b"0::/".to_vec();
            line.extend(bytes);
            if let Ok(path) = parse_membership(&line) {
                proptest::prop_assert!(path.components().all(|name| name != ".." && name != "."));
            }
        }
    }
}
