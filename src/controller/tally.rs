//! Peaks and events of cgroups over a restart: a slot of a file for each.
//!
//! `current` is not kept: it is what the leased ids come to. The peak is written before the count falls, for until then
//! the ids say it; so rising costs nothing. Slots are made with the first set of a cgroup, where there may be no room;
//! writing to one that is there needs none.

use super::records::Unread;
use crate::model::{CgroupId, Fault};
use crate::quota::Node;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file below the state directory.
pub(super) const FILE: &str = "counters";
/// The version is in it.
const MAGIC: &[u8; 18] = b"ioasidd counters 1";
const BOOT_AT: usize = 32;
const HEADER: u64 = 128;
const SLOT: usize = 32;

/// What is kept of a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) peak: u64,
    pub(super) events: u64,
    pub(super) events_local: u64,
}

#[derive(Debug)]
struct Slot {
    index: u64,
    written: Counts,
}

/// The file, open for writing.
#[derive(Debug)]
pub(super) struct Tally {
    file: File,
    path: PathBuf,
    slots: HashMap<CgroupId, Slot>,
    free: Vec<u64>,
    next: u64,
}

impl Tally {
    /// A file without a slot, in place of what is there.
    pub(super) fn create(dir: &Path, boot: &str) -> Result<Self, Fault> {
        let path = dir.join(FILE);
        let create = || {
            let mut header = MAGIC.to_vec();
            header.resize(BOOT_AT, 0);
            header.extend(boot.bytes());
            header.resize(HEADER as usize, 0);
            let fresh = path.with_extension("new");
            let file = open(&fresh, true)?;
            file.write_all_at(&header, 0)?;
            std::fs::rename(&fresh, &path)?;
            Ok(file)
        };
        let file = create().map_err(|e: io::Error| Fault::from(e).while_doing(format!("make {}", path.display())))?;
        Ok(Self { file, path, slots: HashMap::new(), free: Vec::new(), next: 0 })
    }

    /// Opens the file below `dir`; what it says is had by [`Tally::of`].
    pub(super) fn open(dir: &Path, boot: &str) -> Result<Self, Unread> {
        let path = dir.join(FILE);
        let failed = |e: io::Error| Unread::Failed(Fault::from(e).while_doing(format!("read {}", path.display())));
        let bytes = std::fs::read(&path).map_err(failed)?;
        let slots = read(&bytes, boot)?;
        let file = open(&path, false).map_err(failed)?;
        let next = slots.len() as u64;
        let mut counters = Self { file, path, slots: HashMap::new(), free: Vec::new(), next };
        for ((cgroup, written), index) in slots.into_iter().zip(0..) {
            if cgroup.0 == 0 {
                counters.free.push(index);
            } else {
                counters.slots.insert(cgroup, Slot { index, written });
            }
        }
        Ok(counters)
    }

    /// What was written of a cgroup.
    pub(super) fn of(&self, cgroup: CgroupId) -> Counts {
        self.slots.get(&cgroup).map(|slot| slot.written).unwrap_or_default()
    }

    /// Makes slots for a cgroup and those above it.
    pub(super) fn ensure(&mut self, node: &Arc<Node>) -> Result<(), Fault> {
        for level in levels(node) {
            if !self.slots.contains_key(&level.id()) {
                let index = self.free.pop().unwrap_or(self.next);
                self.write(index, level.id(), counts(level)).inspect_err(|_| {
                    if index < self.next {
                        self.free.push(index);
                    }
                })?;
                self.next = self.next.max(index + 1);
                self.slots.insert(level.id(), Slot { index, written: counts(level) });
            }
        }
        Ok(())
    }

    /// Writes what changed of a cgroup and those above it. `falls`: its count is about to.
    pub(super) fn keep(&mut self, node: &Arc<Node>) -> Result<(), Fault> {
        for level in levels(node) {
            self.keep_one(level)?;
        }
        Ok(())
    }

