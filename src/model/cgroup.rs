//! Cgroup names and ids.

use super::{Malformed, escaped, is_printable};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const EXPECTED: &str = "a cgroup path from the cgroup2 root, such as /machine.slice";

/// The kernel's id of a cgroup: `st_ino` of its cgroup2 directory, 64 bits, never used twice while the host is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CgroupId(pub u64);

impl fmt::Display for CgroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The path of a cgroup from the cgroup2 root, as `/proc/PID/cgroup` has it after `0::`.
///
/// Absolute, without `.` or `..`, without empty components, without a NUL or a line feed (the kernel refuses
/// those in a name) and at most 4,096 bytes. The root is `/`. Blanks, colons and a trailing ` (deleted)` are
/// parts of a name like any other. A path names a cgroup for people; its [`CgroupId`] is what it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CgroupPath(String);

impl CgroupPath {
    /// The longest path in bytes: the kernel's `PATH_MAX`.
    pub const MAX_BYTES: usize = 4096;

    /// The root of the hierarchy.
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// The path as text; begins with `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// The names from below the root to the last; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// The path relative to the root, without the leading `/`; empty for the root.
    pub fn relative(&self) -> &str {
        self.0.trim_start_matches('/')
    }

    /// The last name; `None` for the root.
    pub fn name(&self) -> Option<&str> {
        self.components().next_back()
    }

    /// The path one level up; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        match self.0.rfind('/') {
            Some(0) | None => Some(Self::root()),
            Some(at) => self.0.get(..at).map(|head| Self(head.to_owned())),
        }
    }

    /// The child with this name. Refused where the name could not be one.
    pub fn child(&self, name: &str) -> Result<Self, Malformed> {
        if name.contains('/') {
            return Err(Malformed::new(name, "the name of a cgroup, without a slash"));
        }
        if self.is_root() { format!("/{name}") } else { format!("{}/{name}", self.0) }.parse()
    }

    /// Itself, then its ancestors, up to the root.
    pub fn lineage(&self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self.clone()), Self::parent)
    }

    /// Whether `other` is this cgroup or below it.
    pub fn contains(&self, other: &Self) -> bool {
        self.is_root() || other.0.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for CgroupPath {
    /// The path on one line: what is not printable comes escaped, so that no name can forge a line of output.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.chars().all(is_printable) { f.pad(&self.0) } else { f.write_str(&escaped(&self.0)) }
    }
}

impl FromStr for CgroupPath {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = || Malformed::new(text.chars().take(128).collect::<String>(), EXPECTED);
        let Some(names) = text.strip_prefix('/') else { return Err(malformed()) };
        if text.len() > Self::MAX_BYTES || text.contains(['\0', '\n']) {
            return Err(malformed());
        }
        if names.is_empty() {
            return Ok(Self::root());
        }
        // One trailing slash is what shells complete to; two are a mistake.
        let names = names.strip_suffix('/').unwrap_or(names);
        if names.split('/').any(|name| matches!(name, "" | "." | "..") || name.len() > 255) {
            return Err(malformed());
        }
        Ok(Self(format!("/{names}")))
    }
}

impl TryFrom<String> for CgroupPath {
    type Error = Malformed;
    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<CgroupPath> for String {
    fn from(path: CgroupPath) -> String {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> CgroupPath {
        text.parse().unwrap()
    }

    #[test]
    fn odd_names_are_names() {
        for text in ["/", "/a b", "/a:b", "/x (deleted)", "/..a", "/machine.slice/machine-qemu\\x2d1.scope"] {
            assert_eq!(path(text).as_str(), text);
        }
        assert_eq!(path("/a/").as_str(), "/a");
    }

    #[test]
    fn what_the_kernel_cannot_name_is_refused() {
        let long = format!("/{}", "x".repeat(256));
        let deep = "/abcdefg".repeat(513);
        for text in ["", "a", "//", "/a//b", "/.", "/a/..", "/../x", "/a\nb", "/a\0", &long, &deep] {
            assert!(text.parse::<CgroupPath>().is_err(), "{text:?}");
        }
        assert_eq!(path(&"/abcdefg".repeat(500)).components().count(), 500);
    }

    #[test]
    fn lineage_ends_at_the_root() {
        let names: Vec<_> = path("/a/b/c").lineage().map(String::from).collect();
        assert_eq!(names, ["/a/b/c", "/a/b", "/a", "/"]);
        assert_eq!(path("/a").child("b c").unwrap(), path("/a/b c"));
        assert!(path("/a").child("../x").is_err());
    }

    #[test]
    fn containment_is_by_name_not_by_prefix() {
        assert!(path("/a").contains(&path("/a/b")) && path("/a").contains(&path("/a")));
        assert!(!path("/a").contains(&path("/ab")) && !path("/a/b").contains(&path("/a")));
        assert!(path("/").contains(&path("/x")));
    }
}
