//! The service under a stock Debian kernel with cgroup v2, FUSE and CUSE, in a virtual machine.
//!
//! `machine` builds an initramfs and boots it; what is checked is in `guest`: tests of this same binary, ignored on
//! the host, that the machine's init runs. Without QEMU, busybox or a kernel to be had the test says so and passes,
//! unless `IOASIDD_VM=require` (`make vm`) makes that a failure.

// ioctl(2) on a device takes it.
#![allow(unsafe_code)]
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod guest;
mod machine;

/// Runs every guest check in one boot.
#[test]
fn every_check_passes_in_the_virtual_machine() {
    if guest::is_here() {
        return;
    }
    let machine = match machine::Machine::build() {
        Ok(machine) => machine,
        Err(missing) if std::env::var_os("IOASIDD_VM").is_some_and(|v| v == "require") => panic!("{missing}"),
        Err(missing) => return eprintln!("SKIPPED: no virtual machine: {missing}"),
    };
    let outcome = machine.boot();
    println!("{}", outcome.console);
    assert!(outcome.passed, "the checks in the virtual machine failed, see its console above");
    println!("virtual machine: {:.1} s", outcome.elapsed.as_secs_f64());
}
