//! Directories of cgroups that were asked for lately, held open: who reads a counter reads it again soon.

use crate::model::CgroupId;
use crate::sys::cgroup::Directory;
use std::collections::VecDeque;
use std::sync::Arc;

/// How many. Each is a descriptor, so there is a bound, whatever is read and by whom.
const MOST: usize = 16;

/// The directories, the latest first.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(CgroupId, Arc<Directory>)>);

impl Recent {
    /// The cgroup's directory, where it is here and was not removed.
    pub(super) fn get(&mut self, id: CgroupId) -> Option<Arc<Directory>> {
        let at = self.0.iter().position(|(found, _)| *found == id)?;
        let entry = self.0.remove(at)?;
        if !entry.1.exists() {
            return None;
        }
        let directory = Arc::clone(&entry.1);
        self.0.push_front(entry);
        Some(directory)
    }

    /// Keeps a directory, and forgets the one that was not asked for longest.
    pub(super) fn keep(&mut self, id: CgroupId, directory: Arc<Directory>) {
        self.0.truncate(MOST - 1);
        self.0.push_front((id, directory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::cgroup::scratch::Scratch;

    #[test]
    fn what_was_removed_is_forgotten_and_the_oldest_goes_first() {
        let scratch = Scratch::new();
        let mut recent = Recent::default();
        let ids: Vec<CgroupId> = (0..MOST + 1)
            .map(|number| {
                let path = scratch.child(&format!("c{number}"));
                let id = scratch.root.id_of(&path).unwrap();
                recent.keep(id, Arc::new(scratch.root.open(&path).unwrap()));
                id
            })
            .collect();
        assert!(recent.get(ids[0]).is_none(), "one too many");
        assert!(recent.get(ids[1]).is_some());
        let gone = scratch.root.path_of(ids[2]).unwrap().unwrap();
        std::fs::remove_dir(scratch.directory(&gone)).unwrap();
        assert!(recent.get(ids[2]).is_none());
        assert_eq!(recent.0.len(), MOST - 1);
        assert_eq!(recent.0[0].0, ids[1], "the latest");
    }
}
