//! The virtual machine: a kernel from Debian's archive, an initramfs built here, QEMU without KVM.
//!
//! KVM is not used: where it is nested on a host without VMX and SVM, stock kernels die in it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the archive calls the kernel of the 6.12 line; the version it depends on is resolved each time.
const KERNEL_PACKAGE: &str = "linux-image-6.12-amd64";
const MARKER: &str = "IOASIDD-VM-RESULT:";
/// Some times what a boot and the checks take on two busy cores.
const TIMEOUT: Duration = Duration::from_secs(400);

/// A kernel and an initramfs, ready to boot.
pub struct Machine {
    kernel: PathBuf,
    initramfs: tempfile::NamedTempFile,
}

/// How a boot ended.
pub struct Outcome {
    pub passed: bool,
    pub console: String,
    pub elapsed: Duration,
}

impl Machine {
    /// Gathers what a boot needs; says what is missing.
    pub fn build() -> Result<Self, String> {
        for tool in ["qemu-system-x86_64", "busybox", "ldd", "xz", "strip"] {
            which(tool).ok_or(format!("{tool} is not installed"))?;
        }
        let (kernel, cuse) = kernel()?;
        let mut files = Files::default();
        files.put("/init", 0o755, include_bytes!("init.sh").to_vec());
        files.put("/lib/cuse.ko", 0o644, output(Command::new("xz").arg("-dc").arg(&cuse))?);
        files.put(
            "/etc/passwd",
            0o644,
            b"root:x:0:0::/:/bin/sh\nann:x:1001:1001::/:/bin/sh\nbob:x:1002:1002::/:/bin/sh\n".to_vec(),
        );
        files.put("/etc/group", 0o644, b"root:x:0:\nann:x:1001:\nbob:x:1002:\n".to_vec());
        files.program("/bin/busybox", &which("busybox").unwrap_or_default())?;
        // Busybox's shell runs its own applets first, and its setpriv sets no uid.
        for tool in ["sh", "setpriv", "unshare"] {
            files.program(&format!("/usr/bin/{tool}"), &which(tool).ok_or(format!("{tool} is not installed"))?)?;
        }
        // Where the tests look for them.
        for program in [env!("CARGO_BIN_EXE_ioasidd"), env!("CARGO_BIN_EXE_ioasidctl")] {
            files.program(program, Path::new(program))?;
        }
        files.program("/bin/checks", &std::env::current_exe().map_err(|e| e.to_string())?)?;
        let mut initramfs = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
        initramfs.write_all(&files.archive()).map_err(|e| e.to_string())?;
        Ok(Self { kernel, initramfs })
    }

    /// Boots it and waits until it powers off.
    pub fn boot(&self) -> Outcome {
        let filter = std::env::var("IOASIDD_VM_FILTER").unwrap_or("guest::".to_owned());
        let begun = Instant::now();
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", "2", "-m", "1024"])
            .args(["-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"])
            // Functions to look at and to remove.
            .args(["-device", "virtio-rng-pci", "-device", "virtio-rng-pci"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(self.initramfs.path())
            .args(["-append", &format!("console=ttyS0 panic=-1 quiet ioasidd.checks={filter}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start QEMU");
        let mut pipe = qemu.stdout.take().expect("QEMU's output is piped");
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).replace('\r', "")
        });
        let (ended, alarm) = std::sync::mpsc::channel::<()>();
        let watched = qemu.id();
        let watch = std::thread::spawn(move || {
            if alarm.recv_timeout(TIMEOUT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").arg("-9").arg(watched.to_string()).status();
            }
        });
        let console = reader.join().expect("read the console");
        let _ = qemu.wait();
        drop(ended);
        let _ = watch.join();
        let passed = console.lines().any(|line| line.strip_prefix(MARKER).is_some_and(|code| code.trim() == "0"));
        Outcome { passed, console, elapsed: begun.elapsed() }
    }
}

/// The kernel image and `cuse.ko.xz`: from the cache, else from the archive.
fn kernel() -> Result<(PathBuf, PathBuf), String> {
    let cache = cache();
    let unpacked = cache.join("kernel");
    if let Some(found) = find(&unpacked) {
        return Ok(found);
    }
    fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    let depends = output(Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]))?;
    let package = String::from_utf8_lossy(&depends)
        .lines()
        .find_map(|line| {
            line.trim().strip_prefix("Depends: ").filter(|p| p.starts_with("linux-image-")).map(str::to_owned)
        })
        .ok_or(format!("the archive has no {KERNEL_PACKAGE}; try apt-get update"))?;
    let scratch = tempfile::tempdir_in(&cache).map_err(|e| e.to_string())?;
    // Not installed, so apt's own user need not read the directory.
    output(
        Command::new("apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root", "download", &package])
            .current_dir(&scratch),
    )?;
    let deb = fs::read_dir(&scratch)
        .map_err(|e| e.to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|x| x == "deb"))
        .ok_or(format!("apt-get download {package} left no package"))?;
    output(Command::new("dpkg").arg("-x").arg(deb).arg(scratch.path().join("kernel")))?;
    // A rename, so that a cache is whole or not there; who lost a race uses the winner's.
    let _ = fs::rename(scratch.path().join("kernel"), &unpacked);
    find(&unpacked).ok_or(format!("{package} has no kernel or no cuse.ko.xz"))
}

