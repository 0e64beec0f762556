//! Open files: what a reader was shown, so that a second read goes on where the first ended.

use super::node::Node;
use super::pollers::Slot;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// An open file.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) node: Node,
    /// The text that the read from its beginning saw.
    pub(super) text: Vec<u8>,
    /// The count of events that was read last; `None` before the first read.
    pub(super) seen: Option<u64>,
    /// What the kernel wants to be woken with.
    pub(super) wake: Option<u64>,
    /// Where it is noted that somebody may wait, once somebody did.
    pub(super) noted: Option<Slot>,
}

impl OpenFile {
    fn new(node: Node) -> Self {
        Self { node, text: Vec::new(), seen: None, wake: None, noted: None }
    }
}

/// What is open, by handle.
///
/// A handle may come from the process that served the channel before this one; then it is unknown, and what is known
/// of it is the node that each request names. It begins as if it had just been opened.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) files: HashMap<u64, OpenFile>,
    next: u64,
}

impl Open {
    pub(super) fn new() -> Self {
        // No handle of an earlier process is given out again: it would have opened a million files a second.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let next = u64::try_from(since.as_micros()).unwrap_or_default();
        Self { files: HashMap::new(), next }
    }

    fn handle(&mut self) -> u64 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    /// Opens a file.
    pub(super) fn file(&mut self, node: Node) -> u64 {
        let handle = self.handle();
        self.files.insert(handle, OpenFile::new(node));
        handle
    }

    /// The open file of this handle, which is one of `node`.
    pub(super) fn file_mut(&mut self, handle: u64, node: Node) -> &mut OpenFile {
        self.files.entry(handle).or_insert_with(|| OpenFile::new(node))
    }

    /// Closes a file; gives where it was noted that somebody waits for it.
    pub(super) fn close(&mut self, handle: u64) -> Option<Slot> {
        self.files.remove(&handle)?.noted
    }
}
