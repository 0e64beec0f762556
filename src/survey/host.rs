//! A host to look at: this one, or a recording.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The most bytes that are read of a file: what the kernel shows is shorter.
const MOST: usize = 64 << 10;

/// A host below a directory. What cannot be read is as if it were not there.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

/// A device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
}

impl Host {
    /// The host whose file tree is at `root`: `/`, or a recording of the files that matter.
    ///
    /// In a recording a device node is a file with its permission bits in octal.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Whether it is the host that this runs on.
    pub fn is_this(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where `path` (absolute on the host) is.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// The text of a file, without blanks at its ends.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let mut bytes = fs::read(self.path(path)).ok()?;
        bytes.truncate(MOST);
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The names in a directory, in order.
    pub(super) fn names(&self, directory: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(directory)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|n| n != ".keep").collect();
        names.sort_unstable();
        names
    }

    /// Where a symbolic link points.
    pub(super) fn link(&self, path: &str) -> Option<String> {
        fs::read_link(self.path(path)).ok()?.into_os_string().into_string().ok()
    }

    /// A device node.
    pub(super) fn node(&self, path: &str) -> Option<Node> {
        let metadata = fs::metadata(self.path(path)).ok()?;
        if metadata.file_type().is_char_device() {
            return Some(Node { mode: metadata.mode() & 0o777, uid: metadata.uid() });
        }
        let mode = u32::from_str_radix(&self.text(path)?, 8).ok()?;
        (!self.is_this()).then_some(Node { mode, uid: 0 })
    }
}
