//! The settings of the service itself, with what holds where the policy does not say.

use crate::model::{MAX_BITS, PasidRange};
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The line of a file that set something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Source {
    /// The file as it was named.
    #[serde(serialize_with = "text")]
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
}

fn text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// How wide PASIDs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bits {
    /// The smallest Max PASID Width of the devices that have one, else 20.
    #[default]
    Auto,
    /// So many bits, 1 to 20.
    Fixed(u32),
}

/// What an unset limit means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// No limit, as in cgroup v2.
    #[default]
    CgroupV2,
    /// Nothing, as in the kernel's IOASIDs cgroup, RFC V4.
    RfcV4,
}

/// The number space: `[space]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// How wide it is.
    pub bits: Bits,
    /// Numbers that are never handed out, as the policy has them; see [`Space::reserved_at`].
    pub reserved: Vec<PasidRange>,
    /// Whether `reserved` is the policy's word rather than the default.
    pub reserved_set: bool,
    /// How long a returned id rests.
    pub quarantine: Duration,
    /// What an unset limit means.
    pub profile: Profile,
}

/// `0-1023`: the kernel hands out PASIDs for its own use from the low end.
pub(super) const KERNEL_POOL: Option<PasidRange> = PasidRange::new(0, 1023);

impl Space {
    /// What is reserved in a space of so many bits: the policy's ranges, cut to the space. Unless the policy names
    /// some, `0-1023` in a space of 12 bits or more, and id 0 alone in a smaller one. Id 0 is always in it.
    pub fn reserved_at(&self, bits: u32) -> Vec<PasidRange> {
        let Some(space) = PasidRange::new(0, 1u32.checked_shl(bits.min(MAX_BITS)).unwrap_or(1) - 1) else {
            return Vec::new();
        };
        let zero = PasidRange::new(0, 0);
        if !self.reserved_set && bits < 12 {
            return zero.into_iter().collect();
        }
        self.reserved.iter().copied().chain(zero).filter_map(|range| range.intersect(space)).collect()
    }

    /// How many ids it can hand out at the most: at 20 bits where the width is found out later.
    pub fn most(&self) -> u32 {
        let bits = match self.bits {
            Bits::Auto => MAX_BITS,
            Bits::Fixed(bits) => bits.min(MAX_BITS),
        };
        (1u32 << bits) - covered(self.reserved_at(bits))
    }
}

/// How many numbers these ranges have together.
pub(super) fn covered(mut ranges: Vec<PasidRange>) -> u32 {
    ranges.sort_by_key(|range| range.min());
    let (mut count, mut next) = (0, 0);
    for range in ranges {
        let from = range.min().max(next);
        if range.max() >= from {
            count += range.max() - from + 1;
            next = range.max() + 1;
        }
    }
    count
}

impl Default for Space {
    fn default() -> Self {
        Self {
            bits: Bits::Auto,
            reserved: KERNEL_POOL.into_iter().collect(),
            reserved_set: false,
            quarantine: Duration::from_secs(1),
            profile: Profile::CgroupV2,
        }
    }
}

/// The bus: `[bus]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bus {
    /// Whether users other than root are served on their pid alone where the bus gives no process descriptor.
    pub trust_pid: bool,
}

/// What one uid may take of the service itself: `[guard]`. Uid 0 is exempt; a session counts on who opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Sets at a time.
    pub sets: u32,
    /// Sessions at a time.
    pub sessions: u32,
    /// Requests in a second.
    pub requests_per_second: u32,
}

impl Default for Guard {
    fn default() -> Self {
        Self { sets: 1024, sessions: 4096, requests_per_second: 20_000 }
    }
}

/// Leasing ahead: `[lease]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Ids a mapped set leases ahead, at most.
    pub batch: u32,
}

impl Default for Lease {
    fn default() -> Self {
        Self { batch: 64 }
    }
}

/// Metrics: `[metrics]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// The loopback port to serve them on too; `None` for the socket alone.
    pub port: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_reserves_the_kernels_pool_unless_the_space_is_small() {
        let space = Space::default();
        assert_eq!(space.most(), (1 << 20) - 1024);
        assert_eq!(Space { bits: Bits::Fixed(8), ..Space::default() }.most(), 255);
        assert_eq!(Space { bits: Bits::Fixed(12), ..Space::default() }.most(), 4096 - 1024);
    }

    #[test]
    fn overlapping_ranges_count_once() {
        let range = |min, max| PasidRange::new(min, max).unwrap();
        assert_eq!(covered(vec![range(5, 9), range(0, 0), range(7, 12), range(8, 8)]), 9);
    }
}
