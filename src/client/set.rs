//! A set FD in this process.

use super::{ClientError, MappedSet, PATIENCE, Session};
use crate::model::Refusal;
use crate::sys::{inherited, socket_option};
use std::env;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// The environment variable with the number of the set FD.
pub const FD_VARIABLE: &str = "IOASID_SET_FD";
/// What the set FD is called in `LISTEN_FDNAMES`.
pub const FD_NAME: &str = "ioasid";

/// The first descriptor of the LISTEN_FDS protocol. Source: sd_listen_fds(3).
const LISTEN_FDS_START: RawFd = 3;

/// A set FD. Holding it is the authority over the set; when its last copy closes, in whatever process, the set ends.
#[derive(Debug)]
pub struct Set {
    fd: Arc<OwnedFd>,
    patience: Duration,
}

impl Set {
    /// The set behind this descriptor. Refused (`InvalidArgument`) where it is no SEQPACKET socket; whether it is a
    /// set FD shows when a session is opened.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, ClientError> {
        if !socket_option::is_unix_seqpacket(fd.as_fd()) {
            return Err(Refusal::invalid("fd", "this descriptor", "a set FD (an AF_UNIX SEQPACKET socket)").into());
        }
        Ok(Self { fd: Arc::new(fd), patience: PATIENCE })
    }

    /// The set whose FD this process has under `number`. The number stays open beside it.
    pub fn from_number(number: RawFd) -> Result<Self, ClientError> {
        let refusal = |why: &str| Refusal::invalid("fd", number, format!("a set FD: {why}"));
        let fd = inherited::duplicate(number).map_err(|error| refusal(&error.to_string()))?;
        Self::from_fd(fd).map_err(|_| refusal("it is no AF_UNIX SEQPACKET socket").into())
    }

    /// The set that this process was started with: `IOASID_SET_FD`, where it is not empty, else the descriptor that is
    /// called `ioasid` under the LISTEN_FDS protocol, unless LISTEN_PID names another process. The environment stays as
    /// it is.
    ///
    /// `NotFound` where there is none, `InvalidArgument` where it is none.
    pub fn from_env() -> Result<Self, ClientError> {
        let variable = |name: &str| env::var(name).ok();
        match number_from(variable, std::process::id())? {
            Some(number) => Self::from_number(number),
            None => Err(Refusal::not_found("a set FD in IOASID_SET_FD or LISTEN_FDS").into()),
        }
    }

    /// The same, with how long the service may stay away before a call gives up.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Opens a session: private to who opens it, any number of them on one set. Blocks while the service is away, for
    /// at most the patience.
    pub fn session(&self) -> Result<Session, ClientError> {
        Session::open(&self.fd, self.patience)
    }
}

impl Set {
    /// Maps the set: ids are claimed and freed without a system call while some are leased ahead.
    pub fn map(&self) -> Result<MappedSet, ClientError> {
        MappedSet::of(self.session()?)
    }
}

impl AsFd for Set {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The number of the set FD that the environment names.
fn number_from(variable: impl Fn(&str) -> Option<String>, pid: u32) -> Result<Option<RawFd>, Refusal> {
    if let Some(text) = variable(FD_VARIABLE).filter(|text| !text.is_empty()) {
        return match text.trim().parse::<RawFd>() {
            Ok(number) if number >= 0 => Ok(Some(number)),
            _ => Err(Refusal::invalid(FD_VARIABLE, text, "the number of a descriptor")),
        };
    }
    Ok(number_called(FD_NAME, variable, pid))
}

/// The number of the descriptor with this name that process `pid` was given under the LISTEN_FDS protocol; where
/// LISTEN_PID is missing, any process.
pub(super) fn number_called(name: &str, variable: impl Fn(&str) -> Option<String>, pid: u32) -> Option<RawFd> {
    let number = |name: &str| variable(name).and_then(|text| text.trim().parse::<u32>().ok());
    let (count, names) = (number("LISTEN_FDS")?, variable("LISTEN_FDNAMES")?);
    // Without it nobody says that they are another's; what is found has to prove what it is anyway.
    if variable("LISTEN_PID").is_some() && number("LISTEN_PID") != Some(pid) {
        return None;
    }
    let position = names.split(':').take(usize::try_from(count).unwrap_or(0)).position(|given| given == name);
    position.and_then(|at| RawFd::try_from(at).ok()).map(|at| LISTEN_FDS_START.saturating_add(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(variables: &[(&str, &str)]) -> Result<Option<RawFd>, Refusal> {
        number_from(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, text)| (*text).to_owned()), 7)
    }

    #[test]
    fn the_own_variable_goes_before_listen_fds() {
        let listen = [("LISTEN_FDS", "2"), ("LISTEN_PID", "7"), ("LISTEN_FDNAMES", "x:ioasid")];
        assert_eq!(find(&listen), Ok(Some(4)));
        assert_eq!(find(&[listen[0], listen[1], listen[2], (FD_VARIABLE, "9")]), Ok(Some(9)));
        assert_eq!(find(&[listen[0], listen[1], listen[2], (FD_VARIABLE, "")]), Ok(Some(4)));
        assert_eq!(find(&[]), Ok(None));
        assert!(find(&[(FD_VARIABLE, "-1")]).is_err());
        assert!(find(&[(FD_VARIABLE, "three")]).is_err());
    }

    #[test]
    fn listen_fds_of_another_process_or_name_are_none() {
        let of = |count, pid, names| find(&[("LISTEN_FDS", count), ("LISTEN_PID", pid), ("LISTEN_FDNAMES", names)]);
        assert_eq!(of("1", "8", "ioasid"), Ok(None));
        assert_eq!(of("1", "", "ioasid"), Ok(None));
        assert_eq!(find(&[("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "ioasid")]), Ok(Some(3)), "nobody's");
        assert_eq!(of("1", "7", "x:ioasid"), Ok(None));
        assert_eq!(of("1", "7", ""), Ok(None));
        assert_eq!(of("0", "7", "ioasid"), Ok(None));
        assert_eq!(of("junk", "7", "ioasid"), Ok(None));
    }

    #[test]
    fn what_is_no_seqpacket_socket_is_refused() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let error = Set::from_fd(null.into()).unwrap_err();
        assert!(matches!(error.refusal(), Some(Refusal::InvalidArgument { .. })));
        assert!(Set::from_number(987_654).is_err());
    }
}
