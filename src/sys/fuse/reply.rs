//! Replies and notices, as bytes. Sizes in brackets are those of the kernel's structures.

use super::abi::{self, init_flag, notice};
use super::request::Offer;

/// One message to the kernel: a reply, or a notice of our own accord.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    fn begin(unique: u64, code: i32) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend(unique.to_ne_bytes());
        Self(bytes)
    }

    fn u16(mut self, n: u16) -> Self {
        self.0.extend(n.to_ne_bytes());
        self
    }

    fn u32(mut self, n: u32) -> Self {
        self.0.extend(n.to_ne_bytes());
        self
    }

    fn u64(mut self, n: u64) -> Self {
        self.0.extend(n.to_ne_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn end(mut self) -> Self {
        // Saturates: the kernel refuses a length that is not the write's.
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        if let Some(field) = self.0.first_chunk_mut() {
            *field = length.to_ne_bytes();
        }
        self
    }

    /// The bytes to write.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Failed, with this errno (positive).
    pub fn error(unique: u64, errno: i32) -> Self {
        Self::begin(unique, errno.saturating_neg()).end()
    }

    /// Done, nothing to say.
    pub fn done(unique: u64) -> Self {
        Self::begin(unique, 0).end()
    }

    /// Done, with these bytes: READ, READDIR.
    pub fn data(unique: u64, data: &[u8]) -> Self {
        Self::begin(unique, 0).bytes(data).end()
    }

    /// Answers [`Request::Init`](super::Request::Init) (`fuse_init_out`, 64).
    pub fn init(unique: u64, offer: Offer) -> Self {
        Self::begin(unique, 0)
            .u32(abi::MAJOR)
            .u32(offer.minor.min(abi::MINOR))
            .u32(0) // max_readahead
            .u32(offer.flags & (init_flag::ATOMIC_O_TRUNC | init_flag::PARALLEL_DIROPS))
            .u16(0) // max_background: the kernel's own
            .u16(0) // congestion_threshold: the kernel's own
            .u32(abi::MAX_WRITE)
            .u32(1) // time_gran
            .bytes(&[0; 36])
            .end()
    }

    /// Answers [`Request::CuseInit`](super::Request::CuseInit) (`cuse_init_out`, 72): a device called `name` with a
    /// number of the kernel's choice, that may read and write the memory of its callers.
    pub fn cuse_init(unique: u64, offer: Offer, name: &str) -> Self {
        Self::begin(unique, 0)
            .u32(abi::MAJOR)
            .u32(offer.minor.min(abi::MINOR))
            .u32(0)
            .u32(1) // CUSE_UNRESTRICTED_IOCTL
            .u32(abi::MAX_WRITE)
            .u32(abi::MAX_WRITE)
            .bytes(&[0; 48]) // dev_major, dev_minor, spare
            .bytes(b"DEVNAME=")
            .bytes(name.as_bytes())
            .bytes(&[0])
            .end()
    }

    /// A name that was found (`fuse_entry_out`, 128). The name is not cached: its next use asks again, and renews the
    /// attributes, which are for a second.
    pub fn entry(unique: u64, node: u64, attributes: &Attributes) -> Self {
        Self::begin(unique, 0).u64(node).u64(0).u64(0).u64(1).u32(0).u32(0).attributes(attributes).end()
    }

    /// Attributes of a node (`fuse_attr_out`, 104), good for `seconds`: for the mounted directory, whose name nobody looks
    /// up, this saves a question at each use of a path.
    pub fn attributes_of(unique: u64, attributes: &Attributes, seconds: u64) -> Self {
        Self::begin(unique, 0).u64(seconds).u32(0).u32(0).attributes(attributes).end()
    }

    /// `fuse_attr`, 88.
    fn attributes(self, a: &Attributes) -> Self {
        let (seconds, nanoseconds) = a.changed;
        self.u64(a.inode)
            .u64(a.size)
            .u64(0)
            .u64(seconds)
            .u64(seconds)
            .u64(seconds)
            .u32(nanoseconds)
            .u32(nanoseconds)
            .u32(nanoseconds)
            .u32(a.mode)
            .u32(a.links)
            .u32(a.uid)
            .u32(a.gid)
            .u32(0) // rdev
            .u32(4096)
            .u32(0)
    }

    /// An open file or directory (`fuse_open_out`, 16).
    pub fn opened(unique: u64, handle: u64, flags: u32) -> Self {
        Self::begin(unique, 0).u64(handle).u32(flags).u32(0).end()
    }

    /// How much was written (`fuse_write_out`, 8).
    pub fn written(unique: u64, bytes: u32) -> Self {
        Self::begin(unique, 0).u32(bytes).u32(0).end()
    }

    /// A file system without blocks and with names of up to 255 bytes (`fuse_statfs_out`, 80).
    pub fn statfs(unique: u64) -> Self {
        Self::begin(unique, 0).bytes(&[0; 40]).u32(4096).u32(255).u32(4096).bytes(&[0; 28]).end()
    }

    /// What the ioctl returns (not negative), and what goes to the memory the retry named (`fuse_ioctl_out`, 16).
    pub fn ioctl(unique: u64, result: i32, output: &[u8]) -> Self {
        Self::begin(unique, 0).u32(result.cast_unsigned()).u32(0).u32(0).u32(0).bytes(output).end()
    }

    /// Asks for the ioctl again: `read` bytes at `argument` as its input, and room for `write` bytes there.
    /// No room and nothing to read are left out.
    pub fn ioctl_retry(unique: u64, argument: u64, read: u32, write: u32) -> Self {
        let count = |length| u32::from(length != 0);
        let mut message = Self::begin(unique, 0).u32(0).u32(abi::IOCTL_RETRY).u32(count(read)).u32(count(write));
        for length in [read, write].into_iter().filter(|length| *length != 0) {
            message = message.u64(argument).u64(length.into());
        }
        message.end()
    }

    /// Readiness (`fuse_poll_out`, 8): `POLL*` of `poll(2)`.
    pub fn polled(unique: u64, events: u32) -> Self {
        Self::begin(unique, 0).u32(events).u32(0).end()
    }

    /// Tells the kernel to ask again who polls the file (`fuse_notify_poll_wakeup_out`, 8).
    pub fn wake(wake: u64) -> Self {
        Self::begin(0, notice::POLL).u64(wake).end()
    }

    /// Tells the kernel to send again what was read and never answered. Linux 6.9.
    pub fn resend() -> Self {
        Self::begin(0, notice::RESEND).end()
    }
}

/// Attributes of a node: what `stat(2)` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The inode's number.
    pub inode: u64,
    /// Type and permissions (`st_mode`).
    pub mode: u32,
    /// How many names it has.
    pub links: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its size: sendfile(2) and splice(2) end there, also where reads go past the page cache.
    pub size: u64,
    /// When it changed: seconds and nanoseconds since the epoch.
    pub changed: (u64, u32),
}

