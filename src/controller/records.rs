//! What outlives the service: one embedded, crash-safe store of what changes rarely.
//!
//! Sets, cgroups with their limits, aliases, references and what sessions had done are entries of one tree, each under
//! a key of its kind and numbers. A change is one transaction, made before the reply. What ends need not be written
//! before anything: a set that hung up meanwhile ends again after the restart, an alias of an id that was leased anew
//! shows by the lease's tag. Such changes wait for the next transaction ([`Records::defer`]).
//!
//! Which ids are leased stands in the `ledger`, for that changes too often.

use super::entry::{Change, Entry, parse};
use crate::model::Fault;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, TableDefinition};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file below the state directory.
pub(super) const FILE: &str = "records.redb";
/// What the entries mean. Counted up when an older service would misread them.
const VERSION: u32 = 1;
const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
/// Set numbers are reserved in the store by so many: those that were not used are skipped after a restart.
const AHEAD: u64 = 256;
/// Bytes of cache: all of the store of some thousand sets.
const CACHE: usize = 8 << 20;

/// What a store says of itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Preface {
    version: u32,
    boot: String,
    /// Set numbers below this may have been used.
    next_set: u64,
}

const PREFACE: &[u8] = b"0";

/// Why a store is not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is of another boot: whatever it says is gone.
    OtherBoot,
    /// It is damaged, or of a newer version: nothing of it is used.
    Unusable(String),
    /// It could not be tried: another service has it, or a system call failed.
    Failed(Fault),
}

/// What a store holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) next_set: u64,
    pub(super) entries: Vec<Entry>,
}

/// The store, open for writing.
#[derive(Debug)]
pub(super) struct Records {
    path: PathBuf,
    boot: String,
    /// `None` after a write that failed: what the file says is unknown until it is written anew.
    store: Option<Database>,
    deferred: Vec<Change>,
    /// Set numbers below this are reserved.
    reserved: u64,
}

impl Records {
    /// Opens what is below `dir`, and reads it whole; a new one where there is none.
    pub(super) fn open(dir: &Path, boot: &str) -> Result<(Self, Contents), Unread> {
        let path = dir.join(FILE);
        if !path.exists() {
            let records = Self::create(path, boot).map_err(Unread::Failed)?;
            return Ok((records, Contents { next_set: 1, entries: Vec::new() }));
        }
        let store = match builder().open(&path) {
            Ok(store) => store,
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                return Err(Unread::Failed(Fault::new(format!("{} is in use by another service", path.display()))));
            }
            Err(DatabaseError::Storage(redb::StorageError::Io(error)))
                if !matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof) =>
            {
                return Err(Unread::Failed(Fault::from(error).while_doing(format!("open {}", path.display()))));
            }
            Err(error) => return Err(Unread::Unusable(error.to_string())),
        };
        let contents = read(&store, boot)?;
        let records =
            Self { path, boot: boot.to_owned(), store: Some(store), deferred: Vec::new(), reserved: contents.next_set };
        Ok((records, contents))
    }

    fn create(path: PathBuf, boot: &str) -> Result<Self, Fault> {
        let mut records = Self { path, boot: boot.to_owned(), store: None, deferred: Vec::new(), reserved: 1 };
        records.write_anew(Vec::new(), &[])?;
        Ok(records)
    }

    /// Whether the next write takes [`Records::write_anew`] first.
    pub(super) fn is_broken(&self) -> bool {
        self.store.is_none()
    }

    /// Replaces the file by one with these entries and changes to them alone: after a write that failed. The changes come with
    /// the entries, which may say them already: a file with one and not the other would be what nobody was answered.
    pub(super) fn write_anew(&mut self, entries: Vec<Entry>, changes: &[Change]) -> Result<(), Fault> {
        let fresh = self.path.with_extension("new");
        let reserved = self.reserving(changes);
        let entries: Vec<Change> = entries.into_iter().map(Change::Put).collect();
        let write_file = || -> Result<Database, redb::Error> {
            match std::fs::remove_file(&fresh) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            let store = builder().create(&fresh)?;
            write(&store, Some(&self.preface(reserved)), entries.iter().chain(changes))?;
            std::fs::rename(&fresh, &self.path)?;
            Ok(store)
        };
        let store = write_file().map_err(|error| {
            let _ = std::fs::remove_file(&fresh);
            Fault::from_error(&error).while_doing(format!("write {}", self.path.display()))
        })?;
        self.store = Some(store);
        self.reserved = reserved;
        self.deferred.clear();
        Ok(())
    }

    fn preface(&self, next_set: u64) -> Vec<u8> {
        let preface = Preface { version: VERSION, boot: self.boot.clone(), next_set };
        serde_json::to_vec(&preface).unwrap_or_default()
    }

    /// Below which number sets are reserved once these changes are written.
    fn reserving(&self, changes: &[Change]) -> u64 {
        let last = changes.iter().filter_map(Change::set_number).max().unwrap_or(0);
        if last >= self.reserved { last + AHEAD } else { self.reserved }
    }

    /// Writes changes and all that was deferred, as one transaction. After a fault nothing is known to be written.
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<(), Fault> {
        let Some(store) = &self.store else { return Err(Fault::new("the records are to be written anew first")) };
        let reserved = self.reserving(changes);
        let preface = (reserved != self.reserved).then(|| self.preface(reserved));
        if let Err(error) = write(store, preface.as_deref(), self.deferred.iter().chain(changes)) {
            let fault = Fault::from_error(&error).while_doing(format!("write {}", self.path.display()));
            self.store = None;
            return Err(fault);
        }
        self.reserved = reserved;
        self.deferred.clear();
        Ok(())
    }

    /// Leaves a change to the next transaction.
    pub(super) fn defer(&mut self, change: Change) {
        self.deferred.push(change);
    }

    /// How many changes wait.
    pub(super) fn deferred(&self) -> usize {
        self.deferred.len()
    }
}

