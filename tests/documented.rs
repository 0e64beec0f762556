//! Every command that the README and the manual pages show is typed here, in the order shown, against a service at its
//! default places; what they show as output is what comes. One that is not typed here is listed with the reason, and a
//! new one that is neither fails.
//!
//! Each block has mounts and processes of its own: a `/run` with a bus and the service, an `/etc` with a policy, and
//! a cgroup `/machine.slice` that has 64 ids.
#![allow(clippy::unwrap_used)]

mod common;

use common::daemon::{IOASIDCTL, IOASIDD, scratch_directory};
use common::eventually;
use common::shown::{self, Block, Shown};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Commands that are not typed here, and who runs them or why nobody does.
const ELSEWHERE: [(&str, &str, &str); 11] = [
    ("README.md", "apt install ./ioasidd_*.deb", NEWCOMER),
    ("README.md", "cat > /etc/ioasidd/policy.d/50-box.toml <<'END'", NEWCOMER),
    ("README.md", "ioasidctl policy reload", NEWCOMER),
    ("README.md", "systemd-run --quiet --unit box --slice box ioasidctl exec --label box -- \\", NEWCOMER),
    ("README.md", "journalctl --unit box --output cat --lines 2", NEWCOMER),
    ("README.md", "ioasidctl policy explain --user root --cgroup /box.slice/box.service", NEWCOMER),
    ("README.md", "ioasidctl top", NEWCOMER),
    ("packaging/man/ioasidd.8", "systemctl stop ioasidd.service ioasidd.socket", "tests/debian.rs, in a booted Debian"),
    (
        "packaging/man/ioasidd.8",
        "systemctl clean --what=fdstore ioasidd.service",
        "tests/debian.rs, in a booted Debian",
    ),
    ("packaging/man/libioasid.3", "cc example.c $(pkg-config --cflags --libs ioasid)", "tests/library.rs builds it so"),
    ("packaging/man/libioasid.3", "ioasidctl exec -- ./a.out", "tests/library.rs runs it so"),
];
const NEWCOMER: &str = "tests/debian.rs types the whole block in a booted Debian";

/// Commands that stay, and the socket that shows that they are ready.
const STAYING: [(&str, &str); 2] =
    [("ioasidd --user &", "/run/user/65534/ioasidd/ioasid.sock"), ("ioasidctl receive", "/run/guest/set")];

const POLICY: &str = r#"version = 1
[space]
reserved = ["0-1023"]
[[rule]]
name = "guests"
cgroup = "/**"
users = ["*"]
action = "allow"
quota = { default = 64, max = 64 }
"#;

/// Run as the first process of the place: $0 is a scratch directory, $1 the cgroup2 root, $2 the source, $3 and $4 our
/// programs, $5 the policy. It says so in /run/ready when all is there, and stays.
const PLACE: &str = r#"
mount -t tmpfs -o mode=755 tmpfs "$0"
mkdir "$0/etc" "$0/work" "$0/run" "$0/run/bin" "$0/run/dbus" "$0/run/guest" "$0/run/user"
mount -t overlay -o "lowerdir=/etc,upperdir=$0/etc,workdir=$0/work" overlay /etc
for program in "$3" "$4"; do
    touch "$0/run/bin/${program##*/}" && mount --bind "$program" "$0/run/bin/${program##*/}"
done
mount --rbind "$0/run" /run
mkdir -p /etc/ioasidd /etc/dbus-1/system.d
echo "$5" > /etc/ioasidd/policy.toml
cp "$2/dbus/org.ioasid1.conf" /etc/dbus-1/system.d/
install -d -o 65534 /run/user/65534
printf '#!/bin/sh\nexec ioasidctl identify\n' > /run/bin/worker
chmod 755 /run/bin/worker
export PATH="/run/bin:$PATH"
dbus-daemon --system --nofork --nopidfile 2> /run/log.bus &
until test -S /run/dbus/system_bus_socket; do sleep 0.02; done
ioasidd --device none 2> /run/log &
until test -S /run/ioasidd/ioasid.sock && ioasidctl status > /dev/null; do sleep 0.02; done
(
    sh -c 'echo $PPID' > "$1/machine.slice/cgroup.procs"
    exec ioasidctl exec --range 65536-131071 -- sh -c 'ioasidctl alloc -n 64 > /run/held; exec sleep infinity'
) &
until test "$(wc -l 2> /dev/null < /run/held)" = 64; do sleep 0.02; done
echo ready > /run/ready
wait
"#;

