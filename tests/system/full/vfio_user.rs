//! A PCI Express function with PASIDs that exists in this process alone: a vfio-user server.
//!
//! QEMU's vfio-user-pci shows it to its guest. It has configuration space with the PASID and ATS capabilities, which
//! is what a kernel and the service look at; no memory, no interrupts, and it does no DMA.
//! Source: "vfio-user Protocol Specification", version 0.1 (libvfio-user's `docs/vfio-user.rst`); register layouts:
//! the kernel's `include/uapi/linux/pci_regs.h`.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Who the functions say they are: QEMU's vendor id; the device id is the width of their PASIDs.
pub const VENDOR: u16 = 0x1234;

const CONFIG_SPACE: usize = 4096;
const PCIE_CAPABILITY: usize = 0x40;
const PASID_CAPABILITY: usize = 0x100;
const ATS_CAPABILITY: usize = 0x110;

/// Registers that the guest may write: from and to, and no more than these.
const WRITABLE: [(usize, usize); 6] = [
    (0x04, 0x08),                                     // command, status
    (0x3c, 0x3d),                                     // interrupt line
    (PCIE_CAPABILITY + 0x08, PCIE_CAPABILITY + 0x0c), // device control, device status
    (PCIE_CAPABILITY + 0x28, PCIE_CAPABILITY + 0x2c), // device control 2
    (PASID_CAPABILITY + 6, PASID_CAPABILITY + 8),     // PASID control
    (ATS_CAPABILITY + 6, ATS_CAPABILITY + 8),         // ATS control
];

/// The configuration space of a function whose PASIDs have `width` bits.
fn configuration_space(width: u8) -> Vec<u8> {
    let mut space = vec![0; CONFIG_SPACE];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x00, &VENDOR.to_le_bytes());
    put(0x02, &u16::from(width).to_le_bytes());
    put(0x06, &0x0010u16.to_le_bytes()); // status: has a capability list
    put(0x0b, &[0xff]); // class: of none
    put(0x34, &[PCIE_CAPABILITY as u8]);
    put(PCIE_CAPABILITY, &[0x10, 0, 0x02, 0x00]); // PCI Express, the last one; version 2, an endpoint
    put(PCIE_CAPABILITY + 0x04, &0x1000_8000u32.to_le_bytes()); // role-based errors, function level reset
    put(PCIE_CAPABILITY + 0x0c, &0x11u32.to_le_bytes()); // link: 2.5 GT/s, one lane
    put(PCIE_CAPABILITY + 0x12, &0x11u16.to_le_bytes());
    // Two end-end TLP prefixes: without them the kernel enables no PASIDs, and says nothing.
    put(PCIE_CAPABILITY + 0x24, &0x0030_0000u32.to_le_bytes());
    let extended = |id: u16, next: usize| (u32::from(id) | 1 << 16 | (next as u32) << 20).to_le_bytes();
    put(PASID_CAPABILITY, &extended(0x1b, ATS_CAPABILITY));
    // Execute permission and privileged mode are supported.
    put(PASID_CAPABILITY + 4, &(u16::from(width) << 8 | 0x6).to_le_bytes());
    put(ATS_CAPABILITY, &extended(0x0f, 0));
    put(ATS_CAPABILITY + 4, &0x20u16.to_le_bytes()); // requests are page-aligned
    space
}

/// Serves a function with PASIDs of `width` bits to the one QEMU that connects to `socket`; from another thread, until
/// that ends.
pub fn serve(socket: &Path, width: u8) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    std::thread::spawn(move || {
        let Ok((mut client, _)) = listener.accept() else { return };
        let mut function = Function { space: configuration_space(width) };
        while let Ok((header, body)) = receive(&mut client) {
            let answered = match function.answer(header.command, &body) {
                _ if header.wants_no_answer() => Ok(()),
                Ok(answer) => send(&mut client, header, 0, &answer),
                Err(errno) => send(&mut client, header, errno, &[]),
            };
            if answered.is_err() {
                return;
            }
        }
    });
    Ok(())
}

mod command {
    pub const VERSION: u16 = 1;
    pub const DMA_MAP: u16 = 2;
    pub const DMA_UNMAP: u16 = 3;
    pub const DEVICE_GET_INFO: u16 = 4;
    pub const DEVICE_GET_REGION_INFO: u16 = 5;
    pub const DEVICE_GET_IRQ_INFO: u16 = 7;
    pub const DEVICE_SET_IRQS: u16 = 8;
    pub const REGION_READ: u16 = 9;
    pub const REGION_WRITE: u16 = 10;
    pub const DEVICE_RESET: u16 = 13;
}