/// Entries of a directory, as READDIR returns them (`fuse_dirent`, 24 and the name, to the next multiple of 8).
#[derive(Clone, Debug, Default)]
pub struct Entries(Vec<u8>);

impl Entries {
    /// Adds an entry unless the listing would be longer than `size`; whether it was added. `cookie` is the offset that
    /// the next READDIR begins at.
    pub fn push(&mut self, size: u32, inode: u64, cookie: u64, directory: bool, name: &[u8]) -> bool {
        let length = (24 + name.len()).next_multiple_of(8);
        let (Ok(room), Ok(name_length)) = (usize::try_from(size), u32::try_from(name.len())) else { return false };
        if self.0.len() + length > room {
            return false;
        }
        self.0.extend(inode.to_ne_bytes());
        self.0.extend(cookie.to_ne_bytes());
        self.0.extend(name_length.to_ne_bytes());
        let kind: u32 = if directory { 4 } else { 8 }; // DT_DIR, DT_REG
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(name);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        true
    }

    /// The listing.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer { major: 7, minor: 41, flags: u32::MAX };

    #[test]
    fn replies_have_the_sizes_of_the_kernels_structures() {
        let attributes = Attributes { inode: 1, mode: 0, links: 1, uid: 0, gid: 0, size: 0, changed: (0, 0) };
        for (message, size) in [
            (Message::done(1), 0),
            (Message::error(1, 5), 0),
            (Message::init(1, OFFER), 64),
            (Message::cuse_init(1, OFFER, "x"), 72 + "DEVNAME=x".len() + 1),
            (Message::entry(1, 2, &attributes), 128),
            (Message::attributes_of(1, &attributes, 1), 104),
            (Message::opened(1, 2, 0), 16),
            (Message::written(1, 2), 8),
            (Message::statfs(1), 80),
            (Message::ioctl(1, 7, b"ab"), 18),
            (Message::ioctl_retry(1, 0x1000, 16, 0), 32),
            (Message::ioctl_retry(1, 0x1000, 12, 12), 48),
            (Message::polled(1, 2), 8),
            (Message::wake(3), 8),
            (Message::resend(), 0),
        ] {
            let bytes = message.as_bytes();
            assert_eq!(bytes.len(), abi::OUT_HEADER + size);
            assert_eq!(bytes[..4], u32::try_from(bytes.len()).unwrap().to_ne_bytes());
        }
    }

    #[test]
    fn a_listing_never_outgrows_its_window() {
        let mut entries = Entries::default();
        assert!(entries.push(64, 1, 1, true, b"12345678"));
        assert!(entries.push(64, 2, 2, false, b"a"));
        assert!(!entries.push(64, 3, 3, false, b"b"));
        assert_eq!(entries.as_bytes().len(), 64);
    }
}