/// One transaction.
fn write<'a>(
    store: &Database,
    preface: Option<&[u8]>,
    changes: impl Iterator<Item = &'a Change>,
) -> Result<(), redb::Error> {
    let transaction = store.begin_write()?;
    {
        let mut table = transaction.open_table(TABLE)?;
        if let Some(preface) = preface {
            table.insert(PREFACE, preface)?;
        }
        for change in changes {
            match change {
                Change::Put(entry) => drop(table.insert(&*entry.key().bytes(), &*entry.value())?),
                Change::Remove(key) => drop(table.remove(&*key.bytes())?),
            }
        }
    }
    Ok(transaction.commit()?)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    // A file that somebody wrote into is refused, not trusted.
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    builder
}

fn read(store: &Database, boot: &str) -> Result<Contents, Unread> {
    let unusable = |error: redb::Error| Unread::Unusable(error.to_string());
    let transaction = store.begin_read().map_err(|e| unusable(e.into()))?;
    let table = transaction.open_table(TABLE).map_err(|e| unusable(e.into()))?;
    let preface = table.get(PREFACE).map_err(|e| unusable(e.into()))?;
    let preface = preface.ok_or_else(|| Unread::Unusable("it does not say what it is".to_owned()))?;
    let version = serde_json::from_slice::<serde_json::Value>(preface.value())
        .ok()
        .and_then(|value| value.get("version")?.as_u64())
        .ok_or_else(|| Unread::Unusable("it does not say its version".to_owned()))?;
    if version > u64::from(VERSION) {
        let why =
            format!("it is of version {version}, and this service knows {VERSION}: it was written by a newer one");
        return Err(Unread::Unusable(why));
    }
    let preface: Preface = parse(preface.value()).map_err(Unread::Unusable)?;
    if preface.boot != boot {
        return Err(Unread::OtherBoot);
    }
    let mut entries = Vec::new();
    for item in table.range::<&[u8]>(..).map_err(|e| unusable(e.into()))? {
        let (key, value) = item.map_err(|e| unusable(e.into()))?;
        if key.value() != PREFACE {
            entries.push(Entry::decode(key.value(), value.value()).map_err(Unread::Unusable)?);
        }
    }
    Ok(Contents { next_set: preface.next_set.max(1), entries })
}

#[cfg(test)]
mod tests {
    use super::super::entry::{CgroupRecord, EndRecord, Key, OnLease, SessionRecord, SetRecord};
    use super::*;
    use crate::model::{CgroupId, Domain, Limit, Pasid, PasidRange, SetId, SetState};
    use redb::StorageBackend;
    use std::io;
    use std::sync::{Arc, Mutex, MutexGuard};

    fn set_entry(id: u64) -> Entry {
        Entry::Set(
            SetId(id),
            SetRecord {
                label: "x".repeat(10),
                owner_uid: 1000,
                creator_cgroup: CgroupId(7),
                rule: "all".to_owned(),
                quota: 64,
                quota_max: 256,
                range: PasidRange::ALL,
                domain: Domain::Global,
                created_usec: 1,
                cgroup: CgroupId(7),
                state: SetState::Active,
                reason: String::new(),
                surrendered: false,
                next_end: 1,
                device_file: None,
                ends: vec![EndRecord { serial: 0, inode: 4, cookie: 5 }],
            },
        )
    }

