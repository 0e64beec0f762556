//! The Debian packages, in a booted Debian 13 (trixie): installed, started, upgraded under a set that lives, stopped,
//! removed, purged.
//!
//! The system is unpacked from a cached tree (made with mmdebstrap where there is none) and booted by systemd-nspawn in a
//! cgroup v2 view of its own.
#![allow(clippy::unwrap_used)]

mod common;

use common::daemon::scratch_directory;
use common::shown::{self, Shown};
use common::{Cgroups, Terminal, eventually, eventually_equal};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SOURCE: &str = env!("CARGO_MANIFEST_DIR");
const ENOTCONN: i32 = 107;
const CACHE: &str = "/var/cache/ioasidd-test";

fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    said(&format!("{command:?}"), &output)
}

fn said(what: &str, output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{what}: {}\n{out}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    out
}

/// The packages, built once.
fn packages() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let dist = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dist");
        let _ = fs::remove_dir_all(&dist);
        succeed(
            Command::new("packaging/build")
                .current_dir(SOURCE)
                .env("DIST", &dist)
                .env("PROFILE", "dev")
                .env("RPM", if Path::new("/usr/bin/rpmbuild").exists() { "yes" } else { "no" }),
        );
        dist
    })
}

fn package(name: &str, ending: &str) -> PathBuf {
    let named = |path: &PathBuf| {
        let file = path.file_name().unwrap().to_str().unwrap();
        file.starts_with(name) && file.ends_with(ending)
    };
    fs::read_dir(packages()).unwrap().map(|entry| entry.unwrap().path()).find(named).unwrap()
}

/// A Debian 13 as a tar file, made once.
fn trixie() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let tar = Path::new(CACHE).join("trixie-libvirt.tar");
        if !tar.exists() {
            fs::create_dir_all(CACHE).unwrap();
            let unfinished = tar.with_extension("unfinished.tar");
            succeed(
                Command::new("mmdebstrap")
                    .arg("--variant=minbase")
                    .arg("--include=systemd,systemd-sysv,dbus,python3,bubblewrap,polkitd,systemd-container")
                    .arg("--include=libvirt-daemon-system,libvirt-daemon-driver-qemu,libvirt-clients,qemu-system-x86")
                    .arg("trixie")
                    .arg(&unfinished),
            );
            fs::rename(&unfinished, &tar).unwrap();
        }
        tar
    })
}

/// A booted system.
struct Machine {
    nspawn: Child,
    leader: u32,
    directory: TempDir,
    cgroups: Cgroups,
    lent: Option<Lent>,
}

/// A controller that the host's root cgroup lends to those below, until this is dropped.
struct Lent {
    file: PathBuf,
    controller: String,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let _ = fs::write(&self.file, format!("-{}", self.controller));
    }
}

impl Machine {
    fn boot() -> Self {
        Self::boot_with(|_| {}, &[])
    }

    /// Boots one in which the sandbox of a unit is enforced whole: `DeviceAllow=` and `IPAddressDeny=` are BPF.
    fn boot_enforcing() -> Self {
        Self::boot_with(|_| {}, &["--capability=CAP_BPF,CAP_PERFMON,CAP_NET_ADMIN", "--system-call-filter=bpf"])
    }

    /// Boots one whose tree was changed before.
    fn boot_with(prepare: impl FnOnce(&Path), more: &[&str]) -> Self {
        let directory = scratch_directory();
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        succeed(Command::new("tar").arg("-xf").arg(trixie()).arg("-C").arg(&root));
        prepare(&root);
        let cgroups = Cgroups::new();
        cgroups.make("machine");
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let script = "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup &&
            echo $$ > /sys/fs/cgroup$0/cgroup.procs && exec \"$@\"";
        let nspawn = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(cgroups.path("machine").to_string())
            .args(["systemd-nspawn", "--boot", "--register=no", "--keep-unit", "--private-network", "--console=pipe"])
            .arg("--bind=/dev/fuse")
            .args(more)
            .arg(format!("--machine=ioasid-test-{}", std::process::id()))
            .arg("--directory")
            .arg(&root)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut machine = Self { nspawn, leader: 0, directory, cgroups, lent: None };
        machine.leader = eventually("the machine has a first process", || machine.first_process());
        eventually("the machine is up", || {
            let state = machine.try_run("systemctl is-system-running");
            (String::from_utf8_lossy(&state.stdout).trim() == "running").then_some(())
        });
        machine
    }

