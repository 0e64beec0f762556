//! What the files say, and what can be written to them. Pure.

use super::node::File;
use crate::controller::Counters;
use crate::model::{Limit, Refusal};

/// The text of a file, as the kernel's controllers write theirs.
pub(super) fn text(file: File, counters: &Counters) -> String {
    match file {
        File::Max => format!("{}\n", counters.max.unwrap_or(Limit::Max)),
        File::Current => format!("{}\n", counters.current),
        File::Peak => format!("{}\n", counters.peak),
        File::Events => format!("max {}\n", counters.events),
        File::EventsLocal => format!("max {}\n", counters.events_local),
        File::Capacity => format!("{}\n", counters.capacity),
    }
}

/// The count that a poll of an events file compares.
pub(super) fn version(file: File, counters: &Counters) -> u64 {
    match file {
        File::EventsLocal => counters.events_local,
        _ => counters.events,
    }
}

/// The limit that was written to `ioasids.max`. Refused as a write to a cgroup file is: junk is `InvalidArgument`.
pub(super) fn limit(written: &[u8]) -> Result<Limit, Refusal> {
    let text = String::from_utf8_lossy(written);
    text.parse().map_err(|malformed| Refusal::malformed("ioasids.max", &malformed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_read_as_cgroup_files_do() {
        let counters = Counters {
            max: Some(Limit::Count(64)),
            current: 3,
            peak: 5,
            events: 2,
            events_local: 1,
            capacity: 1_047_552,
        };
        let read = |file| text(file, &counters);
        assert_eq!(read(File::Max), "64\n");
        assert_eq!(text(File::Max, &Counters { max: Some(Limit::Max), ..counters }), "max\n");
        assert_eq!((read(File::Current), read(File::Peak)), ("3\n".to_owned(), "5\n".to_owned()));
        assert_eq!((read(File::Events), read(File::EventsLocal)), ("max 2\n".to_owned(), "max 1\n".to_owned()));
        assert_eq!(read(File::Capacity), "1047552\n");
    }

    #[test]
    fn a_write_takes_what_cgroup_files_take() {
        assert_eq!(limit(b"100\n").unwrap(), Limit::Count(100));
        assert_eq!(limit(b" max ").unwrap(), Limit::Max);
        for junk in [&b""[..], b"-1", b"1 2", b"x", b"\xff", b"1\0"] {
            assert!(limit(junk).is_err(), "{junk:?}");
        }
    }
}
