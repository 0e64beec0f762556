//! What the kernel says of devices as they come and go.

use crate::model::PciAddress;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, socket};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The kernel's own multicast group; udev's is 2.
const KERNEL_GROUP: u32 = 1;
/// The kernel's buffer of variables, `UEVENT_BUFFER_SIZE`, and the line before it.
const BUFFER: usize = 4096;

/// A netlink socket on which the kernel tells of devices.
#[derive(Debug)]
pub struct Uevents {
    socket: OwnedFd,
}

/// What was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uevent {
    /// A PCI function is gone.
    PciRemoved(PciAddress),
    /// Messages were lost: look at everything again.
    Lost,
}

impl Uevents {
    /// Listens from now on. Takes no privilege.
    pub fn listen() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket =
            socket(AddressFamily::Netlink, SockType::Datagram, flags, Some(SockProtocol::NetlinkKObjectUEvent))?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self { socket })
    }

    /// Takes the socket, for a reactor that calls [`try_receive`].
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

/// The next event of interest; `WouldBlock` where there is none.
pub fn try_receive(socket: BorrowedFd<'_>) -> io::Result<Uevent> {
    let mut buffer = [0; BUFFER + 512];
    loop {
        match recvfrom::<NetlinkAddr>(socket.as_raw_fd(), &mut buffer) {
            // Anybody with CAP_NET_ADMIN could send here; the kernel's port is 0.
            Ok((length, Some(from))) if from.pid() == 0 => {
                if let Some(event) = buffer.get(..length).and_then(parse) {
                    return Ok(event);
                }
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ENOBUFS) => return Ok(Uevent::Lost),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Source: `lib/kobject_uevent.c`: `remove@PATH`, then `KEY=VALUE`, each ended by NUL.
fn parse(message: &[u8]) -> Option<Uevent> {
    let mut fields = message.split(|byte| *byte == 0).filter_map(|field| std::str::from_utf8(field).ok());
    fields.next()?.strip_prefix("remove@")?;
    let (mut pci, mut address) = (false, None);
    for field in fields {
        match field.split_once('=') {
            Some(("SUBSYSTEM", value)) => pci = value == "pci",
            Some(("PCI_SLOT_NAME", value)) => address = value.parse().ok(),
            _ => {}
        }
    }
    address.filter(|_| pci).map(Uevent::PciRemoved)
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_removal_of_a_pci_function_is_told() {
        let removed =
            b"remove@/devices/pci0000:00/0000:00:02.0\0ACTION=remove\0SUBSYSTEM=pci\0PCI_SLOT_NAME=0000:00:02.0\0";
        assert_eq!(parse(removed), Some(Uevent::PciRemoved("0000:00:02.0".parse().unwrap())));
        for other in [
            &b"add@/devices/x\0SUBSYSTEM=pci\0PCI_SLOT_NAME=0000:00:02.0\0"[..],
            b"remove@/devices/x\0SUBSYSTEM=net\0PCI_SLOT_NAME=0000:00:02.0\0",
            b"remove@/devices/x\0SUBSYSTEM=pci\0PCI_SLOT_NAME=junk\0",
            b"remove@/devices/x\0SUBSYSTEM=pci\0",
            b"libudev\0\xfe\xed\xca\xfe",
            b"",
        ] {
            assert_eq!(parse(other), None);
        }
    }

    #[test]
    fn listening_takes_no_privilege_and_does_not_block() {
        let uevents = Uevents::listen().unwrap();
        let nothing = try_receive(uevents.as_fd()).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }
}
