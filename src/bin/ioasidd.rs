//! ioasidd: the service.
fn main() {}
