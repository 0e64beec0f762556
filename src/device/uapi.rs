//! The RFC's ioctls: numbers, structures, what they mean. Pure.
//!
//! Source: RFC V4 of `/dev/ioasid`; our header is `packaging/include/ioasid-uapi.h`. All four commands are `_IO`: their
//! numbers carry no size, so the argument is fetched by what is written here.

use crate::model::PasidRange;

/// `_IO('i', 100)`.
const GET_API_VERSION: u32 = 0x6964;
/// `_IO('i', 101)`.
const GET_INFO: u32 = 0x6965;
/// `_IO('i', 102)`.
const REQUEST_ALLOC: u32 = 0x6966;
/// `_IO('i', 103)`.
const REQUEST_FREE: u32 = 0x6967;

/// What [`Command::ApiVersion`] returns.
pub const API_VERSION: i32 = 0;

/// `struct ioasid_info`: argsz, flags, ioasid_bits.
const INFO_SIZE: u32 = 12;
/// `struct ioasid_alloc_request`: argsz, flags, min, max.
const ALLOC_SIZE: u32 = 16;
/// An int.
const FREE_SIZE: u32 = 4;
/// The RFC takes ids of up to 31 bits; what is above our 20 is never free, not malformed.
const RFC_BITS: u32 = 31;

/// A command of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The version of the interface.
    ApiVersion,
    /// How wide ids are.
    Info,
    /// An id in a range.
    Alloc,
    /// An id back.
    Free,
}

impl Command {
    /// The command with this number; `None` for any other (ENOTTY).
    pub fn of(number: u32) -> Option<Self> {
        Some(match number {
            GET_API_VERSION => Self::ApiVersion,
            GET_INFO => Self::Info,
            REQUEST_ALLOC => Self::Alloc,
            REQUEST_FREE => Self::Free,
            _ => return None,
        })
    }

    /// Its number.
    pub fn number(self) -> u32 {
        match self {
            Self::ApiVersion => GET_API_VERSION,
            Self::Info => GET_INFO,
            Self::Alloc => REQUEST_ALLOC,
            Self::Free => REQUEST_FREE,
        }
    }

    /// How many bytes at the argument it reads, and how many it writes there.
    pub fn memory(self) -> (u32, u32) {
        match self {
            Self::ApiVersion => (0, 0),
            Self::Info => (INFO_SIZE, INFO_SIZE),
            Self::Alloc => (ALLOC_SIZE, 0),
            Self::Free => (FREE_SIZE, 0),
        }
    }
}

/// The words of an argument.
fn words<const N: usize>(argument: &[u8]) -> Option<[u32; N]> {
    let mut words = [0; N];
    let mut bytes = argument.chunks_exact(4);
    for word in &mut words {
        *word = u32::from_ne_bytes(bytes.next()?.try_into().ok()?);
    }
    Some(words)
}

/// Whether a structure says that it is as long as ours at least, and asks for nothing more.
fn is_plain(argsz: u32, flags: u32, size: u32) -> bool {
    argsz >= size && flags == 0
}

/// The caller's `ioasid_info` with the width filled in; `None` where it is malformed (EINVAL).
pub fn info(argument: &[u8], bits: u32) -> Option<[u8; INFO_SIZE as usize]> {
    let [argsz, flags, _] = words(argument)?;
    if !is_plain(argsz, flags, INFO_SIZE) {
        return None;
    }
    let mut filled = [0; INFO_SIZE as usize];
    for (field, word) in filled.chunks_exact_mut(4).zip([argsz, flags, bits]) {
        field.copy_from_slice(&word.to_ne_bytes());
    }
    Some(filled)
}

/// The range that an `ioasid_alloc_request` asks for; `None` where it is malformed (EINVAL).
///
/// QEMU asks for 1 to 0xFFFFF whatever the width, so an upper end that no id reaches is cut; 0 as the lower end is "from
/// the first", but a range of nothing else is malformed.
pub fn alloc_range(argument: &[u8]) -> Option<PasidRange> {
    let [argsz, flags, min, max] = words(argument)?;
    if !is_plain(argsz, flags, ALLOC_SIZE) || min > max || max >= 1 << RFC_BITS {
        return None;
    }
    PasidRange::new(min.max(1), max.min(PasidRange::ALL.max()))
}

