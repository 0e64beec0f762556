//! Which ids are leased, resting or waiting, and by which request: the part of the records that every request writes.
//!
//! A file a domain: a header page, then two words an id. The first says how the id stands and whose it is, the second
//! tells leases of one id apart: the tag of the request that leased or freed it. A word pair lies in one page and is
//! written by one pwrite(2): a kill leaves it old or new. The file is not mapped: on a full file system a write fails,
//! and the request with it, where a mapping would be SIGBUS.

use super::records::Unread;
use crate::model::{Domain, Fault, Pasid, PasidRange, SetId};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The version is in it.
const MAGIC: &[u8; 16] = b"ioasidd ledger 1";
const HEADER: u64 = 4096;
const PAIR: usize = 16;
const PAIR_BYTES: u64 = 16;
/// Where the highest count of leases stands.
const PEAK_AT: u64 = 16;
/// Where the length of the header's text stands, and the text.
const TEXT_AT: usize = 32;

/// How an id stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Leased to a set.
    Leased(SetId),
    /// Freed, but held by sessions of the set.
    Pending(SetId),
    /// Given back, at this time of the monotonic clock in microseconds.
    Resting(u64),
}

/// An id that is not free, or was not until lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) pasid: Pasid,
    pub(super) standing: Standing,
    /// Of the request that brought it there.
    pub(super) tag: u64,
}

/// The space that a ledger is of. As it was made: the policy may say otherwise by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Space {
    pub(super) boot: String,
    pub(super) domain: Domain,
    pub(super) bits: u32,
    pub(super) reserved: Vec<PasidRange>,
}

/// What a ledger says.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) space: Space,
    pub(super) peak: u64,
    pub(super) lines: Vec<Line>,
}

/// A ledger, open for writing.
#[derive(Debug)]
pub(super) struct Ledger {
    file: File,
    path: PathBuf,
    /// The peak as it is written.
    peak: u64,
}

/// The file of a domain below the state directory.
pub(super) fn file_name(domain: Domain) -> String {
    format!("ids-{domain}")
}

const LEASED: u64 = 1 << 62;
const PENDING: u64 = 2 << 62;
const RESTING: u64 = 3 << 62;
const VALUE: u64 = LEASED - 1;

impl Standing {
    fn word(self) -> u64 {
        match self {
            Self::Leased(set) => LEASED | (set.0 & VALUE),
            Self::Pending(set) => PENDING | (set.0 & VALUE),
            Self::Resting(since) => RESTING | (since & VALUE),
        }
    }

    fn of(word: u64) -> Option<Self> {
        match word & !VALUE {
            LEASED => Some(Self::Leased(SetId(word & VALUE))),
            PENDING => Some(Self::Pending(SetId(word & VALUE))),
            RESTING => Some(Self::Resting(word & VALUE)),
            _ => None,
        }
    }
}

impl Ledger {
    /// A ledger without a line, in place of what is there.
    pub(super) fn create(dir: &Path, space: &Space) -> Result<Self, Fault> {
        let path = dir.join(file_name(space.domain));
        let text = serde_json::to_vec(space).unwrap_or_default();
        let create = || {
            let mut header = MAGIC.to_vec();
            header.resize(TEXT_AT - 8, 0);
            header.extend((text.len() as u64).to_le_bytes());
            header.extend(&text);
            if header.len() as u64 > HEADER {
                return Err(io::Error::other("more reserved ranges than a ledger's header has room for"));
            }
            // Whole or not at all: a file without its header would be taken for damaged.
            let fresh = path.with_extension("new");
            let file = open(&fresh, true)?;
            file.write_all_at(&header, 0)?;
            file.set_len(HEADER + (PAIR_BYTES << space.bits))?;
            std::fs::rename(&fresh, &path)?;
            Ok(file)
        };
        match create() {
            Ok(file) => Ok(Self { file, path, peak: 0 }),
            Err(error) => Err(Fault::from(error).while_doing(format!("make {}", path.display()))),
        }
    }

