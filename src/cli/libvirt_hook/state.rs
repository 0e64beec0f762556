//! What one hook leaves for the next: files beside the keeper's socket, `libvirt/DRIVER-NAME.*` in the runtime directory.

use crate::cli::outcome::Failed;
use crate::model::Refusal;
use crate::sys::{pidfd, process, readiness};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// How long a keeper may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// A domain's set and its keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The set.
    pub set: u64,
    /// The keeper's pid, and when it was started: together one process.
    pub keeper: u32,
    /// In clock ticks since boot.
    pub keeper_started: u64,
    /// The domain's number, once that is known.
    pub id: Option<u64>,
}

impl State {
    /// Writes it whole or not at all.
    pub fn write(&self, runtime_dir: &Path, name: &str, driver: &str) -> Result<(), Failed> {
        let file = file(runtime_dir, name, driver, "json")?;
        let fresh = file.with_extension("new");
        let text = serde_json::to_string(self).unwrap_or_default();
        let written = std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, &file));
        written.map_err(|error| Failed::fault("write the state of the hook", &error))
    }
}

/// A file of a domain's. The name becomes part of a path: a domain whose name cannot be one is refused.
pub(super) fn file(runtime_dir: &Path, name: &str, driver: &str, kind: &str) -> Result<PathBuf, Failed> {
    if name.is_empty() || name.contains('/') || name.len() > 200 {
        return Err(Refusal::invalid("domain", name, "a name of at most 200 bytes without a slash").into());
    }
    Ok(runtime_dir.join("libvirt").join(format!("{driver}-{name}.{kind}")))
}

/// Makes the directory; everybody may pass through it, root alone writes there.
pub(super) fn make_directory(runtime_dir: &Path) -> Result<(), Failed> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(runtime_dir.join("libvirt"));
    made.map_err(|error| Failed::fault("make the hook's directory", &error))
}

/// What was left for this domain.
pub(super) fn read(runtime_dir: &Path, name: &str, driver: &str) -> Result<Option<State>, Failed> {
    match std::fs::read(file(runtime_dir, name, driver, "json")?) {
        // What cannot be read was not written by a hook of this version: nobody's keeper.
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failed::fault("read the state of the hook", &error)),
    }
}

/// Ends a domain's keeper, where there is one, and removes what was left.
pub(super) fn end(runtime_dir: &Path, name: &str, driver: &str) -> Result<(), Failed> {
    let Some(state) = read(runtime_dir, name, driver)? else { return Ok(()) };
    end_keeper(&state).map_err(|error| Failed::fault("end the keeper of a set", &error))?;
    for kind in ["sock", "json"] {
        let _ = std::fs::remove_file(file(runtime_dir, name, driver, kind)?);
    }
    Ok(())
}

fn end_keeper(state: &State) -> std::io::Result<()> {
    let Ok(keeper) = pidfd::open(state.keeper) else { return Ok(()) };
    // Pinned, then looked at: a process that has the pid now but was started at another time is somebody else.
    if process::start_time(state.keeper).ok() != Some(state.keeper_started) {
        return Ok(());
    }
    for signal in [SIGTERM, SIGKILL] {
        if pidfd::send_signal(keeper.as_fd(), signal).is_err() {
            return Ok(());
        }
        let ended = readiness::wait(keeper.as_fd(), readiness::Interest::Read, Some(Instant::now() + PATIENCE));
        if ended.is_ok() {
            return Ok(());
        }
    }
    Err(ErrorKind::TimedOut.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_the_keeper_itself_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        make_directory(dir.path()).unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let started = process::start_time(child.id()).unwrap();
        let mut state = State { set: 1, keeper: child.id(), keeper_started: started + 1, id: None };
        state.write(dir.path(), "g", "qemu").unwrap();
        end(dir.path(), "g", "qemu").unwrap();
        assert!(child.try_wait().unwrap().is_none(), "it was started at another time");
        assert_eq!(read(dir.path(), "g", "qemu").unwrap(), None);
        state.keeper_started = started;
        state.write(dir.path(), "g", "qemu").unwrap();
        end(dir.path(), "g", "lxc").unwrap();
        assert!(child.try_wait().unwrap().is_none(), "it keeps another domain's set");
        end(dir.path(), "g", "qemu").unwrap();
        assert!(!child.wait().unwrap().success());
        end(dir.path(), "g", "qemu").unwrap();
    }

    #[test]
    fn a_name_is_no_path() {
        assert!(file(Path::new("/run"), "../x", "qemu", "json").is_err());
        assert!(file(Path::new("/run"), "", "qemu", "json").is_err());
        assert_eq!(file(Path::new("/run"), "g", "qemu", "sock").unwrap(), Path::new("/run/libvirt/qemu-g.sock"));
    }
}
