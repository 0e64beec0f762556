//! A service that runs out of something of its own: descriptors, room with who keeps them, memory for a region.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, Options, Wire, eventually, policy, supervised};
use ioasid::client::{ClientError, Service, Set};
use ioasid::model::{Refusal, SetRequest};
use ioasid::proto::{GetStatus, Header, Map};
use ioasid::sys::seqpacket;
use ioasid::sys::socket_option::pending_bytes;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

const SPACE: &str = "quarantine = \"0s\"";
const USER: u32 = 65534;

fn through(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A service that may have this many descriptors, and the tests' policy but for the number of sets.
fn with_descriptors(most: u32, options: Options) -> (Cgroups, Daemon) {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let text = policy(&cgroups, SPACE, "").replace("sets_per_cgroup = 16", "sets_per_cgroup = 1000");
    let limit = format!("--nofile={most}:{most}");
    let daemon = Daemon::start_with(&text, &Options { through: through(&["prlimit", &limit]), ..options });
    (cgroups, daemon)
}

/// Sets until one is refused.
fn as_many_sets_as_there_are(wire: &Wire) -> (Vec<Set>, Refusal) {
    let mut sets = Vec::new();
    loop {
        match wire.create_set_of(4) {
            Ok((set, _)) => sets.push(set),
            Err(refusal) => return (sets, refusal),
        }
        assert!(sets.len() < 1000, "nothing is refused");
    }
}

fn of_descriptors(refusal: &Refusal, most: u64) -> bool {
    matches!(refusal, Refusal::TooMany { limit, value } if limit == "descriptors of the service" && *value == most)
}

#[test]
fn without_descriptors_newcomers_are_told_so_and_who_is_there_is_served() {
    let (cgroups, daemon) = with_descriptors(128, Options::default());
    let before = daemon.snapshot();
    let user = Actor::of_user(&cgroups, "a", USER);
    let wire = user.connect(&daemon);
    let (mut sets, refusal) = as_many_sets_as_there_are(&wire);
    assert!(of_descriptors(&refusal, 128), "{refusal:?}");
    assert!(sets.len() > 50, "{} sets", sets.len());
    // Room for some sessions, and no more.
    sets.truncate(sets.len() - 4);
    let mut sessions = Vec::new();
    let refusal = loop {
        // What is closed a moment later would be room for one more.
        daemon.settled_descriptors();
        match sets[0].session() {
            Ok(session) => sessions.push(session),
            Err(error) => break error.refusal().cloned().expect("a refusal, not a broken session"),
        }
    };
    assert!(!sessions.is_empty());
    daemon.settled_descriptors();
    assert!(of_descriptors(&refusal, 128), "{refusal:?}");
    // Who connects is told, and does not wait for an answer that never comes.
    let refused = user.connect_silently(&daemon).receive().expect("an answer").refusal();
    assert!(of_descriptors(&refused, 128), "{refused:?}");
    // An administrator gets in.
    assert!(daemon.status().sets > 50);
    daemon.settled_descriptors();
    // Who has a session works as ever, which takes descriptors for a moment.
    wire.ask(&GetStatus {}).unwrap();
    let session = &mut sessions[0];
    let ids = session.alloc_many(4, None).unwrap();
    session.alias_add(ids[0], 1).unwrap();
    session.hold(ids[1]).unwrap();
    session.free(&ids).unwrap();
    assert!(session.call(&Map {}).is_err_and(|error| error.refusal().is_some_and(|it| of_descriptors(it, 128))));
    // With room again all is as before.
    sets.truncate(40);
    sessions.truncate(1);
    let session = eventually("room for a session", || sets[0].session().ok());
    eventually("room for a region", || sets[0].map().ok());
    drop((session, sessions, sets, wire, user));
    daemon.settles_to(&before);
    daemon.finish();
}

/// Descriptors that nobody reads are the service's to the kernel: who has it send them waits for itself alone.
#[test]
fn who_reads_no_descriptors_has_few_of_them_on_their_way() {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let daemon = Daemon::start(&policy(&cgroups, SPACE, ""));
    let user = Actor::of_user(&cgroups, "a", USER);
    let set = user.create_set(&daemon, SetRequest::default());
    let (ours, theirs) = seqpacket::pair().unwrap();
    let end = ours.try_clone().unwrap();
    let wire = Wire::open_session(set.as_fd(), (ours, theirs)).unwrap();
    let connection = user.connect(&daemon);
    const ASKED: usize = 40;
    for _ in 0..ASKED {
        wire.send(&Map {}, &[]);
    }
    let first = wire.receive().unwrap();
    let one = Header::BYTES + first.body.len();
    let mut waiting = 0;
    eventually("the queue grows no more", || {
        let before = std::mem::replace(&mut waiting, pending_bytes(end.as_fd()).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        (waiting > 0 && waiting == before).then_some(())
    });
    assert!(waiting <= 5 * one, "{waiting} bytes wait, an answer has {one}");
    // Others are served, the same user among them.
    connection.ask(&GetStatus {}).unwrap();
    set.map().unwrap();
    // And so is who reads at last: every answer has its descriptor.
    for _ in 1..ASKED {
        assert_eq!(wire.receive().unwrap().fds.len(), 1);
    }
    drop((wire, end, connection, set, user));
    daemon.finish();
}

/// As it is where many users together have the service send more than the kernel lets it.
#[test]
fn a_service_that_may_send_no_more_descriptors_says_so() {
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let bounded = through(&["prlimit", "--nofile=300:300", "setpriv", "--bounding-set=-sys_resource,-sys_admin"]);
    let daemon = Daemon::start_with(&policy(&cgroups, SPACE, ""), &Options { through: bounded, ..Options::default() });
    let actor = Actor::new(&cgroups, "a");
    let wire = actor.connect(&daemon);
    let (set, _) = wire.create_set_of(4).unwrap();
    let mut session = set.session().unwrap();
    session.call(&Map {}).unwrap();
    let before = daemon.snapshot();
    // Of the service's user as well, unread, from somebody whom no limit binds.
    let (reader, sender) = seqpacket::pair().unwrap();
    (0..2).for_each(|_| seqpacket::try_send(sender.as_fd(), b"x", &[set.as_fd(); seqpacket::MAX_FDS]).unwrap());
    let on_the_way = |refusal: &Refusal| match refusal {
        Refusal::TooMany { limit, value } => limit.ends_with("that are on their way") && *value == 300,
        _ => false,
    };
    for _ in 0..3 {
        let refusal = wire.create_set_of(4).unwrap_err();
        assert!(on_the_way(&refusal), "{refusal:?}");
        let error = session.call(&Map {}).unwrap_err();
        assert!(error.refusal().is_some_and(on_the_way), "{error:?}");
    }
    session.free(&[]).unwrap();
    daemon.settles_to(&before);
    // It goes on when they are read.
    drop(reader);
    wire.create_set_of(4).unwrap();
    session.call(&Map {}).unwrap();
    drop((session, set, wire, actor));
    daemon.finish();
}

#[test]
fn what_could_not_be_kept_over_a_restart_is_refused() {
    let (cgroups, mut daemon) = with_descriptors(128, supervised());
    daemon.may_warn();
    let actor = Actor::new(&cgroups, "a");
    let wire = actor.connect(&daemon);
    let (sets, refusal) = as_many_sets_as_there_are(&wire);
    let Refusal::TooMany { limit, value } = &refusal else { panic!("{refusal:?}") };
    assert_eq!((limit.as_str(), *value), ("descriptors that the service manager keeps", 128 - 64));
    let mut first = sets[0].session().unwrap();
    let id = first.alloc().unwrap();
    // A reference has its session kept, too.
    assert!(first.hold(id).is_err_and(|error| error.refusal() == Some(&refusal)));
    assert!(sets.len() > 40, "{} sets", sets.len());
    daemon.kill_service();
    assert_eq!(daemon.sets().len(), sets.len());
    for set in &sets {
        set.session().unwrap().info().unwrap();
    }
    assert_eq!(first.info().unwrap().pasids.unwrap(), [id]);
    assert!(!daemon.log().contains("only one half"), "{}", daemon.log());
    drop((first, sets, wire, actor));
    daemon.finish();
}

/// A set with an id, and what must be the same after a request that failed.
struct Scene {
    cgroups: Cgroups,
    daemon: Daemon,
    set: Set,
}

impl Scene {
    fn new(options: &Options) -> Self {
        let cgroups = Cgroups::new();
        cgroups.make("a");
        let daemon = Daemon::start_with(&policy(&cgroups, SPACE, ""), options);
        let set = Actor::new(&cgroups, "a").create_set(&daemon, SetRequest::default());
        set.session().unwrap().alloc_many(3, None).unwrap();
        Self { cgroups, daemon, set }
    }

    /// Mapping the set is refused for want of this, and nothing else has changed.
    fn no_region(&self, of: &str) {
        let mut session = self.set.session().unwrap();
        let info = session.info().unwrap();
        match session.call(&Map {}) {
            Err(ClientError::Refused(Refusal::TooMany { limit, .. })) => assert_eq!(limit, of),
            other => panic!("{other:?}"),
        }
        assert_eq!(session.info().unwrap(), info);
        assert_eq!(self.daemon.current(&self.cgroups.path("a")), 3);
    }

    fn then_there_is_one(self) {
        let mapped = self.set.map().unwrap();
        mapped.alloc().unwrap();
        assert_eq!(self.set.session().unwrap().info().unwrap().in_use, 4);
        drop((mapped, self.set));
        self.daemon.finish();
    }

    fn limit(&self, limit: &str) {
        let pid = self.daemon.pid().to_string();
        assert!(Command::new("prlimit").args(["--pid", &pid, limit]).status().unwrap().success());
    }
}

#[test]
fn a_region_that_the_kernel_refuses_is_refused_to_the_client_that_wants_it() {
    let of_descriptors = "descriptors of the service";
    for (errno, of) in [("ENOMEM", "memory of the service"), ("EMFILE", of_descriptors), ("ENFILE", of_descriptors)] {
        let inject = format!("inject=memfd_create:error={errno}:when=1..2");
        // -D: the service is the child, and the tracer beside it.
        let strace = ["strace", "-D", "-f", "-qqq", "-o", "/dev/null", "-e", "trace=memfd_create", "-e", "signal=none"];
        let words = [&strace[..], &["-e", &inject]].concat();
        let scene = Scene::new(&Options { through: through(&words), ..Options::default() });
        scene.no_region(of);
        scene.no_region(of);
        scene.then_there_is_one();
    }
}

#[test]
fn a_region_that_the_address_space_has_no_room_for_is_refused() {
    let scene = Scene::new(&Options::default());
    let status = std::fs::read_to_string(format!("/proc/{}/status", scene.daemon.pid())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap().trim();
    let kib: u64 = size.trim_end_matches(" kB").parse().unwrap();
    // A region of a space of 20 bits takes 512 KiB; what a request takes meanwhile is less.
    scene.limit(&format!("--as={}:unlimited", (kib + 256) << 10));
    scene.no_region("memory of the service");
    scene.limit("--as=unlimited");
    scene.then_there_is_one();
}

#[test]
fn a_limit_on_the_size_of_files_fails_a_request_and_ends_nobody() {
    let mut scene = Scene::new(&Options::default());
    scene.daemon.may_warn();
    // Below it is the records' first page; ids stand beyond it. Without more SIGXFSZ would end the service.
    scene.limit("--fsize=4096:unlimited");
    let mut session = scene.set.session().unwrap();
    let info = session.info().unwrap();
    assert!(matches!(session.alloc().unwrap_err(), ClientError::Fault(_)));
    assert_eq!(session.info().unwrap(), info);
    drop(session);
    scene.no_region("memory of the service");
    scene.limit("--fsize=unlimited");
    let errors = scene.daemon.log();
    assert!(errors.contains("ids-global"), "{errors}");
    // The fault was logged: that is asked for here.
    let mapped = scene.set.map().unwrap();
    mapped.alloc().unwrap();
    drop((mapped, scene.set));
    eventually("all is gone", || scene.daemon.sets().is_empty().then_some(()));
    assert!(scene.daemon.terminate().success());
}

/// Nobody waits for a service that is full: connecting is answered.
#[test]
fn the_library_says_what_a_newcomer_was_told() {
    let (cgroups, daemon) = with_descriptors(96, Options::default());
    let actor = Actor::new(&cgroups, "a");
    let wire = actor.connect(&daemon);
    let (sets, _) = as_many_sets_as_there_are(&wire);
    // Root's share is used up, too.
    let mut connections = Vec::new();
    let refusal = loop {
        match Service::connect(daemon.socket()) {
            Ok(service) => connections.push(service),
            Err(error) => break error.refusal().cloned().expect("a refusal"),
        }
        assert!(connections.len() < 40, "nothing is refused");
    };
    assert!(of_descriptors(&refusal, 96), "{refusal:?}");
    assert!(connections.len() > 4);
    wire.ask(&GetStatus {}).unwrap();
    assert!(sets[0].as_fd().try_clone_to_owned().is_ok());
    drop((connections, sets, wire, actor));
    eventually("those that hung up are gone", || Service::connect(daemon.socket()).ok());
    daemon.finish();
}
