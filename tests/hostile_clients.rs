//! Clients that ask for too much, hold too much, read too little, or end in the middle: what they cost is bounded, and
//! it is theirs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, Wire, eventually, policy};
use ioasid::client::Set;
use ioasid::model::{Pasid, PasidRange, Refusal, SetRequest};
use ioasid::proto::{
    AliasAdd, Alloc, Call, Free, GetStatus, Header, Hold, Info, Kind, OpenSession, Put, Refill, SetQuota, ShowSet,
    Verify, Watch, call_name,
};
use ioasid::sys::{listener, process, seqpacket};
use std::collections::VecDeque;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const USER: u32 = 65534;
const MIB: u64 = 1 << 20;

/// A service whose rule allows sets of this many ids, and a user in a cgroup.
fn start(quota: u32, rest: &str) -> (Cgroups, Daemon, Actor) {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let text = policy(&cgroups, "quarantine = \"0s\"", rest).replace("max = 256", &format!("max = {quota}"));
    let daemon = Daemon::start(&text);
    let user = Actor::of_user(&cgroups, "a", USER);
    (cgroups, daemon, user)
}

/// Bytes of memory that the service has in use.
fn memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// A set of the user's with this many ids, leased as fast as one reply allows.
fn set_of(daemon: &Daemon, user: &Actor, ids: u32) -> Set {
    let set = user.create_set(daemon, SetRequest { quota: Some(ids), ..SetRequest::default() });
    let mut session = set.session().unwrap();
    let mut left = ids;
    while left > 0 {
        let now = left.min(8192);
        assert_eq!(session.alloc_many(now, None).unwrap().len(), now as usize);
        left -= now;
    }
    set
}

#[test]
fn a_set_of_many_ids_is_told_whole_to_who_reads() {
    const IDS: u32 = 100_000;
    let (_cgroups, daemon, user) = start(IDS, "");
    let set = set_of(&daemon, &user, IDS);
    // More than the queue of any socket takes.
    let info = set.session().unwrap().info().unwrap();
    let ids = info.pasids.unwrap();
    assert_eq!((ids.len(), info.in_use), (IDS as usize, IDS));
    assert!(ids.is_sorted());
    let (shown, _) = user.connect(&daemon).call(&ShowSet { set: info.set.0 }, &[]).unwrap();
    assert_eq!(shown.pasids.unwrap(), ids);
    drop((set, user));
    daemon.finish();
}

#[test]
fn who_asks_for_long_answers_and_reads_none_takes_a_bounded_amount_of_memory() {
    const IDS: u32 = 60_000;
    const CLIENTS: usize = 200;
    let (cgroups, daemon, user) = start(IDS, "");
    let set = set_of(&daemon, &user, IDS);
    let number = set.session().unwrap().set().0;
    // Each answer has some 400 KB: they would come to 80 MB for the connections and as much for the sessions.
    let before = memory(&daemon);
    let show = ShowSet { set: number };
    let connections: Vec<Wire> = (0..CLIENTS).map(|_| user.connect(&daemon)).collect();
    for wire in &connections {
        wire.send(&show, &[]);
    }
    let sessions: Vec<Wire> = (0..CLIENTS).map(|_| Wire::open_session(set.as_fd(), user.pair()).unwrap()).collect();
    for wire in &sessions {
        wire.send(&Info {}, &[]);
    }
    // Who comes after is served meanwhile, another user's long answers too.
    let other = Actor::new(&cgroups, "a");
    assert_eq!(other.connect(&daemon).ask(&show).unwrap().pasids.map(|ids| ids.len()), Some(IDS as usize));
    let grown = memory(&daemon).saturating_sub(before);
    assert!(grown < 48 * MIB, "{} MiB more", grown / MIB);
    // Those beyond the bound were refused, by name; or their connection ended, if it was in the middle.
    let refused = connections.iter().chain(&sessions).filter(|wire| {
        wire.receive_first().is_some_and(|frame| {
            frame.header.kind == Kind::Refusal
                && matches!(frame.refusal(), Refusal::TooMany { limit, .. } if limit.contains("wait for connections"))
        })
    });
    let refused = refused.count();
    assert!(refused > CLIENTS, "{refused} refused");
    drop((connections, sessions));
    // And who reads again is told again.
    let info = eventually("room for an answer", || set.session().ok()?.info().ok());
    assert_eq!(info.in_use, IDS);
    drop((set, user, other));
    daemon.finish();
}

