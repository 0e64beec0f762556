//! Other programs: starting one, with descriptors under the LISTEN_FDS protocol.

use super::done;
use super::service_manager::FIRST_FD;
use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Copies above the numbers 3 to 3 + count - 1, close-on-exec.
fn out_of_the_way<'a>(fds: impl Iterator<Item = BorrowedFd<'a>>, count: usize) -> io::Result<Vec<OwnedFd>> {
    let above = RawFd::try_from(count).map_err(io::Error::other)?.saturating_add(FIRST_FD);
    fds.map(|fd| {
        // SAFETY: no pointers; on success the number is open and nobody else owns it.
        done(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, above) })
            .map(|copy| unsafe { OwnedFd::from_raw_fd(copy) })
    })
    .collect()
}

/// A program started by [`spawn_with_fds`].
#[derive(Debug)]
pub struct Spawned {
    /// Its pid, ours to reap.
    pub pid: u32,
    /// The process itself: readable when it ended.
    pub pidfd: OwnedFd,
}

impl Spawned {
    /// Waits for its end; blocks. The exit status, or 128 and the signal's number.
    pub fn reap(self) -> io::Result<i32> {
        let mut status = 0;
        loop {
            // SAFETY: `status` has room for what the call writes.
            match done(unsafe { libc::waitpid(self.pid.cast_signed(), &raw mut status, 0) }) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) if libc::WIFSIGNALED(status) => return Ok(128 + libc::WTERMSIG(status)),
                Ok(_) => return Ok(libc::WEXITSTATUS(status)),
            }
        }
    }
}

/// Whether each can be put where it is to be without touching one that is still to be put: they ascend, so none lies
/// below its place.
fn ascend(fds: &[BorrowedFd<'_>]) -> bool {
    fds.first().is_none_or(|first| first.as_raw_fd() >= FIRST_FD)
        && fds.windows(2).all(|pair| matches!(pair, [a, b] if a.as_raw_fd() < b.as_raw_fd()))
}

/// Starts `program` (a path) with `arguments` (the first is its name) and exactly this environment, `fds` as descriptors
/// 3, 4, … and LISTEN_PID set to its own pid, which [`std::process::Command`] cannot do. Descriptors that ascend are not copied first. Returns when it runs, or why it does not.
pub fn spawn_with_fds(
    program: &str,
    arguments: &[String],
    environment: &[(String, String)],
    fds: &[BorrowedFd<'_>],
) -> io::Result<Spawned> {
    let program = CString::new(program)?;
    let arguments = arguments.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>()?;
    let given = environment.iter().filter(|(name, _)| name != "LISTEN_PID");
    let environment =
        given.map(|(name, value)| CString::new(format!("{name}={value}"))).collect::<Result<Vec<_>, _>>()?;
    // The child writes its pid over the zeros: nothing may be allocated between fork and execve.
    let mut listen_pid = *b"LISTEN_PID=0000000000\0";
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> { texts.iter().map(|text| text.as_ptr()).collect() };
    let mut argv = pointers(&arguments);
    argv.push(std::ptr::null());
    let mut envp = pointers(&environment);
    envp.push(listen_pid.as_ptr().cast());
    envp.push(std::ptr::null());
    // Thousands of them are handed on by who keeps them: twice as many would be more than it may have open.
    let copies = if ascend(fds) { Vec::new() } else { out_of_the_way(fds.iter().copied(), fds.len())? };
    let numbers: Vec<RawFd> = match copies.is_empty() {
        true => fds.iter().map(AsRawFd::as_raw_fd).collect(),
        false => copies.iter().map(AsRawFd::as_raw_fd).collect(),
    };
    let (report, told) = io::pipe()?;
    // The pipe, too, has to be out of the way.
    let told = {
        let copies = out_of_the_way(std::iter::once(told.as_fd()), fds.len());
        drop(told);
        copies?
    };
    let Some(teller) = told.first().map(AsRawFd::as_raw_fd) else { return Err(io::ErrorKind::InvalidInput.into()) };
    let digits = listen_pid.as_mut_ptr();
    // SAFETY: the child calls only async-signal-safe functions, on memory prepared above, until execve or _exit.
    let pid = done(unsafe { libc::fork() })?;
    if pid == 0 {
        // SAFETY: as above. `digits` + 11 .. + 21 are the zeros of LISTEN_PID, one NUL after them; a pid has at most ten
        // digits. Without leading zeros: some readers take those for octal.
        unsafe {
            let mut rest = libc::getpid();
            let count = 1 + std::iter::successors(Some(rest), |left| Some(left / 10))
                .skip(1)
                .take_while(|left| *left > 0)
                .count();
            for at in (11..11 + count).rev() {
                *digits.add(at) = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            *digits.add(11 + count) = 0;
            let mut none = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            for (from, number) in numbers.iter().zip(FIRST_FD..) {
                if *from == number {
                    libc::fcntl(number, libc::F_SETFD, 0);
                } else {
                    libc::dup2(*from, number);
                }
            }
            libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr());
            let error = (*libc::__errno_location()).to_ne_bytes();
            libc::write(teller, error.as_ptr().cast(), error.len());
            libc::_exit(127)
        }
    }
    drop(told);
    let pid = pid.cast_unsigned();
    // Until it is reaped the pid is the child's, and it is ours alone to reap.
    let spawned = super::pidfd::open(pid).map(|pidfd| Spawned { pid, pidfd });
    let mut error = Vec::new();
    (&report).take(4).read_to_end(&mut error)?;
    match <[u8; 4]>::try_from(error) {
        // The pipe closed by execve: it runs.
        Err(_) => spawned,
        Ok(number) => {
            spawned?.reap()?;
            Err(io::Error::from_raw_os_error(i32::from_ne_bytes(number)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{readiness, seqpacket, socket_option};

    #[test]
    fn a_started_program_gets_its_descriptors_in_order() {
        let (a, b) = seqpacket::pair().unwrap();
        let script = "test $LISTEN_PID = $$ && test -z \"$HOME\" && exec sh -c 'echo $LISTEN_FDS $(readlink /proc/self/fd/3 /proc/self/fd/4) >&5'";
        let (mut read, write) = io::pipe().unwrap();
        let environment = [("LISTEN_FDS", "3"), ("PATH", "/usr/bin:/bin"), ("LISTEN_PID", "1")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let arguments = ["sh", "-c", script].map(str::to_owned);
        let fds = [b.as_fd(), a.as_fd(), write.as_fd()];
        let spawned = spawn_with_fds("/bin/sh", &arguments, &environment, &fds).unwrap();
        drop(write);
        let mut said = String::new();
        read.read_to_string(&mut said).unwrap();
        assert_eq!(spawned.reap().unwrap(), 0);
        let inode = |fd: BorrowedFd<'_>| socket_option::inode(fd).unwrap();
        let expected = format!("3 socket:[{}] socket:[{}]\n", inode(b.as_fd()), inode(a.as_fd()));
        assert_eq!(said, expected);
        drop(b);
        assert!(readiness::now(a.as_fd()).unwrap().hung_up, "no copy was left behind");
    }

    #[test]
    fn a_program_that_is_not_there_is_told() {
        let error = spawn_with_fds("/nonexistent/x", &["x".to_owned()], &[], &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
