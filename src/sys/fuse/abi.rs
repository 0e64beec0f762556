//! The numbers of the FUSE protocol: opcodes, flags, sizes.
//!
//! Source: the kernel's `include/uapi/linux/fuse.h`, protocol 7. Only what the two servers here speak. Structures are
//! read and written field by field in `request` and `reply`; their sizes and offsets are noted there.

/// The protocol's major version.
pub const MAJOR: u32 = 7;
/// The newest minor version that these parsers were written for. What is older than [`MINOR_LEAST`] is refused.
pub const MINOR: u32 = 38;
/// The oldest minor version: unrestricted ioctl with 64-bit iovecs (7.16), `fuse_init_out` of 64 bytes (7.23).
pub const MINOR_LEAST: u32 = 23;

/// The node of the mounted directory.
pub const ROOT_NODE: u64 = 1;

/// The most bytes of one WRITE, and of what an ioctl carries.
pub const MAX_WRITE: u32 = 4096;

/// Bytes of a request's header.
pub const IN_HEADER: usize = 40;
/// Bytes of a reply's header.
pub const OUT_HEADER: usize = 16;

/// The bit of `unique` that marks a request that is sent again.
pub const UNIQUE_RESEND: u64 = 1 << 63;

/// Opcodes, in the kernel's spelling without `FUSE_`.
pub(super) mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const POLL: u32 = 40;
    pub const BATCH_FORGET: u32 = 42;
    pub const CUSE_INIT: u32 = 4096;
    /// MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, SYMLINK, RENAME2.
    pub const MAKERS: [u32; 8] = [8, 9, 10, 11, 12, 13, 6, 45];
}

/// Flags of the negotiation (`FUSE_*` of `fuse_init_in`).
pub(super) mod init_flag {
    /// O_TRUNC comes with OPEN instead of a SETATTR before it.
    pub const ATOMIC_O_TRUNC: u32 = 1 << 3;
    /// READDIR and LOOKUP of one directory may come at the same time.
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
}

/// The file's pages are not cached: each read and write reaches the server (`FOPEN_DIRECT_IO`).
pub const OPEN_DIRECT_IO: u32 = 1;
/// The file has no position (`FOPEN_NONSEEKABLE`).
pub const OPEN_NONSEEKABLE: u32 = 1 << 2;

/// SETATTR carries a mode, a uid or a gid (`FATTR_MODE | FATTR_UID | FATTR_GID`).
pub const SET_MODE_OR_OWNER: u32 = 0b111;

/// The server may ask for any memory of the caller (`FUSE_IOCTL_UNRESTRICTED`).
pub const IOCTL_UNRESTRICTED: u32 = 1 << 1;
/// The reply asks for the request again, with the memory it names (`FUSE_IOCTL_RETRY`).
pub const IOCTL_RETRY: u32 = 1 << 2;

/// The kernel wants a wake-up when the file becomes ready (`FUSE_POLL_SCHEDULE_NOTIFY`).
pub const POLL_SCHEDULE_NOTIFY: u32 = 1;

/// Notices from the server (`FUSE_NOTIFY_*`).
pub(super) mod notice {
    pub const POLL: i32 = 1;
    pub const RESEND: i32 = 7;
}
