//! An `ioasidd` of its own for one test.

use super::{Wire, deadline, eventually, eventually_equal};
use ioasid::client::Service;
use ioasid::model::CgroupPath;
use ioasid::proto::{CgroupInfo, GetCgroup, GetStatus, ListSets, SetInfo, Status};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Instant;
use tempfile::TempDir;

/// The service that was built with these tests.
pub const IOASIDD: &str = env!("CARGO_BIN_EXE_ioasidd");
/// The command that was built with these tests.
pub const IOASIDCTL: &str = env!("CARGO_BIN_EXE_ioasidctl");

/// How a service is started, where a test wants it otherwise.
#[derive(Default)]
pub struct Options {
    /// A program and its arguments to run it through: `prlimit`, `strace`, `unshare`.
    pub through: Vec<String>,
    /// Arguments instead of `--bus none --device none --cgroup-fs none`.
    pub arguments: Option<Vec<String>>,
    /// More environment.
    pub environment: Vec<(String, String)>,
}

/// A running service with a policy, a runtime directory and a log of its own.
pub struct Daemon {
    child: Child,
    directory: TempDir,
    expect_warnings: bool,
    expect_failures: bool,
}

impl Daemon {
    /// Starts one with this policy and waits until it answers.
    pub fn start(policy: &str) -> Self {
        Self::start_with(policy, &Options::default())
    }

    /// The same, otherwise.
    pub fn start_with(policy: &str, options: &Options) -> Self {
        Self::start_in(&std::env::temp_dir(), policy, options)
    }

    /// The same, its directories below another one than that of temporary files.
    pub fn start_in(above: &Path, policy: &str, options: &Options) -> Self {
        let directory = scratch_directory_in(above);
        fs::write(directory.path().join("policy.toml"), policy).unwrap();
        let child = spawn(directory.path(), options);
        let mut daemon = Self { child, directory, expect_warnings: false, expect_failures: false };
        daemon.wait_until_ready();
        daemon
    }

