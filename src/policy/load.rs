//! Reads the policy's files; the one place of this room that touches the file system.

use super::problem::{Problem, Problems};
use super::{Accounts, Policy, SET_MAX_FILE, check};
use crate::sys::accounts;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The accounts of this host.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostAccounts;

impl Accounts for HostAccounts {
    fn uid(&self, name: &str) -> Result<Option<u32>, String> {
        accounts::uid(name).map_err(|error| error.to_string())
    }

    fn gid(&self, name: &str) -> Result<Option<u32>, String> {
        accounts::gid(name).map_err(|error| error.to_string())
    }
}

/// A user given by name or number, with its groups; `Ok(None)` for a name that nobody has. A number needs no account.
pub fn user_with_groups(user: &str) -> Result<Option<(u32, Vec<u32>)>, String> {
    let found = match user.parse::<u32>() {
        Ok(uid) => match accounts::user_by_uid(uid) {
            Ok(None) => return Ok(Some((uid, Vec::new()))),
            found => found,
        },
        Err(_) => accounts::user(user),
    };
    let found = found.map_err(|error| format!("user {user:?} cannot be looked up: {error}"))?;
    Ok(found.map(|user| (user.uid, user.gids)))
}

/// Where a policy comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sources {
    /// A main file, then drop-ins by file name; a file in a later directory hides its namesake in an earlier one.
    /// What is missing is left out.
    Paths {
        /// The main file.
        main: PathBuf,
        /// The directories of drop-ins, from the one that is hidden to the one that hides.
        drop_ins: Vec<PathBuf>,
    },
    /// One file alone; it has to be there.
    File(PathBuf),
    /// The policy of `ioasidd --user`: the processes of this user, 256 ids.
    EmbeddedUser(u32),
}

impl Sources {
    /// `/etc/ioasidd/policy.toml` and the directories `policy.d` of `/usr/lib/ioasidd` and `/etc/ioasidd`.
    pub fn default_paths() -> Self {
        Self::under(Path::new("/"))
    }

    /// The default paths under another root than `/`.
    pub fn under(root: &Path) -> Self {
        let drop_ins = ["usr/lib/ioasidd/policy.d", "etc/ioasidd/policy.d"];
        Self::Paths {
            main: root.join("etc/ioasidd/policy.toml"),
            drop_ins: drop_ins.iter().map(|path| root.join(path)).collect(),
        }
    }

    /// This file alone.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File(path.into())
    }

    /// Where `set-max --persist` writes to: the drop-ins that hide the others. With a single file it is the default
    /// place, which that file's service does not read; there is none for an embedded policy.
    pub fn set_max_path(&self) -> Option<PathBuf> {
        match self {
            Self::Paths { drop_ins, .. } => drop_ins.last().map(|directory| directory.join(SET_MAX_FILE)),
            Self::File(_) => Self::default_paths().set_max_path(),
            Self::EmbeddedUser(_) => None,
        }
    }

    /// The policy of `ioasidd --user` for this user.
    pub fn embedded_user(uid: u32) -> Self {
        Self::EmbeddedUser(uid)
    }
}

/// Reads and checks a policy. Blocks on the file system and on what `accounts` asks.
///
/// A drop-in of no bytes, such as a link to /dev/null, hides its namesake and is otherwise nothing.
pub fn load(sources: &Sources, accounts: &dyn Accounts) -> Result<Policy, Problems> {
    let mut files = Vec::new();
    let mut problems = Vec::new();
    match sources {
        Sources::Paths { main, drop_ins } => {
            read(main, &mut files, &mut problems, |text| text.is_some());
            for path in drop_in_files(drop_ins, &mut problems) {
                read(&path, &mut files, &mut problems, |text| text.is_some_and(|text| !text.is_empty()));
            }
        }
        Sources::File(path) => read(path, &mut files, &mut problems, |_| true),
        Sources::EmbeddedUser(uid) => files.push(("embedded policy".to_owned(), embedded_user(*uid))),
    }
    match (check(&files, accounts), Problems::new(problems)) {
        (outcome, None) => outcome,
        (Ok(_), Some(problems)) => Err(problems),
        (Err(wrong), Some(problems)) => Err(problems.and(wrong)),
    }
}

/// The drop-ins by file name.
fn drop_in_files(directories: &[PathBuf], problems: &mut Vec<Problem>) -> impl Iterator<Item = PathBuf> + use<> {
    let mut files: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for directory in directories {
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound) => continue,
            Err(error) => {
                problems.push(Problem::file(&name(directory), format!("the directory cannot be read: {error}")));
                continue;
            }
        };
        for entry in entries {
            match entry {
                Ok(entry) => {
                    let path = entry.path();
                    let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
                    if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
                        files.insert(entry.file_name(), path);
                    }
                }
                Err(error) => {
                    problems.push(Problem::file(&name(directory), format!("the directory cannot be read: {error}")));
                    break;
                }
            }
        }
    }
    files.into_values()
}

/// Reads one file, and keeps it if `wanted`; a missing one is `None` to it, and a problem if wanted all the same.
fn read(
    path: &Path,
    files: &mut Vec<(String, String)>,
    problems: &mut Vec<Problem>,
    wanted: impl Fn(Option<&[u8]>) -> bool,
) {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound && !wanted(None) => return,
        Err(error) => return problems.push(Problem::file(&name(path), format!("the file cannot be read: {error}"))),
    };
    if !wanted(Some(&bytes)) {
        return;
    }
    match String::from_utf8(bytes) {
        Ok(text) => files.push((name(path), text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text: Arc<str> = String::from_utf8_lossy(error.as_bytes()).into();
            let span = at..at + char::REPLACEMENT_CHARACTER.len_utf8();
            problems.push(Problem::at(&name(path), &text, span, "", "the text is not UTF-8".to_owned()));
        }
    }
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn embedded_user(uid: u32) -> String {
    format!(
        r#"version = 1

# 256 ids in all: where the user's processes are in the root cgroup, no limit is theirs.
[space]
bits = 9
reserved = ["0-255"]

[[cgroup]]
path = "/**"
max = 256

[[rule]]
name = "own processes"
users = ["{uid}"]
action = "allow"
quota = {{ default = 256, max = 256 }}
on_behalf_of = ["/**"]
"#
    )
}
