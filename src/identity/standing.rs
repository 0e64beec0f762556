//! A process's standing: ids and privilege, as /proc tells them.

use crate::sys::process::CAP_SYS_ADMIN;
use std::fs;
use std::io;

/// The inode of the initial user namespace: PROC_USER_INIT_INO, `include/linux/proc_ns.h`.
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// What `/proc/PID/status` says of who a process is, in our user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Real, effective, saved and file system uid.
    pub uids: [u32; 4],
    /// Effective gid.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Effective capabilities, in its own user namespace.
    pub capabilities: u64,
}

impl Standing {
    /// Reads it. NotFound or ESRCH where the process is gone.
    pub fn of(pid: u32) -> io::Result<Self> {
        let text = fs::read(format!("/proc/{pid}/status"))?;
        // Lossy: the name in the first line is whatever the process likes. It has no line feeds (they come escaped).
        parse(&String::from_utf8_lossy(&text)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Whether it is root with CAP_SYS_ADMIN, where `pid` is in the initial user namespace.
    pub fn is_administrator(&self, pid: u32) -> bool {
        let [_, effective, ..] = self.uids;
        effective == 0 && self.capabilities >> CAP_SYS_ADMIN & 1 == 1 && in_initial_user_namespace(pid)
    }
}

/// Whether the process is in the initial user namespace; false where that cannot be known.
fn in_initial_user_namespace(pid: u32) -> bool {
    // Read, not followed: what it leads to has no path, and AppArmor refuses to look at what has none.
    let initial = format!("user:[{INITIAL_USER_NAMESPACE}]");
    fs::read_link(format!("/proc/{pid}/ns/user")).is_ok_and(|found| found.as_os_str() == initial.as_str())
}

fn parse(status: &str) -> Option<Standing> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let numbers = |text: &str| text.split_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<u32>>>();
    Some(Standing {
        uids: numbers(field("Uid")?)?.try_into().ok()?,
        gid: *numbers(field("Gid")?)?.get(1)?,
        groups: numbers(field("Groups")?)?,
        capabilities: u64::from_str_radix(field("CapEff")?.trim(), 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str =
        "Name:\tUid:\\n\nUid:\t1000\t0\t0\t0\nGid:\t5\t6\t7\t8\nGroups:\t4 24 \nCapEff:\t000001fffeffffff\n";

    #[test]
    fn fields_are_taken_by_name() {
        let standing = parse(STATUS).unwrap();
        assert_eq!((standing.uids, standing.gid, standing.groups.as_slice()), ([1000, 0, 0, 0], 6, &[4, 24][..]));
        assert_eq!(standing.capabilities >> CAP_SYS_ADMIN & 1, 1);
        assert_eq!(parse("Uid:\t1\n"), None);
        assert!(parse(&STATUS.replace("Groups:\t4 24 ", "Groups:\t")).unwrap().groups.is_empty());
    }

    #[test]
    fn the_running_test_has_a_standing() {
        let me = std::process::id();
        let standing = Standing::of(me).unwrap();
        assert_eq!(standing.is_administrator(me), in_initial_user_namespace(me) && standing.uids[1] == 0);
        assert!(Standing::of(u32::MAX).is_err());
    }
}
