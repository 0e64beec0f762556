//! The service under its AppArmor profile, enforced: all that it does it may do, and nothing else.

use super::device::Device;
use crate::common::daemon::IOASIDD;
use crate::common::{Cgroups, Wire, eventually, eventually_equal};
use ioasid::client::Service;
use ioasid::model::{CgroupPath, SetRequest};
use ioasid::proto::{GetCgroup, GetStatus, SetCgroupMax};
use ioasid::sys::listener::Listener;
use ioasid::sys::pidfd::send_signal;
use ioasid::sys::process::{SIGTERM, limit_capabilities};
use ioasid::sys::program::{Spawned, spawn_with_fds};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const PROFILE: &str = include_str!("../../../packaging/apparmor/usr.sbin.ioasidd");
const PROGRAM: &str = "/usr/sbin/ioasidd";
const SOCKET: &str = "/run/ioasidd/ioasid.sock";

const POLICY: &str = r#"
version = 1
[space]
reserved = ["0-1023"]
quarantine = "0s"
[metrics]
port = 9464
[[rule]]
name = "all"
cgroup = "/**"
users = ["root", "ann"]
action = "allow"
domains = ["global", "pci:*"]
quota = { default = 64, max = 64 }
on_behalf_of = ["/**"]
"#;

/// Loads the profile, and puts the program where it applies.
fn confine() {
    fs::create_dir_all("/usr/sbin").unwrap();
    fs::hard_link(IOASIDD, PROGRAM).unwrap();
    fs::create_dir_all("/etc/ioasidd/policy.d").unwrap();
    fs::write("/etc/ioasidd/policy.toml", POLICY).unwrap();
    fs::write("/etc/apparmor.d/usr.sbin.ioasidd", PROFILE).unwrap();
    let loaded = Command::new("apparmor_parser").args(["-r", "-K", "/etc/apparmor.d/usr.sbin.ioasidd"]).status();
    assert!(loaded.unwrap().success());
    // What was denied before is another check's.
    assert!(Command::new("dmesg").arg("-c").output().unwrap().status.success());
}

fn deconfine() {
    fs::remove_dir_all("/etc/ioasidd").unwrap();
    fs::remove_file(PROGRAM).unwrap();
}

/// What the kernel refused a process under the profile.
fn denials() -> Vec<String> {
    let log = Command::new("dmesg").output().unwrap().stdout;
    let log = String::from_utf8_lossy(&log);
    let lines = log.lines().filter(|line| line.contains("apparmor=\"DENIED\"") && line.contains("profile=\"ioasidd\""));
    lines.map(str::to_owned).collect()
}

/// The service under `--supervise`. Ended with the test, which says what was denied where it fails.
struct Confined(Child);

impl Confined {
    fn start() -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["--supervise", "--bus", "none", "--device", "cuse"]).env("IOASIDD_LOG", "warn");
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    /// The supervisor's child, which serves.
    fn served_by(&self) -> Option<u32> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.0.id())).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    fn terminate(&mut self) -> bool {
        signal("TERM", self.0.id());
        self.0.wait().unwrap().success()
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("denied:\n{}", denials().join("\n"));
            self.terminate();
        }
    }
}

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

fn profile_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/attr/current")).unwrap().trim().to_owned()
}

fn connected() -> Wire {
    eventually("the service answers", || Service::connect(SOCKET).ok().map(drop));
    Wire::connect(Path::new(SOCKET)).greet()
}

/// Uses all there is: sets, sessions, mapped sets, the device, the files, persisted limits, metrics.
fn work(cgroup: &CgroupPath) {
    let wire = connected();
    let (set, _) = wire.create_set(SetRequest { cgroup: Some(cgroup.clone()), ..SetRequest::default() }).unwrap();
    let mut session = set.session().unwrap();
    let pasids = session.alloc_many(3, None).unwrap();
    let mapped = set.map().unwrap();
    mapped.alloc().unwrap();
    session.free(&pasids).unwrap();

    let device = Device(File::options().read(true).write(true).open("/dev/ioasid").unwrap().into());
    let pasid = device.alloc_any().unwrap();
    device.free(pasid).unwrap();

    let files = Path::new("/run/ioasidd/cgroup").join(cgroup.relative());
    fs::write(files.join("ioasids.max"), "50\n").unwrap();
    assert_eq!(fs::read_to_string(files.join("ioasids.max")).unwrap(), "50\n");
    let set_max = SetCgroupMax { cgroup: cgroup.to_string(), max: "40".to_owned(), persist: true };
    wire.ask(&set_max).unwrap();
    assert!(fs::read_to_string("/etc/ioasidd/policy.d/90-set-max.toml").unwrap().contains("40"));
    assert!(wire.ask(&GetCgroup { path: Some(cgroup.clone()), recurse: true }).unwrap().current > 0);
    wire.ask(&GetStatus {}).unwrap();
    wire.create_set(SetRequest { domain: "pci:0000:00:00.0".parse().unwrap(), ..SetRequest::default() }).unwrap_err();

    let mut metrics = UnixStream::connect("/run/ioasidd/metrics.sock").unwrap();
    metrics.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    metrics.read_to_string(&mut text).unwrap();
    assert!(text.contains("# EOF"), "{text}");
    std::net::TcpStream::connect("127.0.0.1:9464").unwrap();
}

