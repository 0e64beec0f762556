//! What goes over the wires: refusal codes, bus names, frames and their bodies. Pure.
//!
//! Every edge and the client translate with what is here; nothing is spelled a second time elsewhere.

mod codes;

pub use codes::{Codes, FAULT_ERRNO, FAULT_ERRNO_NAME, FAULT_NAME, codes};
