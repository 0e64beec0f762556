//! The files that an earlier service left: opened together, or all set aside.

use crate::controller::entry::{CgroupRecord, Entry, OnLease, SessionRecord, SetRecord};
use crate::controller::ledger::{self, Ledger, Reading};
use crate::controller::records::{Contents, FILE, Records, Unread};
use crate::controller::tally::{self, Tally};
use crate::model::{CgroupId, Domain, Fault, SetId};
use crate::sys::clock;
use crate::sys::exclusive::{self, Exclusive};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

pub(super) type Opened = ((Records, Tally), Contents, Vec<(Ledger, Reading)>);

/// Takes `dir` for this service alone.
pub(super) fn take(dir: &Path) -> Result<Exclusive, Fault> {
    let taken = exclusive::try_take(dir).map_err(|e| Fault::from(e).while_doing(format!("lock {}", dir.display())))?;
    taken.ok_or_else(|| {
        let runtime_dir = dir.parent().unwrap_or(dir).display();
        Fault::new(format!(
            "{runtime_dir} is in use by another service: stop that one, or give this one a directory of its own with \
             --runtime-dir"
        ))
    })
}

/// Opens all files below `dir`: they are used together or not at all.
pub(super) fn open(dir: &Path, boot: &str) -> Result<Opened, Unread> {
    let named = |file: &str| {
        let file = file.to_owned();
        move |why| match why {
            Unread::Unusable(why) => Unread::Unusable(format!("{file}: {why}")),
            other => other,
        }
    };
    let fresh = !dir.join(FILE).exists();
    let (records, contents) = Records::open(dir, boot).map_err(named(FILE))?;
    if fresh || !dir.join(tally::FILE).exists() {
        if !contents.entries.is_empty() {
            return Err(Unread::Unusable(format!("{}: it is missing", tally::FILE)));
        }
        let tally = Tally::create(dir, boot).map_err(Unread::Failed)?;
        return Ok(((records, tally), contents, Vec::new()));
    }
    let tally = Tally::open(dir, boot).map_err(named(tally::FILE))?;
    let failed = |e: std::io::Error| Unread::Failed(Fault::from(e).while_doing(format!("read {}", dir.display())));
    let mut ledgers = Vec::new();
    for file in std::fs::read_dir(dir).map_err(failed)? {
        let file = file.map_err(failed)?;
        let name = file.file_name().to_string_lossy().into_owned();
        if name.strip_prefix("ids-").is_some_and(|domain| domain.parse::<Domain>().is_ok()) {
            let (ledger, reading) = Ledger::open(&file.path(), boot).map_err(named(&name))?;
            if ledger::file_name(reading.space.domain) != name {
                return Err(Unread::Unusable(format!("{name}: it is of domain {}", reading.space.domain)));
            }
            ledgers.push((ledger, reading));
        }
    }
    for entry in &contents.entries {
        if let Entry::Set(id, set) = entry
            && !ledgers.iter().any(|(_, reading)| reading.space.domain == set.domain)
        {
            return Err(Unread::Unusable(format!(
                "{} is missing, and set {id} is in it",
                ledger::file_name(set.domain)
            )));
        }
    }
    Ok(((records, tally), contents, ledgers))
}

/// Sets the files aside, or removes those of another boot.
pub(super) fn clear(dir: &Path, why: &Unread) -> Result<(), Fault> {
    let doing = |e: std::io::Error| Fault::from(e).while_doing(format!("set aside what is in {}", dir.display()));
    let now = clock::realtime_usec() / 1_000_000;
    let mut aside = Vec::new();
    for file in std::fs::read_dir(dir).map_err(doing)? {
        let path = file.map_err(doing)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.contains(".damaged-") {
            continue;
        }
        match why {
            Unread::OtherBoot => std::fs::remove_file(&path).map_err(doing)?,
            _ => {
                let target = path.with_file_name(format!("{name}.damaged-{now}"));
                std::fs::rename(&path, &target).map_err(doing)?;
                aside.push(target.display().to_string());
            }
        }
    }
    if let Unread::Unusable(why) = why {
        tracing::error!(
            MESSAGE_ID = crate::proto::message_ids::RECORDS_SET_ASIDE,
            "the records cannot be used: {why}. They are set aside ({}); the service starts without them, and sets of \
             before are over",
            aside.join(", ")
        );
    }
    Ok(())
}

/// The records by kind.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pub(super) sets: BTreeMap<SetId, SetRecord>,
    pub(super) cgroups: BTreeMap<CgroupId, CgroupRecord>,
    pub(super) aliases: Vec<(SetId, u64, OnLease)>,
    pub(super) holds: Vec<(SetId, u64, OnLease)>,
    pub(super) sessions: HashMap<(SetId, u64), SessionRecord>,
}

impl Sorted {
    pub(super) fn of(contents: Contents, next_set: &mut u64) -> Self {
        *next_set = contents.next_set;
        let mut sorted = Self::default();
        for entry in contents.entries {
            match entry {
                Entry::Set(id, record) => drop(sorted.sets.insert(id, record)),
                Entry::Cgroup(id, record) => drop(sorted.cgroups.insert(id, record)),
                Entry::Alias(set, alias, on) => sorted.aliases.push((set, alias, on)),
                Entry::Hold(set, key, on) => sorted.holds.push((set, key, on)),
                Entry::Session(set, key, record) => drop(sorted.sessions.insert((set, key), record)),
            }
        }
        sorted
    }
}
