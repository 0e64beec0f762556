//! PASIDs and inclusive ranges of them.

use super::{Malformed, parse_base0, trim_blanks};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The widest PASID that PCIe knows: 20 bits.
///
/// Source: PCI Express Base Specification, PASID Extended Capability, Max PASID Width.
pub const MAX_BITS: u32 = 20;

const EXPECTED: &str = "a PASID, 1 to 1048575";
const EXPECTED_RANGE: &str = "an inclusive range of PASIDs, such as 1024-4095";

/// A PCIe Process Address Space ID: 1 to 2^20-1. Id 0 means "no PASID" and has no value here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Pasid(u32);

impl Pasid {
    /// The least PASID.
    pub const FIRST: Self = Self(1);
    /// The greatest PASID of the widest space.
    pub const LAST: Self = Self((1 << MAX_BITS) - 1);

    /// The PASID with this number; `None` for 0 and for anything wider than 20 bits.
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 || number >= 1 << MAX_BITS { None } else { Some(Self(number)) }
    }

    /// Its number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Its number as an index into a table of the whole space.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl TryFrom<u32> for Pasid {
    type Error = Malformed;
    fn try_from(number: u32) -> Result<Self, Malformed> {
        Self::new(number).ok_or_else(|| Malformed::new(number.to_string(), EXPECTED))
    }
}

impl From<Pasid> for u32 {
    fn from(pasid: Pasid) -> u32 {
        pasid.0
    }
}

impl FromStr for Pasid {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        parse_base0(text)
            .and_then(|n| u32::try_from(n).ok())
            .and_then(Self::new)
            .ok_or_else(|| Malformed::new(text, EXPECTED))
    }
}

impl fmt::Display for Pasid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Numbers from `min` to `max`, both included; never empty. 0 may be a bound, for policies speak of `0-1023`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PasidRange {
    min: u32,
    max: u32,
}

impl PasidRange {
    /// Every number of the widest space.
    pub const ALL: Self = Self { min: 0, max: Pasid::LAST.0 };

    /// The range from `min` to `max`; `None` when it is empty or leaves the 20-bit space.
    pub const fn new(min: u32, max: u32) -> Option<Self> {
        if min > max || max >= 1 << MAX_BITS { None } else { Some(Self { min, max }) }
    }

    /// The least number in it.
    pub const fn min(self) -> u32 {
        self.min
    }

    /// The greatest number in it.
    pub const fn max(self) -> u32 {
        self.max
    }

    /// How many numbers it has; at least 1.
    pub const fn count(self) -> u32 {
        self.max - self.min + 1
    }

    /// Whether `number` is in it.
    pub const fn contains(self, number: u32) -> bool {
        self.min <= number && number <= self.max
    }

    /// Whether all of `other` is in it.
    pub const fn covers(self, other: Self) -> bool {
        self.min <= other.min && other.max <= self.max
    }

    /// What both have; `None` when that is nothing.
    pub fn intersect(self, other: Self) -> Option<Self> {
        Self::new(self.min.max(other.min), self.max.min(other.max))
    }
}

impl fmt::Display for PasidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

impl FromStr for PasidRange {
    type Err = Malformed;
    /// Takes `A-B` or a single `A`; base 0, blanks around the numbers ignored.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let bound = |s: &str| parse_base0(trim_blanks(s)).and_then(|n| u32::try_from(n).ok());
        bound(min)
            .zip(bound(max))
            .and_then(|(min, max)| Self::new(min, max))
            .ok_or_else(|| Malformed::new(text, EXPECTED_RANGE))
    }
}

impl TryFrom<String> for PasidRange {
    type Error = Malformed;
    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<PasidRange> for String {
    fn from(range: PasidRange) -> String {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_21_bits_are_no_pasids() {
        assert_eq!(Pasid::new(0), None);
        assert_eq!(Pasid::new(1).map(Pasid::get), Some(1));
        assert_eq!(Pasid::new(0xF_FFFF), Some(Pasid::LAST));
        assert_eq!(Pasid::new(0x10_0000), None);
        assert!("0".parse::<Pasid>().is_err());
        assert!("+5".parse::<Pasid>().is_err());
        assert_eq!("0x10".parse::<Pasid>().unwrap().get(), 16);
    }

    #[test]
    fn ranges_are_inclusive_and_never_empty() {
        let range: PasidRange = "1024-2047".parse().unwrap();
        assert_eq!((range.min(), range.max(), range.count()), (1024, 2047, 1024));
        assert!(range.contains(1024) && range.contains(2047) && !range.contains(1023) && !range.contains(2048));
        for bad in ["", "-", "5-4", "0-1048576", "a-b", "1-2-3", "-1-5"] {
            assert!(bad.parse::<PasidRange>().is_err(), "{bad:?}");
        }
        assert_eq!("7".parse::<PasidRange>().unwrap().count(), 1);
        assert_eq!(" 1 - 0x10 ".parse::<PasidRange>().unwrap().max(), 16);
    }

    #[test]
    fn intersection_of_neighbours_is_nothing() {
        let range = |a, b| PasidRange::new(a, b).unwrap();
        assert_eq!(range(0, 9).intersect(range(10, 20)), None);
        assert_eq!(range(0, 10).intersect(range(10, 20)), Some(range(10, 10)));
    }
}