    /// Starts it again in the same directory after it ended.
    pub fn start_again(&mut self, options: &Options) {
        self.child = spawn(self.directory.path(), options);
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        let deadline = deadline();
        while Service::connect(self.socket()).is_err() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the service ended with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "the service does not answer:\n{}", self.log());
            std::thread::yield_now();
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir().join("ioasid.sock")
    }

    /// Its runtime directory.
    pub fn runtime_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Its policy file.
    pub fn policy_file(&self) -> PathBuf {
        self.directory.path().join("policy.toml")
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A connection of this process, which is an administrator's.
    pub fn connect(&self) -> Wire {
        Wire::connect(&self.socket()).greet()
    }

    /// The same through the client library.
    pub fn service(&self) -> Service {
        Service::connect(self.socket()).unwrap()
    }

    /// `ioasidctl --socket …`, to be given more arguments.
    pub fn ctl(&self) -> Command {
        let mut command = Command::new(IOASIDCTL);
        command.arg("--socket").arg(self.socket());
        for variable in ["IOASID_SET_FD", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs `ioasidctl` with these arguments to its end.
    pub fn run_ctl(&self, arguments: &[&str]) -> Output {
        self.ctl().args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// A cgroup as the service has it, with all below it.
    pub fn cgroup(&self, path: &CgroupPath) -> CgroupInfo {
        self.connect().ask(&GetCgroup { path: Some(path.clone()), recurse: true }).unwrap()
    }

    /// Its `current`.
    pub fn current(&self, path: &CgroupPath) -> u64 {
        self.cgroup(path).current
    }

    /// The service at a glance.
    pub fn status(&self) -> Status {
        self.connect().ask(&GetStatus {}).unwrap()
    }

    /// All sets.
    pub fn sets(&self) -> Vec<SetInfo> {
        self.connect().ask(&ListSets::default()).unwrap()
    }

    /// Sends it a signal by name: `HUP`, `TERM`, `KILL`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// What there is to leave behind: descriptors, sets, ids out, the root's counter.
    pub fn snapshot(&self) -> Snapshot {
        let status = self.status();
        let root = self.cgroup(&CgroupPath::root());
        Snapshot {
            sets: status.sets,
            ids_out: status.domains.iter().map(|domain| domain.current).sum(),
            charged: root.current,
            descriptors: self.settled_descriptors(),
        }
    }

    /// How many it has open once what it is about to close is closed: looking and hanging up leave some for a moment.
    pub fn settled_descriptors(&self) -> usize {
        let (mut last, mut same) = (usize::MAX, 0);
        eventually("the number of descriptors settles", || {
            let now = self.descriptors();
            same = if now == last { same + 1 } else { 0 };
            last = now;
            (same > 20).then_some(now)
        })
    }

    /// Waits until the service holds what it held at `before`, and fails where it never does. Fewer descriptors are no leak:
    /// at `before` the last connection may have been about to be closed.
    pub fn settles_to(&self, before: &Snapshot) {
        eventually_equal("what the service holds", before, || {
            let now = self.snapshot();
            Snapshot { descriptors: now.descriptors.max(before.descriptors), ..now }
        });
    }

    /// The service may warn in this test: of a bad policy, a request that failed.
    pub fn may_warn(&mut self) {
        self.expect_warnings = true;
    }

    /// The service may fail requests in this test, for want of something of its own.
    pub fn may_fail(&mut self) {
        self.expect_failures = true;
    }

    /// Ends it in an orderly way and proves that nothing is left over: no set, no id out, no charge, no log line that
    /// warns, no socket file. Every flow test ends so.
    pub fn finish(mut self) {
        let nothing = Snapshot { sets: 0, ids_out: 0, charged: 0, descriptors: 0 };
        eventually_equal("what is left over", &nothing, || Snapshot { descriptors: 0, ..self.snapshot() });
        let status = self.terminate();
        assert!(status.success(), "the service ended with {status}:\n{}", self.log());
        assert!(!self.socket().exists(), "the socket file is left over");
        let log = self.log();
        assert!(!log.contains("panicked"), "the service logged:\n{log}");
        assert!(self.expect_failures || !log.contains("ERROR"), "the service logged:\n{log}");
        assert!(self.expect_warnings || !log.contains("WARN"), "the service logged:\n{log}");
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the service ends", || self.child.try_wait().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the service's log:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What it unmounts itself when it ends in order.
        let _ = ioasid::sys::fuse::unmount(&self.runtime_dir().join("cgroup"));
    }
}

/// What a service holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Sets that exist.
    pub sets: u64,
    /// Ids leased, over all domains.
    pub ids_out: u64,
    /// The root cgroup's `current`.
    pub charged: u64,
    /// Descriptors of the service, nobody being connected but who was then.
    pub descriptors: usize,
}

/// A directory that every user can pass through.
pub fn scratch_directory() -> TempDir {
    scratch_directory_in(&std::env::temp_dir())
}

fn scratch_directory_in(above: &Path) -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::Builder::new().prefix("ioasid-test-").tempdir_in(above).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

fn spawn(directory: &Path, options: &Options) -> Child {
    let quiet = ["--bus", "none", "--device", "none", "--cgroup-fs", "none"].map(str::to_owned);
    let log = fs::File::options().append(true).create(true).open(directory.join("log")).unwrap();
    let mut words = options.through.iter().cloned().chain([IOASIDD.to_owned()]);
    let mut command = Command::new(words.next().unwrap());
    command
        .args(words)
        .arg("--policy")
        .arg(directory.join("policy.toml"))
        .arg("--runtime-dir")
        .arg(directory.join("run"))
        .args(options.arguments.as_deref().unwrap_or(&quiet))
        .env_remove("NOTIFY_SOCKET")
        .env_remove("JOURNAL_STREAM")
        .env("IOASIDD_LOG", "warn")
        .env("NO_COLOR", "1")
        .envs(options.environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    command.spawn().unwrap()
}

/// A service under `--supervise`, whose process is killed and comes back.
impl Daemon {
    /// Starts one and waits until it answers.
    pub fn start_supervised(policy: &str) -> Self {
        let mut daemon = Self::start_with(policy, &supervised());
        // The parent says that its child was killed.
        daemon.may_warn();
        daemon
    }

    /// The process that serves now; `None` in the moment between two.
    pub fn served_by(&self) -> Option<u32> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid())).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Kills the process that serves, with -9, and waits until its successor is there. Gives that one's pid.
    pub fn kill_service(&self) -> u32 {
        let before = eventually("somebody serves", || self.served_by());
        let status = Command::new("kill").args(["-KILL", &before.to_string()]).status().unwrap();
        assert!(status.success());
        self.succeeded(before)
    }

    /// Replaces the process that serves by a fresh one, as an upgrade does.
    pub fn replace_service(&self) -> u32 {
        let before = eventually("somebody serves", || self.served_by());
        self.signal("USR2");
        self.succeeded(before)
    }

    fn succeeded(&self, before: u32) -> u32 {
        eventually("another process serves", || self.served_by().filter(|pid| *pid != before))
    }
}

/// How [`Daemon::start_supervised`] starts it.
pub fn supervised() -> Options {
    let arguments = ["--supervise", "--bus", "none", "--device", "none", "--cgroup-fs", "none"].map(str::to_owned);
    Options { arguments: Some(arguments.to_vec()), ..Options::default() }
}
