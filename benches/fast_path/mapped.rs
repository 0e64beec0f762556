//! The mapped set: what a holder pays without a system call, beside the cheapest one.

use ioasid::bench::{Case, FastPath, Measure, Report, interleave};

const CHUNK: u64 = 256;

pub fn run(rounds: usize, measure: &Measure) -> Report {
    let fast_path = FastPath::new().unwrap();
    let socket = std::os::unix::net::UnixStream::pair().unwrap().0;
    let mut cases = fast_path.cases();
    cases.push(
        Case::new("ioctl_fionread", |m| {
            m.one(|| {
                assert!((0..CHUNK).all(|_| fionread::pending(&socket) == 0));
                CHUNK
            })
        })
        .against("mapped_pair"),
    );
    interleave(rounds, measure, &mut cases)
}

/// The cheapest question a descriptor answers: what an allocation by `ioctl` could cost at best.
mod fionread {
    #![allow(unsafe_code)]
    use std::os::fd::AsRawFd;

    nix::ioctl_read_bad!(ask, nix::libc::FIONREAD, nix::libc::c_int);

    pub fn pending(fd: &impl AsRawFd) -> i32 {
        let mut bytes = 0;
        // SAFETY: FIONREAD writes one int to the address given, which is `bytes`, alive through the call.
        unsafe { ask(fd.as_raw_fd(), &mut bytes) }.unwrap();
        bytes
    }
}
