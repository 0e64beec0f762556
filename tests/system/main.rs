//! The service under kernels with cgroup v2, FUSE and CUSE, in virtual machines.
//!
//! `machine` boots one; what is checked is in `guest`: tests of this same binary, ignored on the host, that the
//! machine's init runs. `stock` is Debian's own kernel: where QEMU or a kernel is not to be had the test fails and says
//! what is missing; `IOASIDD_VM=skip` leaves it out. `full` (`make vm FULL=1`) is a kernel built for it, with iommufd and
//! devices that have PASIDs.

// ioctl(2) on a device takes it.
#![allow(unsafe_code)]
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod full;
mod guest;
mod initramfs;
mod machine;
mod stock;

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Runs every check of `guest` in one boot.
#[test]
fn every_check_passes_in_the_virtual_machine() {
    if guest::is_here() {
        return;
    }
    if std::env::var_os("IOASIDD_VM").is_some_and(|value| value == "skip") {
        return;
    }
    match stock::machine() {
        Ok((machine, _initramfs)) => passes(machine),
        Err(missing) => panic!("no virtual machine, unless IOASIDD_VM=skip leaves it out: {missing}"),
    }
}

/// Runs every check of `guest` and of `full` in one boot.
#[test]
#[ignore = "builds a kernel first: make vm FULL=1"]
fn every_check_passes_with_iommufd() {
    let prepared = full::prepare().unwrap();
    let (machine, _kept) = prepared.machine().unwrap();
    passes(machine);
}

fn passes(machine: machine::Machine) {
    let outcome = machine.boot();
    println!("{}", outcome.console);
    assert!(outcome.passed, "the checks in the virtual machine failed, see its console above");
    println!("virtual machine: {:.1} s", outcome.elapsed.as_secs_f64());
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
