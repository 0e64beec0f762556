//! `/dev/ioasid` as programs see it that were written for the RFC.

use crate::common::{Actor, Cgroups, Daemon, Options, eventually, eventually_equal};
use ioasid::model::CgroupPath;
use ioasid::proto::{Recharge, RevokeSet};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

const PATH: &str = "/dev/ioasid";
const GET_API_VERSION: u64 = 0x6964;
const GET_INFO: u64 = 0x6965;
const REQUEST_ALLOC: u64 = 0x6966;
const REQUEST_FREE: u64 = 0x6967;

/// A device file and the four ioctls.
#[derive(Debug)]
pub struct Device(pub OwnedFd);

impl Device {
    fn ioctl(&self, command: u64, argument: usize) -> Result<i32, i32> {
        // SAFETY: the argument is the address of a structure of the command's size, or one that an error is expected of.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), command, argument) } {
            -1 => Err(io::Error::last_os_error().raw_os_error().unwrap()),
            result => Ok(result),
        }
    }

    pub fn version(&self) -> Result<i32, i32> {
        self.ioctl(GET_API_VERSION, 0)
    }

    pub fn bits(&self) -> Result<u32, i32> {
        let mut info = [12u32, 0, 0];
        self.ioctl(GET_INFO, (&raw mut info) as usize)?;
        Ok(info[2])
    }

    pub fn alloc(&self, min: u32, max: u32) -> Result<i32, i32> {
        let mut request = [16u32, 0, min, max];
        self.ioctl(REQUEST_ALLOC, (&raw mut request) as usize)
    }

    /// What QEMU's virtual command does.
    pub fn alloc_any(&self) -> Result<i32, i32> {
        self.alloc(1, 0xF_FFFF)
    }

    pub fn free(&self, mut pasid: i32) -> Result<i32, i32> {
        self.ioctl(REQUEST_FREE, (&raw mut pasid) as usize)
    }

    pub fn again(&self) -> Self {
        Self(self.0.try_clone().unwrap())
    }
}

pub fn policy(cgroups: &Cgroups) -> String {
    format!(
        r#"
        version = 1
        [space]
        bits = 12
        reserved = ["0-1023"]
        quarantine = "0s"
        [[cgroup]]
        path = "{scratch}/limited"
        max = 2
        [[rule]]
        name = "not-bob"
        cgroup = "{scratch}/**"
        users = ["bob"]
        action = "deny"
        [[rule]]
        name = "guests"
        cgroup = "{scratch}/**"
        users = ["*"]
        action = "allow"
        quota = {{ default = 4, max = 64 }}
        sets_per_cgroup = 3
        "#,
        scratch = cgroups.path("")
    )
}

pub fn with_device() -> Options {
    let arguments = ["--bus", "none", "--device", "cuse"].map(str::to_owned).to_vec();
    Options { arguments: Some(arguments), ..Options::default() }
}

fn start(cgroups: &Cgroups) -> Daemon {
    Daemon::start_with(&policy(cgroups), &with_device())
}

fn open(actor: &Actor) -> Result<Device, i32> {
    actor.open_device(Path::new(PATH)).map(Device)
}

fn current_settles(daemon: &Daemon, path: &CgroupPath, expected: u64) {
    eventually_equal("current", &expected, || daemon.current(path));
}

