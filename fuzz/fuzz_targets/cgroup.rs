//! Cgroup paths, and what /proc/PID/cgroup says.
#![no_main]

use ioasid::model::CgroupPath;
use ioasid::sys::cgroup::parse_membership;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = parse_membership(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(path) = text.parse::<CgroupPath>() else { return };
    assert_eq!(path.as_str().parse::<CgroupPath>().ok().as_ref(), Some(&path));
    assert!(!path.to_string().contains(char::is_control));
    assert!(path.lineage().all(|above| above.contains(&path)));
});
