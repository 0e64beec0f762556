//! `ioasidd --supervise`: the small parent that keeps the descriptors where no service manager does.
//!
//! It starts the service as its child, keeps what the child parks, and starts it again when it dies, with everything
//! that was parked. It knows no set and reads no request: there is little in it to fail. SIGTERM and SIGINT end both,
//! SIGHUP is handed on, SIGUSR2 replaces the child by a fresh start of the program file, which may be another by then.

use crate::model::Fault;
use crate::sys::program::{Spawned, spawn_with_fds};
use crate::sys::readiness::{self, Registered};
use crate::sys::service_manager::{FdStore, Inherited, Notice, NoticeSocket, Notifier};
use crate::sys::{pidfd, process};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Set for the child: who ends it ends the descriptors, too.
pub(super) const MARK: &str = "IOASIDD_SUPERVISED";
/// With this the child asks to be started again at once.
pub(super) const START_AGAIN: u8 = 75;

/// Descriptors that the parent needs for itself.
const OWN: u64 = 64;
/// A child that lived longer than this did not fail at its start.
const SETTLED: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The parent until its end. `runtime_dir` exists.
pub(super) fn supervise(runtime_dir: &Path, inherited: Vec<Inherited>) -> Result<ExitCode, Fault> {
    process::raise_max_files()?;
    let state = super::state_dir(runtime_dir);
    let address = state.join("notify");
    let bind = || {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&state)?;
        // Whoever reads there keeps the descriptors of another service in this directory.
        if NoticeSocket::is_read(address.as_os_str()) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another service is supervised here"));
        }
        match std::fs::remove_file(&address) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => NoticeSocket::bind(address.as_os_str()),
        }
    };
    let notices = bind().map_err(|e| Fault::from(e).while_doing(format!("listen on {}", address.display())))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    let mut parent = Parent::new(notices, address.as_os_str(), inherited)?;
    let ended = runtime.block_on(parent.run());
    let _ = std::fs::remove_file(&address);
    ended
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    End,
    Reload,
    Replace,
}

/// The service's parent.
struct Parent {
    /// Read when `wake` says that there is something.
    notices: NoticeSocket,
    wake: Registered,
    store: FdStore,
    /// The manager of this process, if it has one: told what the child tells.
    above: Notifier,
    program: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    ending: bool,
    was_ready: bool,
    signals: [(Asked, Signal); 4],
}