/// The id that REQUEST_FREE names; `None` where it is none (EINVAL): 0, negative, wider than 20 bits.
pub fn freed(argument: &[u8]) -> Option<u32> {
    let [id] = words(argument)?;
    (id != 0 && id <= PasidRange::ALL.max()).then_some(id)
}

/// An `ioasid_info` to be filled, for who asks another device.
pub fn info_request() -> [u8; INFO_SIZE as usize] {
    let mut request = [0; INFO_SIZE as usize];
    if let Some(argsz) = request.first_chunk_mut() {
        *argsz = INFO_SIZE.to_ne_bytes();
    }
    request
}

/// The width in an `ioasid_info` that was filled.
pub fn info_bits(info: &[u8; INFO_SIZE as usize]) -> u32 {
    let [_, _, bits] = words(info).unwrap_or_default();
    bits
}

/// An `ioasid_alloc_request`, for who asks another device.
pub fn alloc_request(range: PasidRange) -> [u8; ALLOC_SIZE as usize] {
    let mut request = [0; ALLOC_SIZE as usize];
    for (field, word) in request.chunks_exact_mut(4).zip([ALLOC_SIZE, 0, range.min(), range.max()]) {
        field.copy_from_slice(&word.to_ne_bytes());
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn commands_are_the_four_of_the_rfc() {
        let header = include_str!("../../packaging/include/ioasid-uapi.h");
        for (name, offset, command) in [
            ("GET_API_VERSION", 0, Command::ApiVersion),
            ("GET_INFO", 1, Command::Info),
            ("REQUEST_ALLOC", 2, Command::Alloc),
            ("REQUEST_FREE", 3, Command::Free),
        ] {
            assert!(header.contains(&format!("#define IOASID_{name} _IO(IOASID_TYPE, IOASID_BASE + {offset})")));
            assert_eq!(command.number(), u32::from(b'i') << 8 | (100 + offset));
            assert_eq!(Command::of(command.number()), Some(command));
        }
        assert_eq!(Command::of(0x6968), None);
        assert_eq!(Command::of(0xc010_6966), None);
    }

    #[test]
    fn a_range_is_cut_to_20_bits_and_begins_at_1() {
        let range = |min, max| alloc_range(&bytes(&[16, 0, min, max])).map(|range| (range.min(), range.max()));
        assert_eq!(range(1, 0xF_FFFF), Some((1, 0xF_FFFF)));
        assert_eq!(range(0, 5), Some((1, 5)));
        assert_eq!(range(7, 0x7FFF_FFFF), Some((7, 0xF_FFFF)));
        for (min, max) in [(0, 0), (5, 4), (0x10_0000, 0x10_0001), (1, 0x8000_0000)] {
            assert_eq!(range(min, max), None, "{min} {max}");
        }
    }

    #[test]
    fn short_and_flagged_structures_are_malformed() {
        for request in [&[15, 0, 1, 2][..], &[16, 1, 1, 2], &[0, 0, 1, 2], &[16, 0, 1]] {
            assert_eq!(alloc_range(&bytes(request)), None, "{request:?}");
        }
        assert!(alloc_range(&bytes(&[64, 0, 1, 2])).is_some());
        assert_eq!(info(&bytes(&[12, 0, 99]), 20).unwrap(), bytes(&[12, 0, 20])[..]);
        assert_eq!(info(&bytes(&[11, 0, 99]), 20), None);
        assert_eq!(info(&bytes(&[12, 8, 99]), 20), None);
    }

    #[test]
    fn what_is_no_pasid_cannot_be_freed() {
        for (id, freeable) in [(0, None), (1, Some(1)), (0xF_FFFF, Some(0xF_FFFF)), (0x10_0000, None), (u32::MAX, None)]
        {
            assert_eq!(freed(&bytes(&[id])), freeable);
        }
        assert_eq!(freed(&[1, 0]), None);
    }
}
