//! Frames: a fixed header, then a JSON body.

use crate::model::Refusal;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version of the protocol. A frame of another version is refused with this one named.
pub const VERSION: u8 = 1;

/// The longest body of one frame, in bytes. Longer replies come in pieces; longer requests are refused.
pub const MAX_BODY: usize = 64 * 1024;

/// The longest frame, in bytes.
pub const MAX_FRAME: usize = Header::BYTES + MAX_BODY;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asks for something.
    Request,
    /// It was done; the body is the call's reply.
    Reply,
    /// It was refused; the body is a [`Refusal`].
    Refusal,
    /// The service failed; the body is a [`FaultNotice`](super::FaultNotice).
    Fault,
    /// Nobody asked: an event of a subscription; the id is that of the request that subscribed.
    Event,
}

/// The first 16 bytes of a frame, little-endian: version u8, kind u8, op u16, flags u32, id u64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// The call it belongs to: [`Call::OP`](super::Call::OP).
    pub op: u16,
    /// [`Header::MORE`], or 0. Other bits are refused.
    pub flags: u32,
    /// Chosen by who asks, repeated in the answer.
    pub id: u64,
}

impl Header {
    /// Its size on the wire.
    pub const BYTES: usize = 16;
    /// The body goes on in the next frame.
    pub const MORE: u32 = 1;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let kind = match self.kind {
            Kind::Request => 1,
            Kind::Reply => 2,
            Kind::Refusal => 3,
            Kind::Fault => 4,
            Kind::Event => 5,
        };
        let mut bytes = [0; Self::BYTES];
        let (head, id) = bytes.split_at_mut(8);
        id.copy_from_slice(&self.id.to_le_bytes());
        let (words, flags) = head.split_at_mut(4);
        flags.copy_from_slice(&self.flags.to_le_bytes());
        let (tags, op) = words.split_at_mut(2);
        op.copy_from_slice(&self.op.to_le_bytes());
        tags.copy_from_slice(&[VERSION, kind]);
        bytes
    }
}

/// The frame with `header` and `body`.
pub fn encode<T: Serialize + ?Sized>(header: Header, body: &T) -> Vec<u8> {
    let mut frame = Vec::with_capacity(128);
    frame.extend_from_slice(&header.to_bytes());
    // Bodies are maps with string keys and plain values: serde_json cannot fail on them.
    let _ = serde_json::to_writer(&mut frame, body);
    frame
}

/// The frames that carry `frame`, cut where its body is longer than [`MAX_BODY`].
pub fn split_reply(header: Header, frame: Vec<u8>) -> Vec<Vec<u8>> {
    if frame.len() <= MAX_FRAME {
        return vec![frame];
    }
    let mut pieces: Vec<Vec<u8>> =
        frame.get(Header::BYTES..).unwrap_or_default().chunks(MAX_BODY).map(<[u8]>::to_vec).collect();
    let last = pieces.len().saturating_sub(1);
    for (n, piece) in pieces.iter_mut().enumerate() {
        let flags = if n == last { 0 } else { Header::MORE };
        piece.splice(0..0, Header { flags, ..header }.to_bytes());
    }
    pieces
}

/// Header and body of a message as it was received. Total: whatever the bytes, a frame or a refusal.
pub fn parse_frame(bytes: &[u8]) -> Result<(Header, &[u8]), Refusal> {
    let Some((head, body)) = bytes.split_first_chunk::<{ Header::BYTES }>() else {
        return Err(Refusal::invalid("frame", format!("{} bytes", bytes.len()), "a header of 16 bytes and a body"));
    };
    if body.len() > MAX_BODY {
        return Err(Refusal::invalid("frame", format!("{} bytes", bytes.len()), "at most 65552 bytes"));
    }
    let [version, kind, o0, o1, f0, f1, f2, f3, id @ ..] = *head;
    if version != VERSION {
        return Err(Refusal::Unsupported {
            what: format!("protocol version {version}"),
            why: format!("this service speaks version {VERSION}"),
        });
    }
    let kind = match kind {
        1 => Kind::Request,
        2 => Kind::Reply,
        3 => Kind::Refusal,
        4 => Kind::Fault,
        5 => Kind::Event,
        _ => return Err(Refusal::invalid("kind", kind, "1 to 5")),
    };
    let flags = u32::from_le_bytes([f0, f1, f2, f3]);
    if flags & !Header::MORE != 0 {
        return Err(Refusal::invalid("flags", format!("{flags:#x}"), "0 or 1"));
    }
    Ok((Header { kind, op: u16::from_le_bytes([o0, o1]), flags, id: u64::from_le_bytes(id) }, body))
}

/// The body of a request as `T`: an object, or nothing where the call takes nothing.
pub fn decode_request<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    // serde takes a list for a struct as well.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| *byte != b'{') {
        return Err(Refusal::invalid("body", String::from_utf8_lossy(body), "an object"));
    }
    decode_body(body)
}

/// The body as `T`; an empty body is an empty object.
pub fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|e| Refusal::invalid("body", String::from_utf8_lossy(body), format!("what the call takes: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header { kind: Kind::Request, op: 0x0102, flags: 0, id: 7 };

    #[test]
    fn a_frame_reads_back() {
        let frame = encode(HEADER, &serde_json::json!({"a": 1}));
        assert_eq!(frame.get(..16), Some(&[1u8, 1, 2, 1, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0][..]));
        assert_eq!(parse_frame(&frame), Ok((HEADER, &br#"{"a":1}"#[..])));
    }

    #[test]
    fn every_malformed_header_is_a_refusal() {
        let good = encode(HEADER, &());
        for short in 0..16 {
            assert!(parse_frame(&good[..short]).is_err(), "{short}");
        }
        for (at, byte) in [(0, 0), (0, 2), (1, 0), (1, 6), (4, 2), (7, 0x80)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(parse_frame(&bad).is_err(), "byte {at} = {byte}");
        }
        assert!(parse_frame(&vec![1; MAX_FRAME + 1]).is_err());
    }

    #[test]
    fn long_replies_are_cut_and_flagged() {
        let header = Header { kind: Kind::Reply, ..HEADER };
        let frame = encode(header, &"x".repeat(2 * MAX_BODY));
        let whole = frame.get(16..).unwrap().to_vec();
        let pieces = split_reply(header, frame);
        let mut joined = Vec::new();
        for (n, piece) in pieces.iter().enumerate() {
            let (header, body) = parse_frame(piece).unwrap();
            assert_eq!(header.flags == Header::MORE, n + 1 < pieces.len());
            joined.extend_from_slice(body);
        }
        assert_eq!(joined, whole);
    }
}
