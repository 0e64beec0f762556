//! How a call ends: a number for C, and the words behind it.

use crate::client::ClientError;
use crate::model::Refusal;
use crate::proto::{FAULT_NAME, codes};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What the last failure of a thread was.
struct Failure {
    name: CString,
    text: CString,
}

thread_local! {
    static LAST: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");

/// Runs a call and says in C how it ended. Nothing unwinds out of it.
pub(super) fn answer(call: impl FnOnce() -> Result<c_int, ClientError>) -> c_int {
    let error = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => return value,
        Ok(Err(error)) => error,
        Err(_) => ClientError::Fault("a bug in libioasid".to_owned()),
    };
    remember(&error);
    -error.errno()
}

fn remember(error: &ClientError) {
    let name = match error {
        ClientError::Refused(refusal) => codes(refusal).name,
        ClientError::Unreachable(_) => "Unreachable",
        ClientError::Fault(_) | ClientError::Protocol(_) => FAULT_NAME,
    };
    let mut text = error.to_string();
    if let Some(hint) = error.refusal().and_then(Refusal::hint) {
        text = format!("{text} ({hint})");
    }
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    let failure = Failure { name: CString::new(name).unwrap_or_default(), text };
    LAST.with(|last| *last.borrow_mut() = Some(failure));
}

fn last(part: impl Fn(&Failure) -> &CStr) -> *const c_char {
    LAST.with(|last| last.borrow().as_ref().map_or(c"".as_ptr(), |failure| part(failure).as_ptr()))
}

/// What the last call that failed in this thread met, in words: which limit, its value, what was asked for.
///
/// Never NULL; "" where none failed. Valid until the next call of this thread fails.
#[unsafe(no_mangle)]
pub extern "C" fn ioasid_error() -> *const c_char {
    last(|failure| &failure.text)
}

/// The name of the same failure: "LimitExceeded", "QuotaExceeded", "NoSpace" and so on; "Unreachable" where no service
/// answers, "Internal" for a fault.
///
/// Never NULL; "" where none failed. Valid until the next call of this thread fails.
#[unsafe(no_mangle)]
pub extern "C" fn ioasid_error_name() -> *const c_char {
    last(|failure| &failure.name)
}

/// The version of the library that runs, "1.2.3", as IOASID_VERSION was when it was built. Never NULL; valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn ioasid_version() -> *const c_char {
    VERSION.as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What C reads there.
    fn text(at: *const c_char) -> String {
        // SAFETY: every pointer of this file is to a string with its NUL that this thread keeps.
        unsafe { CStr::from_ptr(at) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_failure_leaves_its_words_with_its_thread_alone() {
        std::thread::spawn(|| {
            assert_eq!(answer(|| Ok(7)), 7);
            assert_eq!((text(ioasid_error()), text(ioasid_error_name())), (String::new(), String::new()));
            assert_eq!(answer(|| Err(Refusal::not_found("alias 5").into())), -2);
            assert_eq!(text(ioasid_error()), "alias 5 not found");
            assert_eq!(text(ioasid_error_name()), "NotFound");
            std::thread::spawn(|| assert_eq!(text(ioasid_error()), "")).join().unwrap();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_panic_is_eio() {
        assert_eq!(answer(|| panic!("as a bug would")), -5);
        assert_eq!(text(ioasid_error_name()), "Internal");
    }

    #[test]
    fn the_version_is_the_packages_and_the_headers() {
        use crate::capi::{IOASID_VERSION_MAJOR, IOASID_VERSION_MICRO, IOASID_VERSION_MINOR};
        assert_eq!(text(ioasid_version()), env!("CARGO_PKG_VERSION"));
        let header = format!("{IOASID_VERSION_MAJOR}.{IOASID_VERSION_MINOR}.{IOASID_VERSION_MICRO}");
        assert_eq!(header, env!("CARGO_PKG_VERSION"));
    }
}
