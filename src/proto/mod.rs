//! What goes over the wires: refusal codes, bus names, frames and their bodies. Pure.
//!
//! Every edge and the client translate with what is here; nothing is spelled a second time elsewhere.
//!
//! # The socket protocol
//!
//! Every message on `ioasid.sock`, on a set FD and on a session is one SEQPACKET message: a [`Header`] of 16 bytes,
//! then a JSON body (an object, or nothing where the call takes nothing). Descriptors ride on the message with
//! SCM_RIGHTS. A request is answered by exactly one reply, refusal or fault with the request's op and id; a
//! reply whose body is longer than a frame takes comes in pieces, all but the last flagged [`Header::MORE`].
//!
//! * On **`ioasid.sock`** the first request is [`Hello`]; then any [service call](messages).
//! * On the **set FD** a holder sends [`OpenSession`] with one end of a fresh SEQPACKET pair. Nothing is ever
//!   answered on the set FD itself, for all its holders share one queue. One event that names the set lies in that queue
//!   from the start; nobody reads it, and so the last close shows.
//! * On the **session** the service first says [`Opened`] or refuses; then the holder makes session calls.
//!
//! The protocol grows by new ops and new optional fields; an unknown op is refused as `Unsupported`, an unknown
//! field of a request as `InvalidArgument`, and an unknown field of a reply is to be ignored.

mod bus;
mod codes;
mod frame;
pub mod message_ids;
mod messages;
pub mod outside;

pub use bus::*;
pub use codes::{Codes, FAULT_ERRNO, FAULT_ERRNO_NAME, FAULT_NAME, codes, failure_errno, refusal_to_json};
pub use frame::{
    Header, Kind, MAX_BODY, MAX_FRAME, VERSION, decode_body, decode_request, encode, parse_frame, split_reply,
};
pub use messages::*;
