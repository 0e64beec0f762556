//! The cgroup files where a service manager keeps their channel: whoever reads them never waits for a service that may
//! not come.
#![allow(clippy::unwrap_used)]

mod common;

use common::daemon::IOASIDD;
use common::{Daemon, Options, eventually};
use ioasid::sys::program::spawn_with_fds;
use ioasid::sys::readiness::{self, Interest};
use ioasid::sys::service_manager::{FdStore, NoticeSocket, Notifier};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

const ECONNABORTED: i32 = 103;
const ENOTCONN: i32 = 107;
const CHANNEL: &str = "cgroup-files";

/// A service manager that keeps what is parked with it, and does nothing else.
struct Manager {
    address: String,
    store: Arc<Mutex<FdStore>>,
    listening: Option<JoinHandle<()>>,
}

impl Manager {
    fn new(name: &str) -> Self {
        let address = format!("@ioasid-test-{name}-{}", std::process::id());
        let socket = NoticeSocket::bind(OsStr::new(&address)).unwrap();
        let store = Arc::new(Mutex::new(FdStore::new(100)));
        let kept = Arc::clone(&store);
        let listening = std::thread::spawn(move || {
            loop {
                readiness::wait(socket.as_fd(), Interest::Read, None).unwrap();
                let mut notice = socket.try_receive().unwrap();
                if notice.get("STATUS") == Some("over") {
                    return;
                }
                kept.lock().unwrap().apply(&mut notice);
            }
        });
        Self { address, store, listening: Some(listening) }
    }

    fn environment(&self) -> Vec<(String, String)> {
        [("NOTIFY_SOCKET", self.address.as_str()), ("FDSTORE", "100")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    /// A copy of what is kept under this name.
    fn copy(&self, name: &str) -> OwnedFd {
        let store = self.store.lock().unwrap();
        let (_, fd) = store.kept().into_iter().find(|(kept, _)| *kept == name).unwrap();
        fd.try_clone_to_owned().unwrap()
    }

    fn keeps(&self, name: &str) -> bool {
        self.store.lock().unwrap().kept().iter().any(|(kept, _)| *kept == name)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        Notifier::to(OsStr::new(&self.address)).unwrap().status("over").unwrap();
        self.listening.take().unwrap().join().unwrap();
    }
}

const POLICY: &str = "version = 1\n";

/// A service with the files whose channel `manager` has, and their directory.
fn start(manager: &Manager) -> (Daemon, PathBuf) {
    let arguments = ["--bus", "none", "--device", "none"].map(str::to_owned).to_vec();
    let options = Options { arguments: Some(arguments), environment: manager.environment(), ..Options::default() };
    let mut daemon = Daemon::start_with(POLICY, &options);
    // There is no rule, and it says so.
    daemon.may_warn();
    eventually("the channel is parked", || manager.keeps(CHANNEL).then_some(()));
    let top = daemon.runtime_dir().join("cgroup");
    (daemon, top)
}

fn mounted(top: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&format!(" {} ", top.display()))
}

fn read(file: &File) -> Result<usize, i32> {
    file.read_at(&mut [0; 8], 0).map_err(|error| error.raw_os_error().unwrap())
}

#[test]
fn an_orderly_stop_takes_the_tree_down_though_its_channel_was_kept() {
    let manager = Manager::new("stop");
    let (mut daemon, top) = start(&manager);
    let held = File::open(top.join("ioasids.current")).unwrap();
    assert_eq!(read(&held), Ok(2));
    // Whoever has a copy of the channel keeps no reader waiting with it.
    let _copy = manager.copy(CHANNEL);
    assert!(daemon.terminate().success());
    assert!(!mounted(&top));
    assert_eq!(read(&held), Err(ENOTCONN));
    eventually("the manager lets go of the channel", || (!manager.keeps(CHANNEL)).then_some(()));
    assert!(manager.keeps("listener"), "what sets need stays");
}

#[test]
fn a_start_that_fails_takes_down_what_the_killed_service_left() {
    let manager = Manager::new("start");
    let (mut daemon, top) = start(&manager);
    let held = File::open(top.join("ioasids.current")).unwrap();
    daemon.signal("KILL");
    daemon.wait();
    assert!(mounted(&top), "the next service goes on with it");
    let reader = std::thread::spawn(move || read(&held));

    fs::write(daemon.policy_file(), "version = 0\n").unwrap();
    let (policy, run) = (daemon.policy_file(), daemon.runtime_dir());
    let arguments = ["ioasidd", "--bus", "none", "--device", "none", "--policy", policy.to_str().unwrap()];
    let arguments = [&arguments[..], &["--runtime-dir", run.to_str().unwrap()]].concat();
    let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    let kept = manager.store.lock().unwrap();
    let names = kept.kept().iter().map(|(name, _)| *name).collect::<Vec<_>>().join(":");
    let mut environment = manager.environment();
    environment.push(("LISTEN_FDS".to_owned(), kept.kept().len().to_string()));
    environment.push(("LISTEN_FDNAMES".to_owned(), names));
    let fds: Vec<_> = kept.kept().into_iter().map(|(_, fd)| fd).collect();
    let started = spawn_with_fds(IOASIDD, &arguments, &environment, &fds).unwrap();
    drop(kept);
    assert_eq!(started.reap().unwrap(), 1, "the policy is bad");
    assert!(!mounted(&top));
    let answer = reader.join().unwrap();
    assert!(matches!(answer, Err(ECONNABORTED | ENOTCONN)), "{answer:?}");
    eventually("the manager lets go of the channel", || (!manager.keeps(CHANNEL)).then_some(()));
}
