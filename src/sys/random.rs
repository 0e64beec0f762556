//! Random numbers of the kernel's.

use super::counted;
use std::io;

/// A number that nobody else draws, a child of fork(2) included: nothing of it is in this process's memory before.
///
/// Source: getrandom(2): so few bytes are given whole, or not at all. Blocks only while a host boots.
pub fn number() -> io::Result<u64> {
    let mut bytes = [0_u8; 8];
    // SAFETY: `bytes` has room for what is asked for.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    match counted(got)? {
        8 => Ok(u64::from_ne_bytes(bytes)),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_many() {
        let drawn: std::collections::BTreeSet<u64> = (0..100).map(|_| number().unwrap()).collect();
        assert_eq!(drawn.len(), 100);
    }
}
