//! How a command ends: its exit status, and what is printed where.

use crate::client::ClientError;
use crate::model::Refusal;
use crate::proto::{FAULT_ERRNO_NAME, FAULT_NAME, refusal_to_json};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::process::ExitCode;

/// The exit status of a refusal.
pub(super) const REFUSED: u8 = 1;
/// What refuses in `send` and `receive`, where policies have rules.
pub(super) const PEER_UID: &str = "--peer-uid";
const UNREACHABLE: u8 = 3;
const FAULT: u8 = 4;

/// What a verb ends with.
pub(super) type Outcome = Result<ExitCode, Failed>;

/// A command that is not done.
#[derive(Debug)]
pub(super) enum Failed {
    /// Refused, not reachable, or a fault.
    Call(ClientError),
    /// CMD could not be run: 126 or 127.
    Launch {
        /// The exit status.
        status: u8,
        /// A clause for people.
        message: String,
    },
    /// A verb's own JSON beside an exit status of 1.
    Verdict {
        /// What goes to standard output with `--json`.
        json: Value,
        /// What people get, on standard error.
        message: String,
    },
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        Self::Call(error)
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Call(ClientError::Refused(refusal))
    }
}

impl Failed {
    /// A fault on this side.
    pub fn fault(what: &str, error: &io::Error) -> Self {
        Self::Call(ClientError::Fault(format!("{what}: {error}")))
    }

    /// The refusal in it, if it is one.
    #[cfg(test)]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Call(error) => error.refusal(),
            Self::Launch { .. } | Self::Verdict { .. } => None,
        }
    }

    fn status(&self) -> u8 {
        match self {
            Self::Call(ClientError::Refused(_)) | Self::Verdict { .. } => REFUSED,
            Self::Call(ClientError::Unreachable(_)) => UNREACHABLE,
            Self::Call(ClientError::Fault(_) | ClientError::Protocol(_)) => FAULT,
            Self::Launch { status, .. } => *status,
        }
    }

    /// What `--json` prints; `None` where the command has no JSON of its own.
    fn json(&self) -> Option<Value> {
        match self {
            Self::Call(ClientError::Refused(refusal)) => Some(refusal_to_json(refusal)),
            Self::Call(error @ ClientError::Unreachable(_)) => {
                Some(json!({"error": "Unreachable", "errno": "ECONNREFUSED", "message": error.to_string()}))
            }
            Self::Call(error) => {
                Some(json!({"error": FAULT_NAME, "errno": FAULT_ERRNO_NAME, "message": error.to_string()}))
            }
            Self::Verdict { json, .. } => Some(json.clone()),
            Self::Launch { .. } => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Call(ClientError::Refused(Refusal::NotFound { what })) if what.starts_with("a set FD") => {
                Some("run it below `ioasidctl exec -- CMD`, or name the descriptor with --fd N".to_owned())
            }
            Self::Call(ClientError::Refused(Refusal::NotPermitted { rule, .. })) if rule == PEER_UID => None,
            Self::Call(ClientError::Refused(refusal)) => refusal.hint(),
            Self::Call(ClientError::Unreachable(_)) => {
                Some("is ioasidd running? `systemctl status ioasidd` tells; --socket PATH names another".to_owned())
            }
            Self::Call(ClientError::Fault(_)) => Some("`journalctl -u ioasidd` has the chain".to_owned()),
            Self::Call(ClientError::Protocol(_)) | Self::Launch { .. } | Self::Verdict { .. } => None,
        }
    }

    /// Prints what went wrong, for people on standard error and with `json` on standard output; gives the status.
    pub fn report(&self, json: bool) -> ExitCode {
        let mut people = io::stderr().lock();
        // Where these fail, nobody is left to tell.
        let _ = match self {
            Self::Verdict { message, .. } => writeln!(people, "{message}"),
            Self::Call(error) => writeln!(people, "ioasidctl: {error}"),
            Self::Launch { message, .. } => writeln!(people, "ioasidctl: {message}"),
        };
        if let Some(hint) = self.hint() {
            let _ = writeln!(people, "hint: {hint}");
        }
        if let Some(value) = self.json().filter(|_| json) {
            print_line(&value.to_string());
        }
        ExitCode::from(self.status())
    }
}

/// Tells people something that does not end the command.
pub(super) fn mention(message: &str) {
    // Where it fails, nobody is left to tell.
    let _ = writeln!(io::stderr().lock(), "ioasidctl: {message}");
}

/// Writes one line to standard output; `false` where nobody reads any more.
pub(super) fn print_line(line: &str) -> bool {
    write_line(line).is_ok()
}

/// Writes one line to standard output.
pub(super) fn write_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_has_its_status() {
        let statuses = [
            (Failed::from(Refusal::not_found("set 5")), 1),
            (ClientError::Unreachable(io::ErrorKind::NotFound.into()).into(), 3),
            (ClientError::Fault("x".to_owned()).into(), 4),
            (ClientError::Protocol("x".to_owned()).into(), 4),
            (Failed::Launch { status: 127, message: String::new() }, 127),
            (Failed::Verdict { json: Value::Null, message: String::new() }, 1),
        ];
        for (failed, status) in statuses {
            assert_eq!(failed.status(), status, "{failed:?}");
        }
    }

    #[test]
    fn a_refusal_is_json_with_its_fields() {
        let json = Failed::from(Refusal::not_found("set 5")).json();
        assert_eq!(json, Some(json!({"error": "NotFound", "errno": "ENOENT", "what": "set 5"})));
    }
}