/// `/machine.slice`, made where the host has none.
struct MachineSlice {
    directory: PathBuf,
    made: bool,
}

impl MachineSlice {
    fn new() -> Self {
        let root = ioasid::sys::cgroup::Root::find(None).unwrap();
        let directory = root.mount_point().join("machine.slice");
        Self { made: fs::create_dir(&directory).is_ok(), directory }
    }

    fn root(&self) -> &Path {
        self.directory.parent().unwrap()
    }
}

impl Drop for MachineSlice {
    fn drop(&mut self) {
        if self.made {
            eventually("/machine.slice is empty", || fs::remove_dir(&self.directory).ok());
        }
    }
}

/// Where one block is typed. Its end takes all processes and mounts along.
struct Place {
    unshare: Child,
    first: u32,
    _directory: tempfile::TempDir,
}

impl Place {
    fn new(slice: &MachineSlice) -> Self {
        let directory = scratch_directory();
        let mut unshare = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
            .args(["sh", "-euc", PLACE])
            .arg(directory.path())
            .arg(slice.root())
            .arg(env!("CARGO_MANIFEST_DIR"))
            .args([IOASIDCTL, IOASIDD, POLICY])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let outer = unshare.id();
        let first = eventually("the place has a first process", || {
            assert!(unshare.try_wait().unwrap().is_none(), "the place could not be made");
            let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok()
        });
        let place = Self { unshare, first, _directory: directory };
        eventually("the place is ready", || fs::metadata(place.file("ready")).ok());
        place
    }

    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/run/{name}", self.first))
    }

    /// Types a block into a shell there, as root or as nobody, and gives what came after each command with its status.
    ///
    /// The shell reads its commands one by one from a pipe, so that a shell that one of them starts reads those after
    /// it, as at a terminal.
    fn type_block(&self, block: &Block) -> Vec<(String, i32)> {
        let user = if block.commands.iter().any(|shown| shown.as_root) { "0" } else { "65534" };
        let mut text = String::new();
        for (n, shown) in block.commands.iter().enumerate() {
            text.push_str(&format!("{}\necho \"@{n} $?@\"\n", shown.typed));
            if let Some(socket) = staying(shown) {
                text.push_str(&format!("until test -S {socket}; do sleep 0.02; done\n"));
            }
        }
        let mut shell = Command::new("nsenter")
            .args(["--target", &self.first.to_string(), "--mount", "--pid"])
            .args(["setpriv", "--reuid", user, "--clear-groups", "timeout", "--kill-after=1", "25"])
            .args(["env", "-i", "PATH=/run/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"])
            .args(["XDG_RUNTIME_DIR=/run/user/65534", "bash", "-c", "exec 2>&1; exec bash"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        // What stays has the pipe too, so its end is no end: the last mark is.
        let mut said = String::new();
        let mut out = shell.stdout.take().unwrap();
        let last = format!("@{} ", block.commands.len() - 1);
        loop {
            let mut buffer = [0; 4096];
            let read = std::io::Read::read(&mut out, &mut buffer).unwrap();
            said.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
            let done = said.split_once(&last).is_some_and(|(_, rest)| rest.contains('@'));
            assert!(done || read > 0, "{}: the shell ended early:\n{said}\n{}", block.document, self.log());
            if done {
                break;
            }
        }
        drop(out);
        let _ = shell.kill();
        let _ = shell.wait();
        let mut rest = said.as_str();
        let cut = |n: usize| {
            let (output, after) = rest.split_once(&format!("@{n} ")).unwrap();
            let (status, after) = after.split_once("@\n").unwrap();
            rest = after;
            (output.to_owned(), status.parse().unwrap())
        };
        (0..block.commands.len()).map(cut).collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The service goes in order, so that it unmounts its files; the first process takes the rest along.
        let _ = Command::new("nsenter")
            .args(["--target", &self.first.to_string(), "--mount", "--pid", "umount", "/run/ioasidd/cgroup"])
            .output();
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// The socket to wait for after a command that stays.
fn staying(shown: &Shown) -> Option<&'static str> {
    let socket = STAYING.iter().find(|(command, _)| shown.name().starts_with(command)).map(|(_, socket)| *socket);
    assert_eq!(socket.is_some(), shown.name().ends_with('&'), "{}: is it ready when the prompt is?", shown.typed);
    socket
}

/// The number of a set is the service's to choose: two outputs that differ in it alone are the same.
fn without_set_numbers(text: &str) -> String {
    let mut words = text.split("set ");
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, rest| format!("{text}set {}", rest.trim_start_matches(|c: char| c.is_ascii_digit())))
}

fn is_elsewhere(document: &str, shown: &Shown) -> bool {
    ELSEWHERE.iter().any(|(listed, name, _)| *listed == document && *name == shown.name())
}

fn check(block: &Block, typed: &[(String, i32)]) {
    for (shown, (output, status)) in block.commands.iter().zip(typed) {
        let wanted: String = shown.output.iter().map(|line| format!("{line}\n")).collect();
        let refused = wanted.contains("ioasidctl: ");
        let place = format!("{}: {}", block.document, shown.typed);
        assert_eq!(*status, i32::from(refused), "{place}\n{output}");
        if !wanted.is_empty() {
            assert_eq!(without_set_numbers(output), without_set_numbers(&wanted), "{place}");
        }
    }
}

#[test]
fn every_command_that_is_shown_does_what_is_shown() {
    let slice = MachineSlice::new();
    let mut commands = 0;
    for document in shown::documents() {
        for block in shown::blocks(&document) {
            let elsewhere = block.commands.iter().filter(|shown| is_elsewhere(&document, shown)).count();
            if elsewhere == block.commands.len() {
                continue;
            }
            assert_eq!(elsewhere, 0, "{document}: a block is typed as a whole or not at all");
            let place = Place::new(&slice);
            check(&block, &place.type_block(&block));
            commands += block.commands.len();
        }
    }
    assert!(commands > 10, "only {commands} commands were found");
}

#[test]
fn what_is_not_typed_here_is_still_shown() {
    for (document, name, _) in ELSEWHERE {
        let shown = shown::blocks(document).iter().flat_map(|block| &block.commands).any(|shown| shown.name() == name);
        assert!(shown, "{document} no longer shows {name:?}");
    }
}

/// A command without a prompt would escape.
#[test]
fn every_line_that_is_a_command_has_a_prompt() {
    let programs = ["ioasidctl", "ioasidd", "systemctl", "journalctl", "busctl", "podman", "virsh", "cat", "apt", "cc"];
    for document in shown::documents() {
        let texts = match document.ends_with(".md") {
            true => ["console", "sh", "toml", "bash", ""].iter().flat_map(|l| shown::fenced(&document, l)).collect(),
            false => shown::displays(&document),
        };
        for text in texts.iter().filter(|text| !text.starts_with(['$', '#'])) {
            let command =
                text.lines().find(|line| line.split_once(' ').is_some_and(|(word, _)| programs.contains(&word)));
            assert_eq!(command, None, "{document}: no prompt");
        }
    }
}

/// What the README has between backticks in its text: the verb is one, the target of make too.
#[test]
fn commands_in_the_text_of_the_readme_exist() {
    let (readme, makefile) = (shown::document("README.md"), shown::document("Makefile"));
    let text: String = readme.split("\n```").step_by(2).collect();
    let mut seen = 0;
    for command in text.split('`').skip(1).step_by(2) {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["ioasidctl", verb, ..] => {
                let help = Command::new(IOASIDCTL).args(["help", verb]).output().unwrap();
                assert!(help.status.success(), "{command}");
            }
            ["make", target, ..] => assert!(makefile.contains(&format!("\n{target}:")), "{command}"),
            _ => continue,
        }
        seen += 1;
    }
    assert!(seen > 5, "{seen}");
}

#[test]
fn the_policies_of_the_readme_are_good_ones() {
    let directory = scratch_directory();
    let policies = shown::fenced("README.md", "toml");
    assert!(!policies.is_empty());
    for policy in policies {
        let file = directory.path().join("policy.toml");
        fs::write(&file, &policy).unwrap();
        let output = Command::new(IOASIDCTL).args(["policy", "check"]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{policy}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// `make run`, the first line that the README shows.
#[test]
fn the_tour_goes_to_its_end() {
    let first = shown::fenced("README.md", "sh").swap_remove(0);
    let targets: Vec<&str> = first.lines().map(|line| line.split("  #").next().unwrap().trim_end()).collect();
    assert_eq!(targets, ["make run", "make test"], "the second is what runs this");
    let toured: Output =
        Command::new("make").arg("run").current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&toured.stdout);
    assert!(toured.status.success(), "{said}\n{}", String::from_utf8_lossy(&toured.stderr));
    assert!(said.contains("each as expected"), "{said}");
}