fn cache() -> PathBuf {
    let system = PathBuf::from("/var/cache/ioasidd-test");
    if fs::create_dir_all(&system).is_ok() {
        return system;
    }
    let user = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    user.or(std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_default()
        .join("ioasidd-test")
}

fn find(unpacked: &Path) -> Option<(PathBuf, PathBuf)> {
    let first = |dir: &Path, prefix: &str| {
        fs::read_dir(dir)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
    };
    let kernel = first(&unpacked.join("boot"), "vmlinuz-")?;
    let modules = [unpacked.join("lib/modules"), unpacked.join("usr/lib/modules")];
    let cuse = modules.iter().find_map(|dir| first(dir, "6."))?.join("kernel/fs/fuse/cuse.ko.xz");
    cuse.exists().then_some((kernel, cuse))
}

fn which(tool: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(tool)).find(|path| path.is_file())
}

fn output(command: &mut Command) -> Result<Vec<u8>, String> {
    let done = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    Err(format!("{command:?}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim()))
}

/// The files of an initramfs, by path.
#[derive(Default)]
struct Files(BTreeMap<String, (u32, Vec<u8>)>);

impl Files {
    fn put(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        for (at, _) in path.match_indices('/').skip(1) {
            self.0.entry(path[..at].to_owned()).or_insert((0o40_755, Vec::new()));
        }
        self.0.insert(path.to_owned(), (0o100_000 | mode, content));
    }

    /// A program without its debug information, and the libraries it names.
    fn program(&mut self, path: &str, from: &Path) -> Result<(), String> {
        let stripped = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
        output(Command::new("strip").arg("-o").arg(stripped.path()).arg(from))?;
        self.put(path, 0o755, fs::read(stripped.path()).map_err(|e| e.to_string())?);
        // It fails for a static program, which needs none.
        let libraries = output(Command::new("ldd").arg(from)).unwrap_or_default();
        for library in String::from_utf8_lossy(&libraries).split_whitespace().filter(|word| word.starts_with('/')) {
            self.put(library, 0o755, fs::read(library).map_err(|e| format!("{library}: {e}"))?);
        }
        Ok(())
    }

    /// The archive: cpio's "new ASCII" format, `Documentation/driver-api/early-userspace/buffer-format.rst`.
    fn archive(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let console = ("/dev/console".to_owned(), (0o20_600, Vec::new()));
        let dev = ("/dev".to_owned(), (0o40_755, Vec::new()));
        let files = self.0.iter().map(|(path, file)| (path.clone(), file.clone()));
        for (number, (path, (mode, content))) in [dev, console].into_iter().chain(files).enumerate() {
            let (major, minor) = if mode == 0o20_600 { (5, 1) } else { (0, 0) };
            entry(&mut bytes, number + 1, path.trim_start_matches('/'), mode, (major, minor), &content);
        }
        entry(&mut bytes, 0, "TRAILER!!!", 0, (0, 0), &[]);
        bytes
    }
}

fn entry(bytes: &mut Vec<u8>, inode: usize, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
    let fields = [
        inode,
        mode as usize,
        0,
        0,
        1,
        0,
        content.len(),
        0,
        0,
        device.0 as usize,
        device.1 as usize,
        name.len() + 1,
        0,
    ];
    bytes.extend(b"070701");
    for field in fields {
        bytes.extend(format!("{field:08x}").bytes());
    }
    bytes.extend(name.bytes().chain([0]));
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
