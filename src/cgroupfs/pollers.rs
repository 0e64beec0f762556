//! Who waits in `poll(2)`, in a file: a service that goes on with the tree of one that was killed wakes them all, for
//! what they wait for is in the dead one's memory.
//!
//! The file is an array of the numbers that the kernel names pollers by, 0 where there is none. A write to it may fail
//! (no space): then that poller is not woken after a kill, and nothing else is amiss.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const WIDTH: usize = size_of::<u64>();

/// A place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u64);

/// The file and its places.
#[derive(Debug)]
pub struct Pollers {
    file: File,
    free: Vec<Slot>,
    used: u64,
}

impl Pollers {
    /// Begins an empty file at `path`; gives those who are in the one that a service left there.
    pub fn take_over(path: &Path) -> io::Result<(Self, Vec<u64>)> {
        let left = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_ne_bytes).filter(|wake| *wake != 0);
        let waiting = left.chunks_exact(WIDTH).filter_map(number).collect();
        Ok((Self { file: File::create(path)?, free: Vec::new(), used: 0 }, waiting))
    }

    /// Somebody may wait from now on, until [`Pollers::remove`].
    pub(super) fn add(&mut self, wake: u64) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.used += 1;
            Slot(self.used - 1)
        });
        self.write(slot, wake);
        slot
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        self.write(slot, 0);
        self.free.push(slot);
    }

    fn write(&self, slot: Slot, wake: u64) {
        if let Err(error) = self.file.write_all_at(&wake.to_ne_bytes(), slot.0 * WIDTH as u64) {
            tracing::debug!(%error, "a poller is not noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_to_the_next_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pollers");
        let (mut pollers, before) = Pollers::take_over(&path).unwrap();
        assert_eq!(before, [0; 0]);
        let [first, _second] = [7, 9].map(|wake| pollers.add(wake));
        pollers.remove(first);
        assert_eq!(pollers.add(8), first, "places are used again");
        let third = pollers.add(10);
        pollers.remove(third);
        drop(pollers);
        assert_eq!(Pollers::take_over(&path).unwrap().1, [8, 9]);
        assert_eq!(Pollers::take_over(&path).unwrap().1, [0; 0]);
    }
}
