//! Assembly: arguments, the order of starting, reload, shutdown.
//!
//! Lives here: what puts the rooms together into a process. Not here: what any of them does.

mod arguments;
mod device;
mod enforcement;
mod files;
mod host;
mod journal;
mod logging;
mod metrics;
mod outside;
mod privileged;
mod supervise;
mod unplug;

pub use arguments::{Arguments, Bus, DeviceKind};

use crate::controller::{Controller, DEVICE_CHANNEL, Restored};
use crate::dbus;
use crate::identity::Host;
use crate::model::{Failure, Fault};
use crate::proto::message_ids::FAULT;
use crate::socket::Edge;
use crate::sys::listener::Listener;
use crate::sys::process;
use crate::sys::service_manager::{Inherited, Notifier, take_listen_fds};
use clap::Parser;
use files::CgroupFiles;
use host::PolicyFiles;
use privileged::Privileged;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{self, SignalKind, signal};

/// A listening socket that the service manager made for us.
const ACTIVATED: &str = "ioasid.sock";
/// The same made by us, and left with the manager.
const LISTENER: &str = "listener";

/// `ioasidd`: 0 after a clean shutdown, 1 where the policy or the host is not as it must be, 2 for a wrong usage.
pub fn main() -> ExitCode {
    // Before anything is opened: their numbers are what the environment says.
    let inherited = take_listen_fds();
    let arguments = Arguments::parse();
    logging::start();
    let supervising = arguments.supervise && !arguments.check && std::env::var_os(supervise::MARK).is_none();
    let outcome = if arguments.outside {
        outside::serve(&arguments, inherited)
    } else if supervising {
        prepare_supervision(&arguments, inherited)
    } else {
        let left_mounted = inherited.iter().any(|found| found.name == files::CHANNEL);
        run(&arguments, inherited).inspect_err(|_| {
            if left_mounted {
                take_down_files(&arguments)
            }
        })
    };
    outcome.unwrap_or_else(|fault| {
        tracing::error!(MESSAGE_ID = FAULT, "{fault}");
        ExitCode::FAILURE
    })
}

/// Takes down the tree that an earlier process left mounted and that this one will not serve.
fn take_down_files(arguments: &Arguments) {
    if let (Ok(runtime_dir), Ok(manager)) = (arguments.runtime_dir(), Notifier::from_environment())
        && let Some(dir) = arguments.cgroup_fs(&runtime_dir)
    {
        files::take_down(&dir, &Privileged::find(&runtime_dir), &manager);
    }
}

fn prepare_supervision(arguments: &Arguments, inherited: Vec<Inherited>) -> Result<ExitCode, Fault> {
    let runtime_dir = arguments.runtime_dir().map_err(Fault::new)?;
    make_runtime_dir(&runtime_dir)?;
    supervise::supervise(&runtime_dir, inherited)
}

fn run(arguments: &Arguments, inherited: Vec<Inherited>) -> Result<ExitCode, Fault> {
    let supervised = std::env::var_os(supervise::MARK).is_some();
    if supervised {
        process::end_with_parent()?;
    }
    let runtime_dir = arguments.runtime_dir().map_err(Fault::new)?;
    let user = arguments.user.then(process::effective_uid);
    let host = Host::find(arguments.cgroup_root.as_deref(), user)?;
    let policy_files = PolicyFiles::new(arguments.policy().as_deref(), user);
    let policy =
        policy_files.read().map_err(|problems| Fault::new(format!("the policy is bad\n{}", problems.render(false))))?;
    if arguments.check {
        println!("policy: {} rule(s) from {} file(s)", policy.rules().len(), policy.files().len());
        println!("cgroup2: {}", host.cgroups.mount_point().display());
        return Ok(ExitCode::SUCCESS);
    }
    if policy.is_empty() {
        tracing::warn!("there is no policy: every set is refused; write /etc/ioasidd/policy.toml");
    }
    process::raise_max_files()?;
    process::survive_file_size_limit()?;
    make_runtime_dir(&runtime_dir)?;
    let mut inherited = inherited;
    let mut take = |name: &str| {
        let at = inherited.iter().position(|found| found.name == name)?;
        Some(inherited.swap_remove(at).fd)
    };
    let parked = Parked { activated: take(ACTIVATED), listener: take(LISTENER), files: take(files::CHANNEL) };
    let device = inherited.iter().find(|found| found.name == DEVICE_CHANNEL);
    let channel = device.map(|found| found.fd.try_clone()).transpose()?;
    let backend = device::Backend::choose(arguments.device, &arguments.device_path, arguments.user, channel)?;
    let privileged = Privileged::find(&runtime_dir);
    let world = host::world(&host, policy_files, &backend, &arguments.device_path, &privileged);
    if user.is_none() {
        process::limit_capabilities(process::SERVICE_CAPABILITIES)?;
        process::forbid_new_privileges()?;
    }
    let (policy, state) = (Arc::new(policy), state_dir(&runtime_dir));
    let restored = match arguments.volatile {
        true => Restored::nothing(Controller::new(policy, world)?),
        false => Controller::restore(policy, world, &state, Notifier::from_environment()?, inherited)?,
    };
    let service = Service {
        host: Arc::new(host),
        runtime_dir,
        arguments: arguments.clone(),
        manager: Notifier::from_environment()?,
        privileged,
        supervised,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(service.serve(restored, parked, backend))
}

/// Where the records are.
fn state_dir(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("state")
}

/// What came back from the service manager and is the daemon's.
struct Parked {
    activated: Option<OwnedFd>,
    listener: Option<OwnedFd>,
    files: Option<OwnedFd>,
}

/// Why the service ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// For good, as far as it knows.
    Stop,
    /// To be started again, perhaps from another program file.
    Replace,
}

