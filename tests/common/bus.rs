//! A bus of its own for one test, and who calls over it.

use super::daemon::scratch_directory;
use super::{Actor, Daemon, Options, Order, eventually};
use futures_core::Stream;
use serde::de::DeserializeOwned;
use std::fs;
use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use zbus::proxy::MethodFlags;
use zbus::zvariant::{DynamicType, Type};
use zbus::{Connection, MatchRule, MessageStream, connection};

/// The name, and the manager's object.
pub const NAME: &str = "org.ioasid1";
/// The manager's object.
pub const ROOT: &str = "/org/ioasid1";
/// The manager.
pub const MANAGER: &str = "org.ioasid1.Manager";
/// A set.
pub const SET: &str = "org.ioasid1.Set";
/// A service of a benchmark's own, that root may have on a private bus.
pub const FLOOR: &str = "org.example.Floor";
/// Properties.
pub const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// A `dbus-daemon` like the system's, with the service's own bus policy.
pub struct PrivateBus {
    directory: TempDir,
    child: Option<Child>,
}

impl PrivateBus {
    /// Starts it.
    pub fn start() -> Self {
        let directory = scratch_directory();
        let path = directory.path();
        fs::create_dir(path.join("services")).unwrap();
        fs::create_dir(path.join("system.d")).unwrap();
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("dbus/org.ioasid1.conf");
        fs::copy(ours, path.join("system.d/org.ioasid1.conf")).unwrap();
        let polkit = "/usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf";
        if Path::new(polkit).exists() {
            fs::copy(polkit, path.join("system.d/org.freedesktop.PolicyKit1.conf")).unwrap();
        }
        fs::write(path.join("bus.conf"), configuration(path)).unwrap();
        let mut bus = Self { directory, child: None };
        bus.start_again();
        bus
    }

    /// Starts it again after it was stopped.
    pub fn start_again(&mut self) {
        let log = fs::File::options().append(true).create(true).open(self.directory.path().join("log")).unwrap();
        let child = Command::new("dbus-daemon")
            .arg("--config-file")
            .arg(self.directory.path().join("bus.conf"))
            .args(["--nofork", "--nopidfile"])
            // What the bus has in its environment, services that it starts have too.
            .env_clear()
            .env("PATH", "/usr/bin:/usr/sbin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        eventually("the bus listens", || UnixStream::connect(self.socket()).ok());
    }

    /// Ends it.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.socket().display())
    }

    /// Whether it gives the process of a caller as a descriptor, as dbus-daemon 1.16 does.
    pub fn gives_processes(&self) -> bool {
        let caller = self.connect();
        let bus = Some("org.freedesktop.DBus");
        let name = caller.connection.unique_name().unwrap().to_string();
        let ask = caller.connection.call_method(bus, "/org/freedesktop/DBus", bus, "GetConnectionCredentials", &name);
        let credentials: zbus::fdo::ConnectionCredentials = caller.block_on(ask).unwrap().body().deserialize().unwrap();
        credentials.process_fd().is_some()
    }

    /// How a service on it is started.
    pub fn options(&self) -> Options {
        let arguments = ["--bus", &self.address(), "--device", "none", "--cgroup-fs", "none"].map(str::to_owned);
        Options { arguments: Some(arguments.to_vec()), ..Options::default() }
    }

    /// A service on it, that has its name.
    pub fn serve(&self, policy: &str) -> Daemon {
        let daemon = Daemon::start_with(policy, &self.options());
        self.connect().wait_for(NAME);
        daemon
    }

    /// A connection of this process, which is root's.
    pub fn connect(&self) -> Caller {
        Caller::over(UnixStream::connect(self.socket()).unwrap(), 0)
    }

