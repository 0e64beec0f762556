//! Requests, from bytes that nobody vouches for.

use super::abi::{self, opcode};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Who asks, and on what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The number that the reply carries. Sent again, a request has [`abi::UNIQUE_RESEND`] set as well.
    pub unique: u64,
    /// The node; meaningless on a CUSE channel.
    pub node: u64,
    /// The caller's file system uid, in the initial user namespace.
    pub uid: u32,
    /// The caller's file system gid, in the initial user namespace.
    pub gid: u32,
    /// The id of the calling *thread*, in the pid namespace of who opened the channel. 0 in RELEASE, in what the kernel
    /// asks for itself, and where the caller has no number in that namespace.
    pub tid: u32,
}

impl Header {
    /// The number that the request had when it was sent for the first time.
    pub fn first_unique(&self) -> u64 {
        self.unique & !abi::UNIQUE_RESEND
    }

    /// Whether it was sent before, to a server that did not answer.
    pub fn is_resent(&self) -> bool {
        self.unique & abi::UNIQUE_RESEND != 0
    }
}

/// What is asked. Names, buffers and numbers are the caller's; nothing of them is checked beyond their own shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// The first request of a FUSE channel.
    Init(Offer),
    /// The first request of a CUSE channel.
    CuseInit(Offer),
    /// The file system is gone.
    Destroy,
    /// A name in a directory.
    Lookup(&'a OsStr),
    /// The kernel forgets nodes. Wants no reply.
    Forget,
    /// Attributes of the node.
    Getattr,
    /// New attributes: the mask of those that are given (`FATTR_*`).
    Setattr {
        /// Which attributes.
        valid: u32,
    },
    /// Opens the node.
    Open {
        /// Flags of `open(2)`.
        flags: u32,
    },
    /// Opens the directory.
    Opendir,
    /// Reads from an open file.
    Read(Window),
    /// Reads entries of an open directory.
    Readdir(Window),
    /// Writes to an open file.
    Write {
        /// The open file.
        handle: u64,
        /// Where, in bytes.
        offset: u64,
        /// What.
        data: &'a [u8],
    },
    /// The last descriptor of an open file was closed.
    Release {
        /// The open file.
        handle: u64,
    },
    /// The last descriptor of an open directory was closed.
    Releasedir {
        /// The open directory.
        handle: u64,
    },
    /// The file system's figures.
    Statfs,
    /// The caller of another request got a signal. Wants no reply.
    Interrupt {
        /// The other request.
        unique: u64,
    },
    /// An ioctl.
    Ioctl(Ioctl<'a>),
    /// Readiness.
    Poll {
        /// The open file.
        handle: u64,
        /// What a wake-up names the file by.
        wake: u64,
        /// Whether a wake-up is wanted.
        notify: bool,
    },
    /// Opens a file that is not there, to make it.
    Create,
    /// Something else that makes, renames or removes a name.
    Make,
    /// An opcode that this does not know.
    Other(u32),
}

/// What the kernel offers in the first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The protocol's major version.
    pub major: u32,
    /// The protocol's minor version.
    pub minor: u32,
    /// Flags it can.
    pub flags: u32,
}

/// A part of an open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The open file.
    pub handle: u64,
    /// From here: bytes of a file, the last entry's cookie of a directory.
    pub offset: u64,
    /// At most this many bytes.
    pub size: u32,
}

/// An ioctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ioctl<'a> {
    /// The open file.
    pub handle: u64,
    /// `FUSE_IOCTL_*`.
    pub flags: u32,
    /// The command.
    pub command: u32,
    /// The argument: a pointer in the caller's memory, or just a number.
    pub argument: u64,
    /// What the kernel read for us: nothing in the first phase of an unrestricted ioctl.
    pub input: &'a [u8],
    /// How much the kernel can write back.
    pub output: u32,
}

/// A request that breaks its own framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request {unique} with opcode {opcode} is malformed")]
pub struct BadRequest {
    /// The number to reply to; `None` where not even the header is whole.
    pub unique: u64,
    /// The opcode.
    pub opcode: u32,
}

/// Reads the one request in `message`.
///
/// Never panics, whatever the bytes. What is longer than this version of the protocol knows is taken, the rest
/// ignored, as the protocol wants it.
pub fn parse(message: &[u8]) -> Result<(Header, Request<'_>), BadRequest> {
    let broken = BadRequest { unique: 0, opcode: 0 };
    let mut fields = Fields(message);
    let mut head = || {
        let length = usize::try_from(fields.u32()?).ok()?;
        let opcode = fields.u32()?;
        let header = Header {
            unique: fields.u64()?,
            node: fields.u64()?,
            uid: fields.u32()?,
            gid: fields.u32()?,
            tid: fields.u32()?,
        };
        fields.u32()?;
        Some((length, opcode, header))
    };
    let (length, opcode, header) = head().ok_or(broken)?;
    let bad = BadRequest { unique: header.unique, opcode };
    if length != message.len() {
        return Err(bad);
    }
    body(opcode, fields).map(|request| (header, request)).ok_or(bad)
}