#[test]
#[ignore = "runs in the virtual machine"]
fn a_program_of_the_rfc_runs_unchanged() {
    let cgroups = Cgroups::new();
    let guest = cgroups.make("guest");
    let daemon = start(&cgroups);
    let status = daemon.status();
    assert_eq!((status.backend.as_str(), status.enforcement["ioasid"]["state"].as_str()), ("cuse", Some("enforced")));
    let actor = Actor::new(&cgroups, "guest");
    let device = open(&actor).unwrap();
    assert_eq!((device.version(), device.bits()), (Ok(0), Ok(12)));
    let first = device.alloc_any().unwrap();
    let second = device.alloc(2000, 2000).unwrap();
    assert!((1024..4096).contains(&first) && second == 2000);
    assert_eq!(daemon.current(&guest), 2);
    assert_eq!(device.free(first), Ok(0));
    assert_eq!(daemon.current(&guest), 1, "given back at once");
    assert_eq!(device.free(first), Ok(0), "freeing nobody's id succeeds");
    drop(device);
    assert_eq!(daemon.current(&guest), 0, "close waits for the service");
    assert!(daemon.sets().is_empty());
    drop(actor);
    daemon.finish();
}

#[test]
#[ignore = "runs in the virtual machine"]
fn every_refusal_keeps_its_errno() {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    cgroups.make("limited");
    let daemon = start(&cgroups);
    let actor = Actor::new(&cgroups, "guest");
    let device = open(&actor).unwrap();
    let other = open(&actor).unwrap();
    let foreign = other.alloc_any().unwrap();
    assert_eq!(device.free(foreign), Err(libc::EACCES));
    for nothing in [0, -1, 0x10_0000] {
        assert_eq!(device.free(nothing), Err(libc::EINVAL), "{nothing}");
    }
    assert_eq!(device.alloc(1, 1023), Err(libc::ENOSPC), "reserved");
    assert_eq!(device.alloc(4096, 5000), Err(libc::ENOSPC), "beyond the width");
    assert_eq!(device.alloc(0, 0), Err(libc::EINVAL), "no PASID");
    assert_eq!(device.alloc(9, 8), Err(libc::EINVAL));
    for command in [0x6963, 0x6968, 0x5401, 0xC010_6966] {
        assert_eq!(device.ioctl(command, 0), Err(libc::ENOTTY), "{command:#x}");
    }
    for command in [GET_INFO, REQUEST_ALLOC, REQUEST_FREE] {
        assert_eq!(device.ioctl(command, 16), Err(libc::EFAULT), "{command:#x}");
    }
    let mut short = [15u32, 0, 1, 2];
    assert_eq!(device.ioctl(REQUEST_ALLOC, (&raw mut short) as usize), Err(libc::EINVAL));
    let mut flagged = [12u32, 1, 0];
    assert_eq!(device.ioctl(GET_INFO, (&raw mut flagged) as usize), Err(libc::EINVAL));
    for _ in 0..4 {
        device.alloc_any().unwrap();
    }
    assert_eq!(device.alloc_any(), Err(libc::EDQUOT));
    let limited = open(&Actor::new(&cgroups, "limited")).unwrap();
    limited.alloc_any().unwrap();
    limited.alloc_any().unwrap();
    assert_eq!(limited.alloc_any(), Err(libc::EAGAIN));
    // The limit is set to what is out, and the refusals say so in the events.
    assert_eq!(daemon.cgroup(&cgroups.path("limited")).events.max, 1);
    drop((device, other, limited, actor));
    daemon.finish();
}

#[test]
#[ignore = "runs in the virtual machine"]
fn one_open_file_is_one_set_of_its_openers_cgroup() {
    let cgroups = Cgroups::new();
    let (a, b) = (cgroups.make("a"), cgroups.make("b"));
    let daemon = start(&cgroups);
    let (in_a, in_b) = (Actor::new(&cgroups, "a"), Actor::new(&cgroups, "b"));
    let (first, second, third) = (open(&in_a).unwrap(), open(&in_a).unwrap(), open(&in_b).unwrap());
    assert_eq!(daemon.sets().len(), 3);
    for device in [&first, &first, &second, &third] {
        device.alloc_any().unwrap();
    }
    assert_eq!((daemon.current(&a), daemon.current(&b)), (3, 1));
    let fourth = open(&in_a).unwrap();
    assert_eq!(open(&in_a).unwrap_err(), libc::EMFILE, "sets_per_cgroup");
    // Moving the opener moves nothing.
    cgroups.join("b", in_a.pid());
    first.alloc_any().unwrap();
    assert_eq!((daemon.current(&a), daemon.current(&b)), (4, 1));
    drop((first, second, third, fourth, in_a, in_b));
    daemon.finish();
}

