//! libvirt's domains get their sets: with libvirtd, QEMU and LXC as Debian has them.

mod common;

use common::libvirt::{Libvirt, View};
use common::{Actor, Cgroups, Daemon, Order, eventually, eventually_equal};
use ioasid::proto::SetInfo;
use serde_json::{Value, json};
use std::os::fd::{AsRawFd, OwnedFd};

fn policy() -> &'static str {
    r#"
    version = 1
    [space]
    quarantine = "0s"
    [[rule]]
    name = "hosts"
    cgroup = "/**"
    users = ["root"]
    action = "allow"
    quota = { default = 8, max = 64 }
    on_behalf_of = ["/machine", "/machine/**", "/machine.slice/**", "/ioasid-test-*"]
    "#
}

fn qemu(name: &str, metadata: &str, devices: &str) -> String {
    format!(
        r#"<domain type='qemu'>
  <name>{name}</name>
  <metadata>{metadata}</metadata>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    {devices}
  </devices>
</domain>"#
    )
}

fn wanted(quota: u32) -> String {
    format!(r#"<ioasid:set xmlns:ioasid="https://ioasid.org/xmlns/libvirt/domain/1" quota="{quota}" label="guest"/>"#)
}

fn name(what: &str) -> String {
    format!("ioasid-{what}-{}", std::process::id())
}

fn only(daemon: &Daemon) -> SetInfo {
    let mut sets = daemon.sets();
    assert_eq!(sets.len(), 1, "{sets:?}");
    sets.remove(0)
}

fn gone(daemon: &Daemon) {
    eventually_equal("sets", &0, || daemon.sets().len());
}

#[test]
fn a_domain_has_its_set_from_prepare_to_release_also_over_a_restart_of_libvirtd() {
    let daemon = Daemon::start(policy());
    let mut libvirt = Libvirt::start(&daemon, View::Host);
    let name = name("life");
    libvirt.create(&qemu(&name, &wanted(9), "")).unwrap();
    let set = only(&daemon);
    assert_eq!((set.quota, set.label.as_str()), (9, "guest"));
    let scope = set.cgroup.as_str();
    assert!(scope.contains("qemu") && scope.contains("life") && !scope.ends_with("emulator"), "{scope}");
    libvirt.restart();
    assert_eq!(only(&daemon), set);
    libvirt.destroy(&name);
    gone(&daemon);
    assert_eq!(std::fs::read_dir(daemon.runtime_dir().join("libvirt")).unwrap().count(), 0);

    libvirt.create(&qemu(&name, "", "")).unwrap();
    assert_eq!(daemon.sets(), [], "it asks for none");
    libvirt.destroy(&name);
    drop(libvirt);
    daemon.finish();
}

#[test]
fn nothing_is_left_of_a_domain_whose_keeper_died_or_whose_metadata_became_junk() {
    let daemon = Daemon::start(policy());
    let libvirt = Libvirt::start(&daemon, View::Host);
    let name = name("junk");
    let left = || std::fs::read_dir(daemon.runtime_dir().join("libvirt")).unwrap().count();
    libvirt.create(&qemu(&name, &wanted(9), "")).unwrap();
    let state = std::fs::read(daemon.runtime_dir().join(format!("libvirt/qemu-{name}.json"))).unwrap();
    let keeper = serde_json::from_slice::<Value>(&state).unwrap()["keeper"].to_string();
    let killed = std::process::Command::new("kill").args(["-KILL", &keeper]).status().unwrap();
    assert!(killed.success());
    gone(&daemon);
    libvirt.destroy(&name);
    assert_eq!(left(), 0);

    libvirt.create(&qemu(&name, &wanted(9), "")).unwrap();
    let uri = "https://ioasid.org/xmlns/libvirt/domain/1";
    libvirt.virsh_ok(&["metadata", &name, uri, "--live", "--key", "ioasid", "--set", "<set quota='many'/>"]);
    assert_eq!(only(&daemon).quota, 9, "it is too late for another one");
    libvirt.destroy(&name);
    gone(&daemon);
    assert_eq!(left(), 0);

    let long = format!("{name}-{}", "x".repeat(80));
    let said = libvirt.create(&qemu(&long, &wanted(9), "")).unwrap_err();
    assert!(said.contains("a name of at most"), "{said}");
    assert_eq!((daemon.sets(), left()), (vec![], 0));
    drop(libvirt);
    daemon.finish();
}

#[test]
fn a_domain_that_is_refused_its_set_does_not_start_and_says_why() {
    let daemon = Daemon::start(policy());
    let libvirt = Libvirt::start(&daemon, View::Host);
    let name = name("refused");
    let said = libvirt.create(&qemu(&name, &wanted(65), "")).unwrap_err();
    assert!(said.contains("hosts") && said.contains("64"), "{said}");
    let said = libvirt.create(&qemu(&name, &wanted(4).replace("quota=\"4\"", "quota=\"few\""), "")).unwrap_err();
    assert!(said.contains("few"), "{said}");
    assert_eq!(daemon.sets(), []);
    drop(libvirt);
    daemon.finish();
}

#[test]
fn a_guest_reaches_its_set_by_a_port_that_qemu_connects_by_path_and_nobody_else_does() {
    let daemon = Daemon::start(policy());
    let libvirt = Libvirt::start(&daemon, View::Host);
    let name = name("port");
    let socket = daemon.runtime_dir().join(format!("libvirt/qemu-{name}.sock"));
    let channel = format!(
        "<channel type='unix'><source mode='connect' path='{}'/><target type='virtio' name='org.ioasid.0'/></channel>",
        socket.display()
    );
    libvirt.create(&qemu(&name, &wanted(9), &channel)).unwrap();
    let listed = libvirt.virsh_ok(&["qemu-monitor-command", &name, r#"{"execute":"query-chardev"}"#]);
    let chardevs: Value = serde_json::from_str(&listed).unwrap();
    let chardev = chardevs["return"].as_array().unwrap().iter().find(|dev| dev["label"] == "charchannel0").unwrap();
    // The address of a connection that stands: the keeper did not hang up on QEMU.
    let filename = chardev["filename"].as_str().unwrap();
    assert!(!filename.starts_with("disconnected"), "{filename}");
    // This process is not in the domain's cgroup.
    let stranger = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    assert_eq!(std::io::Read::read(&mut &stranger, &mut [0; 8]).unwrap(), 0);
    // Nor is who calls a cgroup of his own what libvirt calls the domain's.
    let own = Cgroups::new();
    let id = libvirt.virsh_ok(&["domid", &name]);
    let lookalike = format!(r"delegated/machine-qemu\x2d{}\x2d{name}.scope", id.trim());
    own.make(&lookalike);
    own.delegate("delegated", 65534);
    let pretender = Actor::of_user(&own, &lookalike, 65534);
    let (_, mut fds) = pretender.order(&Order::ConnectStream(socket.clone()), &[]);
    let stream = std::os::unix::net::UnixStream::from(fds.remove(0));
    assert_eq!(std::io::Read::read(&mut &stream, &mut [0; 8]).unwrap(), 0);
    drop((pretender, own));

    // A process in the domain's cgroup speaks as its guest does.
    let set = only(&daemon);
    let script = r#"
import json, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f = s.makefile("rw")
for line in ('{"alloc": {"count": 3}}', '{"alloc": {"count": 7}}', '{"info": {}}', 'junk'):
    f.write(line + "\n"); f.flush(); sys.stdout.write(f.readline())
"#;
    let root = Cgroups::new();
    let procs = root.directory("").parent().unwrap().join(set.cgroup.relative()).join("emulator/cgroup.procs");
    let procs = if procs.exists() { procs } else { procs.with_file_name("../cgroup.procs") };
    let output = std::process::Command::new("sh")
        .args(["-c", r#"echo $$ > "$0" && exec /usr/bin/python3 -c "$1" "$2""#])
        .arg(procs)
        .args([script, socket.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 4, "{said} {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(answers[0]["pasids"].as_array().unwrap().len(), 3);
    assert_eq!((&answers[1]["error"], &answers[1]["leased"]), (&json!("QuotaExceeded"), &json!(3)));
    assert_eq!((&answers[2]["leased"], &answers[2]["set"]), (&json!(3), &json!(set.set.0)));
    assert_eq!(answers[3]["error"], "InvalidArgument");
    assert_eq!(daemon.current(&set.cgroup), 3);
    libvirt.destroy(&name);
    gone(&daemon);
    drop(libvirt);
    daemon.finish();
}

/// Leaves a descriptor to the next program under a number of its own.
fn inheritable(fd: &OwnedFd) -> OwnedFd {
    // Duplicated without close-on-exec.
    nix::unistd::dup(fd).unwrap()
}

#[test]
fn a_set_fd_is_handed_to_a_running_qemu_by_its_monitor_and_lives_with_it() {
    let daemon = Daemon::start(policy());
    let libvirt = Libvirt::start(&daemon, View::Host);
    let name = name("getfd");
    libvirt.create(&qemu(&name, "", "")).unwrap();
    let (set, _) = daemon.connect().create_set_of(5).unwrap();
    set.session().unwrap().alloc_many(2, None).unwrap();
    let fd = inheritable(&std::os::fd::AsFd::as_fd(&set).try_clone_to_owned().unwrap());
    let number = fd.as_raw_fd().to_string();
    let getfd = r#"{"execute":"getfd","arguments":{"fdname":"ioasid"}}"#;
    let said = libvirt.virsh_ok(&["qemu-monitor-command", &name, getfd, "--pass-fds", &number]);
    assert!(said.contains("return"), "{said}");
    drop((set, fd));
    assert_eq!(only(&daemon).leased, 2, "QEMU holds it");
    libvirt.destroy(&name);
    gone(&daemon);
    drop(libvirt);
    daemon.finish();
}

#[test]
fn a_container_of_libvirts_inherits_a_set_fd_and_allocates_through_it() {
    let daemon = Daemon::start(policy());
    let libvirt = Libvirt::start(&daemon, View::Lxc);
    let name = name("lxc");
    let (set, info) = daemon.connect().create_set_of(5).unwrap();
    let fd = inheritable(&std::os::fd::AsFd::as_fd(&set).try_clone_to_owned().unwrap());
    let out = libvirt.directory().join("out-of-container");
    std::fs::create_dir(&out).unwrap();
    let ctl = common::daemon::IOASIDCTL;
    let xml = format!(
        r#"<domain type='lxc'>
  <name>{name}</name>
  <metadata>{metadata}</metadata>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type>exe</type><init>/bin/sh</init><initarg>-c</initarg>
    <initarg>{ctl} alloc --fd 3 -n 2 > {out}/ids 2> {out}/said; exec sleep 1000</initarg></os>
  <devices>
    <emulator>/usr/lib/libvirt/libvirt_lxc</emulator>
    <filesystem type='mount'><source dir='/'/><target dir='/'/></filesystem>
    <console type='pty'/>
  </devices>
</domain>"#,
        metadata = wanted(7),
        out = out.display(),
    );
    let file = libvirt.directory().join("lxc.xml");
    std::fs::write(&file, xml).unwrap();
    libvirt.virsh_ok(&["create", file.to_str().unwrap(), "--pass-fds", &fd.as_raw_fd().to_string()]);
    let ids = eventually("the container allocates", || {
        let said = std::fs::read_to_string(out.join("said")).unwrap_or_default();
        assert_eq!(said, "");
        std::fs::read_to_string(out.join("ids")).ok().filter(|text| text.lines().count() == 2)
    });
    let first: u32 = ids.lines().next().unwrap().parse().unwrap();
    assert!(first >= 1024);
    // The hook made one too, charged to the container's own cgroup.
    let hooked: Vec<SetInfo> = daemon.sets().into_iter().filter(|other| other.set != info.set).collect();
    assert_eq!((hooked.len(), hooked[0].quota), (1, 7));
    assert!(hooked[0].cgroup.as_str().contains("lxc-"), "{}", hooked[0].cgroup);
    drop((set, fd));
    assert_eq!(daemon.sets().len(), 2, "the container holds it");
    libvirt.destroy(&name);
    gone(&daemon);
    drop(libvirt);
    daemon.finish();
}
