//! Containers: a set FD goes in with each tool that people run them with, and so does the socket, the other way.
//!
//! What each recipe needs is nothing of ours: a descriptor that is inherited, or a path that is mounted.
#![allow(clippy::unwrap_used)]

mod common;

use common::daemon::{IOASIDCTL, scratch_directory};
use common::{Cgroups, Daemon};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// What runs inside: who am I, one id, and who am I then.
const INSIDE: &str = "ioasidctl alloc && ioasidctl --json info";

fn policy() -> &'static str {
    r#"
    version = 1
    [space]
    bits = 12
    quarantine = "0s"
    [[rule]]
    name = "tests"
    cgroup = "/**"
    users = ["*"]
    action = "allow"
    quota = { default = 4, max = 64 }
    range = "2048-4095"
    "#
}

/// A service, a cgroup to start containers from, and the container's root directory.
struct Stage {
    daemon: Daemon,
    cgroups: Cgroups,
    scratch: TempDir,
    _others: OtherHierarchies,
}

impl Stage {
    fn new() -> Self {
        let cgroups = Cgroups::new();
        cgroups.make("launcher");
        let scratch = scratch_directory();
        make_root(&scratch.path().join("root"));
        let others = OtherHierarchies(cgroups.path("").to_string());
        Self { daemon: Daemon::start(policy()), cgroups, scratch, _others: others }
    }

    fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    /// Runs this in the launcher's cgroup and gives what it says.
    fn launch(&self, words: &[&str]) -> String {
        let output = Command::new("sh")
            .args(["-c", r#"echo $$ > "$0"/cgroup.procs && exec "$@""#])
            .arg(self.cgroups.directory("launcher"))
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{words:?}\n{said}\n{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// The same with a set FD as descriptor 3.
    fn launch_with_set(&self, words: &[&str]) -> String {
        let socket = self.daemon.socket();
        let exec = [IOASIDCTL, "--socket", socket.to_str().unwrap(), "exec", "--label", "boxed", "--"];
        self.launch(&[&exec, words].concat())
    }

    /// What [`INSIDE`] said: an id that was allocated, in a set charged to the launcher's cgroup.
    fn is_the_launchers(&self, said: &str) {
        let info = self.allocated(said);
        assert_eq!(info["cgroup"], json!(self.cgroups.path("launcher").to_string()));
        assert_eq!(info["label"], "boxed");
    }

    fn allocated(&self, said: &str) -> Value {
        let (id, info) = said.trim().split_once('\n').unwrap_or_else(|| panic!("{said}"));
        let info: Value = serde_json::from_str(info).unwrap();
        let id: u32 = id.trim().parse().unwrap();
        assert!((2048..4096).contains(&id));
        assert_eq!((&info["pasids"], &info["in_use"]), (&json!([id]), &json!(1)));
        info
    }

    fn finish(self) {
        self.daemon.finish();
    }
}

/// A root directory with a shell, ioasidctl, and the libraries of both.
fn make_root(root: &Path) {
    for directory in ["bin", "proc", "sys", "dev", "tmp", "run/host", "etc", "usr/lib", "var"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for (program, name) in
        [(Path::new(IOASIDCTL), "ioasidctl"), (Path::new("/bin/sh"), "sh"), (Path::new("/bin/cat"), "cat")]
    {
        fs::copy(program, root.join("bin").join(name)).unwrap();
        let listed = Command::new("ldd").arg(program).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
            let place = root.join(library.trim_start_matches('/'));
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(library, place).unwrap();
        }
    }
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    fs::write(root.join("etc/os-release"), "ID=test\n").unwrap();
}

/// A cgroup's path in the other hierarchies of a hybrid host: what container tools leave there is removed at the end.
struct OtherHierarchies(String);

impl Drop for OtherHierarchies {
    fn drop(&mut self) {
        fn remove(directory: &Path) {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&entry.path());
                }
            }
            let _ = fs::remove_dir(directory);
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove(&hierarchy.path().join(self.0.trim_start_matches('/')));
        }
    }
}

/// A bundle for runc: its root, cgroup, command and namespaces.
fn bundle(stage: &Stage, own_namespaces: bool, command: &str) -> PathBuf {
    let directory = stage.scratch.path().join("bundle");
    fs::create_dir(&directory).unwrap();
    let mut namespaces = vec!["pid", "ipc", "uts", "mount", "network"];
    let mut linux = json!({"cgroupsPath": stage.cgroups.path("box").to_string()});
    if own_namespaces {
        namespaces.extend(["user", "cgroup"]);
        let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        let root = stage.root();
        assert!(Command::new("chown").args(["-R", "100000:100000"]).arg(root).status().unwrap().success());
        linux["uidMappings"] = mapping.clone();
        linux["gidMappings"] = mapping;
    }
    linux["namespaces"] = namespaces.iter().map(|kind| json!({"type": kind})).collect();
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", command],
            "env": ["PATH=/bin", "IOASID_SET_FD=3"],
            "cwd": "/",
        },
        "root": {"path": stage.root(), "readonly": false},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/run/host", "type": "bind", "source": stage.daemon.runtime_dir(), "options": ["rbind", "ro"]},
        ],
        "linux": linux,
    });
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    directory
}

fn runc(stage: &Stage, own_namespaces: bool, with_set: bool, command: &str) -> String {
    let bundle = bundle(stage, own_namespaces, command);
    let state = stage.scratch.path().join("runc");
    let name = format!("ioasid-test-{}", std::process::id());
    let (state, bundle) = (state.to_str().unwrap(), bundle.to_str().unwrap());
    let run = ["runc", "--root", state, "run", "--bundle", bundle];
    if with_set {
        stage.launch_with_set(&[&run[..], &["--preserve-fds", "1", &name]].concat())
    } else {
        stage.launch(&[&run[..], &[&name]].concat())
    }
}

