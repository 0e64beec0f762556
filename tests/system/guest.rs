//! What is checked in the virtual machine. On the host these tests are ignored.

mod apparmor;
mod channel;
mod clock;
mod device;
mod files;
mod kernel;
mod pci;
mod restart;

/// Whether this process runs in the virtual machine.
pub fn is_here() -> bool {
    std::env::var_os("IOASIDD_VM_GUEST").is_some()
}