#[test]
#[ignore = "runs in the virtual machine"]
fn a_passed_file_works_for_its_receiver_and_the_last_close_frees() {
    let cgroups = Cgroups::new();
    let (a, b) = (cgroups.make("a"), cgroups.make("b"));
    let daemon = start(&cgroups);
    let opener = Actor::new(&cgroups, "a");
    let receiver = Actor::of_user(&cgroups, "b", 1001);
    let device = open(&opener).unwrap();
    device.alloc_any().unwrap();
    // This process is neither of the opener's cgroup nor the opener.
    receiver.order(&crate::common::Order::Keep, &[std::os::fd::AsFd::as_fd(&device.0)]);
    drop(opener);
    assert_eq!(device.alloc_any().map(|pasid| pasid > 0), Ok(true), "the opener is gone, the file is not");
    assert_eq!((daemon.current(&a), daemon.current(&b)), (2, 0));
    drop(device);
    assert_eq!(daemon.current(&a), 2, "the receiver has a copy");
    receiver.kill();
    current_settles(&daemon, &a, 0);
    daemon.finish();
}

#[test]
#[ignore = "runs in the virtual machine"]
fn a_killed_opener_gives_back_what_a_close_gives_back() {
    let cgroups = Cgroups::new();
    let guest = cgroups.make("guest");
    let daemon = start(&cgroups);
    let actor = Actor::new(&cgroups, "guest");
    let device = open(&actor).unwrap();
    device.alloc_any().unwrap();
    actor.order(&crate::common::Order::Keep, &[std::os::fd::AsFd::as_fd(&device.0)]);
    drop(device);
    assert_eq!(daemon.current(&guest), 1);
    actor.kill();
    current_settles(&daemon, &guest, 0);
    daemon.finish();
}

#[test]
#[ignore = "runs in the virtual machine"]
fn the_policy_says_who_may_open() {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let daemon = start(&cgroups);
    let ann = Actor::of_user(&cgroups, "guest", 1001);
    let bob = Actor::of_user(&cgroups, "guest", 1002);
    let device = open(&ann).unwrap();
    device.alloc_any().unwrap();
    assert_eq!(daemon.sets().iter().map(|set| set.owner_uid).collect::<Vec<_>>(), [1001]);
    assert_eq!(open(&bob).unwrap_err(), libc::EPERM);
    assert_eq!(std::fs::File::open(PATH).unwrap_err().raw_os_error(), Some(libc::EPERM), "no rule for this cgroup");
    let contained = Actor::in_container(&cgroups, "guest");
    let inside = open(&contained).unwrap();
    inside.alloc_any().unwrap();
    assert_eq!(daemon.sets().len(), 2);
    drop((device, inside, ann, bob, contained));
    daemon.finish();
}

#[test]
#[ignore = "runs in the virtual machine"]
fn what_administrators_do_reaches_open_files() {
    let cgroups = Cgroups::new();
    let (guest, other) = (cgroups.make("guest"), cgroups.make("other"));
    let daemon = start(&cgroups);
    let device = open(&Actor::new(&cgroups, "guest")).unwrap();
    device.alloc_any().unwrap();
    let set = daemon.sets()[0].set.0;
    daemon.connect().ask(&Recharge { set, cgroup: other.to_string() }).unwrap();
    assert_eq!((daemon.current(&guest), daemon.current(&other)), (0, 1));
    // A set FD beside the file keeps the set when the file is closed.
    daemon.connect().ask(&RevokeSet { set, reason: "test".into() }).unwrap();
    assert_eq!(device.alloc_any(), Err(libc::EPIPE));
    assert_eq!(device.free(1024), Err(libc::EPIPE));
    assert_eq!(daemon.current(&other), 0);
    drop(device);
    daemon.finish();
}

