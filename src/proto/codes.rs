//! The one table of refusals: their names and their codes on each edge.

use crate::model::Refusal;

/// What a refusal is called on each edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codes {
    /// The refusal's name; with [`crate::proto::BUS_ERROR_PREFIX`] before it the D-Bus error.
    pub name: &'static str,
    /// The errno over the socket, the device and the C library; Linux's numbers for every architecture but
    /// alpha, mips, parisc and sparc, where PASIDs do not exist.
    pub errno: i32,
    /// The errno as C spells it.
    pub errno_name: &'static str,
}

/// The name of a fault, where refusals have theirs.
pub const FAULT_NAME: &str = "Internal";
/// The errno of a fault: EIO.
pub const FAULT_ERRNO: i32 = 5;
/// The errno of a fault as C spells it.
pub const FAULT_ERRNO_NAME: &str = "EIO";

/// The codes of `refusal`.
///
/// Source: the contract's table of refusals; numbers from `include/uapi/asm-generic/errno*.h`.
pub fn codes(refusal: &Refusal) -> Codes {
    let (name, errno, errno_name) = match refusal {
        Refusal::LimitExceeded { .. } => ("LimitExceeded", 11, "EAGAIN"),
        Refusal::QuotaExceeded { .. } => ("QuotaExceeded", 122, "EDQUOT"),
        Refusal::NoSpace { .. } => ("NoSpace", 28, "ENOSPC"),
        Refusal::NotPermitted { .. } => ("NotPermitted", 1, "EPERM"),
        Refusal::ForeignPasid { .. } => ("ForeignPasid", 13, "EACCES"),
        Refusal::NotFound { .. } => ("NotFound", 2, "ENOENT"),
        Refusal::Busy { .. } => ("Busy", 16, "EBUSY"),
        Refusal::Exists { .. } => ("Exists", 17, "EEXIST"),
        Refusal::Stale { .. } => ("Stale", 116, "ESTALE"),
        Refusal::Revoked { .. } => ("Revoked", 32, "EPIPE"),
        Refusal::InvalidArgument { .. } => ("InvalidArgument", 22, "EINVAL"),
        Refusal::TooMany { .. } => ("TooMany", 24, "EMFILE"),
        Refusal::Unsupported { .. } => ("Unsupported", 95, "EOPNOTSUPP"),
    };
    Codes { name, errno, errno_name }
}