const HEADER: usize = 16;
const FLAG_REPLY: u32 = 1;
const FLAG_NO_REPLY: u32 = 1 << 4;
const FLAG_ERROR: u32 = 1 << 5;
const ENOSYS: u32 = 38;
const EINVAL: u32 = 22;

/// The region that is configuration space, and how many there are: those of VFIO's PCI devices.
const CONFIG_REGION: u32 = 7;
const REGIONS: u32 = 9;
const INTERRUPTS: u32 = 5;

#[derive(Clone, Copy)]
struct Header {
    id: u16,
    command: u16,
    flags: u32,
}

impl Header {
    fn wants_no_answer(self) -> bool {
        self.flags & FLAG_NO_REPLY != 0
    }
}

/// A message of the client. Descriptors that come with it are dropped: there is no DMA to do with them.
fn receive(client: &mut UnixStream) -> io::Result<(Header, Vec<u8>)> {
    let mut bytes = [0; HEADER];
    client.read_exact(&mut bytes)?;
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let mut body = vec![0; (word(4) as usize).saturating_sub(HEADER)];
    client.read_exact(&mut body)?;
    Ok((Header { id: half(0), command: half(2), flags: word(8) }, body))
}

fn send(client: &mut UnixStream, to: Header, errno: u32, body: &[u8]) -> io::Result<()> {
    let flags = if errno == 0 { FLAG_REPLY } else { FLAG_REPLY | FLAG_ERROR };
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(to.id.to_le_bytes());
    message.extend(to.command.to_le_bytes());
    message.extend(((HEADER + body.len()) as u32).to_le_bytes());
    message.extend(flags.to_le_bytes());
    message.extend(errno.to_le_bytes());
    message.extend(body);
    client.write_all(&message)
}

struct Function {
    space: Vec<u8>,
}

impl Function {
    /// The body of the answer, or an errno.
    fn answer(&mut self, command: u16, body: &[u8]) -> Result<Vec<u8>, u32> {
        let word =
            |at: usize| body.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes).ok_or(EINVAL);
        match command {
            command::VERSION => {
                let limits = r#"{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576,"pgsizes":4096}}"#;
                Ok([body.get(..4).ok_or(EINVAL)?, limits.as_bytes(), &[0]].concat())
            }
            command::DMA_MAP | command::DEVICE_SET_IRQS | command::DEVICE_RESET => Ok(Vec::new()),
            command::DMA_UNMAP => Ok(body.to_vec()),
            // argsz; flags: can be reset, is a PCI device.
            command::DEVICE_GET_INFO => Ok(words(&[16, 0b11, REGIONS, INTERRUPTS])),
            command::DEVICE_GET_REGION_INFO => {
                let region = word(8)?;
                let size = if region == CONFIG_REGION { CONFIG_SPACE as u32 } else { 0 };
                let flags = if size > 0 { 0b11 } else { 0 }; // readable, writable
                let offset = u64::from(region) << 40;
                Ok([words(&[32, flags, region, 0, size, 0]), offset.to_le_bytes().to_vec()].concat())
            }
            command::DEVICE_GET_IRQ_INFO => Ok(words(&[16, 0, word(8)?, 0])),
            command::REGION_READ => {
                let (head, offset, count) = access(body)?;
                let bytes = if word(8)? == CONFIG_REGION {
                    self.space.get(offset..offset + count).ok_or(EINVAL)?.to_vec()
                } else {
                    vec![0; count]
                };
                Ok([head, &bytes].concat())
            }
            command::REGION_WRITE => {
                let (head, offset, count) = access(body)?;
                if word(8)? == CONFIG_REGION {
                    let data = body.get(head.len()..head.len() + count).ok_or(EINVAL)?;
                    self.write(offset, data);
                }
                Ok(head.to_vec())
            }
            _ => Err(ENOSYS),
        }
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            let writable = WRITABLE.iter().any(|(from, to)| (*from..*to).contains(&at));
            if let Some(register) = self.space.get_mut(at).filter(|_| writable) {
                *register = *byte;
            }
        }
    }
}

/// A region access: its sixteen bytes, which the answer begins with, the offset, and how many bytes (at most a page).
fn access(body: &[u8]) -> Result<(&[u8], usize, usize), u32> {
    let head = body.get(..16).ok_or(EINVAL)?;
    let offset = u64::from_le_bytes(head[..8].try_into().map_err(|_| EINVAL)?);
    let count = u32::from_le_bytes(head[12..16].try_into().map_err(|_| EINVAL)?) as usize;
    let offset = usize::try_from(offset).map_err(|_| EINVAL)?;
    if count > CONFIG_SPACE || offset > CONFIG_SPACE { Err(EINVAL) } else { Ok((head, offset, count)) }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
