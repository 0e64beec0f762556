//! What is recorded, entry by entry, and how each is written: a key of its kind and numbers, a value in JSON.
//!
//! What the entries mean is counted by the version in `records`, the store that they are in.

use crate::model::{CgroupId, CgroupPath, Domain, Limit, Pasid, PasidRange, SetId, SetState};
use crate::proto::Watch;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A set, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SetRecord {
    pub(super) label: String,
    pub(super) owner_uid: u32,
    pub(super) creator_cgroup: CgroupId,
    pub(super) rule: String,
    pub(super) quota: u32,
    pub(super) quota_max: u32,
    pub(super) range: PasidRange,
    pub(super) domain: Domain,
    pub(super) created_usec: u64,
    pub(super) cgroup: CgroupId,
    pub(super) state: SetState,
    pub(super) reason: String,
    /// Revoked by an administrator: its ids were given back, not left to the last close.
    pub(super) surrendered: bool,
    pub(super) next_end: u32,
    pub(super) device_file: Option<u64>,
    pub(super) ends: Vec<EndRecord>,
}

/// A set FD: the number its name is made of, and the holders' end in the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EndRecord {
    pub(super) serial: u32,
    pub(super) inode: u32,
    pub(super) cookie: u64,
}

/// A cgroup that has sets or a limit of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CgroupRecord {
    /// From below the root down to it.
    pub(super) lineage: Vec<(CgroupId, CgroupPath)>,
    pub(super) administrator: Option<Limit>,
    pub(super) delegated: Option<Limit>,
}

/// Something that hangs on one lease of an id: void where the id was leased anew since, under another tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OnLease {
    pub(super) pasid: Pasid,
    pub(super) tag: u64,
    /// References; 1 for an alias.
    pub(super) count: u32,
}

/// What a session had done when it was last recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SessionRecord {
    pub(super) uid: u32,
    /// The number of its last request that was recorded as done.
    pub(super) done: u64,
    /// When that was, in seconds since boot.
    pub(super) at: u64,
    /// What it watches, and the number of the request that said so.
    pub(super) watch: Option<(u64, Watch)>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Entry {
    Set(SetId, SetRecord),
    Cgroup(CgroupId, CgroupRecord),
    /// Set, alias.
    Alias(SetId, u64, OnLease),
    /// Set, key of the session, id.
    Hold(SetId, u64, OnLease),
    /// Set, key of the session.
    Session(SetId, u64, SessionRecord),
}

/// The key of an entry: its kind and numbers, so that those of a set stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Set(SetId),
    Cgroup(CgroupId),
    Alias(SetId, u64),
    Hold(SetId, u64, Pasid),
    Session(SetId, u64),
}

/// A change to the store.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Put(Entry),
    Remove(Key),
}

pub(super) fn parse<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

impl Change {
    pub(super) fn set_number(&self) -> Option<u64> {
        match self {
            Self::Put(Entry::Set(id, _)) => Some(id.0),
            _ => None,
        }
    }
}

impl Key {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (kind, numbers): (u8, [u64; 3]) = match *self {
            Self::Set(set) => (b's', [set.0, 0, 0]),
            Self::Cgroup(cgroup) => (b'c', [cgroup.0, 0, 0]),
            Self::Alias(set, alias) => (b'a', [set.0, alias, 0]),
            Self::Hold(set, key, pasid) => (b'h', [set.0, key, pasid.get().into()]),
            Self::Session(set, key) => (b'w', [set.0, key, 0]),
        };
        let mut bytes = vec![kind];
        numbers.iter().for_each(|number| bytes.extend(number.to_be_bytes()));
        bytes
    }
}

impl Entry {
    pub(super) fn key(&self) -> Key {
        match *self {
            Self::Set(set, _) => Key::Set(set),
            Self::Cgroup(cgroup, _) => Key::Cgroup(cgroup),
            Self::Alias(set, alias, _) => Key::Alias(set, alias),
            Self::Hold(set, key, on) => Key::Hold(set, key, on.pasid),
            Self::Session(set, key, _) => Key::Session(set, key),
        }
    }

    pub(super) fn value(&self) -> Vec<u8> {
        let value = match self {
            Self::Set(_, record) => serde_json::to_vec(record),
            Self::Cgroup(_, record) => serde_json::to_vec(record),
            Self::Alias(_, _, on) | Self::Hold(_, _, on) => serde_json::to_vec(on),
            Self::Session(_, _, record) => serde_json::to_vec(record),
        };
        // Numbers, texts and lists of them: nothing that JSON cannot say.
        value.unwrap_or_default()
    }

    /// The entry with this key and value, or what is wrong with it.
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, String> {
        let unlike = || format!("a key of {} bytes that no version wrote", key.len());
        let (kind, numbers) = key.split_first().ok_or_else(unlike)?;
        let number =
            |at: usize| -> Option<u64> { Some(u64::from_be_bytes(numbers.get(8 * at..8 * at + 8)?.try_into().ok()?)) };
        let (Some(first), Some(second), Some(third), 24) = (number(0), number(1), number(2), numbers.len()) else {
            return Err(unlike());
        };
        let entry = match kind {
            b's' => Self::Set(SetId(first), parse(value)?),
            b'c' => Self::Cgroup(CgroupId(first), parse(value)?),
            b'a' => Self::Alias(SetId(first), second, parse(value)?),
            b'h' => Self::Hold(SetId(first), second, parse(value)?),
            b'w' => Self::Session(SetId(first), second, parse(value)?),
            _ => return Err(unlike()),
        };
        match &entry {
            Self::Hold(_, _, on) if u64::from(on.pasid.get()) != third => Err(unlike()),
            _ => Ok(entry),
        }
    }
}

/// Reads arbitrary bytes as an entry: for the fuzzer.
#[doc(hidden)]
pub fn decode_entry(key: &[u8], value: &[u8]) -> bool {
    match Entry::decode(key, value) {
        Ok(entry) => Entry::decode(&entry.key().bytes(), &entry.value()) == Ok(entry),
        Err(_) => true,
    }
}