/// When another process goes on with what this one leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Successor {
    AtOnce,
    /// When somebody starts it, from the descriptors that the manager keeps.
    Later,
    Never,
}

/// The service, assembled.
struct Service {
    host: Arc<Host>,
    runtime_dir: PathBuf,
    arguments: Arguments,
    manager: Notifier,
    privileged: Privileged,
    supervised: bool,
}

impl Service {
    async fn serve(self, restored: Restored, parked: Parked, backend: device::Backend) -> Result<ExitCode, Fault> {
        let Restored { controller, ends, sessions, others } = restored;
        for lost in others.iter().filter(|other| other.name != DEVICE_CHANNEL) {
            tracing::warn!(name = lost.name, "a descriptor that came back is nobody's");
            self.manager.remove(&lost.name)?;
        }
        drop(others);
        let controller = Arc::new(controller);
        let activated = parked.activated.is_some();
        let listener = self.listen(parked.activated, parked.listener)?;
        journal::follow(&controller);
        let edge = Edge::new(Arc::clone(&controller), Arc::clone(&self.host));
        for (service, end) in ends {
            edge.listen_on_set(service, end)?;
        }
        for session in sessions {
            edge.resume_session(session)?;
        }
        controller.go_on();
        let manager = self.manager.is_connected().then_some(&self.manager);
        let device = device::Served::start(backend, Arc::clone(&controller), Arc::clone(&self.host), manager)?;
        let unplugging = tokio::spawn(watch_devices(Arc::clone(&controller)));
        let files = self.mount_files(&controller, parked.files)?;
        let metrics = metrics::Served::start(&controller, &self.runtime_dir, &self.privileged)?;
        let mut signals = Signals::new()?;
        let accepting = tokio::spawn(Arc::clone(&edge).accept(listener));
        let on_bus = match bus_address(self.arguments.bus()) {
            Some(at) => {
                let (edge, sockets) = (Arc::clone(&edge), Arc::clone(&edge));
                let adopt: dbus::Adopt = Box::new(move |made| edge.adopt(made));
                let bus =
                    dbus::Bus::new(at, Arc::clone(&controller), Arc::clone(&self.host), adopt, &self.socket_path());
                sockets.set_consent(bus.consent());
                Some(bus.start().await)
            }
            None => None,
        };
        let watchdog = self.watchdog();
        self.manager.ready()?;
        let end = loop {
            match signals.next().await {
                Signal::Reload => self.reload(&controller)?,
                Signal::End(end) => break end,
            }
        };
        // A supervisor that died sends the signal by its death, and hears nothing: what follows is to be done all the same.
        if let Err(error) = self.manager.stopping() {
            tracing::debug!(%error, "the service manager is not told");
        }
        drop(metrics);
        accepting.abort();
        unplugging.abort();
        on_bus.inspect(tokio::task::JoinHandle::abort);
        if let Some(watchdog) = watchdog {
            watchdog.abort();
        }
        match self.successor(end).await {
            // It goes on with the mount and the device: nothing is taken down.
            Successor::AtOnce => std::mem::forget((device, files)),
            // Open device files wait for it, and can be killed meanwhile; who reads a counter is not to wait.
            Successor::Later => {
                std::mem::forget(device);
                drop(files);
                if let Err(error) = self.manager.remove(files::CHANNEL) {
                    tracing::warn!(%error, "the channel of the cgroup files stays with the service manager");
                }
            }
            // Nobody keeps the descriptors: the sets end with this process.
            Successor::Never => {
                controller.abandon();
                drop((device, files));
                if !activated {
                    let _ = std::fs::remove_file(self.socket_path());
                }
            }
        }
        controller.settle();
        Ok(if end == End::Replace { ExitCode::from(supervise::START_AGAIN) } else { ExitCode::SUCCESS })
    }

