//! Frames that are wrong in every way, floods, slow readers and hoarders: a refusal, or the end of that connection.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::lingering::lingering;
use common::wire::Frame;
use common::{Actor, Cgroups, Daemon, Wire, eventually, policy};
use ioasid::client::Set;
use ioasid::model::{Refusal, SetRequest};
use ioasid::proto::{Call, GetStatus, Header, Info, Kind, MAX_FRAME, OpenSession, VERSION};
use ioasid::sys::seqpacket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const SPACE: &str = "bits = 12\nquarantine = \"0s\"";

fn start() -> (Cgroups, Daemon, Actor) {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let daemon = Daemon::start(&policy(&cgroups, SPACE, ""));
    let actor = Actor::new(&cgroups, "a");
    (cgroups, daemon, actor)
}

/// A frame by its fields.
fn frame(version: u8, kind: u8, op: u16, flags: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![version, kind];
    bytes.extend(op.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(7_u64.to_le_bytes());
    bytes.extend(body);
    bytes
}

/// What a wrong frame may get.
enum Expected {
    Invalid(&'static str),
    Unsupported,
    /// The connection ends: the service never answers answers.
    End,
}

fn wrong_frames() -> Vec<(Vec<u8>, Expected)> {
    let op = GetStatus::OP;
    let mut frames = Vec::new();
    for len in 1..Header::BYTES {
        frames.push((frame(1, 1, op, 0, b"")[..len].to_vec(), Expected::Invalid("frame")));
    }
    frames.push((frame(1, 1, op, 0, &vec![b' '; MAX_FRAME - Header::BYTES + 1]), Expected::Invalid("frame")));
    frames.push((frame(1, 1, op, 0, &vec![b' '; 2 * MAX_FRAME]), Expected::Invalid("frame")));
    for version in [0, VERSION + 1, 255] {
        frames.push((frame(version, 1, op, 0, b""), Expected::Unsupported));
    }
    for kind in [0, 6, 255] {
        frames.push((frame(1, kind, op, 0, b""), Expected::Invalid("kind")));
    }
    for kind in [2, 3, 4, 5] {
        frames.push((frame(1, kind, op, 0, b""), Expected::End));
    }
    for flags in [2, 3, 1 << 31, u32::MAX] {
        frames.push((frame(1, 1, op, flags, b""), Expected::Invalid("flags")));
    }
    // A request in pieces is not a thing.
    frames.push((frame(1, 1, op, 1, b""), Expected::End));
    for unknown in [0, 2, 15, 999, u16::MAX] {
        frames.push((frame(1, 1, unknown, 0, b"{}"), Expected::Unsupported));
    }
    let bodies: [&[u8]; 10] =
        [b"{", b"[]", b"null", b"1", b"\"x\"", b"{\"pid\": 1}", b"{} {}", b"\xff\xfe", b"{\"a\":{\"a\":{\"a\":", b"\0"];
    for body in bodies {
        frames.push((frame(1, 1, op, 0, body), Expected::Invalid("body")));
    }
    let nested = [vec![b'['; 30_000], vec![b']'; 30_000]].concat();
    frames.push((frame(1, 1, op, 0, &nested), Expected::Invalid("body")));
    frames
}

/// The answer is what was expected; where the connection goes on, it still works.
fn check(wire: &Wire, bytes: &[u8], expected: &Expected, again: impl Fn(&Wire)) {
    if let Err(error) = wire.send_bytes(bytes, &[]) {
        const EMSGSIZE: i32 = 90;
        assert_eq!(error.raw_os_error(), Some(EMSGSIZE), "longer than the kernel takes, and nothing else");
        return;
    }
    let shown = &bytes[..bytes.len().min(40)];
    match (wire.receive(), expected) {
        (None, Expected::End) => return,
        (Some(answer), Expected::Invalid(field)) => match answer.refusal() {
            Refusal::InvalidArgument { field: found, expected, .. } => {
                assert_eq!(found, *field, "{shown:?}");
                assert!(!expected.is_empty());
            }
            other => panic!("{shown:?}: {other:?}"),
        },
        (Some(answer), Expected::Unsupported) => match answer.refusal() {
            Refusal::Unsupported { what, why } => assert!(!what.is_empty() && !why.is_empty(), "{shown:?}"),
            other => panic!("{shown:?}: {other:?}"),
        },
        (answer, _) => panic!("{shown:?}: {answer:?}"),
    }
    again(wire);
}

#[test]
fn every_wrong_frame_is_a_refusal_or_ends_that_connection_only() {
    let (_cgroups, daemon, actor) = start();
    let before = daemon.snapshot();
    for (bytes, expected) in wrong_frames() {
        let wire = daemon.connect();
        check(&wire, &bytes, &expected, |wire| drop(wire.ask(&GetStatus {}).unwrap()));
    }
    daemon.settles_to(&before);
    drop(actor);
    daemon.finish();
}

#[test]
fn every_wrong_frame_on_a_session_is_a_refusal_or_ends_that_session_only() {
    let (_cgroups, daemon, actor) = start();
    let set = actor.create_set(&daemon, SetRequest::default());
    let before = daemon.snapshot();
    let mut witness = set.session().unwrap();
    for (mut bytes, expected) in wrong_frames() {
        if bytes.get(2..4) == Some(&GetStatus::OP.to_le_bytes()) {
            bytes.splice(2..4, Info::OP.to_le_bytes());
        }
        let session = Wire::open_session(set.as_fd(), seqpacket::pair().unwrap()).unwrap();
        check(&session, &bytes, &expected, |session| drop(session.ask(&Info {}).unwrap()));
        witness.info().unwrap();
    }
    drop(witness);
    daemon.settles_to(&before);
    drop((set, actor));
    daemon.finish();
}

#[test]
fn nothing_on_the_set_fd_is_answered_but_on_the_session() {
    let (_cgroups, daemon, actor) = start();
    let set = actor.create_set(&daemon, SetRequest::default());
    let before = daemon.snapshot();
    for (bytes, _) in wrong_frames() {
        let _ = seqpacket::send(set.as_fd(), &bytes, &[], Some(common::deadline()));
        drop(set.session().unwrap());
    }
    let mut buffer = [0; 64];
    // The one message that lies there from the start, so that the last close shows.
    let planted = seqpacket::try_receive(set.as_fd(), &mut buffer).unwrap();
    assert!(matches!(planted, seqpacket::Received::Message { len: 17..64, .. }), "{planted:?}");
    let queued = seqpacket::try_receive(set.as_fd(), &mut buffer);
    assert!(queued.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "the queue is all holders'");
    daemon.settles_to(&before);
    // It was read, and still the last close ends the set.
    drop((set, actor));
    daemon.finish();
}

fn open_session_frame() -> Vec<u8> {
    frame(1, 1, OpenSession::OP, 0, b"{}")
}

/// Sends OpenSession with these riders, and proves that the set serves on and nothing stays open.
fn offer(set: &Set, riders: &[BorrowedFd<'_>]) {
    seqpacket::send(set.as_fd(), &open_session_frame(), riders, Some(common::deadline())).unwrap();
    set.session().unwrap().info().unwrap();
}

#[test]
fn only_one_end_of_a_fresh_pair_opens_a_session() {
    let (_cgroups, daemon, actor) = start();
    let (set, other) =
        (actor.create_set(&daemon, SetRequest::default()), actor.create_set(&daemon, SetRequest::default()));
    let before = daemon.snapshot();
    let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let (stream, _other_stream) = std::os::unix::net::UnixStream::pair().unwrap();
    let (datagram, _other_datagram) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (widow, gone) = seqpacket::pair().unwrap();
    drop(gone);
    let (full, filler) = seqpacket::pair().unwrap();
    seqpacket::send(filler.as_fd(), b"already here", &[], None).unwrap();
    let wire = daemon.connect();
    offer(&set, &[]);
    offer(&set, &[null.as_fd()]);
    offer(&set, &[stream.as_fd()]);
    offer(&set, &[datagram.as_fd()]);
    offer(&set, &[tcp.as_fd()]);
    offer(&set, &[widow.as_fd()]);
    offer(&set, &[full.as_fd()]);
    // A set FD in disguise would hide its own last close; a connection to the service would have it talk to itself.
    offer(&set, &[set.as_fd()]);
    offer(&set, &[other.as_fd()]);
    offer(&set, &[wire.as_fd()]);
    let (a, b) = seqpacket::pair().unwrap();
    offer(&set, &[a.as_fd(), b.as_fd()]);
    drop((a, b));
    let many: Vec<OwnedFd> = (0..253).map(|_| null.try_clone().unwrap()).collect();
    offer(&set, &many.iter().map(AsFd::as_fd).collect::<Vec<_>>());
    drop((wire, widow, full, filler));
    daemon.settles_to(&before);
    drop((set, other, actor));
    daemon.finish();
}

#[test]
fn descriptors_that_a_call_does_not_take_are_closed_at_once() {
    let (_cgroups, daemon, actor) = start();
    let before = daemon.snapshot();
    let wire = actor.connect(&daemon);
    let set = actor.create_set(&daemon, SetRequest::default());
    let guest = daemon.sets()[0].cgroup.clone();
    set.session().unwrap().alloc().unwrap();
    for riders in [1, 2, 16, 253] {
        // Copies of the set FD: would one stay in the service, the set would never end.
        let copies: Vec<OwnedFd> = (0..riders).map(|_| set.as_fd().try_clone_to_owned().unwrap()).collect();
        let copies: Vec<BorrowedFd<'_>> = copies.iter().map(AsFd::as_fd).collect();
        let answer = wire.call(&GetStatus {}, &copies);
        assert!(matches!(answer, Ok(_) | Err(Refusal::InvalidArgument { .. })), "{answer:?}");
        let session = Wire::open_session(set.as_fd(), seqpacket::pair().unwrap()).unwrap();
        session.call(&Info {}, &copies).map(drop).unwrap();
    }
    for riders in [0, 2] {
        let copies = vec![set.as_fd(); riders];
        let refusal = wire.call(&ioasid::proto::IdentifySet {}, &copies).map(drop).unwrap_err();
        assert_eq!(
            refusal,
            Refusal::InvalidArgument {
                field: "descriptors".into(),
                value: riders.to_string(),
                expected: "one set FD".into()
            }
        );
    }
    let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let refusal = wire.call(&ioasid::proto::IdentifySet {}, &[null.as_fd()]).map(drop).unwrap_err();
    assert_eq!(refusal, Refusal::NotFound { what: "a set with this descriptor".into() });
    drop((set, wire, actor));
    common::eventually_equal("the charge", &0, || daemon.current(&guest));
    daemon.settles_to(&before);
    daemon.finish();
}

#[test]
fn a_descriptor_whose_close_waits_holds_up_nobody() {
    let (_cgroups, daemon, actor) = start();
    let before = daemon.snapshot();
    let wire = actor.connect(&daemon);
    let set = actor.create_set(&daemon, SetRequest::default());
    let session = Wire::open_session(set.as_fd(), seqpacket::pair().unwrap()).unwrap();
    let (info, status) = (frame(VERSION, 1, Info::OP, 0, b"{}"), frame(VERSION, 1, GetStatus::OP, 0, b"{}"));
    let no_request = frame(VERSION, 2, GetStatus::OP, 0, b"{}");
    let ended = actor.connect(&daemon);
    let mut readers = Vec::new();
    for (socket, before_it, bytes) in [
        (wire.as_fd(), None, &*status),
        (session.as_fd(), None, &*info),
        (set.as_fd(), None, &*open_session_frame()),
        (set.as_fd(), None, b"no frame"),
        // Unread in the queue of a connection that ends for what came before.
        (ended.as_fd(), Some(&*no_request), b"unread"),
    ] {
        let (rider, reader) = lingering();
        daemon.signal("STOP");
        if let Some(bytes) = before_it {
            seqpacket::send(socket, bytes, &[], None).unwrap();
        }
        seqpacket::send(socket, bytes, &[rider.as_fd()], None).unwrap();
        // What the service has is the last copy.
        drop(rider);
        daemon.signal("CONT");
        readers.push(reader);
        daemon.status();
        set.session().unwrap().info().unwrap();
    }
    drop((readers, ended, session, set, wire, actor));
    daemon.settles_to(&before);
    daemon.finish();
}

#[test]
fn who_asks_and_reads_nothing_has_its_session_ended() {
    let (_cgroups, daemon, actor) = start();
    let set = actor.create_set(&daemon, SetRequest::default());
    let mut good = set.session().unwrap();
    let before = daemon.snapshot();
    let flood = Wire::open_session(set.as_fd(), seqpacket::pair().unwrap()).unwrap();
    let request = frame(1, 1, Info::OP, 0, b"");
    let sent = (0..1_000_000).position(|n| {
        if n % 4096 == 0 {
            good.info().unwrap(); // others are served meanwhile
        }
        flood.send_bytes(&request, &[]).is_err()
    });
    assert!(sent.is_some(), "a million requests, and no end");
    daemon.settles_to(&before);
    good.info().unwrap();
    drop((set, good, flood, actor));
    daemon.finish();
}

#[test]
fn a_slow_reader_of_the_socket_holds_up_nobody() {
    let (_cgroups, daemon, actor) = start();
    let slow = actor.connect(&daemon);
    let request = frame(1, 1, GetStatus::OP, 0, b"");
    while seqpacket::try_send(slow.as_fd(), &request, &[]).is_ok() {}
    daemon.status();
    actor.create_set(&daemon, SetRequest::default()).session().unwrap().alloc().unwrap();
    drop((slow, actor));
    daemon.finish();
}

#[test]
fn a_hoarder_of_descriptors_in_flight_is_drained() {
    let (_cgroups, daemon, actor) = start();
    let set = actor.create_set(&daemon, SetRequest::default());
    let before = daemon.snapshot();
    let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let copies = vec![null.as_fd(); 250];
    let wire = actor.connect(&daemon);
    for _ in 0..50 {
        wire.call(&GetStatus {}, &copies).map(drop).ok();
        seqpacket::send(set.as_fd(), &frame(1, 1, 3, 0, b""), &copies, Some(common::deadline())).unwrap();
    }
    drop(wire);
    set.session().unwrap().info().unwrap();
    daemon.settles_to(&before);
    drop((set, actor));
    daemon.finish();
}

#[test]
fn a_message_of_no_bytes_is_a_frame_that_is_too_short_or_an_end() {
    let (_cgroups, daemon, actor) = start();
    let wire = actor.connect(&daemon);
    // seqpacket::send refuses to send nothing: that is the end of a conversation to whoever reads it.
    nix::sys::socket::send(wire.as_fd().as_raw_fd(), b"", nix::sys::socket::MsgFlags::empty()).unwrap();
    let answer: Option<Frame> = wire.receive();
    assert!(answer.is_none_or(|answer| answer.header.kind == Kind::Refusal));
    let set = actor.create_set(&daemon, SetRequest::default());
    nix::sys::socket::send(set.as_fd().as_raw_fd(), b"", nix::sys::socket::MsgFlags::empty()).unwrap();
    set.session().unwrap().alloc().unwrap();
    eventually("it answers", || Some(daemon.status()));
    drop((set, wire, actor));
    daemon.finish();
}