    /// A connection of an actor's.
    pub fn connect_as(&self, actor: &Actor) -> Caller {
        let (_, mut fds) = actor.order(&Order::ConnectStream(self.socket()), &[]);
        let (who, _) = actor.order(&Order::Report, &[]);
        let uid = u32::try_from(who["uid"].as_u64().unwrap()).unwrap();
        Caller::over(UnixStream::from(fds.remove(0)), uid)
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A connection to the bus. It is read while a call waits, and at no other time.
pub struct Caller {
    runtime: tokio::runtime::Runtime,
    /// The connection.
    pub connection: Connection,
}

/// The name and the text of a D-Bus error.
pub type BusError = (String, String);

impl Caller {
    /// Over a stream that is connected already, as the user who connected it.
    pub fn over(stream: UnixStream, uid: u32) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connection = runtime.block_on(async {
            stream.set_nonblocking(true).unwrap();
            let stream = tokio::net::UnixStream::from_std(stream).unwrap();
            connection::Builder::unix_stream(stream).user_id(uid).build().await.unwrap()
        });
        Self { runtime, connection }
    }

    /// Runs a future on this connection's thread; fails the test where it takes too long.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let limited = async { tokio::time::timeout(Duration::from_secs(30), future).await };
        self.runtime.block_on(limited).expect("an answer of the bus")
    }

    /// Waits until somebody has this name.
    pub fn wait_for(&self, name: &str) {
        eventually("a name is on the bus", || {
            let bus = Some("org.freedesktop.DBus");
            let asked = self.connection.call_method(bus, "/org/freedesktop/DBus", bus, "NameHasOwner", &name);
            self.block_on(asked).unwrap().body().deserialize::<bool>().unwrap().then_some(())
        });
    }

    /// Makes a call of the service, and leaves its answer as it is.
    pub fn try_call<B>(&self, path: &str, interface: &str, method: &str, body: &B) -> Result<zbus::Message, BusError>
    where
        B: serde::Serialize + DynamicType,
    {
        match self.block_on(self.connection.call_method(Some(NAME), path, Some(interface), method, body)) {
            Ok(reply) => Ok(reply),
            Err(zbus::Error::MethodError(name, text, _)) => Err((name.to_string(), text.unwrap_or_default())),
            Err(other) => panic!("{method}: {other}"),
        }
    }

    /// Makes a call of the service.
    pub fn call<R, B>(&self, path: &str, interface: &str, method: &str, body: &B) -> Result<R, BusError>
    where
        R: DeserializeOwned + Type,
        B: serde::Serialize + DynamicType,
    {
        self.try_call(path, interface, method, body).map(|reply| reply.body().deserialize().unwrap())
    }

    /// A call of the manager.
    pub fn manager<R, B>(&self, method: &str, body: &B) -> Result<R, BusError>
    where
        R: DeserializeOwned + Type,
        B: serde::Serialize + DynamicType,
    {
        self.call(ROOT, MANAGER, method, body)
    }

