//! The words of the domain, as pure values.
//!
//! Lives here: PASIDs and ranges of them, limits, cgroup names and ids, domains, sets, requests, refusals
//! and faults. Nothing here reads a clock, a file or a socket. Every other room speaks in these types.

mod cgroup;
mod domain;
mod fault;
mod limit;
mod pasid;
mod refusal;
mod request;
mod text;

pub use cgroup::{CgroupId, CgroupPath};
pub use domain::{Domain, PciAddress};
pub use fault::Fault;
pub use limit::Limit;
pub use pasid::{MAX_BITS, Pasid, PasidRange};
pub use refusal::{Failure, Refusal};
pub use request::{SetId, SetRequest, SetState};
pub use text::{escaped, is_printable};

/// A value that was offered from outside and is not what the field takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {expected}")]
pub struct Malformed {
    /// What was offered, verbatim.
    pub value: String,
    /// What the field takes, as a noun phrase.
    pub expected: &'static str,
}

impl Malformed {
    /// Says that `value` is not `expected`.
    pub fn new(value: impl Into<String>, expected: &'static str) -> Self {
        Self { value: value.into(), expected }
    }
}

/// `text` without the blanks around it: those of C's `isspace`, and no others that Unicode knows.
///
/// Source: `strstrip`, the kernel's `lib/string_helpers.c`, which the writes to cgroup files go through.
pub fn trim_blanks(text: &str) -> &str {
    text.trim_matches(|c: char| matches!(c, ' ' | '\t'..='\r'))
}

/// Parses digits in C's base 0: decimal, `0x` hexadecimal, leading `0` octal. No sign, no blanks.
///
/// Source: `kstrtoull(…, 0, …)`, the kernel's `lib/kstrtox.c`.
pub(crate) fn parse_base0(text: &str) -> Option<u64> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (text.get(2..)?, 16),
        [b'0', _, ..] => (text.get(1..)?, 8),
        _ => (text, 10),
    };
    // from_str_radix would take a sign.
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}
