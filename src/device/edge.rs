//! Each request on the device, answered.

use super::uapi::{self, Command};
use crate::controller::{Caller, Controller, Deed};
use crate::identity::{Host, Peer};
use crate::model::{Domain, Failure, SetId, SetRequest};
use crate::proto::failure_errno;
use crate::sys::fuse::{Header, Ioctl, Message, Request, abi, parse};
use std::sync::Arc;

const EIO: i32 = 5;
const EINVAL: i32 = 22;
const ENOTTY: i32 = 25;
const ENOSYS: i32 = 38;
const EBADF: i32 = 9;

/// The server of `/dev/ioasid`.
#[derive(Debug)]
pub struct Device {
    controller: Arc<Controller>,
    host: Arc<Host>,
}

impl Device {
    /// A device that asks `controller`.
    pub fn new(controller: Arc<Controller>, host: Arc<Host>) -> Self {
        Self { controller, host }
    }

    /// The reply to one request; `None` where none is wanted.
    pub fn answer(&mut self, message: &[u8]) -> Option<Message> {
        let (header, request) = match parse(message) {
            Ok(parsed) => parsed,
            Err(bad) => {
                tracing::warn!(%bad, "device");
                return Some(Message::error(bad.unique, EIO));
            }
        };
        let unique = header.unique;
        Some(match request {
            Request::Open { .. } => match self.open(&header) {
                Ok(set) => Message::opened(unique, set.0, abi::OPEN_DIRECT_IO | abi::OPEN_NONSEEKABLE),
                Err(failure) => self.refused(unique, &failure),
            },
            Request::Release { handle } => {
                self.controller.device_file_closed(SetId(handle));
                Message::done(unique)
            }
            Request::Ioctl(ioctl) => self.ioctl(&header, ioctl),
            Request::Read(_) | Request::Write { .. } => Message::error(unique, EINVAL),
            Request::Interrupt { .. } | Request::Forget | Request::Destroy => return None,
            _ => Message::error(unique, ENOSYS),
        })
    }

    /// A set for who opens the device.
    fn open(&self, header: &Header) -> Result<SetId, Failure> {
        let opening = header.first_unique();
        // Sent again: the last server may have made the set and not lived to say so.
        if header.is_resent()
            && let Some(made) = self.controller.device_set_of(opening)
        {
            return Ok(made);
        }
        let peer = Peer::of_thread(header.tid, header.uid, &self.host)?;
        let caller = Caller::new(&peer, peer.cgroup(&self.host)?);
        self.controller.admit(caller.uid)?;
        let request = SetRequest { label: "/dev/ioasid".to_owned(), ..SetRequest::default() };
        let permit = self.controller.authorize(&caller, Deed::CreateSet(&request))?.without_polkit()?;
        self.controller.create_device_set(&caller, permit, opening)
    }

    fn ioctl(&self, header: &Header, ioctl: Ioctl<'_>) -> Message {
        let unique = header.unique;
        let Some(command) = Command::of(ioctl.command) else { return Message::error(unique, ENOTTY) };
        let (read, write) = command.memory();
        if read != 0 && ioctl.input.is_empty() {
            if ioctl.flags & abi::IOCTL_UNRESTRICTED == 0 {
                return Message::error(unique, EINVAL);
            }
            return Message::ioctl_retry(unique, ioctl.argument, read, write);
        }
        let set = SetId(ioctl.handle);
        let done = match command {
            Command::ApiVersion => Ok(Message::ioctl(unique, uapi::API_VERSION, &[])),
            Command::Info => self.info(unique, set, ioctl.input),
            Command::Alloc => self.alloc(header, set, ioctl.input),
            Command::Free => self.free(header, set, ioctl.input),
        };
        done.unwrap_or_else(|failure| self.refused(unique, &failure))
    }

    fn info(&self, unique: u64, set: SetId, argument: &[u8]) -> Result<Message, Failure> {
        let domain = self.controller.set(set)?.domain;
        let Some(bits) = self.bits(domain) else { return Ok(Message::error(unique, EBADF)) };
        Ok(match uapi::info(argument, bits) {
            Some(filled) => Message::ioctl(unique, 0, &filled),
            None => Message::error(unique, EINVAL),
        })
    }

    fn bits(&self, domain: Domain) -> Option<u32> {
        self.controller.domains().into_iter().find(|info| info.name == domain).map(|info| info.bits)
    }

    fn alloc(&self, header: &Header, set: SetId, argument: &[u8]) -> Result<Message, Failure> {
        let unique = header.unique;
        let Some(range) = uapi::alloc_range(argument) else { return Ok(Message::error(unique, EINVAL)) };
        let pasid = self.controller.device_alloc(set, header.first_unique(), range)?;
        let number = pasid.and_then(|pasid| i32::try_from(pasid.get()).ok());
        Ok(number.map_or_else(|| Message::error(unique, EIO), |number| Message::ioctl(unique, number, &[])))
    }

    fn free(&self, header: &Header, set: SetId, argument: &[u8]) -> Result<Message, Failure> {
        let unique = header.unique;
        let Some(pasid) = uapi::freed(argument) else { return Ok(Message::error(unique, EINVAL)) };
        self.controller.device_free(set, header.first_unique(), pasid)?;
        Ok(Message::ioctl(unique, 0, &[]))
    }

    /// The errno of a failure, which is reported: nobody else will.
    fn refused(&self, unique: u64, failure: &Failure) -> Message {
        self.controller.report("device", failure);
        Message::error(unique, failure_errno(failure))
    }
}