    fn keep_one(&mut self, level: &Node) -> Result<(), Fault> {
        let now = counts(level);
        let Some(slot) = self.slots.get(&level.id()).filter(|slot| slot.written != now) else { return Ok(()) };
        let index = slot.index;
        self.write(index, level.id(), now)?;
        self.slots.insert(level.id(), Slot { index, written: now });
        Ok(())
    }

    /// Frees the slot of a cgroup that is forgotten.
    pub(super) fn forget(&mut self, cgroup: CgroupId) {
        let Some(slot) = self.slots.remove(&cgroup) else { return };
        if self.write(slot.index, CgroupId(0), Counts::default()).is_ok() {
            self.free.push(slot.index);
        }
    }

    /// The cgroups that have slots.
    pub(super) fn known(&self) -> Vec<CgroupId> {
        self.slots.keys().copied().collect()
    }

    fn write(&self, index: u64, cgroup: CgroupId, counts: Counts) -> Result<(), Fault> {
        let mut bytes = [0; SLOT];
        let numbers = [cgroup.0, counts.peak, counts.events, counts.events_local];
        for (to, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        let written = self.file.write_all_at(&bytes, HEADER + index * SLOT as u64);
        written.map_err(|e| Fault::from(e).while_doing(format!("write {}", self.path.display())))
    }
}

fn levels(node: &Arc<Node>) -> impl Iterator<Item = &Node> {
    std::iter::once(&**node).chain(node.ancestors().iter().map(|level| &**level))
}

fn counts(node: &Node) -> Counts {
    Counts { peak: node.peak(), events: node.events(), events_local: node.events_local() }
}

fn open(path: &Path, new: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(new).truncate(new).mode(0o600).open(path)
}

fn read(bytes: &[u8], boot: &str) -> Result<Vec<(CgroupId, Counts)>, Unread> {
    let unusable = |why: &str| Unread::Unusable(why.to_owned());
    let (Some(header), Some(slots)) = (bytes.get(..HEADER as usize), bytes.get(HEADER as usize..)) else {
        return Err(unusable("it is cut short"));
    };
    if !header.starts_with(MAGIC) {
        return Err(unusable("it is no file of counters of version 1"));
    }
    let of = header.get(BOOT_AT..).unwrap_or_default();
    if !of.starts_with(boot.as_bytes()) || of.get(boot.len()).is_some_and(|byte| *byte != 0) {
        return Err(Unread::OtherBoot);
    }
    // A kill may leave a last slot half written: it was not answered for.
    let slots = slots.chunks_exact(SLOT).map(|slot| {
        let number = |at: usize| {
            let bytes = slot.get(8 * at..8 * at + 8).and_then(|bytes| bytes.try_into().ok());
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        (CgroupId(number(0)), Counts { peak: number(1), events: number(2), events_local: number(3) })
    });
    Ok(slots.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Tree;

    #[test]
    fn counts_come_back_by_cgroup_and_slots_are_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(CgroupId(1));
        let node = tree.ensure(&[(CgroupId(2), "/a".parse().unwrap()), (CgroupId(3), "/a/b".parse().unwrap())]);
        let mut counters = Tally::create(dir.path(), "boot").unwrap();
        counters.ensure(&node).unwrap();
        drop(node.try_charge(5).unwrap());
        counters.keep(&node).unwrap();
        let mut again = Tally::open(dir.path(), "boot").unwrap();
        for id in [1, 2, 3] {
            assert_eq!(again.of(CgroupId(id)), Counts { peak: 5, ..Counts::default() });
        }
        again.forget(CgroupId(2));
        assert_eq!(again.of(CgroupId(2)), Counts::default());
        let other = tree.ensure(&[(CgroupId(9), "/c".parse().unwrap())]);
        again.ensure(&other).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join(FILE)).unwrap().len(), HEADER + 3 * SLOT as u64);
        assert!(matches!(Tally::open(dir.path(), "boo"), Err(Unread::OtherBoot)));
        assert!(matches!(Tally::open(dir.path(), "boots"), Err(Unread::OtherBoot)));
        std::fs::write(dir.path().join(FILE), "junk").unwrap();
        assert!(matches!(Tally::open(dir.path(), "boot"), Err(Unread::Unusable(_))));
    }
}