#[test]
fn thousands_of_sessions_are_bounded_and_cost_little_each() {
    const MOST: usize = 4000;
    process::raise_max_files().unwrap();
    let (_cgroups, daemon, user) = start(256, &format!("[guard]\nsessions = {MOST}"));
    let set = user.create_set(&daemon, SetRequest::default());
    let witness = daemon.connect();
    let pair = user.pair();
    let mut sessions = vec![Wire::open_session(set.as_fd(), pair).unwrap()];
    let before = (daemon.snapshot(), memory(&daemon));
    while sessions.len() < MOST {
        sessions.push(Wire::open_session(set.as_fd(), user.pair()).unwrap());
        if sessions.len() % 500 == 0 {
            witness.ask(&GetStatus {}).unwrap();
        }
    }
    let full = Wire::open_session(set.as_fd(), user.pair()).map(drop).unwrap_err();
    assert_eq!(full, Refusal::TooMany { limit: format!("[guard] sessions of uid {USER}"), value: MOST as u64 });
    let each = memory(&daemon).saturating_sub(before.1) / MOST as u64;
    assert!(each < 16 << 10, "{each} bytes a session");
    // All at once: each has its answer.
    for session in &sessions {
        session.send(&Info {}, &[]);
    }
    assert!(sessions.iter().all(|session| session.receive().is_some_and(|frame| frame.header.kind == Kind::Reply)));
    sessions.truncate(1);
    daemon.settles_to(&before.0);
    drop((sessions, set, user, witness));
    daemon.finish();
}

/// Sends a call and says how it was refused.
fn refused<C: Call>(wire: &Wire, call: &C) -> Refusal {
    wire.call(call, &[]).map(drop).expect_err("refused")
}

#[test]
fn who_connects_without_a_pause_keeps_nobody_waiting_that_is_served() {
    let (_cgroups, daemon, user) = start(8, "");
    let (wire, socket) = (daemon.connect(), daemon.socket());
    let end = Instant::now() + Duration::from_secs(5);
    let answered = AtomicBool::new(false);
    let flood = || {
        // Silent ones stay until there are some, so that each costs the service what a connection costs.
        let mut open = VecDeque::new();
        while !answered.load(Ordering::Relaxed) && Instant::now() < end {
            open.extend(listener::connect(&socket, Some(end)));
            if open.len() > 16 {
                drop(open.pop_front());
            }
        }
    };
    std::thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(flood)));
        (0..20).for_each(|_| drop(wire.ask(&GetStatus {}).unwrap()));
        let in_time = Instant::now() < end;
        answered.store(true, Ordering::Relaxed);
        assert!(in_time, "answered when the flood was over");
    });
    drop((wire, user));
    daemon.finish();
}

#[test]
fn giant_numbers_are_refused_and_cost_nothing() {
    let (cgroups, daemon, user) = start(256, "");
    let set = user.create_set(&daemon, SetRequest { quota: Some(256), ..SetRequest::default() });
    let wire = Wire::open_session(set.as_fd(), user.pair()).unwrap();
    let ids = wire.ask(&Alloc { count: 2, range: None }).unwrap().pasids;
    let id = ids[0].get();
    let before = (wire.ask(&Info {}).unwrap(), memory(&daemon));
    let invalid = |refusal: Refusal| assert!(matches!(refusal, Refusal::InvalidArgument { .. }), "{refusal:?}");
    for range in [None, Some(PasidRange::ALL)] {
        invalid(refused(&wire, &Alloc { count: 0, range }));
        for count in [8192, 8193, 1 << 31, u32::MAX] {
            let refusal = refused(&wire, &Alloc { count, range });
            assert!(
                matches!(refusal, Refusal::InvalidArgument { .. } | Refusal::QuotaExceeded { .. }),
                "{count}: {refusal:?}"
            );
        }
    }
    assert!(matches!(refused(&wire, &Refill { count: u32::MAX, range: None }), Refusal::Unsupported { .. }));
    for number in [0, Pasid::LAST.get() + 1, u32::MAX] {
        invalid(refused(&wire, &Hold { pasid: number }));
        invalid(refused(&wire, &AliasAdd { pasid: number, alias: 1 }));
        invalid(refused(&wire, &Free { pasids: vec![number] }));
        assert!(matches!(refused(&wire, &Put { pasid: number }), Refusal::NotFound { .. }));
        assert!(!wire.ask(&Verify { pasid: number }).unwrap().leased);
    }
    assert!(matches!(refused(&wire, &SetQuota { quota: u32::MAX }), Refusal::NotPermitted { .. }));
    for timeout_ms in [0, 10_001, u32::MAX] {
        invalid(refused(&wire, &Watch { events: Vec::new(), phase: Default::default(), timeout_ms }));
    }
    // As many ids as one frame takes: nobody's, some of them said often.
    let many: Vec<u32> = (0..8000).map(|n| 1_000_000 + n % 100).collect();
    assert_eq!(wire.ask(&Free { pasids: many }).unwrap().pending, []);
    // Names are bounded by the quota, and references are numbers.
    let named = (0..).map_while(|alias| wire.ask(&AliasAdd { pasid: id, alias }).ok()).count();
    assert_eq!(named, 4 * 256);
    for _ in 0..1000 {
        wire.ask(&Hold { pasid: id }).unwrap();
    }
    for _ in 0..1000 {
        wire.ask(&Put { pasid: id }).unwrap();
    }
    assert_eq!(wire.ask(&Info {}).unwrap(), before.0);
    assert_eq!(daemon.current(&cgroups.path("a")), 2);
    let grown = memory(&daemon).saturating_sub(before.1);
    assert!(grown < 8 * MIB, "{} KiB more", grown >> 10);
    let user_wire = user.connect(&daemon);
    for quota in [0, 257, u32::MAX] {
        assert!(user_wire.create_set_of(quota).is_err(), "{quota}");
    }
    let long = SetRequest { label: "x".repeat(60_000), ..SetRequest::default() };
    assert!(user_wire.create_set(long).is_err());
    drop((set, wire, user_wire, user));
    daemon.finish();
}

