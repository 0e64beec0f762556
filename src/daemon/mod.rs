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
mod unplug;

pub use arguments::{Arguments, Bus, DeviceKind};

use crate::controller::Controller;
use crate::dbus;
use crate::identity::Host;
use crate::model::{Failure, Fault};
use crate::proto::message_ids::FAULT;
use crate::socket::Edge;
use crate::sys::listener::Listener;
use clap::Parser;
use files::CgroupFiles;
use host::PolicyFiles;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// `ioasidd`: 0 after a clean shutdown, 1 where the policy or the host is not as it must be, 2 for a wrong usage.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            tracing::error!(MESSAGE_ID = FAULT, "{fault}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Fault> {
    let runtime_dir = arguments.runtime_dir().map_err(Fault::new)?;
    let user = arguments.user.then(crate::sys::process::effective_uid);
    let host = Host::find(arguments.cgroup_root.as_deref(), user)?;
    let policy_files = PolicyFiles::new(arguments.policy.as_deref(), user);
    let policy =
        policy_files.read().map_err(|problems| Fault::new(format!("the policy is bad\n{}", problems.render(false))))?;
    if arguments.check {
        println!("policy: {} rule(s) from {} file(s)", policy.rules().len(), policy.files().len());
        println!("cgroup2: {}", host.cgroups.mount_point().display());
        return Ok(());
    }
    if policy.is_empty() {
        tracing::warn!("there is no policy: every set is refused; write /etc/ioasidd/policy.toml");
    }
    crate::sys::process::raise_max_files()?;
    make_runtime_dir(&runtime_dir)?;
    let backend = device::Backend::choose(arguments.device, &arguments.device_path, arguments.user, None)?;
    let world = host::world(&host, policy_files, backend.name(), backend.id_source());
    let controller = Arc::new(Controller::new(Arc::new(policy), world)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(controller, Arc::new(host), &runtime_dir, arguments, backend))
}

async fn serve(
    controller: Arc<Controller>,
    host: Arc<Host>,
    runtime_dir: &Path,
    arguments: &Arguments,
    backend: device::Backend,
) -> Result<(), Fault> {
    let socket_path = runtime_dir.join("ioasid.sock");
    let listener = Listener::bind(&socket_path, 0o666)
        .map_err(|e| Fault::from(e).while_doing(format!("listen on {}", socket_path.display())))?;
    journal::follow(&controller);
    let edge = Edge::new(Arc::clone(&controller), Arc::clone(&host));
    let device = device::Served::start(backend, Arc::clone(&controller), Arc::clone(&host), None)?;
    let unplugging = tokio::spawn(watch_devices(Arc::clone(&controller)));
    let files = mount_files(&controller, &host, runtime_dir, arguments)?;
    let metrics = metrics::Served::start(&controller, runtime_dir)?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let accepting = tokio::spawn(Arc::clone(&edge).accept(listener));
    let on_bus = match bus_address(arguments.bus()) {
        Some(at) => Some(dbus::Bus::new(at, Arc::clone(&controller), host, edge, &socket_path).start().await),
        None => None,
    };
    loop {
        tokio::select! {
            _ = hangup.recv() => reload(&controller),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    accepting.abort();
    unplugging.abort();
    on_bus.inspect(tokio::task::JoinHandle::abort);
    drop((device, files, metrics));
    let _ = std::fs::remove_file(&socket_path);
    Ok(())
}

async fn watch_devices(controller: Arc<Controller>) {
    if let Err(error) = unplug::watch(controller, host::functions()).await {
        tracing::error!(MESSAGE_ID = crate::proto::message_ids::FAULT, %error, "devices that go away are not noticed");
    }
}

/// The cgroup files, where they are wanted. Asked for by name, they are a must; else a host without FUSE does without.
fn mount_files(
    controller: &Arc<Controller>,
    host: &Arc<Host>,
    runtime_dir: &Path,
    arguments: &Arguments,
) -> Result<Option<CgroupFiles>, Fault> {
    let Some(dir) = arguments.cgroup_fs(runtime_dir) else { return Ok(None) };
    match CgroupFiles::start(Arc::clone(controller), Arc::clone(host), &dir, None, None) {
        Ok(files) => Ok(Some(files)),
        Err(fault) if arguments.cgroup_fs.is_some() => Err(fault),
        Err(fault) => {
            if !arguments.user {
                tracing::warn!("no cgroup files: {fault}");
            }
            Ok(None)
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

fn reload(controller: &Controller) {
    match controller.reload_for(None) {
        Ok(stays) => stays.iter().for_each(|what| tracing::warn!("{what}")),
        // The source has said what is wrong with it.
        Err(Failure::Refused(_)) => {}
        Err(Failure::Fault(fault)) => tracing::error!(MESSAGE_ID = FAULT, "read the policy again: {fault}"),
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
