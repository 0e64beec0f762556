//! What the service asks of `ioasidd --outside`, and what it is answered.
//!
//! One request a connection, one SEQPACKET message each way. A request is a line of text that names what is wanted and
//! nothing of how: no path, no flag. An answer is an error number in decimal, 0 where it was done; what was opened rides
//! on it.

use crate::model::PciAddress;
use std::fmt;
use std::num::NonZeroU16;

/// The longest request; a longer message is none.
pub const MAX_REQUEST: usize = 32;
/// The longest answer.
pub const MAX_ANSWER: usize = 16;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Mount the cgroup files, in place of what is mounted there; answered with the channel that serves them.
    Mount,
    /// Unmount them.
    Unmount,
    /// Listen on this TCP port of the loopback address; answered with the socket.
    Listen(NonZeroU16),
    /// Open the configuration space of a PCI function for reading; answered with the file.
    Config(PciAddress),
    /// Open an iommufd whose pinned memory counts on who maps it; answered with it.
    Iommufd,
}

impl Request {
    /// Takes what [`fmt::Display`] writes, to the letter; `None` for everything else.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let request = match text.split_once(' ') {
            None => match text {
                "mount" => Self::Mount,
                "unmount" => Self::Unmount,
                "iommufd" => Self::Iommufd,
                _ => return None,
            },
            Some(("listen", port)) => Self::Listen(port.parse().ok()?),
            Some(("config", address)) => Self::Config(address.parse().ok()?),
            Some(_) => return None,
        };
        // One spelling each.
        (request.to_string() == text).then_some(request)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount => f.write_str("mount"),
            Self::Unmount => f.write_str("unmount"),
            Self::Listen(port) => write!(f, "listen {port}"),
            Self::Config(address) => write!(f, "config {address}"),
            Self::Iommufd => f.write_str("iommufd"),
        }
    }
}

/// The error number of an answer; `None` for what is none.
pub fn parse_answer(bytes: &[u8]) -> Option<i32> {
    let errno: i32 = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    (errno >= 0 && errno.to_string().as_bytes() == bytes).then_some(errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_are_understood_as_they_are_written() {
        let address = "0000:3a:00.1".parse().unwrap();
        let port = NonZeroU16::new(9100).unwrap();
        for (request, text) in [
            (Request::Mount, "mount"),
            (Request::Unmount, "unmount"),
            (Request::Listen(port), "listen 9100"),
            (Request::Listen(NonZeroU16::MAX), "listen 65535"),
            (Request::Config(address), "config 0000:3a:00.1"),
            (Request::Iommufd, "iommufd"),
        ] {
            assert_eq!(request.to_string(), text);
            assert_eq!(Request::parse(text.as_bytes()), Some(request));
            assert!(text.len() <= MAX_REQUEST);
        }
    }

    #[test]
    fn nothing_else_is_a_request() {
        for text in [
            "",
            " ",
            "Mount",
            "mount ",
            "mount /etc",
            "mount\0",
            "mount\n",
            " mount",
            "unmount /",
            "listen",
            "listen ",
            "listen 0",
            "listen 09100",
            "listen +9100",
            "listen 65536",
            "listen 9100 ",
            "listen 0.0.0.0:80",
            "config",
            "config ../../etc/shadow",
            "config 0000:3A:00.1",
            "config 0000:3a:00.8",
            "config 0000:3a:00.1/",
            "iommufd 1",
        ] {
            assert_eq!(Request::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Request::parse(b"mount\xff"), None);
    }

    #[test]
    fn an_answer_is_a_number() {
        assert_eq!((parse_answer(b"0"), parse_answer(b"13")), (Some(0), Some(13)));
        for bad in ["", "-1", "+1", "00", "1 ", "x", "4294967296"] {
            assert_eq!(parse_answer(bad.as_bytes()), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_understood_is_said_the_same_way_again(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(request) = Request::parse(&bytes) {
                prop_assert_eq!(request.to_string().into_bytes(), bytes);
            }
        }

        #[test]
        fn words_with_anything_behind_them_make_nothing_panic(word in "(mount|unmount|listen|config|iommufd) ?", rest in ".{0,20}") {
            let text = word + &rest;
            if let Some(request) = Request::parse(text.as_bytes()) {
                prop_assert_eq!(request.to_string(), text);
            }
        }
    }
}
