//! A `libvirtd` of its own for one test: in mount and network namespaces, with the service's hook installed.

use super::daemon::{IOASIDCTL, scratch_directory};
use super::{Daemon, eventually};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;

/// What libvirtd sees of cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// As the host has them: for QEMU.
    Host,
    /// cgroup2 in its place and the old controllers elsewhere: what libvirt's LXC driver takes on a hybrid host.
    Lxc,
}

/// A running libvirtd.
pub struct Libvirt {
    child: Option<Child>,
    directory: TempDir,
    view: View,
    /// The partitions that were there before: those that this libvirtd makes go with it.
    partitions: Vec<PathBuf>,
    /// One at a time, for all of them share the host's partition.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

/// Where libvirt puts domains, in every hierarchy of the host.
fn partitions() -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let below = hierarchies.map(|entry| entry.path().join("machine"));
    below.chain([PathBuf::from("/sys/fs/cgroup/machine")]).filter(|path| path.is_dir()).collect()
}

const SCRIPT: &str = r#"
set -e
if [ "$2" = lxc ]; then
	umount -R /sys/fs/cgroup
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
ip link set lo up 2>/dev/null || true
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/libvirt
chmod 755 /run
if [ "$2" = lxc ]; then
	for c in cpu cpuacct cpuset memory devices freezer blkio pids; do
		mkdir -p /run/cg1/$c
		mount -t cgroup -o $c cgroup /run/cg1/$c
	done
fi
mkdir -p /var/log/libvirt /var/cache/libvirt
mount --bind "$1/etc" /etc/libvirt
mount --bind "$1/lib" /var/lib/libvirt
mount --bind "$1/log" /var/log/libvirt
mount --bind "$1/cache" /var/cache/libvirt
exec env -i PATH=/usr/bin:/usr/sbin:/bin:/sbin LANG=C.UTF-8 libvirtd --pid-file=/run/libvirtd.pid
"#;

impl Libvirt {
    /// Starts one whose hook speaks to `daemon`.
    pub fn start(daemon: &Daemon, view: View) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let partitions = partitions();
        let directory = scratch_directory();
        let path = directory.path();
        for name in ["lib", "log", "cache"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        let copied = Command::new("cp").args(["-a", "/etc/libvirt"]).arg(path.join("etc")).status().unwrap();
        assert!(copied.success());
        let qemu = "stdio_handler = \"file\"\nsecurity_driver = \"none\"\nuser = \"root\"\ngroup = \"root\"\nremember_owner = 0\n";
        fs::write(path.join("etc/qemu.conf"), qemu).unwrap();
        fs::write(path.join("etc/libvirtd.conf"), "auth_unix_rw = \"none\"\n").unwrap();
        for driver in ["qemu.d", "lxc.d"] {
            let hook = path.join("etc/hooks").join(driver).join("ioasid");
            fs::create_dir_all(hook.parent().unwrap()).unwrap();
            let socket = daemon.socket();
            let text = format!("#!/bin/sh\nexec {IOASIDCTL} --socket {} libvirt-hook \"$@\"\n", socket.display());
            fs::write(&hook, text).unwrap();
            fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut libvirt = Self { child: None, directory, view, partitions, _alone: alone };
        libvirt.start_libvirtd();
        libvirt
    }

    fn start_libvirtd(&mut self) {
        let log = fs::File::options().append(true).create(true).open(self.directory.path().join("out")).unwrap();
        let child = Command::new("unshare")
            .args(["-m", "-n", "--propagation", "private", "sh", "-c", SCRIPT, "sh"])
            .arg(self.directory.path())
            .arg(if self.view == View::Lxc { "lxc" } else { "host" })
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        eventually("libvirtd answers", || {
            let gone = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(gone.is_none(), "libvirtd ended:\n{}", self.log());
            self.virsh(&["list"]).status.success().then_some(())
        });
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("out")).unwrap_or_default()
    }

    /// A directory that its namespace shares.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `virsh` in its namespaces, to be given more arguments.
    pub fn virsh_command(&self) -> Command {
        let pid = self.child.as_ref().unwrap().id().to_string();
        let uri = if self.view == View::Lxc { "lxc:///" } else { "qemu:///system" };
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-m", "-n", "virsh", "-c", uri]).stdin(Stdio::null());
        command
    }

    /// Runs `virsh` to its end.
    pub fn virsh(&self, arguments: &[&str]) -> Output {
        self.virsh_command().args(arguments).output().unwrap()
    }

    /// The same, where it has to succeed; gives what it says.
    pub fn virsh_ok(&self, arguments: &[&str]) -> String {
        let output = self.virsh(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "virsh {arguments:?}: {said}\n{}", self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Ends a domain. Right after a restart libvirt may notice the end of its process before that of the call: then it says
    /// that there is no such domain.
    pub fn destroy(&self, name: &str) {
        let output = self.virsh(&["destroy", name]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || said.contains("Domain not found"), "destroy {name}: {said}\n{}", self.log());
    }

    /// Starts a domain from this XML; gives what virsh said against it.
    pub fn create(&self, xml: &str) -> Result<(), String> {
        let file = self.directory.path().join("domain.xml");
        fs::write(&file, xml).unwrap();
        let output = self.virsh(&["create", file.to_str().unwrap()]);
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Ends libvirtd alone, as a restart does, and starts it again in the same namespaces.
    pub fn restart(&mut self) {
        // The namespaces live while somebody is in them.
        let pid = self.child.as_ref().unwrap().id().to_string();
        let mut keeper = Command::new("nsenter").args(["-t", &pid, "-m", "-n", "sleep", "infinity"]).spawn().unwrap();
        let mut old = self.child.take().unwrap();
        let kill = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(kill.success());
        old.wait().unwrap();
        let log = fs::File::options().append(true).open(self.directory.path().join("out")).unwrap();
        let keeper_pid = keeper.id().to_string();
        let child = Command::new("nsenter")
            .args(["-t", &keeper_pid, "-m", "-n", "env", "-i", "PATH=/usr/bin:/usr/sbin:/bin:/sbin", "libvirtd"])
            .arg("--pid-file=/run/libvirtd.pid")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        eventually("libvirtd answers again", || self.virsh(&["list"]).status.success().then_some(()));
        keeper.kill().unwrap();
        keeper.wait().unwrap();
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        let names = String::from_utf8_lossy(&self.virsh(&["list", "--name"]).stdout).into_owned();
        for name in names.split_whitespace() {
            let _ = self.virsh(&["destroy", name]);
        }
        if std::thread::panicking() {
            eprintln!("libvirtd's log:\n{}", self.log());
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for made in partitions().iter().filter(|path| !self.partitions.contains(path)) {
            // One that somebody else is in stays.
            let _ = fs::remove_dir(made);
        }
    }
}
