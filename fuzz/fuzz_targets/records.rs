//! Records: entries and ledgers of whatever bytes are read or refused whole.
#![no_main]

use ioasid::controller::{decode_entry, decode_ledger};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    decode_ledger(bytes);
    let (key, value) = bytes.split_at(bytes.len().min(25));
    assert!(decode_entry(key, value));
});