fn body<'a>(opcode: u32, mut f: Fields<'a>) -> Option<Request<'a>> {
    Some(match opcode {
        opcode::INIT => {
            let (major, minor) = (f.u32()?, f.u32()?);
            f.u32()?; // max_readahead
            Request::Init(Offer { major, minor, flags: f.u32()? })
        }
        opcode::CUSE_INIT => {
            let (major, minor) = (f.u32()?, f.u32()?);
            f.u32()?; // unused
            Request::CuseInit(Offer { major, minor, flags: f.u32()? })
        }
        opcode::DESTROY => Request::Destroy,
        opcode::LOOKUP => Request::Lookup(f.name()?),
        opcode::FORGET | opcode::BATCH_FORGET => Request::Forget,
        opcode::GETATTR => Request::Getattr,
        opcode::SETATTR => Request::Setattr { valid: f.u32()? },
        opcode::OPEN => Request::Open { flags: f.u32()? },
        opcode::OPENDIR => Request::Opendir,
        opcode::READ => Request::Read(f.window()?),
        opcode::READDIR => Request::Readdir(f.window()?),
        opcode::WRITE => {
            let Window { handle, offset, size } = f.window()?;
            f.take(20)?; // write_flags, lock_owner, flags, padding
            Request::Write { handle, offset, data: f.take(usize::try_from(size).ok()?)? }
        }
        opcode::RELEASE => Request::Release { handle: f.u64()? },
        opcode::RELEASEDIR => Request::Releasedir { handle: f.u64()? },
        opcode::STATFS => Request::Statfs,
        opcode::CREATE => Request::Create,
        opcode::INTERRUPT => Request::Interrupt { unique: f.u64()? },
        opcode::IOCTL => {
            let (handle, flags, command, argument) = (f.u64()?, f.u32()?, f.u32()?, f.u64()?);
            let (length, output) = (usize::try_from(f.u32()?).ok()?, f.u32()?);
            Request::Ioctl(Ioctl { handle, flags, command, argument, input: f.take(length)?, output })
        }
        opcode::POLL => {
            let (handle, wake, flags) = (f.u64()?, f.u64()?, f.u32()?);
            Request::Poll { handle, wake, notify: flags & abi::POLL_SCHEDULE_NOTIFY != 0 }
        }
        maker if opcode::MAKERS.contains(&maker) => Request::Make,
        other => Request::Other(other),
    })
}

/// What is left to read of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_ne_bytes)
    }

    /// The first three fields of `fuse_read_in` and `fuse_write_in`.
    fn window(&mut self) -> Option<Window> {
        Some(Window { handle: self.u64()?, offset: self.u64()?, size: self.u32()? })
    }

    /// A name that ends with NUL, and with it the message.
    fn name(&mut self) -> Option<&'a OsStr> {
        let name = self.0.strip_suffix(&[0])?;
        (!name.is_empty() && !name.contains(&0) && !name.contains(&b'/')).then(|| OsStr::from_bytes(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(abi::IN_HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(opcode.to_ne_bytes());
        bytes.extend(7u64.to_ne_bytes());
        bytes.extend(1u64.to_ne_bytes());
        for n in [1000u32, 100, 4242, 0] {
            bytes.extend(n.to_ne_bytes());
        }
        bytes.extend(body);
        bytes
    }

    #[test]
    fn the_header_names_the_caller() {
        let (header, request) = parse(&message(opcode::STATFS, &[])).map(|(h, r)| (h, r == Request::Statfs)).unwrap();
        assert_eq!(header, Header { unique: 7, node: 1, uid: 1000, gid: 100, tid: 4242 });
        assert!(request);
    }

    #[test]
    fn a_length_that_lies_is_refused_with_the_number_to_answer() {
        let mut bytes = message(opcode::LOOKUP, b"a\0");
        bytes.push(0);
        assert_eq!(parse(&bytes), Err(BadRequest { unique: 7, opcode: opcode::LOOKUP }));
        assert_eq!(parse(&bytes[..39]), Err(BadRequest { unique: 0, opcode: 0 }));
    }

    #[test]
    fn an_ioctl_that_claims_more_input_than_it_has_is_refused() {
        let mut body = [0u8; 32];
        body[24] = 4;
        assert!(parse(&message(opcode::IOCTL, &body)).is_err());
        let mut whole = body.to_vec();
        whole.extend([1, 2, 3, 4]);
        match parse(&message(opcode::IOCTL, &whole)) {
            Ok((_, Request::Ioctl(ioctl))) => assert_eq!(ioctl.input, [1, 2, 3, 4]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_end_with_the_message_and_hold_no_slash() {
        assert!(matches!(parse(&message(opcode::LOOKUP, b"a b\0")), Ok((_, Request::Lookup(n))) if n == "a b"));
        for bad in [&b""[..], b"\0", b"a", b"a\0b\0", b"a/b\0"] {
            assert!(parse(&message(opcode::LOOKUP, bad)).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(opcode in prop_oneof![0u32..60, Just(4096)], body in proptest::collection::vec(any::<u8>(), 0..96)) {
            let _ = parse(&message(opcode, &body));
            let _ = parse(&body);
        }
    }
}