    fn contents(dir: &Path) -> Contents {
        Records::open(dir, "boot").unwrap().1
    }

    #[test]
    fn what_was_written_is_read_and_what_was_removed_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let on = OnLease { pasid: Pasid::FIRST, tag: 9, count: 2 };
        let entries = [
            set_entry(3),
            Entry::Cgroup(
                CgroupId(7),
                CgroupRecord {
                    lineage: vec![(CgroupId(7), "/a".parse().unwrap())],
                    administrator: Some(Limit::Count(4)),
                    delegated: None,
                },
            ),
            Entry::Alias(SetId(3), u64::MAX, on),
            Entry::Hold(SetId(3), 77, on),
            Entry::Session(SetId(3), 77, SessionRecord { uid: 1, done: 2, at: 3, watch: None }),
        ];
        let (mut records, found) = Records::open(dir.path(), "boot").unwrap();
        assert_eq!((found.next_set, found.entries.len()), (1, 0));
        records.commit(&entries.clone().map(Change::Put)).unwrap();
        drop(records);
        let (mut records, mut found) = Records::open(dir.path(), "boot").unwrap();
        assert_eq!(found.next_set, 3 + AHEAD);
        found.entries.sort_by_key(|entry| entries.iter().position(|e| e == entry));
        assert_eq!(found.entries, entries);
        records.defer(Change::Remove(Key::Alias(SetId(3), u64::MAX)));
        assert_eq!(records.deferred(), 1);
        records.commit(&[Change::Remove(Key::Set(SetId(3)))]).unwrap();
        drop(records);
        assert_eq!(contents(dir.path()).entries.len(), 3);
    }

    #[test]
    fn a_killed_service_leaves_what_it_committed() {
        let dir = tempfile::tempdir().unwrap();
        let (mut records, _) = Records::open(dir.path(), "boot").unwrap();
        records.commit(&[Change::Put(set_entry(1))]).unwrap();
        // What a kill leaves: a file that nobody closed.
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(dir.path().join(FILE), copy.path().join(FILE)).unwrap();
        assert_eq!(contents(copy.path()).entries, [set_entry(1)]);
    }

    /// A file in memory of which one write finds no room.
    #[derive(Clone, Debug, Default)]
    struct Small(Arc<Mutex<(Vec<u8>, Option<usize>)>>);

    impl Small {
        fn lock(&self) -> MutexGuard<'_, (Vec<u8>, Option<usize>)> {
            self.0.lock().unwrap()
        }
    }

    impl StorageBackend for Small {
        fn len(&self) -> Result<u64, io::Error> {
            Ok(self.lock().0.len() as u64)
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
            out.copy_from_slice(&self.lock().0[offset as usize..][..out.len()]);
            Ok(())
        }

        fn set_len(&self, len: u64) -> Result<(), io::Error> {
            self.lock().0.resize(len as usize, 0);
            Ok(())
        }

        fn sync_data(&self) -> Result<(), io::Error> {
            Ok(())
        }

        fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
            let (bytes, writes_left) = &mut *self.lock();
            match writes_left {
                Some(0) => return Err(io::ErrorKind::StorageFull.into()),
                Some(left) => *left -= 1,
                None => {}
            }
            bytes[offset as usize..][..data.len()].copy_from_slice(data);
            Ok(())
        }
    }

    #[test]
    fn what_found_no_room_is_not_done_wherever_the_room_ended() {
        let dir = tempfile::tempdir().unwrap();
        let before: Vec<Entry> = (1..40).map(set_entry).collect();
        for writes in 0.. {
            let file = Small::default();
            let store = Some(builder().create_with_backend(file.clone()).unwrap());
            let (path, boot, deferred) = (dir.path().join(FILE), "boot".to_owned(), Vec::new());
            let mut records = Records { path, boot, store, deferred, reserved: 1 };
            records.commit(&before.iter().cloned().map(Change::Put).collect::<Vec<_>>()).unwrap();
            file.lock().1 = Some(writes);
            let mut changes = vec![Change::Remove(Key::Set(SetId(1)))];
            changes.extend((40..90).map(|id| Change::Put(set_entry(id))));
            let done = records.commit(&changes).is_ok();
            // What a kill leaves.
            std::fs::write(dir.path().join(FILE), &file.lock().0).unwrap();
            let found = contents(dir.path()).entries;
            if done {
                assert_eq!(found, (2..90).map(set_entry).collect::<Vec<_>>());
                assert!(writes > 5, "{writes} writes");
                break;
            }
            assert_eq!(found, before, "the write after {writes} found no room");
        }
    }

    #[test]
    fn a_file_that_is_written_anew_has_the_changes_or_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let (mut records, _) = Records::open(dir.path(), "boot").unwrap();
        records.commit(&[Change::Put(set_entry(1))]).unwrap();
        let changes = [Change::Remove(Key::Set(SetId(1))), Change::Put(set_entry(700))];
        // Nothing can be written where a directory is in the way.
        std::fs::create_dir(dir.path().join("records.new")).unwrap();
        records.store = None;
        records.write_anew(vec![set_entry(1), set_entry(2)], &changes).unwrap_err();
        assert!(records.is_broken());
        assert_eq!(contents(dir.path()).entries, [set_entry(1)]);
        std::fs::remove_dir(dir.path().join("records.new")).unwrap();
        records.write_anew(vec![set_entry(1), set_entry(2)], &changes).unwrap();
        drop(records);
        let found = contents(dir.path());
        assert_eq!(found.entries, [set_entry(2), set_entry(700)]);
        assert!(found.next_set > 700);
    }

    #[test]
    fn another_boot_and_a_newer_version_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        drop(Records::open(dir.path(), "boot").unwrap());
        assert!(matches!(Records::open(dir.path(), "another"), Err(Unread::OtherBoot)));
        let store = Database::open(dir.path().join(FILE)).unwrap();
        let transaction = store.begin_write().unwrap();
        let newer: &[u8] = br#"{"version":2,"anything":[]}"#;
        transaction.open_table(TABLE).unwrap().insert(PREFACE, newer).unwrap();
        transaction.commit().unwrap();
        drop(store);
        let Err(Unread::Unusable(why)) = Records::open(dir.path(), "boot") else { panic!("read") };
        assert!(why.contains("version 2"), "{why}");
    }

    #[test]
    fn a_damaged_file_is_refused_wherever_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let (mut records, _) = Records::open(dir.path(), "boot").unwrap();
        records.commit(&(1..200).map(|id| Change::Put(set_entry(id))).collect::<Vec<_>>()).unwrap();
        drop(records);
        let path = dir.path().join(FILE);
        let good = std::fs::read(&path).unwrap();
        let text = good.windows(10).position(|window| window == b"xxxxxxxxxx").unwrap();
        for at in [0, text] {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(Records::open(dir.path(), "boot"), Err(Unread::Unusable(_))), "byte {at}");
        }
        std::fs::write(&path, "junk").unwrap();
        assert!(matches!(Records::open(dir.path(), "boot"), Err(Unread::Unusable(_))));
    }

    #[test]
    fn whatever_was_written_into_the_file_it_is_read_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (mut records, _) = Records::open(dir.path(), "boot").unwrap();
        records.commit(&(1..60).map(|id| Change::Put(set_entry(id))).collect::<Vec<_>>()).unwrap();
        records.commit(&[Change::Remove(Key::Set(SetId(7)))]).unwrap();
        drop(records);
        let path = dir.path().join(FILE);
        let good = std::fs::read(&path).unwrap();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |bound: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % bound as u64) as usize
        };
        let mut refused = 0;
        for round in 0..300 {
            let mut bad = good.clone();
            // The header, where most of what is read first stands, as often as the rest.
            let bound = if round % 2 == 0 { 512 } else { bad.len() };
            for _ in 0..1 + random(8) {
                let at = random(bound);
                bad[at] = random(256) as u8;
            }
            if round % 16 == 15 {
                bad.truncate(random(good.len()));
            }
            std::fs::write(&path, &bad).unwrap();
            match Records::open(dir.path(), "boot") {
                Ok((_, contents)) => assert!(contents.entries.len() <= 59, "{} entries", contents.entries.len()),
                Err(Unread::Unusable(why)) => {
                    assert!(!why.is_empty());
                    refused += 1;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(refused > 100, "{refused} refused");
    }

    #[test]
    fn two_services_do_not_share_a_store() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Records::open(dir.path(), "boot").unwrap();
        assert!(matches!(Records::open(dir.path(), "boot"), Err(Unread::Failed(_))));
    }
}
