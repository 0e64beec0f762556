//! The words of a mapped set after a holder scribbled on them: every operation ends, and none leaves the map.
#![no_main]

use ioasid::bitmap::leases::{LeaseMap, lease_words_needed};
use ioasid::sync::AtomicU64;
use libfuzzer_sys::fuzz_target;

const IDS: u32 = 500;

fuzz_target!(|bytes: &[u8]| {
    let Some(count) = lease_words_needed(IDS) else { return };
    let mut words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        AtomicU64::new(u64::from_le_bytes(word))
    });
    let words: Vec<AtomicU64> = (0..count).map(|_| words.next().unwrap_or_default()).collect();
    let Some(map) = LeaseMap::new(IDS, words) else { return };
    for chunk in bytes.chunks_exact(3) {
        let id = u32::from(u16::from_le_bytes([chunk[0], chunk[1]]));
        match chunk[2] % 7 {
            0 => drop(map.lease(id)),
            1 => drop(map.lease_used(id)),
            2 => drop(map.clear(id)),
            3 => assert_eq!(map.take_back(id, u32::MAX) >> 31 >> 1, 0),
            4 => assert!(map.claim().is_none_or(|id| id < IDS)),
            5 => drop(map.release(id)),
            _ => assert!(map.claim_in(0, id).is_none_or(|found| found <= id && found < IDS)),
        }
    }
    let (leased, used) = map.count(0, IDS - 1);
    assert!(used <= leased && leased <= IDS);
});
