//! Clocks, and the name of this boot.

use std::io;

/// What names this boot: a random UUID as text. What was written under another one is void.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Microseconds of CLOCK_MONOTONIC: since boot, without the time asleep. What the service manager compares.
pub fn monotonic_usec() -> u64 {
    usec(libc::CLOCK_MONOTONIC)
}

/// Microseconds of CLOCK_REALTIME: since 1970, UTC; can be set back.
pub fn realtime_usec() -> u64 {
    usec(libc::CLOCK_REALTIME)
}

fn usec(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` has room for what the call writes. These clocks always exist.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now.tv_sec.cast_unsigned().wrapping_mul(1_000_000).wrapping_add(now.tv_nsec.cast_unsigned() / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_on_and_the_boot_stays() {
        let (then, boot) = (monotonic_usec(), boot_id().unwrap());
        assert!(monotonic_usec() >= then && then > 0);
        assert!(realtime_usec() > 1_700_000_000_000_000);
        assert_eq!((boot_id().unwrap(), boot.len()), (boot, 36));
    }
}
