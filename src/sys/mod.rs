//! The kernel's interfaces, one file each, with a safe face.
//!
//! Lives here: system calls, descriptor numbers, socket options, cgroup directories, the service manager's protocol.
//! Policy, sets and charges do not. With `shm` the only room that may name nix and libc. Every function returns
//! [`std::io::Result`] or a [`crate::model::Fault`]; descriptors are owned or borrowed, never bare numbers.
//!
//! Nothing here relies on `O_NONBLOCK`: that flag belongs to the open file, which other processes share once a
//! descriptor was passed on. What must not block says so at each call.
#![allow(unsafe_code)]

pub mod accounts;
mod address;
pub mod cgroup;
pub mod clock;
#[cfg(feature = "daemon")]
pub mod closing;
pub mod command;
pub mod cuse;
pub mod ending;
pub mod exclusive;
pub mod fuse;
pub mod inherited;
pub mod iommufd;
pub mod listener;
pub mod pci;
pub mod pidfd;
pub mod process;
pub mod program;
pub mod random;
pub mod readiness;
pub mod seqpacket;
pub mod service_manager;
pub mod socket_diag;
pub mod socket_option;
pub mod uevent;

use std::io;

/// What a system call returned, with -1 turned into the error.
fn done(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned == -1 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// The same for calls that count bytes.
fn counted(returned: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

/// The size of `T` as the kernel's socket calls want it.
fn size_of_socklen<T>() -> libc::socklen_t {
    // What is passed here are integers and address structures of some hundred bytes.
    size_of::<T>() as libc::socklen_t
}

/// A field of /proc/PID/mountinfo without the octal escapes of blanks and backslashes. Source: proc_pid_mountinfo(5).
fn unescaped(mut field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    while let Some((&first, rest)) = field.split_first() {
        let octal = (first == b'\\').then(|| rest.split_at_checked(3)).flatten().and_then(|(digits, rest)| {
            let digits = std::str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(digits, 8).ok()?, rest))
        });
        let (byte, tail) = octal.unwrap_or((first, rest));
        plain.push(byte);
        field = tail;
    }
    plain
}