    fn first_process(&mut self) -> Option<u32> {
        if let Some(status) = self.nspawn.try_wait().unwrap() {
            panic!("nspawn ended with {status}:\n{}", self.log());
        }
        let pid = self.nspawn.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let leader: u32 = children.split_whitespace().next()?.parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{leader}/comm")).ok()?;
        (name.trim() == "systemd").then_some(leader)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn file(&self, path: &str) -> PathBuf {
        self.directory.path().join("root").join(path.trim_start_matches('/'))
    }

    /// What runs a command in the machine.
    fn words(&self, command: &str) -> Vec<String> {
        let cgroup = self.cgroups.directory("machine/payload/init.scope");
        let (cgroup, leader) = (cgroup.to_str().unwrap(), self.leader.to_string());
        // nsenter leaves it in its cgroup, which the machine knows nothing of.
        let enter = ["sh", "-c", r#"echo $$ > "$0"/cgroup.procs && exec "$@""#, cgroup, "nsenter", "--target", &leader];
        let environment = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"];
        let clean =
            [&["--all", "env", "-i", "--chdir=/root"], &environment[..], &["TERM=screen", "sh", "-ec", command]];
        enter.iter().chain(clean.into_iter().flatten()).map(|word| (*word).to_owned()).collect()
    }

    fn try_run(&self, command: &str) -> Output {
        let words = self.words(command);
        Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command in the machine, which must succeed.
    fn run(&self, command: &str) -> String {
        let output = self.try_run(command);
        if !output.status.success() {
            let journal =
                self.try_run("journalctl --no-pager --unit 'ioasidd*' --unit 'holder*' --unit libvirtd | tail -n 60");
            eprintln!("{}", String::from_utf8_lossy(&journal.stdout));
        }
        said(command, &output)
    }

    fn json(&self, command: &str) -> Value {
        serde_json::from_str(&self.run(command)).unwrap()
    }

    fn service(&self, property: &str) -> String {
        self.run(&format!("systemctl show --value --property={property} ioasidd.service")).trim().to_owned()
    }

    /// Types commands that a document shows, in the home of root. What they show as output is what comes, soon.
    fn type_shown(&self, commands: &[Shown]) {
        for shown in commands {
            if shown.output.is_empty() {
                self.run(&shown.typed);
            } else {
                let wanted: String = shown.output.iter().map(|line| format!("{line}\n")).collect();
                eventually_equal(&shown.typed, &wanted, || self.run(&shown.typed));
            }
        }
    }

    /// Copies a package into the home of root.
    fn bring(&self, package: &Path) {
        fs::copy(package, self.file("/root").join(package.file_name().unwrap())).unwrap();
    }

    /// Puts a package there and installs it.
    fn install(&self, package: &Path) {
        let name = package.file_name().unwrap().to_str().unwrap();
        self.bring(package);
        self.run(&format!("dpkg --install /root/{name}"));
        fs::remove_file(self.file("/root").join(name)).unwrap();
    }

    /// Lets the machine have a controller of the host's: libvirt passes over a cgroup2 hierarchy that has none.
    fn give_controllers(&mut self) {
        let root = self.cgroups.mount_point().to_owned();
        let words = |file: &str| {
            let text = fs::read_to_string(root.join(file)).unwrap();
            text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let controller = words("cgroup.controllers").first().expect("a controller of cgroup2").clone();
        if !words("cgroup.subtree_control").contains(&controller) {
            self.lent = Some(Lent { file: root.join("cgroup.subtree_control"), controller: controller.clone() });
        }
        self.run("systemctl start machine.slice");
        let scratch = ["", "machine", "machine/payload", "machine/payload/machine.slice"];
        let below = scratch.map(|path| self.cgroups.directory(path));
        for directory in std::iter::once(root).chain(below) {
            fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
        }
    }

    fn power_off(mut self) {
        self.run("systemctl poweroff");
        // What does not end is killed after 90 seconds; a machine has no promise to be quicker.
        let deadline = Instant::now() + Duration::from_secs(110);
        let mut slow = None;
        let status = loop {
            if let Some(status) = self.nspawn.try_wait().unwrap() {
                break status;
            }
            if slow.is_none() && Instant::now() + Duration::from_secs(90) > deadline {
                slow = Some(self.try_run("systemctl list-jobs; journalctl --no-pager -n 40"));
            }
            assert!(Instant::now() < deadline, "the machine is not off: {slow:?}");
            std::thread::sleep(Duration::from_millis(10));
        };
        if let Some(slow) = slow {
            println!("slow to power off:\n{}", String::from_utf8_lossy(&slow.stdout));
        }
        assert!(status.success(), "nspawn ended with {status}:\n{}", self.log());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log().lines().rev().take(20).collect::<Vec<_>>().join("\n"));
        }
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
    }
}

/// The same package with a later version.
fn upgrade_of(package: &Path, scratch: &Path) -> PathBuf {
    let tree = scratch.join("tree");
    succeed(Command::new("dpkg-deb").arg("-R").arg(package).arg(&tree));
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    let version = text.lines().find_map(|line| line.strip_prefix("Version: ")).unwrap();
    fs::write(&control, text.replace(&format!("Version: {version}"), &format!("Version: {version}+upgrade"))).unwrap();
    let later = scratch.join("later.deb");
    succeed(Command::new("dpkg-deb").args(["-Zgzip", "-z1", "--root-owner-group", "--build"]).arg(&tree).arg(&later));
    later
}

/// What a machine has of ours, outside of its package data base and journal.
fn traces(machine: &Machine) -> Vec<String> {
    let found = machine.run(
        "find / -xdev \\( -path /proc -o -path /sys -o -path /var/log -o -path /var/lib/dpkg \\) -prune \
         -o -name '*ioasid*' -print; find /run -name '*ioasid*'",
    );
    found.lines().map(str::to_owned).collect()
}

#[test]
fn it_installs_starts_keeps_sets_over_an_upgrade_and_a_stop_and_leaves_nothing_behind() {
    let scratch = scratch_directory();
    let deb = package("ioasidd_", ".deb");
    let machine = Machine::boot();
    let before = traces(&machine);

    machine.install(&package("libioasid1_", ".deb"));
    machine.install(&deb);
    assert_eq!(machine.service("ActiveState"), "active");
    assert_eq!(machine.run("systemctl is-enabled ioasidd.socket ioasidd.service"), "enabled\nenabled\n");
    let status = machine.json("ioasidctl --json status");
    assert_eq!(status["domains"][0]["name"], "global", "{status}");
    machine.run("dpkg --verify ioasidd libioasid1 && ioasidd --check");
    machine.run("systemd-analyze --man=no verify ioasidd.service ioasidd-outside.socket");

    assert_eq!(machine.run("cat /run/ioasidd/cgroup/ioasids.current"), "0\n");

    // A service of root's that holds a set, and takes one more id whenever it is told.
    let holder = r#"ioasidctl alloc > /run/ids; while read -r _ < /run/more; do ioasidctl alloc >> /run/ids; done"#;
    machine.run(&format!(
        "mkfifo /run/more; systemd-run --quiet --unit=holder ioasidctl exec --label live -- sh -c '{holder}'"
    ));
    let ids = |count: usize| {
        eventually("the holder has its ids", || {
            let text = fs::read_to_string(format!("/proc/{}/root/run/ids", machine.leader)).ok()?;
            let ids: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
            (ids.len() == count).then_some(ids)
        })
    };
    ids(1);
    let set = machine.json("ioasidctl --json sets")[0].clone();
    assert_eq!((&set["label"], &set["cgroup"]), (&"live".into(), &"/system.slice/holder.service".into()));
    let still_there = |count: usize| {
        machine.run("echo > /run/more");
        let mut ids = ids(count);
        ids.sort_unstable();
        let shown = machine.json(&format!("ioasidctl --json show {}", set["set"]));
        assert_eq!(shown["pasids"], serde_json::json!(ids), "{shown}");
        assert_eq!(shown["created_usec"], set["created_usec"]);
    };

    // The cgroup files stay over a restart, also for who has one open; a stop takes them down.
    let held = fs::File::open(format!("/proc/{}/root/run/ioasidd/cgroup/ioasids.current", machine.leader)).unwrap();
    let read = |file: &fs::File| file.read_at(&mut [0; 8], 0).map_err(|error| error.raw_os_error());
    machine.run("systemctl restart ioasidd.service");
    assert_eq!(read(&held), Ok(2));

    // One that asks without a pause: nothing of what it asks may ever fail.
    let load = "while :; do id=$(ioasidctl alloc); ioasidctl free $id; echo >> /run/rounds; done";
    machine.run(&format!("systemd-run --quiet --unit=load --property=Type=exec ioasidctl exec -- sh -ec '{load}'"));
    let rounds = || fs::read(format!("/proc/{}/root/run/rounds", machine.leader)).map_or(0, |text| text.len());
    let load_goes_on = || {
        let before = rounds();
        eventually("the load goes on", || (rounds() > before + 3).then_some(()));
        assert_eq!(machine.run("systemctl is-active load.service"), "active\n");
    };
    load_goes_on();
    let old = machine.service("MainPID");
    machine.install(&upgrade_of(&deb, scratch.path()));
    assert_ne!(machine.service("MainPID"), old, "an upgrade runs the new program");
    load_goes_on();
    machine.run("systemctl stop load.service && rm /run/rounds");
    still_there(2);

    machine.run("systemctl stop ioasidd.socket ioasidd.service");
    assert_eq!(machine.service("ActiveState"), "inactive");
    assert_eq!(machine.run("grep -c ioasidd /proc/self/mountinfo || true"), "0\n");
    assert_eq!(read(&held), Err(Some(ENOTCONN)), "it does not wait for a service that may never come");
    drop(held);
    machine.run("systemctl start ioasidd.service");
    assert_eq!(machine.run("cat /run/ioasidd/cgroup/ioasids.current"), "2\n");
    still_there(3);

    machine.run("kill -9 $(systemctl show --value --property=MainPID ioasidd.service)");
    still_there(4);

    machine.run("echo 'version = 2' > /etc/ioasidd/policy.d/bad.toml");
    assert!(!machine.try_run("ioasidctl policy reload").status.success());
    machine
        .run("rm /etc/ioasidd/policy.d/bad.toml && systemctl reload ioasidd.service && systemctl stop holder.service");
    eventually("the set ends with its holder", || {
        (machine.json("ioasidctl --json sets") == Value::Array(Vec::new())).then_some(())
    });

    assert_eq!(machine.service("NRestarts"), "1", "it was killed once and did not end by itself");

    // A stop keeps the sets; with the manager's store they end.
    machine.run("systemd-run --quiet --unit=second ioasidctl exec --label second -- sleep infinity");
    eventually("a second set", || (machine.json("ioasidctl --json sets")[0]["label"] == "second").then_some(()));
    machine.run("systemctl stop ioasidd.socket ioasidd.service && systemctl start ioasidd.service");
    assert_eq!(machine.json("ioasidctl --json sets")[0]["label"], "second");
    machine.run("systemctl stop ioasidd.socket ioasidd.service && systemctl clean --what=fdstore ioasidd.service");
    machine.run("systemctl start ioasidd.service");
    assert_eq!(machine.json("ioasidctl --json sets"), Value::Array(Vec::new()));
    machine.run("systemctl stop second.service");

    machine.run("rm /run/ids /run/more && dpkg --remove ioasidd");
    assert!(!machine.try_run("systemctl is-active ioasidd.service ioasidd.socket").status.success());
    assert!(machine.file("/etc/ioasidd/policy.toml").exists(), "configuration stays until the purge");
    machine.run("dpkg --purge ioasidd libioasid1");
    assert_eq!(traces(&machine), before);
    assert_eq!(machine.run("systemctl --failed --quiet"), "");
    machine.power_off();
}

/// What the README tells a newcomer to do, word by word; at its end what ioasidd(8) says of ending all sets.
#[test]
fn a_newcomer_gets_through_what_the_readme_shows() {
    let machine = Machine::boot();
    machine.bring(&package("ioasidd_", ".deb"));
    let block = shown::readme_block("apt install");
    let (look, typed) = block.commands.split_last().unwrap();
    machine.type_shown(typed);

    assert_eq!(look.typed, "ioasidctl top");
    let words = machine.words(&look.typed);
    let terminal = Terminal::start("newcomer", 100, &words.iter().map(String::as_str).collect::<Vec<_>>());
    let screen = terminal
        .shows("the full box", |s| s.lines().any(|line| line.starts_with("/box.slice ") && line.contains("100%")));
    assert!(screen.contains("8 of 1047552"), "{screen}");
    terminal.type_keys(&["Tab"]);
    terminal.shows("its set", |s| s.lines().any(|line| line.contains(" box ") && line.contains("active")));
    terminal.type_keys(&["q"]);
    eventually("top ends", || terminal.is_over().then_some(()));

    let blocks = shown::blocks("packaging/man/ioasidd.8");
    let end = blocks.iter().find(|block| block.commands[0].typed.starts_with("systemctl stop")).unwrap();
    machine.type_shown(&end.commands);
    machine.run("systemctl start ioasidd.socket");
    assert_eq!(machine.json("ioasidctl --json sets"), Value::Array(Vec::new()));
    machine.run("systemctl stop box.service && dpkg --purge ioasidd");
    machine.power_off();
}

/// The unit of ioasid-set(7), which has the socket by `OpenFile=` and sees no path to it.
#[test]
fn a_unit_takes_a_set_over_a_connection_that_its_manager_opened() {
    let machine = Machine::boot();
    machine.install(&package("ioasidd_", ".deb"));
    let displays = shown::displays("packaging/man/ioasid-set.7");
    let unit = displays.iter().find(|display| display.starts_with("[Service]")).unwrap();
    assert!(unit.contains("User=daemon") && unit.contains("InaccessiblePaths=/run/ioasidd"), "{unit}");
    fs::write(machine.file("/etc/systemd/system/worker.service"), unit).unwrap();
    let worker = "#!/bin/sh\nid -nu; ioasidctl status 2> /dev/null || echo $?; ioasidctl alloc -n 2; exec sleep 600\n";
    fs::write(machine.file("/usr/local/bin/worker"), worker).unwrap();
    machine.run("chmod 755 /usr/local/bin/worker && systemctl daemon-reload && systemctl start worker");
    let said = "journalctl --unit worker --output cat";
    eventually_equal("what it says", &"daemon\n3\n1024\n1025\n".to_owned(), || {
        let said = machine.run(said);
        said.lines().filter(|line| !line.contains("worker.service")).map(|line| format!("{line}\n")).collect()
    });
    let set = machine.json("ioasidctl --json sets")[0].clone();
    assert_eq!((&set["cgroup"], &set["leased"]), (&"/system.slice/worker.service".into(), &2.into()));
    // What its manager was when it opened the socket, the unit is not: no administrator.
    let as_daemon = "systemd-run --quiet --wait --pipe --property=OpenFile=/run/ioasidd/ioasid.sock --uid=daemon";
    let refused = machine.try_run(&format!("{as_daemon} ioasidctl --json policy reload"));
    let refusal: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!((refused.status.code(), &refusal["error"]), (Some(1), &"NotPermitted".into()));
    machine.run("systemctl stop worker && dpkg --purge ioasidd");
    machine.power_off();
}

/// What the unit's sandbox keeps the service from, and that nobody misses it.
#[test]
fn the_service_works_in_a_strict_sandbox_and_its_files_are_there_for_everybody() {
    let machine = Machine::boot_enforcing();
    let policy = "version = 1\n[metrics]\nport = 9464\n";
    fs::create_dir_all(machine.file("/etc/ioasidd/policy.d")).unwrap();
    fs::write(machine.file("/etc/ioasidd/policy.d/50-port.toml"), policy).unwrap();
    machine.install(&package("ioasidd_", ".deb"));

    let exposure = |unit: &str| {
        let said = machine.run(&format!("systemd-analyze security --no-pager {unit}"));
        let level = said.lines().find_map(|line| line.split_once("Overall exposure level for ")?.1.split_once(": "));
        level.and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap()
    };
    assert!(exposure("ioasidd.service") < 2.0, "{}", exposure("ioasidd.service"));
    assert!(exposure("ioasidd-outside.service") < 4.0, "{}", exposure("ioasidd-outside.service"));
    let capabilities = || machine.run(&format!("grep -E 'Cap(Eff|Bnd)' /proc/{}/status", machine.service("MainPID")));
    // CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE.
    assert_eq!(capabilities(), "CapEff:\t0000000000080004\nCapBnd:\t0000000000080004\n");
    let namespace = |pid: &str| machine.run(&format!("readlink /proc/{pid}/ns/mnt"));
    assert_ne!(namespace(&machine.service("MainPID")), namespace("1"));

    // Outside of that namespace, for a user without rights: the files and the metrics.
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let mounts = || machine.run("grep ' /run/ioasidd/cgroup ' /proc/1/mountinfo");
    let scrape = r#"python3 -c "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9464/metrics').read())""#;
    let works = || {
        assert_eq!(machine.run(&format!("{nobody} cat /run/ioasidd/cgroup/ioasids.current")), "0\n");
        assert!(machine.run(&format!("{nobody} {scrape}")).contains("ioasid"));
        machine.run("systemd-run --quiet --wait --pipe ioasidctl exec -- ioasidctl alloc");
    };
    works();
    // Not by chance: the machine enforces what units say.
    let send = r#"python3 -c "import socket as s; s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))""#;
    for (property, command) in [("IPAddressDeny=any", send), ("DevicePolicy=closed", "head -c0 /dev/fuse")] {
        machine.run(command);
        let unit = format!("systemd-run --quiet --wait --pipe --collect --property={property} {command}");
        assert!(!machine.try_run(&unit).status.success(), "{property} is not enforced");
    }
    machine.run("ioasidctl set-max --persist /system.slice 700 && ioasidctl policy reload");
    assert_eq!(machine.run("stat --format=%a /etc/ioasidd/policy.d/90-set-max.toml"), "644\n");
    let mounted = mounts();
    machine.run("systemctl restart ioasidd.service");
    assert_eq!(mounts(), mounted, "a restart leaves the mount");
    works();
    let killed = machine.service("MainPID");
    machine.run(&format!("kill -9 {killed}"));
    eventually("it is started again", || {
        (machine.service("MainPID") != killed && machine.service("ActiveState") == "active").then_some(())
    });
    assert_eq!(mounts(), mounted, "so does a death");
    works();

    // Who stops all of it at once leaves nobody to ask.
    for units in ["ioasidd.socket ioasidd.service", "'ioasidd*'"] {
        machine.run(&format!("systemctl stop {units}"));
        eventually("nothing is mounted", || {
            (machine.run("cat /proc/1/mountinfo").find("ioasidd").is_none()).then_some(())
        });
        eventually("nobody serves outside", || {
            let active = machine.try_run("systemctl is-active ioasidd-outside.socket ioasidd-outside.service");
            (String::from_utf8_lossy(&active.stdout) == "inactive\ninactive\n").then_some(())
        });
        machine.run("systemctl start ioasidd.socket ioasidd.service");
        works();
    }
    let journal = machine.run("journalctl --no-pager --unit 'ioasidd*' --priority warning --output cat");
    let death = ["Main process exited, code=killed, status=9/KILL", "Failed with result 'signal'."];
    assert_eq!(journal, death.map(|line| format!("ioasidd.service: {line}\n")).concat());
    assert_eq!(machine.run("systemctl --failed --quiet"), "");
    machine.power_off();
}

/// Asks at the socket outside, from the cgroup that this runs in, and prints each answer; `-` where there is none.
const ASK: &str = r#"
import array, os, socket, sys
for request in eval(sys.argv[1]):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(30)
    s.connect("/run/ioasidd/outside.sock")
    fds = []
    if isinstance(request, tuple):
        request, fds = request[0], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * request[1]))]
    try:
        s.sendmsg([request], fds)
        answer, came, _, _ = s.recvmsg(64, 1024)
    except (ConnectionResetError, BrokenPipeError):
        answer, came = b"", []
    fds = array.array("i", b"".join(data for _, kind, data in came if kind == socket.SCM_RIGHTS))
    listens = [socket.socket(fileno=fd).getsockname()[0] for fd in fds if request.startswith(b"listen")]
    reads = [len(os.read(fd, 4096)) > 64 for fd in fds if request.startswith(b"config")]
    print(answer.decode() or "-", *listens, *reads)