/// The same in the sandbox that the unit makes: what is opened outside of the service's mount namespace it may use, too.
#[test]
#[ignore = "runs in the virtual machine"]
fn the_profile_lets_the_service_in_its_sandbox_use_what_is_opened_outside() {
    // As a service manager has it: what is mounted shows in the namespaces that are made of this one.
    let propagate = |how| mount(None::<&str>, "/", None::<&str>, how | MsFlags::MS_REC, None::<&str>).unwrap();
    propagate(MsFlags::MS_SHARED);
    let cgroups = Cgroups::new();
    cgroups.make("ioasidd.service");
    cgroups.make("ioasidd-outside.service");
    confine();
    fs::create_dir_all("/run/ioasidd").unwrap();
    let listener = Listener::bind(Path::new("/run/ioasidd/outside.sock"), 0o600).unwrap();
    let words = |more: &str| [PROGRAM, more].map(str::to_owned);
    let environment = [("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "outside.sock")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    cgroups.join("ioasidd-outside.service", std::process::id());
    let outside = spawn_with_fds(PROGRAM, &words("--outside"), &environment, &[listener.as_fd()]).unwrap();
    fs::write(cgroups.mount_point().join("cgroup.procs"), "0").unwrap();

    let procs = cgroups.directory("ioasidd.service").join("cgroup.procs");
    let mut command = Command::new(PROGRAM);
    command.args(["--bus", "none", "--device", "none"]).env("IOASIDD_LOG", "warn").stdin(Stdio::null());
    let enter = move || {
        fs::write(&procs, "0")?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?;
        // CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE, as in the unit.
        limit_capabilities(1 << 2 | 1 << 19)
    };
    // SAFETY: nothing else runs in the child of this single thread's making, so it may allocate.
    let mut service = Confined(unsafe { command.pre_exec(enter) }.spawn().unwrap());
    connected();
    let current = || fs::read_to_string("/run/ioasidd/cgroup/ioasids.current");
    assert_eq!(current().unwrap(), "0\n");
    std::net::TcpStream::connect("127.0.0.1:9464").unwrap();
    let pci = SetRequest { domain: "pci:0000:00:00.0".parse().unwrap(), ..SetRequest::default() };
    let refused = connected().create_set(pci).unwrap_err().to_string();
    assert!(refused.contains("extended") || refused.contains("PASID"), "{refused}");
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    assert_ne!(namespace(service.0.id()), namespace(std::process::id()));
    assert!(service.terminate());
    assert!(current().is_err(), "unmounted");
    outside_ends(outside);
    drop(listener);
    fs::remove_file("/run/ioasidd/outside.sock").unwrap();
    propagate(MsFlags::MS_PRIVATE);
    assert_eq!(denials(), [""; 0]);
    deconfine();
}

fn outside_ends(outside: Spawned) {
    send_signal(outside.pidfd.as_fd(), SIGTERM).unwrap();
    outside.reap().unwrap();
}

#[test]
#[ignore = "runs in the virtual machine"]
fn the_profile_lets_the_service_do_its_work_and_nothing_else() {
    let cgroups = Cgroups::new();
    let guest = cgroups.make("guest");
    confine();
    let mut service = Confined::start();
    work(&guest);
    let before = service.served_by().unwrap();
    for pid in [service.0.id(), before] {
        assert_eq!(profile_of(pid), "ioasidd (enforce)");
    }
    signal("HUP", before);
    signal("KILL", before);
    eventually("another process serves", || service.served_by().filter(|pid| *pid != before));
    work(&guest);
    eventually_equal("sets", &0, || connected().ask(&GetStatus {}).unwrap().sets);
    assert!(service.terminate());
    assert_eq!(denials(), [""; 0]);

    // What the profile does not name is out of reach.
    fs::write("/root/policy.toml", POLICY).unwrap();
    let check = |program: &str| {
        Command::new(program).args(["--check", "--policy", "/root/policy.toml"]).stdout(Stdio::null()).status().unwrap()
    };
    assert!(check(IOASIDD).success() && !check(PROGRAM).success());
    assert!(denials().iter().any(|line| line.contains("/root/policy.toml")), "{:?}", denials());
    deconfine();
}
