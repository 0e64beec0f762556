//! ioasidctl: the command.
fn main() {}
