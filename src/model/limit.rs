//! A cgroup's limit.

use super::{Malformed, parse_base0, trim_blanks};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// How many ids a cgroup may have charged: a number of ids, or no bound at all.
///
/// Ordered: every number is below `Max`. On the wire a number, or the string `"max"`.
/// Source: `Documentation/admin-guide/cgroup-v2.rst`, "Conventions", and `kernel/cgroup/misc.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// At most this many ids.
    Count(u64),
    /// No bound.
    Max,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(n) => n.fmt(f),
            Self::Max => f.pad("max"),
        }
    }
}

impl FromStr for Limit {
    type Err = Malformed;
    /// Takes digits (base 0) or `max`, blanks around it ignored, as a write to a cgroup v2 file does.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        match trim_blanks(text) {
            "max" => Ok(Self::Max),
            digits => parse_base0(digits)
                .map(Self::Count)
                .ok_or_else(|| Malformed::new(text, "a number of ids or the word max")),
        }
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(n) => serializer.serialize_u64(*n),
            Self::Max => serializer.serialize_str("max"),
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl Visitor<'_> for Words {
            type Value = Limit;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of ids or the word max")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Limit, E> {
                Ok(Limit::Count(n))
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Limit, E> {
                u64::try_from(n).map(Limit::Count).map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Limit, E> {
                match word {
                    "max" => Ok(Limit::Max),
                    _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }
        }
        deserializer.deserialize_any(Words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_cgroup_files_read() {
        for (text, limit) in [
            ("0", Limit::Count(0)),
            ("16", Limit::Count(16)),
            ("0x10", Limit::Count(16)),
            ("010", Limit::Count(8)),
            (" 5\n", Limit::Count(5)),
            ("max", Limit::Max),
            ("\tmax \n", Limit::Max),
            ("\x0b7\x0c\r", Limit::Count(7)),
        ] {
            assert_eq!(text.parse(), Ok(limit), "{text:?}");
        }
        for bad in [
            "",
            " ",
            "-1",
            "+1",
            "1 2",
            "max 1",
            "MAX",
            "0x",
            "08",
            "1.5",
            "18446744073709551616",
            "\u{a0}5",
            "5\u{2003}",
        ] {
            assert!(bad.parse::<Limit>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_number_is_below_max() {
        assert!(Limit::Count(u64::MAX) < Limit::Max);
    }
}
