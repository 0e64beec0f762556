//! The host's accounts: names to numbers, through the name service.
//!
//! Source: getpwnam_r(3), getpwuid_r(3), getgrnam_r(3), getgrouplist(3), nsswitch.conf(5). Each call may block on the
//! network where the name service asks a directory.

use nix::errno::Errno;
use nix::unistd::{self, Gid, Uid};
use std::ffi::CString;
use std::io;

/// A user of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The number.
    pub uid: u32,
    /// The groups a login would have: the primary one first, then those that list the user.
    pub gids: Vec<u32>,
}

/// The user with this name; `None` where there is none.
pub fn user(name: &str) -> io::Result<Option<User>> {
    found(unistd::User::from_name(name))?.map(User::with_groups).transpose()
}

/// The user with this number; `None` where there is none.
pub fn user_by_uid(uid: u32) -> io::Result<Option<User>> {
    found(unistd::User::from_uid(Uid::from_raw(uid)))?.map(User::with_groups).transpose()
}

/// The number of the user with this name; `None` where there is none.
pub fn uid(name: &str) -> io::Result<Option<u32>> {
    Ok(found(unistd::User::from_name(name))?.map(|user| user.uid.as_raw()))
}

/// The number of the group with this name; `None` where there is none.
pub fn gid(name: &str) -> io::Result<Option<u32>> {
    Ok(found(unistd::Group::from_name(name))?.map(|group| group.gid.as_raw()))
}

impl User {
    fn with_groups(account: unistd::User) -> io::Result<Self> {
        let name = CString::new(account.name.as_str())?;
        let primary = account.gid.as_raw();
        let mut gids: Vec<u32> = unistd::getgrouplist(&name, account.gid)?.into_iter().map(Gid::as_raw).collect();
        gids.retain(|gid| *gid != primary);
        gids.insert(0, primary);
        Ok(Self { name: account.name, uid: account.uid.as_raw(), gids })
    }
}

/// "No such account" has many spellings (getpwnam_r(3), ERRORS), and a name with a NUL in it (EINVAL here) is none.
fn found<T>(answer: nix::Result<Option<T>>) -> io::Result<Option<T>> {
    match answer {
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM | Errno::EINVAL) => Ok(None),
        answer => Ok(answer?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_0_by_name_and_by_number() {
        let root = user("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gids.first()), (0, Some(&0)));
        assert_eq!(user_by_uid(0).unwrap(), Some(root));
        assert_eq!((uid("root").unwrap(), gid("root").unwrap()), (Some(0), Some(0)));
    }

    #[test]
    fn who_is_not_there_is_none() {
        for name in ["", "no such account", "a\0b", "ä:ö"] {
            assert_eq!((uid(name).unwrap(), gid(name).unwrap(), user(name).unwrap()), (None, None, None), "{name:?}");
        }
        assert_eq!(user_by_uid(0xffff_fff0).unwrap(), None);
    }
}
