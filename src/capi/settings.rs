//! What C fills in for a new set, and what it is told of one.

use crate::client::ClientError;
use crate::model::{PasidRange, Refusal, SetRequest, SetState};
use crate::proto::SetInfo;
use std::ffi::{CStr, c_char};

/// The version of this header: the library's interface grows with it. ioasid_version() has that of the library that runs.
pub const IOASID_VERSION_MAJOR: u32 = 0;
/// See IOASID_VERSION_MAJOR.
pub const IOASID_VERSION_MINOR: u32 = 1;
/// See IOASID_VERSION_MAJOR.
pub const IOASID_VERSION_MICRO: u32 = 0;

/// The set can be used.
pub const IOASID_STATE_ACTIVE: u32 = 0;
/// It was revoked: every use is refused.
pub const IOASID_STATE_REVOKED: u32 = 1;
/// Its last FD is closed; ids that sessions hold are charged until they are put.
pub const IOASID_STATE_DRAINING: u32 = 2;

/// Bytes of a label, with the NUL.
pub const IOASID_LABEL_BYTES: usize = 65;
/// Bytes of a domain's name, with the NUL.
pub const IOASID_DOMAIN_BYTES: usize = 32;
/// Bytes of a cgroup's path, with the NUL.
pub const IOASID_CGROUP_BYTES: usize = 4096;

/// What a new set shall be. Zero it, set `size`, then what you care about: the rest is decided by the policy rule that
/// matches.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SetOptions {
    /// sizeof(struct ioasid_set_options): a later library knows by it what an older program means.
    pub size: usize,
    /// The most ids the set may lease; 0: the rule's default.
    pub quota: u32,
    /// Ids come from this range alone, both ends included; max 0: all that the rule allows.
    pub min: u32,
    /// See min.
    pub max: u32,
    /// The number space, "global" or "pci:DDDD:BB:DD.F"; NULL: global.
    pub domain: *const c_char,
    /// A word for people, at most 64 bytes; NULL: none.
    pub label: *const c_char,
    /// The cgroup to charge where it is not the caller's own; NULL: the caller's.
    pub cgroup: *const c_char,
}

/// A set, as it was when it was asked.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SetStatus {
    /// In: sizeof(struct ioasid_info). No more than that is written.
    pub size: usize,
    /// Its number; none is used twice while the host is up.
    pub set: u64,
    /// The kernel's id of the cgroup that is charged: st_ino of its directory.
    pub cgroup_id: u64,
    /// When it was made, in microseconds since 1970-01-01 UTC.
    pub created_usec: u64,
    /// The uid that asked for it.
    pub owner_uid: u32,
    /// The most ids it may lease.
    pub quota: u32,
    /// How many it leases; all are charged.
    pub leased: u32,
    /// How many of those are allocated.
    pub in_use: u32,
    /// IOASID_STATE_ACTIVE and so on; a later service may have more of them.
    pub state: u32,
    /// Its number space.
    pub domain: [c_char; IOASID_DOMAIN_BYTES],
    /// Its label; "" where it has none.
    pub label: [c_char; IOASID_LABEL_BYTES],
    /// The cgroup that is charged, by the path it had.
    pub cgroup: [c_char; IOASID_CGROUP_BYTES],
}

/// What a program asks for; a null pointer asks for nothing in particular.
pub(super) unsafe fn request_of(options: *const SetOptions) -> Result<SetRequest, ClientError> {
    if options.is_null() {
        return Ok(SetRequest::default());
    }
    // SAFETY: not null, so by the room's contract a whole structure of the caller's; `size` is its first field.
    let size = unsafe { (&raw const (*options).size).read() };
    if size != size_of::<SetOptions>() {
        let expected = format!("sizeof(struct ioasid_set_options), {}", size_of::<SetOptions>());
        return Err(Refusal::invalid("size", size, expected).into());
    }
    // SAFETY: as above, and it says that it is as large as ours.
    let options = unsafe { options.read() };
    let malformed = |field: &'static str| move |what| Refusal::malformed(field, &what);
    // SAFETY: the caller's strings, null or with their NUL.
    let (domain, label, cgroup) =
        unsafe { (text(options.domain, "domain")?, text(options.label, "label")?, text(options.cgroup, "cgroup")?) };
    Ok(SetRequest {
        quota: (options.quota > 0).then_some(options.quota),
        range: range_of(options.min, options.max)?,
        domain: domain.map_or(Ok(Default::default()), |text| text.parse()).map_err(malformed("domain"))?,
        label: label.unwrap_or_default(),
        cgroup: cgroup.map(|text| text.parse()).transpose().map_err(malformed("cgroup"))?,
        iommufd: false,
    })
}

