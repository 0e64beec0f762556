//! Where a command finds the service and the set FD, and how it prints.

use super::arguments::FdArgument;
use super::outcome::{Failed, Outcome, write_line};
use super::values;
use crate::client::{DEFAULT_SOCKET, Service, Session, Set};
use crate::proto::Call;
use serde::Serialize;
use std::env;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What all verbs share.
#[derive(Debug)]
pub(super) struct Context {
    socket: PathBuf,
    /// Whether somebody said which service: then no connection that was inherited is taken instead.
    socket_named: bool,
    json: bool,
}

impl Context {
    /// With what the command line says.
    pub fn new(socket: Option<PathBuf>, json: bool) -> Self {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let socket_named = socket.is_some() || variable("IOASID_SOCKET").is_some();
        Self { socket: socket_path(socket, variable, |path| path.exists()), socket_named, json }
    }

    /// Whether standard output is for programs.
    pub fn json(&self) -> bool {
        self.json
    }

    /// The service's runtime directory: where its socket is.
    pub fn runtime_dir(&self) -> &Path {
        self.socket.parent().unwrap_or(Path::new("/run/ioasidd"))
    }

    /// A connection to the service: the one that this process was started with, else a new one. Asked for once a process.
    pub fn service(&self) -> Result<Service, Failed> {
        let inherited = if self.socket_named { None } else { Service::from_env()? };
        match inherited {
            Some(service) => Ok(service),
            None => Ok(Service::connect(&self.socket)?),
        }
    }

    /// One call to the service.
    pub fn ask<C: Call>(&self, call: &C) -> Result<C::Reply, Failed> {
        Ok(self.service()?.call(call, &[])?.0)
    }

    /// Prints a result: as JSON, or as the text that `words` makes of it.
    pub fn print<T: Serialize>(&self, result: &T, words: impl FnOnce(&T) -> String) -> Outcome {
        let text = if self.json { to_json(result) } else { words(result) };
        let written = if text.is_empty() { Ok(()) } else { write_line(text.trim_end_matches('\n')) };
        match written {
            // A pipe that is closed early, as by head(1), is not missed.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failed::fault("write the result", &error)),
            _ => Ok(ExitCode::SUCCESS),
        }
    }
}

/// A value as JSON on one line.
pub(super) fn to_json<T: Serialize>(value: &T) -> String {
    // Replies are maps with string keys and plain values: serde_json cannot fail on them.
    serde_json::to_string(value).unwrap_or_default()
}

/// The set FD held: by `--fd`, else by the environment.
pub(super) fn held_set(fd: &FdArgument) -> Result<Set, Failed> {
    match &fd.number {
        Some(text) => Ok(Set::from_number(values::number("fd", text, "the number of a descriptor")?)?),
        None => Ok(Set::from_env()?),
    }
}

/// A session on the set FD held, and the set, which has to outlive it.
pub(super) fn held_session(fd: &FdArgument) -> Result<(Set, Session), Failed> {
    let set = held_set(fd)?;
    let session = set.session()?;
    Ok((set, session))
}

/// `--socket`, else `IOASID_SOCKET`, else the host's; the user's own where the host has none.
fn socket_path(
    given: Option<PathBuf>,
    variable: impl Fn(&str) -> Option<PathBuf>,
    exists: impl Fn(&Path) -> bool,
) -> PathBuf {
    if let Some(path) = given.or_else(|| variable("IOASID_SOCKET")) {
        return path;
    }
    let host = PathBuf::from(DEFAULT_SOCKET);
    match variable("XDG_RUNTIME_DIR").map(|dir| dir.join("ioasidd/ioasid.sock")) {
        Some(own) if !exists(&host) && exists(&own) => own,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_service_goes_before_the_users_own() {
        let at = |given: Option<&str>, named: Option<&str>, existing: &[&str]| {
            let variable = |name: &str| match name {
                "IOASID_SOCKET" => named.map(PathBuf::from),
                _ => Some(PathBuf::from("/run/user/7")),
            };
            let exists = |path: &Path| existing.iter().any(|name| Path::new(name) == path);
            socket_path(given.map(PathBuf::from), variable, exists).display().to_string()
        };
        let own = "/run/user/7/ioasidd/ioasid.sock";
        assert_eq!(at(Some("/x"), Some("/y"), &[own]), "/x");
        assert_eq!(at(None, Some("/y"), &[own]), "/y");
        assert_eq!(at(None, None, &[own]), own);
        assert_eq!(at(None, None, &[own, DEFAULT_SOCKET]), DEFAULT_SOCKET);
        assert_eq!(at(None, None, &[]), DEFAULT_SOCKET);
    }
}
