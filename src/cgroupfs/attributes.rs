//! What stat(2) says of a directory or file: the cgroup's own, but for who may write.

use super::content;
use super::node::{File, Node};
use super::tree::{ENOENT, Errno, Found, Tree, errno_of, metadata_of};
use crate::model::CgroupPath;
use crate::sys::cgroup::Kind;
use crate::sys::fuse::{Attributes, Message};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

impl Tree {
    /// Whether the cgroup's directory has files: that of a threaded one has none, as with the kernel's domain controllers,
    /// unless it has been charged before it became threaded.
    pub(super) fn has_files(&self, found: &Found) -> Result<bool, Errno> {
        let used = self.controller.counters(found.id).max.is_some();
        Ok(used || found.directory.kind().map_err(|error| errno_of(&error))? == Kind::Domain)
    }

    pub(super) fn attributes_of(&self, unique: u64, node: Node) -> Result<Message, Errno> {
        let attributes = self.attributes_in(node, &self.find(node)?)?;
        Ok(Message::attributes_of(unique, &attributes, u64::from(node == Node::ROOT)))
    }

    pub(super) fn attributes_in(&self, node: Node, found: &Found) -> Result<Attributes, Errno> {
        let metadata = metadata_of(&found.directory).map_err(|error| errno_of(&error))?;
        let number = node.number().ok_or(ENOENT)?;
        let Some(file) = node.file else { return Ok(directory_attributes(number, &metadata)) };
        let (mode, owner) = match file {
            File::Max => self.who_sets(found),
            // An administrator may reset it.
            File::Peak => (0o100_644, (0, 0)),
            _ => (0o100_444, (metadata.uid(), metadata.gid())),
        };
        let size = content::text(file, &self.counters_in(found, file)?).len() as u64;
        let changed = changed(&metadata);
        Ok(Attributes { inode: number, mode, links: 1, uid: owner.0, gid: owner.1, size, changed })
    }

    /// Mode and owner of `ioasids.max`, as far as they can say it: who owns a cgroup above may set it. Where these are
    /// several users one of them is shown and everybody may try: opening decides.
    fn who_sets(&self, found: &Found) -> (u32, (u32, u32)) {
        let owners = self.owners_above(found).unwrap_or_default();
        match owners.split_last() {
            None => (0o100_644, (0, 0)),
            Some((nearest, others)) if others.iter().all(|(uid, _)| *uid == nearest.0) => (0o100_644, *nearest),
            Some((nearest, _)) => (0o100_666, *nearest),
        }
    }

    /// Users and groups that own a cgroup strictly above, the nearest last. What root owns was delegated to nobody.
    fn owners_above(&self, found: &Found) -> Option<Vec<(u32, u32)>> {
        let above = self.path(found).ok()?.parent()?;
        let mut directory = self.host.cgroups.open(&CgroupPath::root()).ok()?;
        let mut owners = Vec::new();
        for name in above.components() {
            directory = directory.child(name).ok()?;
            let metadata = metadata_of(&directory).ok()?;
            owners.push((metadata.uid(), metadata.gid()));
        }
        owners.retain(|(uid, _)| *uid != 0);
        Some(owners)
    }
}

pub(super) fn directory_attributes(number: u64, metadata: &Metadata) -> Attributes {
    Attributes {
        inode: number,
        mode: metadata.mode(),
        // As on btrfs: one says that it does not count children, so find(1) looks for itself.
        links: 1,
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: 0,
        changed: changed(metadata),
    }
}

fn changed(metadata: &Metadata) -> (u64, u32) {
    (u64::try_from(metadata.ctime()).unwrap_or_default(), u32::try_from(metadata.ctime_nsec()).unwrap_or_default())
}
