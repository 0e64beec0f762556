//! ioasid: PASIDs shared out on a Linux host.
//!
//! The library behind `ioasidd` (the service), `ioasidctl` (the command) and the client. The rooms, bottom up; a
//! room uses only rooms below it (`tests/layering.rs` keeps that).

pub mod bitmap;
pub mod model;
pub mod proto;
pub mod quota;
pub mod sync;