"#;

#[test]
fn the_process_outside_serves_the_service_alone_and_takes_nothing_but_its_requests() {
    let machine = Machine::boot_enforcing();
    machine.install(&package("ioasidd_", ".deb"));
    fs::write(machine.file("/root/ask.py"), ASK).unwrap();
    let mounts = || machine.run("grep ioasidd /proc/1/mountinfo");
    let mounted = mounts();
    let all = r#"[b'mount', b'unmount', b'listen 1234', b'iommufd', b'config 0000:00:00.0']"#;
    // Root, in whatever unit but the one; and a user cannot even connect.
    let stranger = machine.run(&format!("systemd-run --quiet --wait --pipe python3 /root/ask.py \"{all}\""));
    assert_eq!(stranger, "-\n-\n-\n-\n-\n");
    let user = machine
        .try_run("cp /root/ask.py /tmp && setpriv --reuid=65534 --clear-groups python3 /tmp/ask.py \"[b'mount']\"");
    assert!(String::from_utf8_lossy(&user.stderr).contains("PermissionError"), "{user:?}");

    let as_service = |requests: &str| {
        let enter = "echo $$ > /sys/fs/cgroup/system.slice/ioasidd.service/cgroup.procs";
        machine.run(&format!("{enter} && python3 /root/ask.py \"{requests}\""))
    };
    let hostile = r#"[b'mount /etc', b'\0', b'unmount\n', b'listen 0', b'config ../../../../etc/shadow', b'm' * 33,
        b'x' * 100000, (b'unmount', 1), (b'mount', 253), b'\xff' * 32]"#;
    assert_eq!(as_service(hostile), "-\n".repeat(10));
    assert_eq!(mounts(), mounted, "nothing was done");
    // ENOENT; and one that is served.
    assert_eq!(as_service("[b'config ffff:ff:1f.7', b'listen 1234']"), "2\n0 127.0.0.1\n");
    for function in machine.run("ls /sys/bus/pci/devices").lines().take(1) {
        let whole = as_service(&format!("[b'config {function}']"));
        assert_eq!(whole, "0 True\n", "past the 64 bytes that anybody may read");
    }
    let journal = machine.run("journalctl --no-pager --unit ioasidd-outside --output cat");
    assert!(
        journal.contains("is not root in /system.slice/ioasidd.service") && journal.contains("what came is no request"),
        "{journal}"
    );
    // Where it may not be started, the service does what it can without it.
    machine.run("systemctl stop ioasidd.service ioasidd.socket");
    machine.run("systemctl mask ioasidd-outside.service ioasidd-outside.socket && systemctl start ioasidd.service");
    assert_eq!(machine.service("ActiveState"), "active");
    machine.run("ioasidctl status");
    let journal = machine.run("journalctl --no-pager --unit ioasidd --output cat");
    assert!(journal.contains("no cgroup files"), "{journal}");
    machine.power_off();
}