    /// When another process goes on with the descriptors.
    async fn successor(&self, end: End) -> Successor {
        match end {
            End::Replace => Successor::AtOnce,
            End::Stop if self.supervised || Notifier::store_size().is_none() => Successor::Never,
            End::Stop if dbus::is_restarting().await => Successor::AtOnce,
            End::Stop => Successor::Later,
        }
    }

    fn socket_path(&self) -> PathBuf {
        self.runtime_dir.join("ioasid.sock")
    }

    /// The socket of the service manager, that of the service before, or a new one: that is left with the manager.
    fn listen(&self, activated: Option<OwnedFd>, parked: Option<OwnedFd>) -> Result<Listener, Fault> {
        if let Some(socket) = activated {
            return Ok(Listener::inherited(socket));
        }
        let path = self.socket_path();
        if let Some(socket) = parked {
            if path.exists() {
                return Ok(Listener::inherited(socket));
            }
            self.manager.remove(LISTENER)?;
        }
        let bind = || {
            let listener = Listener::bind(&path, 0o666)?;
            self.manager.store(LISTENER, listener.as_fd())?;
            Ok(listener)
        };
        bind().map_err(|e: std::io::Error| Fault::from(e).while_doing(format!("listen on {}", path.display())))
    }

    fn reload(&self, controller: &Controller) -> Result<(), Fault> {
        self.manager.reloading()?;
        match controller.reload_for(None) {
            // Where it is refused, the source has said what is wrong with it.
            Ok(()) | Err(Failure::Refused(_)) => {}
            Err(Failure::Fault(fault)) => tracing::error!(MESSAGE_ID = FAULT, "read the policy again: {fault}"),
        }
        Ok(self.manager.ready()?)
    }

    /// Says that it lives, where somebody wants to hear it: from the one thread that serves.
    fn watchdog(&self) -> Option<tokio::task::JoinHandle<()>> {
        let every = Notifier::watchdog_interval()? / 2;
        let manager = Notifier::from_environment().ok()?;
        Some(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(every);
            loop {
                ticks.tick().await;
                if let Err(error) = manager.watchdog() {
                    tracing::warn!(%error, "the watchdog is not told");
                }
            }
        }))
    }

    /// The cgroup files, where they are wanted. Asked for by name, they are a must; else a host without FUSE does without.
    fn mount_files(&self, controller: &Arc<Controller>, parked: Option<OwnedFd>) -> Result<Option<CgroupFiles>, Fault> {
        let Some(dir) = self.arguments.cgroup_fs(&self.runtime_dir) else { return Ok(None) };
        let manager = self.manager.is_connected().then_some(&self.manager);
        let state = state_dir(&self.runtime_dir);
        let at = (dir.as_path(), &self.privileged);
        match CgroupFiles::start(Arc::clone(controller), Arc::clone(&self.host), at, &state, parked, manager) {
            Ok(files) => Ok(Some(files)),
            Err(fault) if self.arguments.cgroup_fs.is_some() => Err(fault),
            Err(fault) => {
                if !self.arguments.user {
                    tracing::warn!("no cgroup files: {fault}");
                }
                Ok(None)
            }
        }
    }
}

fn bus_address(bus: Bus) -> Option<dbus::Address> {
    match bus {
        Bus::System => Some(dbus::Address::System),
        Bus::Session => Some(dbus::Address::Session),
        Bus::At(address) => Some(dbus::Address::At(address)),
        Bus::None => None,
    }
}

async fn watch_devices(controller: Arc<Controller>) {
    if let Err(error) = unplug::watch(controller, privileged::functions()).await {
        tracing::error!(MESSAGE_ID = FAULT, %error, "devices that go away are not noticed");
    }
}

/// A signal that means something.
#[derive(Clone, Copy, Debug)]
enum Signal {
    Reload,
    End(End),
}

struct Signals {
    hangup: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    replace: unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, Fault> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            replace: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.terminate.recv() => Signal::End(End::Stop),
            _ = self.interrupt.recv() => Signal::End(End::Stop),
            _ = self.replace.recv() => Signal::End(End::Replace),
        }
    }
}

/// The runtime directory, mode 0755; made where it is missing.
fn make_runtime_dir(dir: &Path) -> Result<(), Fault> {
    let make = || {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))
    };
    make().map_err(|e| Fault::from(e).while_doing(format!("make {}", dir.display())))
}
