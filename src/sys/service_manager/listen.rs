//! Descriptors passed at the start: LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID.

use crate::sys::done;
use std::env;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

/// The first descriptor that is passed: SD_LISTEN_FDS_START.
pub const FIRST_FD: RawFd = 3;

/// A descriptor that came with the start of the process.
#[derive(Debug)]
pub struct Inherited {
    /// Its name in LISTEN_FDNAMES; `unknown` where it has none, as sd_listen_fds_with_names(3) has it.
    pub name: String,
    /// The descriptor, close-on-exec.
    pub fd: OwnedFd,
}

/// How many, and their names, if LISTEN_PID is us.
fn listed() -> Option<(RawFd, Vec<String>)> {
    let number = |name: &str| env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID")? != std::process::id() {
        return None;
    }
    let count = RawFd::try_from(number("LISTEN_FDS")?).ok().filter(|count| *count < 1 << 20)?;
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default().split(':').map(str::to_owned).collect();
    Some((count, names))
}

/// Takes over the descriptors the service manager passed, in order. Empty where there are none, and the second time.
///
/// For the service, once, at its start, before it opens anything: the numbers are believed to be what the
/// environment says. The variables stay; what is started later does not take them for its own because of LISTEN_PID.
pub fn take_listen_fds() -> Vec<Inherited> {
    static TAKEN: Mutex<bool> = Mutex::new(false);
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((count, names)) = listed().filter(|_| !std::mem::replace(&mut *taken, true)) else { return Vec::new() };
    let mut names = names.into_iter().filter(|name| !name.is_empty());
    let mut found = Vec::new();
    for fd in FIRST_FD..FIRST_FD.saturating_add(count) {
        let name = names.next().unwrap_or_else(|| "unknown".to_owned());
        // SAFETY: no pointers.
        if done(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }).is_ok() {
            // SAFETY: it is open, was so before this program began, and is taken once: see TAKEN.
            found.push(Inherited { name, fd: unsafe { OwnedFd::from_raw_fd(fd) } });
        }
    }
    found
}

/// The number of the passed descriptor with this name; `None` where there is none. Takes nothing over: for the command,
/// which duplicates it (`process::duplicate`).
pub fn find_listen_fd(wanted: &str) -> io::Result<Option<RawFd>> {
    let Some((count, names)) = listed() else { return Ok(None) };
    Ok((FIRST_FD..FIRST_FD.saturating_add(count)).zip(names).find(|(_, name)| name == wanted).map(|(fd, _)| fd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{program, seqpacket, socket_option};
    use std::os::fd::AsFd;

    /// Run a second time, in a process of its own, as the program that is started.
    #[test]
    fn what_was_passed_is_taken_once_and_by_name() {
        if env::var_os("IOASIDD_TEST_PASSED").is_some() {
            assert_eq!(find_listen_fd("b").unwrap(), Some(FIRST_FD + 1));
            assert_eq!(find_listen_fd("c").unwrap(), None);
            let taken = take_listen_fds();
            let names: Vec<_> = taken.iter().map(|passed| passed.name.as_str()).collect();
            assert_eq!(names, ["a", "b", "unknown"]);
            assert!(taken.iter().all(|passed| socket_option::is_unix_seqpacket(passed.fd.as_fd())));
            assert!(take_listen_fds().is_empty());
            return;
        }
        assert!(take_listen_fds().is_empty(), "not for us");
        let (a, b) = seqpacket::pair().unwrap();
        let test = "sys::service_manager::listen::tests::what_was_passed_is_taken_once_and_by_name";
        let me = env::current_exe().unwrap().into_os_string().into_string().unwrap();
        let arguments = [&me, "--exact", test, "--quiet"].map(str::to_owned);
        let environment = [("LISTEN_FDS", "3"), ("LISTEN_FDNAMES", "a:b"), ("IOASIDD_TEST_PASSED", "1")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let started = program::spawn_with_fds(&me, &arguments, &environment, &[a.as_fd(), b.as_fd(), a.as_fd()]);
        assert_eq!(started.unwrap().reap().unwrap(), 0);
    }
}
