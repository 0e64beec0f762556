//! The virtual machine: a kernel and an initramfs in QEMU, until it powers off.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MARKER: &str = "IOASIDD-VM-RESULT:";
/// Some times what a boot and the checks take on two busy cores.
const TIMEOUT: Duration = Duration::from_secs(400);

/// What QEMU is given in every machine. KVM is not used: where it is nested on a host without VMX and SVM, stock
/// kernels die in it.
const HARDWARE: &str = "-accel tcg -cpu max -smp 2 -m 1024 -nodefaults -nographic -no-reboot -serial stdio";

/// A machine, ready to boot.
pub struct Machine {
    /// QEMU, and what it is run through.
    pub qemu: Command,
    /// Paths of the kernel and the initramfs, as QEMU sees them.
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// For the kernel.
    pub parameters: String,
    /// Which checks are run: parts of their names.
    pub checks: String,
}

/// How a boot ended.
pub struct Outcome {
    pub passed: bool,
    pub console: String,
    pub elapsed: Duration,
}

impl Machine {
    /// Boots it and waits until it powers off.
    pub fn boot(mut self) -> Outcome {
        let checks = std::env::var("IOASIDD_VM_FILTER").unwrap_or(self.checks);
        let begun = Instant::now();
        let mut qemu = self
            .qemu
            .args(HARDWARE.split(' '))
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs)
            .arg("-append")
            .arg(format!("console=ttyS0 panic=-1 quiet ioasidd.checks={checks} {}", self.parameters))
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

/// Writes an initramfs where QEMU finds it.
pub fn write(archive: &[u8], directory: &Path) -> Result<tempfile::NamedTempFile, String> {
    let written = || {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(archive)?;
        Ok(file)
    };
    written().map_err(|e: std::io::Error| format!("{}: {e}", directory.display()))
}
