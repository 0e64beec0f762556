//! One file per kernel interface.
#![allow(unsafe_code)]

pub mod cuse;
pub mod fuse;