/// The range that C means; none where both are 0.
pub(super) fn range_of(min: u32, max: u32) -> Result<Option<PasidRange>, Refusal> {
    match (min, max) {
        (0, 0) => Ok(None),
        _ => PasidRange::new(min, max)
            .map(Some)
            .ok_or_else(|| Refusal::invalid("range", format!("{min}-{max}"), "min up to max, both below 2^20")),
    }
}

unsafe fn text(at: *const c_char, field: &str) -> Result<Option<String>, Refusal> {
    if at.is_null() {
        return Ok(None);
    }
    // SAFETY: not null, so by the room's contract a string with its NUL.
    let bytes = unsafe { CStr::from_ptr(at) };
    match bytes.to_str() {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(Refusal::invalid(field, bytes.to_string_lossy(), "UTF-8")),
    }
}

/// Tells C about a set; `at` says how much it has room for.
pub(super) unsafe fn tell(at: *mut SetStatus, info: &SetInfo) -> Result<(), Refusal> {
    // SAFETY: the caller looked that it is not null; `size` is its first field.
    let size = unsafe { (&raw const (*at).size).read() };
    if size != size_of::<SetStatus>() {
        let expected = format!("sizeof(struct ioasid_info), {}", size_of::<SetStatus>());
        return Err(Refusal::invalid("size", size, expected));
    }
    let state = match info.state {
        SetState::Active => IOASID_STATE_ACTIVE,
        SetState::Revoked => IOASID_STATE_REVOKED,
        SetState::Draining => IOASID_STATE_DRAINING,
    };
    let status = SetStatus {
        size,
        set: info.set.0,
        cgroup_id: info.cgroup_id.0,
        created_usec: info.created_usec,
        owner_uid: info.owner_uid,
        quota: info.quota,
        leased: info.leased,
        in_use: info.in_use,
        state,
        domain: chars(&info.domain.to_string()),
        label: chars(&info.label),
        cgroup: chars(&info.cgroup.to_string()),
    };
    // SAFETY: not null, and it says that it is as large as ours.
    unsafe { at.write(status) };
    Ok(())
}

/// `text`, cut where it has no room, with NULs behind it.
fn chars<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    for (place, byte) in array.iter_mut().take(N.saturating_sub(1)).zip(text.bytes()) {
        *place = byte as c_char;
    }
    array
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::null;

    fn options() -> SetOptions {
        let size = size_of::<SetOptions>();
        SetOptions { size, quota: 0, min: 0, max: 0, domain: null(), label: null(), cgroup: null() }
    }

    fn request(options: &SetOptions) -> Result<SetRequest, i32> {
        // SAFETY: a structure of this test.
        unsafe { request_of(options) }.map_err(|error| error.errno())
    }

    #[test]
    fn zeros_ask_for_nothing_in_particular() {
        assert_eq!(request(&options()), Ok(SetRequest::default()));
        // SAFETY: null is looked at.
        assert_eq!(unsafe { request_of(null()) }.unwrap(), SetRequest::default());
    }

    #[test]
    fn what_has_no_meaning_is_einval() {
        let label = c"\xff";
        for bad in [
            SetOptions { size: 0, ..options() },
            SetOptions { min: 5, max: 4, ..options() },
            SetOptions { max: 1 << 20, ..options() },
            SetOptions { domain: c"global ".as_ptr(), ..options() },
            SetOptions { label: label.as_ptr(), ..options() },
            SetOptions { cgroup: c"no-path".as_ptr(), ..options() },
        ] {
            assert_eq!(request(&bad), Err(22), "{bad:?}");
        }
    }

    #[test]
    fn text_is_cut_before_its_nul() {
        assert_eq!(chars::<4>("abcdef"), [b'a', b'b', b'c', 0].map(|byte| byte as c_char));
        assert_eq!(chars::<4>(""), [0; 4]);
    }
}