/// What the host's older bus and polkit cannot show: dbus-daemon 1.16 gives processes as descriptors, polkit 126 takes them.
#[test]
fn a_bus_that_gives_processes_serves_every_user_and_polkit_is_asked_about_the_process() {
    let machine = Machine::boot();
    machine.install(&package("ioasidd_", ".deb"));
    let policy = r#"version = 1
[[rule]]
name = "asked"
cgroup = "/system.slice/**"
users = ["games"]
action = "polkit"
quota = { default = 8 }
[[rule]]
name = "open"
cgroup = "/system.slice/**"
users = ["daemon"]
action = "allow"
quota = { default = 8 }
"#;
    fs::write(machine.file("/etc/ioasidd/policy.d/10-users.toml"), policy).unwrap();
    let rules = r#"polkit.addRule(function(action, subject) {
    if (action.id == "org.ioasid1.create-set" && subject.user == "games" && action.lookup("label") == "small" &&
        action.lookup("cgroup").indexOf("/system.slice/small-") == 0) {
        return polkit.Result.YES;
    }
    return polkit.Result.NOT_HANDLED;
});
"#;
    fs::write(machine.file("/etc/polkit-1/rules.d/10-small.rules"), rules).unwrap();
    machine.run("ioasidctl policy reload");

    let ask = "busctl call org.freedesktop.DBus / org.freedesktop.DBus GetConnectionCredentials s org.ioasid1";
    assert!(machine.run(ask).contains("\"ProcessFD\""));
    let authority =
        "org.freedesktop.PolicyKit1 /org/freedesktop/PolicyKit1/Authority org.freedesktop.PolicyKit1.Authority";
    assert_eq!(machine.run(&format!("busctl get-property {authority} BackendVersion")), "s \"126\"\n");

    let as_user = |user: &str, label: &str, way: &str, command: &str| {
        let unit = format!("--unit={label}-{user}-{way} --uid={user}");
        machine.try_run(&format!("systemd-run --quiet --pipe --wait --collect {unit} {command}"))
    };
    let over_bus = |user: &str, label: &str| {
        let create = "org.ioasid1 /org/ioasid1 org.ioasid1.Manager CreateSet 'a{sv}' 1 label s";
        as_user(user, label, "bus", &format!("busctl call {create} {label}"))
    };
    let over_socket = |user: &str, label: &str| {
        as_user(user, label, "socket", &format!("ioasidctl exec --label {label} -- ioasidctl alloc"))
    };
    for made in [over_bus("daemon", "open"), over_bus("games", "small")] {
        assert!(said("a set over the bus", &made).starts_with("ho "));
    }
    said("a set over the socket", &over_socket("games", "small"));
    for refused in [over_bus("games", "big"), over_socket("games", "big"), over_bus("backup", "open")] {
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && (why.contains("org.ioasid1.create-set") || why.contains("no rule")),
            "{why}"
        );
    }
    let events = machine.run("ioasidctl events");
    for (label, uid, unit) in
        [("open", 1, "open-daemon-bus"), ("small", 5, "small-games-bus"), ("small", 5, "small-games-socket")]
    {
        let made = format!("({label}) made by uid {uid}, charged to /system.slice/{unit}.service");
        assert!(events.contains(&made), "{made} is not in\n{events}");
    }
    machine.power_off();
}

