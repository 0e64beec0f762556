//! Frames as clients send them, and requests to `ioasidd --outside`: whatever comes in is parsed, refused, or understood, and
//! never more.
#![no_main]

use ioasid::proto::*;
use libfuzzer_sys::fuzz_target;

/// What was understood is said the same way again.
fn same_again<C: Call + PartialEq + std::fmt::Debug>(header: Header, body: &[u8]) {
    let Ok(call) = decode_request::<C>(body) else { return };
    let again = encode(header, &call);
    let (same, body) = parse_frame(&again).expect("our own frame");
    assert_eq!((same, decode_request::<C>(body).ok()), (header, Some(call)));
}

macro_rules! each {
    ($header:ident, $body:ident: $($call:ident)*) => {
        match $header.op {
            $($call::OP => same_again::<$call>($header, $body),)*
            _ => assert!(call_name($header.op).is_none(), "a call that is not fuzzed"),
        }
    };
}

fuzz_target!(|bytes: &[u8]| {
    if let Some(request) = outside::Request::parse(bytes) {
        assert!(bytes.len() <= outside::MAX_REQUEST);
        assert_eq!(request.to_string().as_bytes(), bytes);
    }
    let Ok((header, body)) = parse_frame(bytes) else { return };
    each!(header, body:
        Hello CreateSet OpenSet IdentifySet VerifyPasid ListSets ShowSet GetStatus GetCgroup SetCgroupMax ResetPeak
        Recharge RevokeSet Reload Explain GetEvents SetSetQuota GetMap OpenIommufd OpenSession Alloc Free Info AliasAdd
        AliasFind AliasDel Hold Put SetQuota Trim Map Refill Verify Watch Ack Bind);
});
