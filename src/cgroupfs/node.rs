//! What there is in the tree: directories and files, their names and their numbers. Pure.

use crate::model::CgroupId;
use crate::sys::fuse::abi::ROOT_NODE;

/// A file of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum File {
    /// `ioasids.max`.
    Max,
    /// `ioasids.current`.
    Current,
    /// `ioasids.peak`.
    Peak,
    /// `ioasids.events`: hits of this cgroup's limit and of those below it.
    Events,
    /// `ioasids.events.local`: hits of this cgroup's own limit.
    EventsLocal,
    /// `ioasids.capacity`, at the root alone.
    Capacity,
}

const AT_ROOT: &[File] = &[File::Capacity, File::Current, File::Peak];
const BELOW: &[File] = &[File::Current, File::Events, File::EventsLocal, File::Max, File::Peak];

impl File {
    /// The files of a directory, in the order they are listed.
    pub fn of_directory(is_root: bool) -> &'static [Self] {
        if is_root { AT_ROOT } else { BELOW }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Max => "ioasids.max",
            Self::Current => "ioasids.current",
            Self::Peak => "ioasids.peak",
            Self::Events => "ioasids.events",
            Self::EventsLocal => "ioasids.events.local",
            Self::Capacity => "ioasids.capacity",
        }
    }

    /// The file of this name in a directory.
    pub fn named(name: &str, is_root: bool) -> Option<Self> {
        Self::of_directory(is_root).iter().copied().find(|file| file.name() == name)
    }

    /// Whether something can be written to it.
    pub fn is_writable(self) -> bool {
        matches!(self, Self::Max | Self::Peak)
    }

    /// Whether `poll(2)` waits for it to change.
    pub fn is_events(self) -> bool {
        matches!(self, Self::Events | Self::EventsLocal)
    }

    fn code(self) -> u64 {
        match self {
            Self::Max => 1,
            Self::Current => 2,
            Self::Peak => 3,
            Self::Events => 4,
            Self::EventsLocal => 5,
            Self::Capacity => 6,
        }
    }

    fn of_code(code: u64) -> Option<Self> {
        [Self::Max, Self::Current, Self::Peak, Self::Events, Self::EventsLocal, Self::Capacity]
            .into_iter()
            .find(|file| file.code() == code)
    }
}

/// Something with an inode: a cgroup's directory, or a file in it.
///
/// Its number is made of the cgroup's id and the file, so nothing has to be kept for the kernel's sake: not while the
/// service runs, and not over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// The cgroup; `None` for the root, whose number FUSE fixes.
    pub cgroup: Option<CgroupId>,
    /// The file; `None` for the directory itself.
    pub file: Option<File>,
}

impl Node {
    /// The mounted directory.
    pub const ROOT: Self = Self { cgroup: None, file: None };

    /// Its number; `None` for an id that leaves no room beside it (no kernel counts that far).
    pub fn number(self) -> Option<u64> {
        if self == Self::ROOT {
            return Some(ROOT_NODE);
        }
        let id = self.cgroup.map_or(0, |id| id.0);
        let number = id.checked_mul(8)? + self.file.map_or(0, File::code);
        // The root's file of code 1 would be the root's own number; it has none of that code.
        (number != ROOT_NODE).then_some(number)
    }

    /// The node with this number.
    pub fn of(number: u64) -> Option<Self> {
        if number == ROOT_NODE {
            return Some(Self::ROOT);
        }
        let cgroup = Some(number / 8).filter(|id| *id != 0).map(CgroupId);
        let file = match number % 8 {
            0 => None,
            code => Some(File::of_code(code)?),
        };
        (cgroup.is_some() || file.is_some()).then_some(Self { cgroup, file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_its_number() {
        let below = BELOW.iter().map(|file| Node { cgroup: Some(CgroupId(77)), file: Some(*file) });
        let at_root = AT_ROOT.iter().map(|file| Node { cgroup: None, file: Some(*file) });
        let directories = [Node::ROOT, Node { cgroup: Some(CgroupId(1)), file: None }];
        let nodes: Vec<Node> = below.chain(at_root).chain(directories).collect();
        let mut numbers: Vec<u64> = nodes.iter().map(|node| node.number().unwrap()).collect();
        assert!(nodes.iter().zip(&numbers).all(|(node, number)| Node::of(*number) == Some(*node)));
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), nodes.len());
        assert_eq!(Node { cgroup: Some(CgroupId(u64::MAX)), file: None }.number(), None);
        assert_eq!((Node::of(0), Node::of(7), Node::of(8 * 5 + 7)), (None, None, None));
    }

    #[test]
    fn the_root_has_no_limit_and_no_events() {
        assert_eq!(File::named("ioasids.max", true), None);
        assert_eq!(File::named("ioasids.events", true), None);
        assert_eq!(File::named("ioasids.capacity", true), Some(File::Capacity));
        assert_eq!(File::named("ioasids.capacity", false), None);
        assert_eq!(File::named("ioasids.events.local", false), Some(File::EventsLocal));
    }
}