/// libvirt 11 with systemd-machined: the domain's cgroup is a scope, its name escaped.
#[test]
fn a_domain_of_libvirt_11_has_its_set_in_its_scope_over_a_restart_of_libvirtd() {
    let mut machine = Machine::boot();
    machine.give_controllers();
    machine.install(&package("ioasidd_", ".deb"));
    // The policy is as shipped.
    let hooks = machine.file("/etc/libvirt/hooks/qemu.d");
    fs::create_dir_all(&hooks).unwrap();
    fs::copy(format!("{SOURCE}/packaging/libvirt/ioasid"), hooks.join("ioasid")).unwrap();
    machine.run("chmod 755 /etc/libvirt/hooks/qemu.d/ioasid && systemctl restart libvirtd");

    let domain = |quota: u32| {
        let xml = format!(
            r#"<domain type='qemu'>
  <name>web-1.a</name>
  <metadata><ioasid:set xmlns:ioasid="https://ioasid.org/xmlns/libvirt/domain/1" quota="{quota}"/></metadata>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <on_poweroff>destroy</on_poweroff>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <channel type='unix'>
      <source mode='connect' path='/run/ioasidd/libvirt/qemu-web-1.a.sock'/><target type='virtio' name='org.ioasid.0'/>
    </channel>
  </devices>
</domain>"#
        );
        fs::write(machine.file("/root/domain.xml"), xml).unwrap();
        machine.try_run("virsh --connect qemu:///system create /root/domain.xml")
    };
    let refused = domain(1025);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("services of root") && why.contains("1024"), "{why}");
    said("a domain", &domain(9));
    let sets = || machine.json("ioasidctl --json sets");
    let made = sets();
    let id = machine.run("virsh --connect qemu:///system domid web-1.a");
    let scope = format!(r"/machine.slice/machine-qemu\x2d{}\x2dweb\x2d1.a.scope", id.trim());
    let shown = (&made[0]["label"], &made[0]["cgroup"], &made[0]["quota"]);
    assert_eq!(shown, (&"web-1.a".into(), &scope.into(), &9.into()));
    // QEMU was let in by the keeper, from a cgroup below the scope.
    let chardevs = machine.run("virsh --connect qemu:///system qemu-monitor-command web-1.a --hmp 'info chardev'");
    let port = chardevs.lines().find(|line| line.starts_with("charchannel0")).unwrap();
    assert!(port.contains("qemu-web-1.a.sock") && !port.contains("disconnected"), "{port}");

    machine.run("systemctl restart libvirtd");
    eventually("libvirtd knows its domain", || {
        let state = machine.try_run("virsh --connect qemu:///system domstate web-1.a");
        (String::from_utf8_lossy(&state.stdout).trim() == "running").then_some(())
    });
    assert_eq!(sets(), made);
    let journal = machine.run("journalctl --no-pager --unit libvirtd");
    assert!(!journal.contains("left-over"), "{journal}");
    let destroyed = machine.try_run("virsh --connect qemu:///system destroy web-1.a");
    // So it says where it noticed the end of QEMU before that of its own call.
    let noticed = String::from_utf8_lossy(&destroyed.stderr).contains("Domain not found");
    assert!(destroyed.status.success() || noticed, "{destroyed:?}");
    eventually("the set ends with its domain", || (sets() == Value::Array(Vec::new())).then_some(()));
    assert_eq!(machine.run("ls /run/ioasidd/libvirt; systemctl --quiet list-units 'ioasid-keeper*'"), "");
    machine.power_off();
}

