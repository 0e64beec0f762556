//! `ioasidd --outside`: whom it serves, and what it leaves where nobody takes its answer.

mod common;

use common::{Cgroups, daemon, eventually};
use ioasid::sys::cgroup::membership;
use ioasid::sys::fuse::is_mounted;
use ioasid::sys::listener::{Listener, connect};
use ioasid::sys::pidfd::send_signal;
use ioasid::sys::process::SIGTERM;
use ioasid::sys::program::{Spawned, spawn_with_fds};
use ioasid::sys::seqpacket::{self, Received};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A process outside, in a unit as a service manager makes one; this process goes from cgroup to cgroup and asks it.
struct Outside {
    process: Option<Spawned>,
    socket: PathBuf,
    home: PathBuf,
    cgroups: Cgroups,
    directory: tempfile::TempDir,
    listener: Listener,
}

impl Outside {
    fn new() -> Self {
        let (cgroups, directory) = (Cgroups::new(), daemon::scratch_directory());
        for unit in ["ioasidd.service", "ioasidd-outside.service", "guest/ioasidd.service"] {
            cgroups.make(unit);
        }
        let socket = directory.path().join("outside.sock");
        let listener = Listener::bind(&socket, 0o600).unwrap();
        let own = membership(std::process::id()).unwrap();
        let home = cgroups.mount_point().join(own.relative());
        Self { process: None, socket, home, cgroups, directory, listener }
    }

    fn enter(&self, cgroup: &str) {
        self.cgroups.join(cgroup, std::process::id());
    }

    fn start(&mut self) {
        self.enter("ioasidd-outside.service");
        let runtime_dir = self.directory.path().to_str().unwrap();
        let arguments = [daemon::IOASIDD, "--outside", "--runtime-dir", runtime_dir].map(str::to_owned);
        let environment = [("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "outside.sock")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let listening = [self.listener.as_fd()];
        self.process = Some(spawn_with_fds(daemon::IOASIDD, &arguments, &environment, &listening).unwrap());
    }

    fn send(&self, request: &str) -> OwnedFd {
        let connection = connect(&self.socket, None).unwrap();
        match seqpacket::send(connection.as_fd(), request.as_bytes(), &[], None) {
            // It looks who is there first, and may have closed by now: the answer shows that.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            sent => sent.unwrap(),
        }
        connection
    }

    /// What it says; `None` where it closes the connection without a word.
    fn ask(&self, request: &str) -> Option<String> {
        let (connection, mut answer) = (self.send(request), [0; 16]);
        let deadline = Some(Instant::now() + Duration::from_secs(20));
        match seqpacket::receive(connection.as_fd(), &mut answer, deadline) {
            Ok(Received::Message { len, .. }) => Some(String::from_utf8_lossy(&answer[..len]).into_owned()),
            Ok(Received::Closed) => None,
            // It closed with the request unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            other => panic!("{other:?}"),
        }
    }

    fn files(&self) -> PathBuf {
        self.directory.path().join("cgroup")
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        fs::write(self.home.join("cgroup.procs"), "0").unwrap();
        if let Some(process) = self.process.take() {
            send_signal(process.pidfd.as_fd(), SIGTERM).unwrap();
            process.reap().unwrap();
        }
        let _ = ioasid::sys::fuse::unmount(&self.files());
    }
}

/// One test, for the process can be in one cgroup at a time.
#[test]
fn it_serves_the_unit_beside_its_own_and_leaves_nothing_that_nobody_serves() {
    let mut outside = Outside::new();
    // Who asked gave up before it was there.
    outside.enter("ioasidd.service");
    drop(outside.send("mount"));
    outside.start();
    outside.enter("ioasidd.service");
    let absent = "config ffff:ff:1f.7";
    assert_eq!(outside.ask(absent).as_deref(), Some("2"));
    assert!(!mounted(&outside.files()), "what nobody took is unmounted");
    // A container with a cgroup to itself can name one as it likes.
    outside.enter("guest/ioasidd.service");
    assert_eq!(outside.ask(absent), None);
    outside.enter("");
    assert_eq!(outside.ask(absent), None);
    outside.enter("ioasidd.service");
    assert_eq!(outside.ask("mount").as_deref(), Some("0"));
    assert_eq!(outside.ask("unmount").as_deref(), Some("0"));
    eventually("it is unmounted", || (!mounted(&outside.files())).then_some(()));
}

fn mounted(directory: &Path) -> bool {
    is_mounted(directory).unwrap()
}
