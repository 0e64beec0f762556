//! Why a call was not done.

use crate::model::Refusal;
use std::io;

/// Why a call was not done.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Refused: by the service, or before it was asked because a value has no meaning.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The service failed; its journal has the chain too.
    #[error("the service failed: {0}")]
    Fault(String),
    /// Nobody answers.
    #[error("the service is not reachable: {0}")]
    Unreachable(#[source] io::Error),
    /// What was answered is not the protocol.
    #[error("the service answered what the protocol does not know: {0}")]
    Protocol(String),
}

impl ClientError {
    /// The refusal in it, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The errno that C gets: the refusal's, else the system call's, else EIO.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Refused(refusal) => crate::proto::codes(refusal).errno,
            Self::Unreachable(error) => error.raw_os_error().unwrap_or_else(|| errno_of(error.kind())),
            Self::Fault(_) | Self::Protocol(_) => crate::proto::FAULT_ERRNO,
        }
    }
}

/// The errno behind an error that has words of ours instead; Linux's numbers, as in the table of refusals.
fn errno_of(kind: io::ErrorKind) -> i32 {
    match kind {
        io::ErrorKind::NotFound => 2,
        io::ErrorKind::PermissionDenied => 13,
        io::ErrorKind::BrokenPipe => 32,
        io::ErrorKind::ConnectionReset => 104,
        io::ErrorKind::TimedOut => 110,
        io::ErrorKind::ConnectionRefused => 111,
        _ => crate::proto::FAULT_ERRNO,
    }
}