#[test]
#[ignore = "runs in the virtual machine"]
fn a_set_lives_while_it_has_a_file_or_an_fd() {
    let cgroups = Cgroups::new();
    let guest = cgroups.make("guest");
    let daemon = start(&cgroups);
    let device = open(&Actor::new(&cgroups, "guest")).unwrap();
    device.alloc_any().unwrap();
    let opened = daemon.service().open_set(daemon.sets()[0].set.0).unwrap().0;
    drop(device);
    assert_eq!(daemon.current(&guest), 1);
    opened.session().unwrap().alloc().unwrap();
    drop(opened);
    current_settles(&daemon, &guest, 0);
    daemon.finish();
}

#[test]
#[ignore = "runs in the virtual machine"]
fn a_removed_cgroup_is_stale_and_frees() {
    let cgroups = Cgroups::new();
    cgroups.make("gone");
    let daemon = start(&cgroups);
    let actor = Actor::new(&cgroups, "gone");
    let device = open(&actor).unwrap();
    let pasid = device.alloc_any().unwrap();
    drop(actor);
    cgroups.remove("gone");
    assert_eq!(device.alloc_any(), Err(libc::ESTALE));
    assert_eq!(device.free(pasid), Ok(0));
    drop(device);
    daemon.finish();
}

#[test]
#[ignore = "runs in the virtual machine"]
fn any_thread_may_open_and_hundreds_at_once() {
    let cgroups = Cgroups::new();
    let daemon = Daemon::start_with(
        "version = 1\n[space]\nquarantine = \"0s\"\n[[rule]]\nname = \"all\"\ncgroup = \"/**\"\nusers = [\"*\"]\naction = \"allow\"\nsets_per_cgroup = 1000\nquota = { default = 64, max = 64 }\n",
        &with_device(),
    );
    let before = daemon.snapshot();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..8 {
                    let device = Device(std::fs::File::options().read(true).write(true).open(PATH).unwrap().into());
                    let pasids: Vec<i32> = (0..8).map(|_| device.again().alloc_any().unwrap()).collect();
                    pasids.into_iter().for_each(|pasid| assert_eq!(device.free(pasid), Ok(0)));
                    device.alloc_any().unwrap();
                }
            });
        }
    });
    daemon.settles_to(&before);
    drop(cgroups);
    daemon.finish();
}

#[test]
#[ignore = "runs in the virtual machine"]
fn the_device_goes_with_a_service_that_is_not_started_again() {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let mut daemon = start(&cgroups);
    let device = open(&Actor::new(&cgroups, "guest")).unwrap();
    daemon.signal("KILL");
    daemon.wait();
    eventually("the node goes", || (!Path::new(PATH).exists()).then_some(()));
    assert_eq!(device.alloc_any(), Err(libc::ENOTCONN));
    // It says that the set of the file that nobody kept is over.
    daemon.may_warn();
    daemon.start_again(&with_device());
    assert_eq!(device.alloc_any(), Err(libc::ENOTCONN), "a new device is another one");
    let again = open(&Actor::new(&cgroups, "guest")).unwrap();
    again.alloc_any().unwrap();
    drop((device, again));
    daemon.finish();
    assert!(!Path::new(PATH).exists());
}

#[test]
#[ignore = "runs in the virtual machine"]
fn a_second_service_does_not_take_the_name() {
    let cgroups = Cgroups::new();
    let daemon = start(&cgroups);
    let out = std::process::Command::new(crate::common::daemon::IOASIDD)
        .args(["--bus", "none", "--device", "cuse", "--cgroup-fs", "none", "--runtime-dir", "/tmp/second", "--policy"])
        .arg(daemon.policy_file())
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("/dev/ioasid exists"), "{out:?}");
    daemon.finish();
}