#[test]
fn lintian_finds_no_error() {
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error", "--tag-display-limit", "0"]);
    for name in ["ioasidd_", "libioasid1_", "libioasid-dev_"] {
        lintian.arg(package(name, ".deb"));
    }
    succeed(&mut lintian);
}

/// The files in packages, directories left out.
fn files_of(command: &mut Command) -> Vec<String> {
    let listed = succeed(command);
    // `dpkg-deb` has mode, owner, size, date and time before it, and after it where a link leads.
    let paths = listed.lines().filter_map(|line| line.split(" -> ").next()?.split_whitespace().last());
    let paths = paths.map(|path| path.trim_start_matches('.').to_owned()).filter(|path| !path.ends_with('/'));
    paths.collect()
}

#[test]
fn the_rpms_have_what_the_debian_packages_have() {
    for (deb, rpm) in [("ioasidd_", "ioasidd-"), ("libioasid1_", "libioasid-0"), ("libioasid-dev_", "libioasid-devel-")]
    {
        let rpm = files_of(Command::new("rpm").arg("-qpl").arg(package(rpm, ".rpm")));
        // What stands at another place outside Debian, or is Debian's own.
        let elsewhere = ["/usr/share/doc/", "/usr/share/zsh/", "/etc/apparmor.d/"];
        for path in files_of(Command::new("dpkg-deb").arg("--contents").arg(package(deb, ".deb"))) {
            let library = path.strip_prefix("/usr/lib/").and_then(|below| below.split_once("-linux-gnu/"));
            let wanted = library.map_or_else(|| path.clone(), |(_, name)| format!("/usr/lib64/{name}"));
            let there = rpm.contains(&wanted) || elsewhere.iter().any(|directory| path.starts_with(directory));
            assert!(there, "{wanted} is not in {rpm:#?}");
        }
    }
    let listed =
        |arguments: &[&str], name: &str| succeed(Command::new("rpm").args(arguments).arg(package(name, ".rpm")));
    assert!(listed(&["-qpc"], "ioasidd-").contains("/etc/ioasidd/policy.toml"));
    assert!(listed(&["-qp", "--provides"], "libioasid-0").contains("libioasid.so.1()(64bit)"));
}