#[test]
fn runc_passes_a_set_on() {
    let stage = Stage::new();
    stage.is_the_launchers(&runc(&stage, false, true, INSIDE));
    stage.finish();
}

#[test]
fn runc_with_user_and_cgroup_namespaces_passes_a_set_on() {
    let stage = Stage::new();
    stage.is_the_launchers(&runc(&stage, true, true, INSIDE));
    stage.finish();
}

/// Inside, the socket is at a path, and the service sees the container's own cgroup and user, whatever it sees itself.
#[test]
fn a_mounted_socket_charges_the_containers_own_cgroup_through_its_namespaces() {
    let stage = Stage::new();
    let inside = format!("ioasidctl --socket /run/host/ioasid.sock exec -- sh -c '{INSIDE}' && cat /proc/self/cgroup");
    let said = runc(&stage, true, false, &inside);
    let (said, cgroups) = said.split_at(said.find("}\n").unwrap() + 2);
    let info = stage.allocated(said);
    assert_eq!(info["cgroup"], json!(stage.cgroups.path("box").to_string()));
    assert_eq!(info["owner_uid"], 100_000);
    assert!(cgroups.contains("0::/\n"), "inside it is the root: {cgroups}");
    stage.finish();
}

/// podman's words before the command, with a store of its own.
fn podman(stage: &Stage, more: &[&str]) -> Vec<String> {
    let of = |name: &str| stage.scratch.path().join(name).to_str().unwrap().to_owned();
    let parent = stage.cgroups.path("pods").to_string();
    let mut words: Vec<String> =
        ["podman", "--root", &of("store"), "--runroot", &of("runroot"), "--tmpdir", &of("tmp")]
            .into_iter()
            .chain(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime"])
            .chain(["runc", "run", "--rm", "--network", "none", "--cgroup-parent", &parent, "--log-driver", "none"])
            // No more than this host allows.
            .chain(["--ulimit", "nofile=1024:20000", "--ulimit", "nproc=1000:1000", "--pids-limit", "0"])
            .map(str::to_owned)
            .collect();
    words.extend(more.iter().map(|word| (*word).to_owned()));
    words.extend(["--rootfs".to_owned(), of("root"), "/bin/sh".to_owned(), "-c".to_owned()]);
    words
}

fn words<'a>(words: &'a [String], last: &'a str) -> Vec<&'a str> {
    words.iter().map(String::as_str).chain([last]).collect()
}

#[test]
fn podman_passes_a_set_on() {
    let stage = Stage::new();
    let run = podman(&stage, &["--preserve-fds", "1", "--env", "IOASID_SET_FD=3"]);
    stage.is_the_launchers(&stage.launch_with_set(&words(&run, INSIDE)));
    stage.finish();
}

#[test]
fn podman_mounts_the_socket() {
    let stage = Stage::new();
    let volume = format!("{}:/run/ioasidd", stage.daemon.runtime_dir().display());
    let run = podman(&stage, &["--volume", &volume]);
    let said = stage.launch(&words(&run, &format!("ioasidctl exec -- sh -c '{INSIDE}'")));
    let cgroup = stage.allocated(&said)["cgroup"].as_str().unwrap().to_owned();
    assert!(cgroup.starts_with(&format!("{}/libpod-", stage.cgroups.path("pods"))), "{cgroup}");
    stage.finish();
}

#[test]
fn podman_takes_the_socket_from_our_cdi_specification() {
    let stage = Stage::new();
    let specification = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/cdi/org.ioasid-service.json");
    // A /run as if the package were installed and its service ran.
    let host = format!(
        "mount -t tmpfs tmpfs /run && mkdir /run/cdi /run/ioasidd && cp {specification} /run/cdi/ &&
        mount --bind {} /run/ioasidd && exec \"$@\"",
        stage.daemon.runtime_dir().display()
    );
    let run = podman(&stage, &["--device", "org.ioasid/service=socket"]);
    let inside = format!("test $IOASID_SOCKET = /run/ioasidd/ioasid.sock && ioasidctl exec -- sh -c '{INSIDE}'");
    let unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &host, "sh"];
    let said = stage.launch(&[&unshare[..], &words(&run, &inside)].concat());
    let cgroup = stage.allocated(&said)["cgroup"].as_str().unwrap().to_owned();
    assert!(cgroup.starts_with(&format!("{}/libpod-", stage.cgroups.path("pods"))), "{cgroup}");
    stage.finish();
}

#[test]
fn bubblewrap_passes_a_set_on_to_an_unprivileged_sandbox() {
    let stage = Stage::new();
    let root = stage.root();
    let sandbox = ["setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups", "bwrap", "--unshare-all"];
    let inside =
        ["--ro-bind", root.to_str().unwrap(), "/", "--proc", "/proc", "--dev", "/dev", "--setenv", "PATH", "/bin"];
    let said = stage.launch_with_set(&[&sandbox[..], &inside, &["/bin/sh", "-c", INSIDE]].concat());
    stage.is_the_launchers(&said);
    stage.finish();
}

#[test]
fn nspawn_passes_a_set_on_under_the_listen_fds_protocol() {
    let stage = Stage::new();
    let root = stage.root();
    // It passes what LISTEN_FDS says and names nothing: inside, the number is known.
    let spawn = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=pipe", "--private-network"];
    let more = ["--directory", root.to_str().unwrap(), "--setenv=IOASID_SET_FD=3", "--setenv=PATH=/bin"];
    let said = stage.launch_with_set(&[&spawn[..], &more, &["/bin/sh", "-c", INSIDE]].concat());
    stage.is_the_launchers(&said);
    stage.finish();
}
