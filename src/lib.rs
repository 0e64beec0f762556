//! ioasid: PASIDs shared out on a Linux host.
//!
//! The library behind `ioasidd` (the service), `ioasidctl` (the command) and the client. The rooms, bottom up; a
//! room uses only rooms below it (`tests/layering.rs` keeps that).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

#[cfg(feature = "cli")]
pub mod bench;
pub mod bitmap;
#[cfg(feature = "capi")]
pub mod capi;
#[cfg(feature = "daemon")]
pub mod cgroupfs;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "daemon")]
pub mod controller;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod dbus;
#[cfg(feature = "daemon")]
pub mod device;
#[cfg(feature = "daemon")]
pub mod identity;
#[cfg(feature = "daemon")]
pub mod metrics;
pub mod model;
#[cfg(feature = "policy")]
pub mod policy;
pub mod proto;
pub mod quota;
pub mod shm;
#[cfg(feature = "daemon")]
pub mod socket;
#[cfg(any(feature = "cli", feature = "daemon"))]
pub mod survey;
pub mod sync;
pub mod sys;
