//! What outlives the service where somebody keeps its descriptors: open device files, the mounted tree, requests in
//! flight.

use super::device::{Device, policy};
use crate::common::{Actor, Cgroups, Daemon, Options, eventually, eventually_equal};
use ioasid::model::CgroupPath;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

fn supervised() -> Options {
    let arguments = ["--bus", "none", "--device", "cuse", "--supervise"].map(str::to_owned).to_vec();
    Options { arguments: Some(arguments), ..Options::default() }
}

/// The service itself, below its supervisor.
fn service_pid(daemon: &Daemon) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", daemon.pid());
    eventually("the supervisor has a child", || fs::read_to_string(&children).unwrap().trim().parse().ok())
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

/// Kills the service and waits until the next one answers.
fn kill_service(daemon: &Daemon) {
    let old = service_pid(daemon);
    signal(old, "KILL");
    eventually("another service", || (service_pid(daemon) != old).then_some(()));
    eventually("it answers", || ioasid::client::Service::connect(daemon.socket()).ok().map(drop));
}

fn open(actor: &Actor) -> Device {
    Device(actor.open_device(Path::new("/dev/ioasid")).unwrap())
}

/// The scratch cgroup's guest, a service, and what opens a device in the guest.
fn start() -> (Cgroups, CgroupPath, Daemon, Actor) {
    let cgroups = Cgroups::new();
    let guest = cgroups.make("guest");
    let mut daemon = Daemon::start_with(&policy(&cgroups), &supervised());
    daemon.may_warn();
    let actor = Actor::new(&cgroups, "guest");
    (cgroups, guest, daemon, actor)
}

/// This process in a cgroup, and back in the root at the end.
struct Inside(std::path::PathBuf);

impl Inside {
    fn join(cgroups: &Cgroups, below: &str) -> Self {
        cgroups.join(below, std::process::id());
        Self(cgroups.mount_point().join("cgroup.procs"))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, std::process::id().to_string());
    }
}

#[test]
#[ignore = "runs in the virtual machine"]
fn open_device_files_outlive_a_killed_service() {
    let (cgroups, guest, daemon, actor) = start();
    let device = open(&actor);
    let pasid = device.alloc_any().unwrap();
    for round in 1..4 {
        kill_service(&daemon);
        assert_eq!(daemon.current(&guest), round);
        assert_eq!(device.bits(), Ok(12));
        assert_ne!(device.alloc_any().unwrap(), pasid);
    }
    assert_eq!(device.free(pasid), Ok(0));
    assert_eq!(daemon.current(&guest), 3);
    let other = open(&actor);
    other.alloc_any().unwrap();
    assert_eq!(daemon.sets().len(), 2);
    drop((device, other));
    eventually_equal("current", &0, || daemon.current(&guest));
    drop(actor);
    daemon.finish();
    drop(cgroups);
}

#[test]
#[ignore = "runs in the virtual machine"]
fn requests_in_flight_are_done_once() {
    let (cgroups, guest, daemon, actor) = start();
    let device = open(&actor);
    // A stopped service reads nothing; killed while stopped, it leaves them to the next.
    let old = service_pid(&daemon);
    signal(old, "STOP");
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let device = device.again();
            std::thread::spawn(move || device.alloc_any())
        })
        .collect();
    // Not waited for: the service that shall answer is stopped.
    actor.begin(&crate::common::Order::OpenDevice("/dev/ioasid".into()), &[]);
    signal(old, "KILL");
    let mut pasids: Vec<i32> = callers.into_iter().map(|caller| caller.join().unwrap().unwrap()).collect();
    let (_, late) = actor.end();
    assert_eq!(late.len(), 1);
    assert_eq!(daemon.sets().len(), 2, "one for each file");
    drop(late);
    pasids.sort_unstable();
    pasids.dedup();
    assert_eq!((pasids.len(), daemon.current(&guest)), (3, 3));
    drop(device);
    eventually_equal("current", &0, || daemon.current(&guest));
    drop(actor);
    daemon.finish();
    drop(cgroups);
}

/// Whoever waits for a service that does not read can be killed, and leaves nothing for it to do.
#[test]
#[ignore = "runs in the virtual machine"]
fn callers_can_be_killed_while_nobody_serves() {
    const OPENAT: &str = "257 ";
    let (cgroups, guest, daemon, actor) = start();
    let top = daemon.runtime_dir().join("cgroup");
    let old = service_pid(&daemon);
    signal(old, "STOP");
    let waits = |pid: u32| {
        let call = format!("/proc/{pid}/syscall");
        eventually("the caller waits", || {
            fs::read_to_string(&call).is_ok_and(|call| call.starts_with(OPENAT)).then_some(())
        });
    };
    for path in [PathBuf::from("/dev/ioasid"), top.join("ioasids.current")] {
        let mut reader = Command::new("cat").arg(path).stdout(std::process::Stdio::null()).spawn().unwrap();
        waits(reader.id());
        reader.kill().unwrap();
        assert!(!reader.wait().unwrap().success());
    }
    signal(old, "CONT");
    eventually_equal("sets", &0, || daemon.sets().len());
    assert_eq!(daemon.current(&guest), 0);
    drop(actor);
    daemon.finish();
    drop(cgroups);
}

/// Opens, closes and ioctls on and on while the service is killed again and again: no set and no id is left over.
#[test]
#[ignore = "runs in the virtual machine"]
fn kills_at_any_moment_leave_no_set() {
    let (cgroups, guest, daemon, actor) = start();
    let inside = Inside::join(&cgroups, "guest");
    let path = Path::new("/dev/ioasid");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let turns = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut turns = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let device = Device(File::options().read(true).write(true).open(path).unwrap().into());
                let pasid = device.alloc_any().unwrap();
                if turns % 2 == 0 {
                    device.free(pasid).unwrap();
                }
                turns += 1;
            }
            turns
        });
        for _ in 0..8 {
            kill_service(&daemon);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        worker.join().unwrap()
    });
    assert!(turns > 0);
    assert_eq!(daemon.sets(), [], "after {turns} turns");
    assert_eq!(daemon.current(&guest), 0);
    // Before its cgroup goes, and all in it.
    drop(inside);
    drop(actor);
    daemon.finish();
    drop(cgroups);
}

#[test]
#[ignore = "runs in the virtual machine"]
fn the_mounted_tree_outlives_a_killed_service() {
    let (cgroups, _, daemon, actor) = start();
    let top = daemon.runtime_dir().join("cgroup");
    let device = open(&actor);
    let directory = top.join(cgroups.path("guest").relative());
    let mut current = File::open(directory.join("ioasids.current")).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&directory).unwrap());
    kill_service(&daemon);
    device.alloc_any().unwrap();
    let mut text = String::new();
    current.read_to_string(&mut text).unwrap();
    assert_eq!(text, "1\n", "a file that was open before");
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&fs::metadata(&directory).unwrap()), inode);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(mounts.lines().filter(|line| line.contains("fuse.ioasidd")).count(), 1);
    // A reader waits while there is no service.
    let old = service_pid(&daemon);
    signal(old, "STOP");
    let reader = std::thread::spawn(move || fs::read_to_string(directory.join("ioasids.peak")));
    signal(old, "KILL");
    assert_eq!(reader.join().unwrap().unwrap(), "1\n");
    drop((current, device, actor));
    daemon.finish();
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains("fuse.ioasidd"));
    drop(cgroups);
}