    /// Makes a set.
    pub fn create_set(&self, options: &[(&str, zbus::zvariant::Value<'_>)]) -> Result<(OwnedFd, String), BusError> {
        let options: std::collections::HashMap<_, _> = options.iter().map(|(key, value)| (*key, value)).collect();
        let (fd, path): (zbus::zvariant::OwnedFd, zbus::zvariant::OwnedObjectPath) =
            self.manager("CreateSet", &(options,))?;
        Ok((fd.into(), path.to_string()))
    }

    /// Makes a set, where `interactive` says whether a person may be asked for it.
    pub fn create_set_asking(
        &self,
        options: &[(&str, zbus::zvariant::Value<'_>)],
        interactive: bool,
    ) -> Result<(OwnedFd, String), BusError> {
        let options: std::collections::HashMap<_, _> = options.iter().map(|(key, value)| (*key, value)).collect();
        let asked = self.block_on(async {
            let manager = zbus::Proxy::new(&self.connection, NAME, ROOT, MANAGER).await.unwrap();
            let allowed = MethodFlags::AllowInteractiveAuth;
            let flags = if interactive { allowed.into() } else { Default::default() };
            manager.call_with_flags("CreateSet", flags, &(options,)).await
        });
        match asked {
            Ok(reply) => {
                let (fd, path): (zbus::zvariant::OwnedFd, zbus::zvariant::OwnedObjectPath) = reply.unwrap();
                Ok((fd.into(), path.to_string()))
            }
            Err(zbus::Error::MethodError(name, text, _)) => Err((name.to_string(), text.unwrap_or_default())),
            Err(other) => panic!("CreateSet: {other}"),
        }
    }

    /// A property.
    pub fn property<T>(&self, path: &str, interface: &str, name: &str) -> T
    where
        T: TryFrom<zbus::zvariant::OwnedValue>,
        T::Error: std::fmt::Debug,
    {
        let value: zbus::zvariant::OwnedValue = self.call(path, PROPERTIES, "Get", &(interface, name)).unwrap();
        T::try_from(value).unwrap()
    }

    /// The signals of one of the service's interfaces, from now on.
    pub fn listen(&self, interface: &str) -> Signals<'_> {
        let rule = MatchRule::builder().msg_type(zbus::message::Type::Signal).sender(NAME).unwrap();
        let rule = rule.interface(interface.to_owned()).unwrap().build();
        let stream = self.block_on(MessageStream::for_match_rule(rule, &self.connection, Some(1000))).unwrap();
        Signals { caller: self, stream: Some(stream) }
    }

    /// What an object says of itself.
    pub fn introspect(&self, path: &str) -> String {
        self.call(path, "org.freedesktop.DBus.Introspectable", "Introspect", &()).unwrap()
    }
}

/// polkit on a private bus, with the service's actions and with rules of a test's own.
pub struct Polkit {
    child: Child,
    _directory: TempDir,
}

impl Polkit {
    /// Starts it; its compiled-in paths are its own in a mount namespace.
    pub fn start(bus: &PrivateBus, rules: &str) -> Self {
        let directory = scratch_directory();
        let (actions, rules_d) = (directory.path().join("actions"), directory.path().join("rules"));
        fs::create_dir(&actions).unwrap();
        fs::create_dir(&rules_d).unwrap();
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("dbus/org.ioasid1.policy");
        fs::copy(ours, actions.join("org.ioasid1.policy")).unwrap();
        fs::write(rules_d.join("10-test.rules"), rules).unwrap();
        let script = r#"
            mkdir -p /etc/polkit-1/rules.d /usr/share/polkit-1/actions
            mount --bind "$1" /usr/share/polkit-1/actions && mount --bind "$2" /etc/polkit-1/rules.d &&
            exec /usr/lib/polkit-1/polkitd --no-debug"#;
        let child = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c", script, "sh"])
            .args([&actions, &rules_d])
            .env("DBUS_SYSTEM_BUS_ADDRESS", bus.address())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let polkit = Self { child, _directory: directory };
        bus.connect().wait_for("org.freedesktop.PolicyKit1");
        polkit
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Polkit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Signals of the service. They wait in the connection's queue until they are asked for.
pub struct Signals<'a> {
    caller: &'a Caller,
    stream: Option<MessageStream>,
}

impl Signals<'_> {
    /// The next one; fails the test where none comes.
    pub fn next(&mut self) -> zbus::Message {
        let stream = self.stream.as_mut().unwrap();
        self.caller.block_on(poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx))).unwrap().unwrap()
    }
}

impl Drop for Signals<'_> {
    fn drop(&mut self) {
        // A stream tells the bus that it ends, for which it takes the runtime.
        let _entered = self.caller.runtime.enter();
        drop(self.stream.take());
    }
}

fn configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <keep_umask/>
  <auth>EXTERNAL</auth>
  <listen>unix:path={directory}/socket</listen>
  <servicedir>{directory}/services</servicedir>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <policy user="root">
    <allow own="{FLOOR}"/>
    <allow send_destination="{FLOOR}"/>
  </policy>
  <includedir>{directory}/system.d</includedir>
</busconfig>
"#
    )
}
