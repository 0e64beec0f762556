//! The C face of the client: what `libioasid.so.1` exports and `ioasid.h` declares.
//!
//! Lives here: pointers in, client calls, an errno out. The comments on what is exported become those of the header
//! (cbindgen), so they speak C; `tests/library.rs` says when the header is out of date.
//!
//! # What every function keeps to
//!
//! * It returns 0 or more when it is done, else a negative errno; then [`ioasid_error`] has the words, for this thread.
//! * It can be called from any thread, on one handle from several at once: they take turns where they need the service.
//! * A pointer is null (refused as EINVAL, or left alone where the function says so), or it points to what its type
//!   says and stays so for the call. Who passes anything else has no promise; that is all that `unsafe` means here.
//! * Nothing unwinds into C: a panic, which would be a bug, is EIO.
#![allow(unsafe_code, clippy::missing_safety_doc)]

mod answer;
mod ids;
mod map;
mod set;
mod settings;

/// C passes one pointer to several threads and asks no compiler: here Rust's is asked, at compile time.
const _: () = {
    const fn threads_may_share<T: Send + Sync>() {}
    threads_may_share::<set::SetHandle>();
    threads_may_share::<map::MapHandle>();
};

pub use answer::{ioasid_error, ioasid_error_name, ioasid_version};
pub use ids::*;
pub use map::*;
pub use set::*;
pub use settings::*;