/// The RPMs, installed for real: into the tree of a system that is then booted. (There is no RPM distribution at hand; what
/// the packages' scripts do with systemd is the same on all.)
#[test]
fn the_rpms_install_and_their_service_serves() {
    let rpm = |root: &Path| {
        let mut rpm = Command::new("rpm");
        rpm.args(["--force-debian", "--dbpath", "/var/lib/rpm", "--root"]).arg(root);
        rpm
    };
    let machine = Machine::boot_with(
        |root| {
            let packages = ["ioasidd-", "libioasid-0", "libioasid-devel-"].map(|name| package(name, ".rpm"));
            // What the packages need is there, but dpkg knows of it.
            succeed(rpm(root).args(["--nodeps", "--install"]).args(packages));
        },
        &[],
    );
    assert_eq!(machine.service("ActiveState"), "active", "what is installed first is enabled by the preset");
    let status = machine.json("ioasidctl --json status");
    assert_eq!(status["policy"], serde_json::json!(["/etc/ioasidd/policy.toml"]));
    let unit = "systemd-run --quiet --wait --pipe";
    assert_eq!(machine.run(&format!("{unit} ioasidctl exec -- ioasidctl alloc")), "1024\n");
    assert!(machine.run("journalctl --list-catalog --no-pager").contains("ioasid"), "the catalog is in use");
    // As `rpm --erase` runs it in a running system.
    let script = succeed(rpm(&machine.file("/")).args(["--query", "--scripts", "ioasidd"]));
    let before = script.split("preuninstall scriptlet (using /bin/sh):\n").nth(1).unwrap();
    let before = before.split("postuninstall scriptlet").next().unwrap();
    machine.run(&format!("set -- 0\n{before}"));
    assert_eq!(machine.service("ActiveState"), "inactive");
    assert_eq!(machine.run("ls /run | grep ioasid || true"), "");
    succeed(rpm(&machine.file("/")).args(["--erase", "ioasidd", "libioasid", "libioasid-devel"]));
    let left = machine.run("find /usr /etc -name '*ioasid*'");
    assert_eq!(left, "");
    machine.power_off();
}

#[test]
fn the_apparmor_profile_parses() {
    succeed(Command::new("apparmor_parser").args(["-QTK", &format!("{SOURCE}/packaging/apparmor/usr.sbin.ioasidd")]));
}