#[test]
fn a_connection_that_ends_in_the_middle_leaves_nothing() {
    let (_cgroups, daemon, user) = start(256, "");
    let set = user.create_set(&daemon, SetRequest::default());
    set.session().unwrap().alloc().unwrap();
    let before = daemon.snapshot();
    let ways = [Shutdown::Read, Shutdown::Write, Shutdown::Both];
    let shut = |end: &OwnedFd, way: Shutdown| {
        let stream = UnixStream::from(end.try_clone().unwrap());
        stream.shutdown(way).unwrap();
    };
    let frame = |op: u16| {
        let header = Header { kind: Kind::Request, op, flags: 0, id: 1 };
        ioasid::proto::encode(header, &ioasid::proto::Info {})
    };
    for way in ways {
        // The pair, before it is offered, and after; its holder never says anything more.
        for shut_before in [true, false] {
            let (ours, theirs) = seqpacket::pair().unwrap();
            if shut_before {
                shut(&ours, way);
            }
            let _ = seqpacket::send(set.as_fd(), &frame(OpenSession::OP), &[theirs.as_fd()], Some(common::deadline()));
            drop(theirs);
            if !shut_before {
                shut(&ours, way);
            }
            let _ = seqpacket::try_send(ours.as_fd(), &frame(Info::OP), &[]);
        }
        // A session that is open, with a request under way.
        let (ours, theirs) = user.pair();
        let copy = ours.try_clone().unwrap();
        let session = Wire::open_session(set.as_fd(), (ours, theirs)).unwrap();
        session.send(&Info {}, &[]);
        shut(&copy, way);
        drop(copy);
        // A connection: nothing said, half a handshake, a request under way.
        for said in [0, 1, 2] {
            let (_, mut fds) = user.order(&common::Order::Connect(daemon.socket()), &[]);
            let wire = fds.remove(0);
            if said == 1 {
                let _ = seqpacket::try_send(wire.as_fd(), &frame(GetStatus::OP)[..9], &[]);
            } else if said == 2 {
                let _ = seqpacket::try_send(wire.as_fd(), &frame(GetStatus::OP), &[]);
            }
            shut(&wire, way);
        }
    }
    set.session().unwrap().info().unwrap();
    daemon.settles_to(&before);
    drop((set, user));
    daemon.finish();
}

#[test]
fn no_call_keeps_a_descriptor_that_it_does_not_take() {
    let (_cgroups, daemon, user) = start(256, "");
    let set = user.create_set(&daemon, SetRequest { quota: Some(4), ..SetRequest::default() });
    let mapped = set.map().unwrap();
    let id = mapped.alloc().unwrap();
    mapped.session().trim().unwrap();
    let before = daemon.snapshot();
    let ops: Vec<u16> = (0..=u16::MAX).filter(|op| call_name(*op).is_some()).collect();
    assert!(ops.len() > 30);
    let body = |op: u16| {
        let header = Header { kind: Kind::Request, op, flags: 0, id: u64::from(op) };
        let mut frame = ioasid::proto::encode(header, &ioasid::proto::Info {});
        frame.truncate(Header::BYTES);
        frame.extend(b"{}");
        frame
    };
    for riders in [1, 2, 253] {
        // Copies of the set FD: one that stayed would keep the set for ever.
        let copies: Vec<OwnedFd> = (0..riders).map(|_| set.as_fd().try_clone_to_owned().unwrap()).collect();
        let copies: Vec<BorrowedFd<'_>> = copies.iter().map(AsFd::as_fd).collect();
        for op in &ops {
            let connection = user.connect(&daemon);
            connection.send_bytes(&body(*op), &copies).unwrap();
            // Those that go on telling, and those that make a set, have what they made closed with the connection.
            drop(connection.receive_first());
            let session = Wire::open_session(set.as_fd(), user.pair()).unwrap();
            session.send_bytes(&body(*op), &copies).unwrap();
            drop(session.receive_first());
            seqpacket::send(set.as_fd(), &body(*op), &copies, Some(common::deadline())).unwrap();
        }
    }
    // What they did is what they were asked: ids were allocated, as many as the quota allows.
    let more: Vec<Pasid> =
        mapped.session().info().unwrap().pasids.unwrap().into_iter().filter(|it| *it != id).collect();
    assert!(!more.is_empty());
    mapped.session().free(&more).unwrap();
    daemon.settles_to(&before);
    drop((mapped, set, user));
    daemon.finish();
}