    /// Opens the ledger at `path` and reads it whole.
    pub(super) fn open(path: &Path, boot: &str) -> Result<(Self, Reading), Unread> {
        let failed = |e: io::Error| Unread::Failed(Fault::from(e).while_doing(format!("read {}", path.display())));
        let file = open(path, false).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let mut bytes = vec![0; usize::try_from(size.min(HEADER + (PAIR_BYTES << 20))).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        let reading = read(&bytes, size).map_err(Unread::Unusable)?;
        if reading.space.boot != boot {
            return Err(Unread::OtherBoot);
        }
        Ok((Self { file, path: path.to_owned(), peak: reading.peak }, reading))
    }

    /// Writes how these ids stand from now on. After a fault some may be written.
    pub(super) fn write(&self, pasids: &[Pasid], standing: Standing, tag: u64) -> Result<(), Fault> {
        self.write_pair(pasids, [standing.word(), tag])
    }

    /// Writes that these ids are free.
    pub(super) fn erase(&self, pasids: &[Pasid]) -> Result<(), Fault> {
        self.write_pair(pasids, [0, 0])
    }

    fn write_pair(&self, pasids: &[Pasid], words: [u64; 2]) -> Result<(), Fault> {
        let [word, tag] = words;
        let mut pair = [0; PAIR];
        pair[..8].copy_from_slice(&word.to_le_bytes());
        pair[8..].copy_from_slice(&tag.to_le_bytes());
        let follow = |a: &Pasid, b: &Pasid| a.get() + 1 == b.get();
        for run in pasids.chunk_by(follow) {
            let Some(first) = run.first() else { continue };
            let at = HEADER + u64::from(first.get()) * PAIR_BYTES;
            let written = match run {
                [_] => self.file.write_all_at(&pair, at),
                run => self.file.write_all_at(&pair.repeat(run.len()), at),
            };
            written.map_err(|e| Fault::from(e).while_doing(format!("write {}", self.path.display())))?;
        }
        Ok(())
    }

    /// Writes the highest count of leases, where it rose. Only before the count falls: until then the lines say it.
    pub(super) fn keep_peak(&mut self, peak: u64) -> Result<(), Fault> {
        if peak <= self.peak {
            return Ok(());
        }
        let written = self.file.write_all_at(&peak.to_le_bytes(), PEAK_AT);
        written.map_err(|e| Fault::from(e).while_doing(format!("write {}", self.path.display())))?;
        self.peak = peak;
        Ok(())
    }

    /// Ends it: its domain is not in use any more.
    pub(super) fn remove(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn open(path: &Path, new: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(new).truncate(new).mode(0o600).open(path)
}

/// What the bytes of a ledger say; `size` is the whole file's.
fn read(bytes: &[u8], size: u64) -> Result<Reading, String> {
    if bytes.get(..MAGIC.len()) != Some(MAGIC) {
        return Err("it is no ledger of version 1".to_owned());
    }
    let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let text = number(TEXT_AT - 8)
        .and_then(|len| usize::try_from(len).ok())
        .filter(|len| *len <= HEADER as usize - TEXT_AT)
        .and_then(|len| bytes.get(TEXT_AT..TEXT_AT + len))
        .ok_or("its header is cut short")?;
    let space: Space = serde_json::from_slice(text).map_err(|e| format!("its header: {e}"))?;
    if !(1..=crate::model::MAX_BITS).contains(&space.bits) || size != HEADER + (PAIR_BYTES << space.bits) {
        return Err(format!("it has {size} bytes for a space of {} bits", space.bits));
    }
    let pairs = bytes.get(HEADER as usize..).unwrap_or_default();
    let mut lines = Vec::new();
    for (pair, number) in pairs.chunks_exact(PAIR).zip(0_u32..) {
        let Some((word, tag)) = pair.split_at_checked(8) else { continue };
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        if word == 0 {
            continue;
        }
        let tag = u64::from_le_bytes(tag.try_into().unwrap_or_default());
        let (Some(pasid), Some(standing)) = (Pasid::new(number), Standing::of(word)) else {
            return Err(format!("what it says of id {number} is nothing that a service wrote"));
        };
        lines.push(Line { pasid, standing, tag });
    }
    Ok(Reading { space, peak: number(PEAK_AT as usize).unwrap_or(0), lines })
}

/// Reads arbitrary bytes as a ledger: for the fuzzer.
#[doc(hidden)]
pub fn decode_ledger(bytes: &[u8]) -> usize {
    read(bytes, bytes.len() as u64).map_or(0, |reading| reading.lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Space {
        let reserved = vec![PasidRange::new(0, 3).unwrap()];
        Space { boot: "boot".to_owned(), domain: Domain::Global, bits: 6, reserved }
    }

    fn ids(numbers: &[u32]) -> Vec<Pasid> {
        numbers.iter().map(|n| Pasid::new(*n).unwrap()).collect()
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::create(dir.path(), &space()).unwrap();
        ledger.write(&ids(&[4, 5, 6, 63]), Standing::Leased(SetId(9)), 1).unwrap();
        ledger.write(&ids(&[5]), Standing::Resting(77), 2).unwrap();
        ledger.write(&ids(&[63]), Standing::Pending(SetId(9)), 3).unwrap();
        ledger.erase(&ids(&[6])).unwrap();
        ledger.keep_peak(4).unwrap();
        ledger.keep_peak(2).unwrap();
        let (_, reading) = Ledger::open(&dir.path().join("ids-global"), "boot").unwrap();
        assert_eq!((reading.space, reading.peak), (space(), 4));
        let lines: Vec<_> = reading.lines.iter().map(|l| (l.pasid.get(), l.standing, l.tag)).collect();
        let set = SetId(9);
        let expected = [(4, Standing::Leased(set), 1), (5, Standing::Resting(77), 2), (63, Standing::Pending(set), 3)];
        assert_eq!(lines, expected);
    }

    #[test]
    fn another_boot_a_wrong_size_and_junk_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ids-global");
        drop(Ledger::create(dir.path(), &space()).unwrap());
        assert!(matches!(Ledger::open(&path, "another"), Err(Unread::OtherBoot)));
        let good = std::fs::read(&path).unwrap();
        for bad in [&good[..good.len() - 16], &[&good[..], &[0; 16]].concat(), b"junk", b""] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(Ledger::open(&path, "boot"), Err(Unread::Unusable(_))), "{} bytes", bad.len());
        }
    }
}
