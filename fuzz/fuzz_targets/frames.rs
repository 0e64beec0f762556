//! Frames as clients send them: whatever comes in is parsed, refused, or answered, and never more.
#![no_main]

use ioasid::proto::{Alloc, CreateSet, Free, OpenSession, Watch, decode_request, encode, parse_frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok((header, body)) = parse_frame(bytes) else { return };
    if let Ok(call) = decode_request::<CreateSet>(body) {
        // What was understood is said the same way again.
        let again = encode(header, &call);
        let (same, body) = parse_frame(&again).expect("our own frame");
        assert_eq!((same, decode_request::<CreateSet>(body).ok()), (header, Some(call)));
    }
    let _ = decode_request::<Alloc>(body);
    let _ = decode_request::<Free>(body);
    let _ = decode_request::<OpenSession>(body);
    let _ = decode_request::<Watch>(body);
});