impl Parent {
    fn new(notices: NoticeSocket, address: &OsStr, inherited: Vec<Inherited>) -> Result<Self, Fault> {
        let limit = process::max_files().saturating_sub(OWN);
        let mut store = FdStore::new(usize::try_from(limit).unwrap_or(usize::MAX));
        inherited.into_iter().for_each(|Inherited { name, fd }| store.keep(&name, fd));
        let text = |text: std::ffi::OsString| text.into_string().map_err(|_| Fault::new("an argument that is no text"));
        let program = text(std::env::current_exe()?.into_os_string())?;
        let arguments = std::env::args_os().map(text).collect::<Result<Vec<_>, _>>()?;
        let ours = ["NOTIFY_SOCKET", "FDSTORE", "WATCHDOG_USEC", "WATCHDOG_PID", MARK];
        let given = |name: &str| name.starts_with("LISTEN_") || ours.contains(&name);
        let mut environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| !given(name))
            .collect();
        let notify = text(address.to_owned())?;
        environment.push(("NOTIFY_SOCKET".to_owned(), notify));
        environment.push(("FDSTORE".to_owned(), limit.to_string()));
        environment.push((MARK.to_owned(), "1".to_owned()));
        let signals = [
            (Asked::End, signal(SignalKind::terminate())?),
            (Asked::End, signal(SignalKind::interrupt())?),
            (Asked::Reload, signal(SignalKind::hangup())?),
            (Asked::Replace, signal(SignalKind::user_defined2())?),
        ];
        let wake = Registered::for_reading(notices.as_fd().try_clone_to_owned()?)?;
        let above = Notifier::from_environment()?;
        let (ending, was_ready) = (false, false);
        Ok(Self { notices, wake, store, above, program, arguments, environment, ending, was_ready, signals })
    }

    /// Starts the child again and again until it ends because it was asked to.
    async fn run(&mut self) -> Result<ExitCode, Fault> {
        let mut pause = Duration::ZERO;
        loop {
            let began = Instant::now();
            let status = match self.start() {
                Ok(child) => self.accompany(child).await?,
                // The program file is being replaced, or memory is short: what is parked outlives that.
                Err(fault) if self.was_ready => {
                    tracing::error!("{fault}");
                    127
                }
                Err(fault) => return Err(fault),
            };
            let again = status == i32::from(START_AGAIN);
            // Before it was ever ready it cannot be: a bad policy, a wrong host. Nothing is parked that could be lost.
            let hopeless = !self.was_ready && (1..=2).contains(&status);
            if self.ending || status == 0 || hopeless {
                return Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)));
            }
            if !again {
                tracing::warn!(status, "the service ended with status {status} and is started again");
            }
            pause = match began.elapsed() < SETTLED && !again {
                true => (pause * 2).clamp(Duration::from_millis(10), LONGEST_PAUSE),
                false => Duration::ZERO,
            };
            // The first time at once: its clients wait.
            if pause > Duration::from_millis(10) {
                tokio::time::sleep(pause).await;
            }
        }
    }

    fn start(&self) -> Result<Spawned, Fault> {
        let kept = self.store.kept();
        let names: Vec<&str> = kept.iter().map(|(name, _)| *name).collect();
        let fds: Vec<_> = kept.iter().map(|(_, fd)| *fd).collect();
        let mut environment = self.environment.clone();
        environment.push(("LISTEN_FDS".to_owned(), fds.len().to_string()));
        environment.push(("LISTEN_FDNAMES".to_owned(), names.join(":")));
        spawn_with_fds(&self.program, &self.arguments, &environment, &fds)
            .map_err(|e| Fault::from(e).while_doing(format!("start {}", self.program)))
    }

    /// Serves the child until it ends; its exit status, or 128 and the signal's number.
    async fn accompany(&mut self, child: Spawned) -> Result<i32, Fault> {
        let ended = Registered::for_reading(child.pidfd.try_clone()?)?;
        loop {
            let wake = &self.wake;
            let notices = &self.notices;
            let [end, interrupt, reload, replace] = &mut self.signals;
            let asked = tokio::select! {
                notice = wake.read(|_| notices.try_receive()) => {
                    // One that was cut short is dropped with what came with it.
                    if let Ok(notice) = notice {
                        self.take(notice);
                    }
                    continue;
                }
                _ = end.1.recv() => end.0,
                _ = interrupt.1.recv() => interrupt.0,
                _ = reload.1.recv() => reload.0,
                _ = replace.1.recv() => replace.0,
                _ = ended.read(has_ended) => break,
            };
            self.ending |= asked == Asked::End;
            let number = match asked {
                Asked::End => process::SIGTERM,
                Asked::Reload => process::SIGHUP,
                Asked::Replace => process::SIGUSR2,
            };
            // It may have ended this moment.
            let _ = pidfd::send_signal(child.pidfd.as_fd(), number);
        }
        let status = child.reap()?;
        // What it said last: the queue outlives it.
        while let Ok(notice) = self.notices.try_receive() {
            self.take(notice);
        }
        Ok(status)
    }

    fn take(&mut self, mut notice: Notice) {
        if self.store.apply(&mut notice) {
            return;
        }
        let told = match () {
            () if notice.has("READY") => {
                self.was_ready = true;
                self.above.ready()
            }
            () if notice.has("RELOADING") => self.above.reloading(),
            () if notice.has("WATCHDOG") => self.above.watchdog(),
            () if notice.has("STOPPING") && self.ending => self.above.stopping(),
            () => match notice.get("STATUS") {
                Some(status) => self.above.status(status),
                None => Ok(()),
            },
        };
        if let Err(error) = told {
            tracing::debug!(%error, "the service manager is not told");
        }
    }
}

/// A process that ended is readable.
fn has_ended(process: BorrowedFd<'_>) -> io::Result<()> {
    if readiness::now(process)?.readable { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
}
