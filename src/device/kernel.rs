//! A kernel that has `/dev/ioasid` itself: its ids, behind our own sets.
//!
//! That code gives one set to a process, says EINVAL for every refusal, takes PASID 0 for one like any other, and its
//! charges leak. So the service holds the device open once, asks for one id at a time and never for 0, takes any refusal
//! for "somebody else has it", and charges in its own tree.

use super::uapi::{self, API_VERSION, Command};
use crate::controller::IdSource;
use crate::model::{Fault, MAX_BITS, Pasid, PasidRange};
use crate::sys::command;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The kernel's device, held open.
#[derive(Debug)]
pub struct KernelIds {
    device: OwnedFd,
    bits: u32,
}

impl KernelIds {
    /// Opens the device. Faults where it is not there, is busy, or speaks another interface.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let opened = File::options().read(true).write(true).open(path);
        opened
            .map_err(Fault::from)
            .and_then(|file| Self::over(file.into()))
            .map_err(|fault| fault.while_doing(format!("take ids from {}", path.display())))
    }

    /// Takes over a device that is open; what was taken from it stays taken.
    pub fn over(device: OwnedFd) -> Result<Self, Fault> {
        let version = command::send(device.as_fd(), Command::ApiVersion.number(), &mut [0; 4])?;
        if i32::try_from(version) != Ok(API_VERSION) {
            return Err(Fault::new(format!("version {version} of its interface, not {API_VERSION}")));
        }
        let mut info = uapi::info_request();
        command::send(device.as_fd(), Command::Info.number(), &mut info)?;
        let bits = uapi::info_bits(&info).min(MAX_BITS);
        if bits == 0 {
            return Err(Fault::new("it has no ids"));
        }
        Ok(Self { device, bits })
    }

    fn free(&self, number: u32) {
        if let Err(error) = command::send(self.device.as_fd(), Command::Free.number(), &mut number.to_ne_bytes()) {
            tracing::error!(MESSAGE_ID = crate::proto::message_ids::FAULT, pasid = number, %error, "the kernel does not take an id back");
        }
    }
}

impl AsFd for KernelIds {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl IdSource for KernelIds {
    fn bits(&self) -> u32 {
        self.bits
    }

    fn take(&self, range: PasidRange) -> Option<Pasid> {
        match command::send(self.device.as_fd(), Command::Alloc.number(), &mut uapi::alloc_request(range)) {
            Ok(taken) if range.contains(taken) => Pasid::new(taken),
            // An allocator behind that code (a guest's virtual command) may not heed the range.
            Ok(other) => {
                self.free(other);
                None
            }
            Err(error) => {
                tracing::debug!(%range, %error, "the kernel gives no id");
                None
            }
        }
    }

    fn give(&self, pasid: Pasid) {
        self.free(pasid.get());
    }
}
