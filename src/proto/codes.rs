//! The one table of refusals: their names and their codes on each edge.

use crate::model::{Failure, Refusal};

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

/// The errno of `failure`: its refusal's, or a fault's.
pub fn failure_errno(failure: &Failure) -> i32 {
    failure.refusal().map_or(FAULT_ERRNO, |refusal| codes(refusal).errno)
}

/// `refusal` as the object that `ioasidctl --json` prints: its name, its errno, its fields.
pub fn refusal_to_json(refusal: &Refusal) -> serde_json::Value {
    let mut json = serde_json::to_value(refusal).unwrap_or_default();
    if let Some(object) = json.as_object_mut() {
        object.insert("errno".to_owned(), codes(refusal).errno_name.into());
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SetId;

    #[test]
    fn json_carries_name_errno_and_fields() {
        let refusal = Refusal::QuotaExceeded { set: SetId(3), quota: 4, leased: 4, asked: 1 };
        assert_eq!(
            refusal_to_json(&refusal),
            serde_json::json!({"error": "QuotaExceeded", "errno": "EDQUOT", "set": 3, "quota": 4, "leased": 4, "asked": 1})
        );
        assert_eq!(codes(&refusal).name, refusal_to_json(&refusal)["error"]);
    }
}
