//! Memory shared with holders: a sealed memfd, mapped, handed out as a slice of atomic words.
//!
//! What lies in the words is `bitmap`'s business; nothing that is read here is believed by the service. The seals keep
//! the size: no holder can shrink it under somebody else's mapping (SIGBUS) or add a seal that would keep the service's
//! next instance from writing. It is not sealed against writing: holders write, and so must the service after a restart.
#![allow(unsafe_code)]

mod memfd;
mod region;
mod set_region;

pub use region::Region;
pub use set_region::SetRegion;
