//! A holder that writes what it likes into its set's region, at any time: it hurts its own set. Nobody else gets fewer
//! ids, other ids, or is kept waiting, and the service's book stays right, over kills too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon, max, policy};
use ioasid::client::{ClientError, Session, Set};
use ioasid::model::{Pasid, PasidRange, Refusal, SetRequest};
use ioasid::proto::{Map, Refill};
use ioasid::shm::Region;
use ioasid::sync::{AtomicU64, publish};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Of both together; the liar's quota leaves this much room for the honest.
const LIMIT: u64 = 96;
const LIARS: u32 = 48;
const HONEST: u32 = 48;

struct Scene {
    cgroups: Cgroups,
    daemon: Daemon,
    liar: Set,
    honest: Set,
    region: Region,
}

impl Scene {
    fn new() -> Self {
        let cgroups = Cgroups::new();
        let rest = format!("{}[lease]\nbatch = 16\n", max(&cgroups, "slice", LIMIT));
        let daemon = Daemon::start_supervised(&policy(&cgroups, "bits = 10\nquarantine = \"0s\"", &rest));
        let set = |below: &str, quota: u32| {
            cgroups.make(below);
            let actor = Actor::new(&cgroups, below);
            let set = actor.create_set(&daemon, SetRequest { quota: Some(quota), ..SetRequest::default() });
            set.with_patience(Duration::from_secs(60))
        };
        let (liar, honest) = (set("slice/liar", LIARS), set("slice/honest", HONEST));
        let (_, mut fds) = liar.session().unwrap().call_with_fds(&Map {}).unwrap();
        let region = Region::open(fds.remove(0)).unwrap();
        Self { cgroups, daemon, liar, honest, region }
    }

    /// What the service says of both adds up, whatever the region says.
    fn adds_up(&self, honest: &BTreeSet<Pasid>) {
        let tree = self.daemon.cgroup(&self.cgroups.path("slice"));
        let of = |below: &str| {
            let path = self.cgroups.path(below);
            tree.children.iter().find(|child| child.path == path).map_or(0, |child| child.current)
        };
        let info = self.honest.session().unwrap().info().unwrap();
        assert_eq!(info.pasids.unwrap(), honest.iter().copied().collect::<Vec<_>>());
        assert_eq!(of("slice/honest"), honest.len() as u64);
        let liar = self.daemon.sets().into_iter().find(|set| set.quota == LIARS).unwrap();
        assert!(liar.leased <= LIARS && liar.in_use <= liar.leased, "{liar:?}");
        assert_eq!(of("slice/liar"), u64::from(liar.leased));
        assert_eq!(tree.current, of("slice/honest") + of("slice/liar"));
    }

    fn finish(self) {
        drop((self.liar, self.honest, self.region));
        self.daemon.finish();
    }
}

/// A random number generator: what the liar writes.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// What the liar may be told: anything but a fault, and no id that is another's.
fn not_theirs(outcome: Result<Vec<Pasid>, ClientError>, honest: &BTreeSet<Pasid>) -> Vec<Pasid> {
    match outcome {
        Ok(ids) => {
            assert!(ids.iter().all(|id| !honest.contains(id)), "{ids:?} are the honest's");
            ids
        }
        Err(ClientError::Refused(_)) => Vec::new(),
        Err(other) => panic!("{other}"),
    }
}

/// Everything that a holder can ask for whose region is being written to.
fn ask_for_everything(session: &mut Session, honest: &BTreeSet<Pasid>, turn: u64) {
    let ids = not_theirs(session.alloc_many(2, None), honest);
    let _ = session.call(&Refill { count: u32::MAX, range: None });
    let told = session.info().unwrap();
    assert!(told.leased <= LIARS);
    not_theirs(Ok(told.pasids.unwrap()), honest);
    if let Some(id) = ids.first() {
        let _ = session.hold(*id).and_then(|()| session.put(*id));
        let _ = session.alias_add(*id, turn % 64).and_then(|()| session.alias_del(turn % 64));
    }
    // Another's ids can be neither freed nor held nor named.
    if let Some(theirs) = honest.first() {
        let foreign = |error: ClientError| assert_eq!(error.refusal(), Some(&Refusal::ForeignPasid { pasid: *theirs }));
        foreign(session.free(&[*theirs]).unwrap_err());
        foreign(session.hold(*theirs).unwrap_err());
        foreign(session.alias_add(*theirs, 1).unwrap_err());
        assert!(!session.verify(*theirs).unwrap());
    }
    let few = PasidRange::new(1, 40).unwrap();
    not_theirs(session.alloc_in(few).map(|id| vec![id]), honest);
    let _ = session.free(&ids);
    if turn.is_multiple_of(3) {
        session.trim().unwrap();
    }
}

#[test]
fn every_word_may_be_anything() {
    let scene = Scene::new();
    let mut honest_session = scene.honest.session().unwrap();
    let honest: BTreeSet<Pasid> = honest_session.alloc_many(HONEST / 2, None).unwrap().into_iter().collect();
    let mut session = scene.liar.session().unwrap();
    let mut state = 0x5eed_u64;
    let words: &[AtomicU64] = scene.region.words();
    for (turn, word) in (0_u64..).zip(words) {
        publish(word, random(&mut state));
        if turn.is_multiple_of(5) {
            ask_for_everything(&mut session, &honest, turn);
        }
        if turn.is_multiple_of(200) {
            scene.adds_up(&honest);
        }
    }
    for pattern in [0, u64::MAX] {
        words.iter().for_each(|word| publish(word, pattern));
        ask_for_everything(&mut session, &honest, 0);
        scene.adds_up(&honest);
    }
    // What the liar keeps from others is what its quota lets it.
    let more = honest_session.alloc_many(HONEST / 2, None).unwrap();
    assert!(more.iter().all(|id| !honest.contains(id)));
    drop((session, honest_session));
    scene.finish();
}

#[test]
fn words_that_change_while_they_are_read_hurt_nobody_else_over_kills_too() {
    let scene = Scene::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut state = 0xbad_5eed_u64;
            let words = scene.region.words();
            // ORDERING: Relaxed: a word more or less is no matter.
            while !done.load(Ordering::Relaxed) {
                for word in words {
                    let noise = random(&mut state);
                    publish(word, [0, u64::MAX, noise, noise & random(&mut state)][(noise % 4) as usize]);
                }
            }
        });
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut honest_session = scene.honest.session().unwrap();
            let mut session = scene.liar.session().unwrap();
            let mut honest = BTreeSet::new();
            for turn in 0..300 {
                let room = HONEST as usize - honest.len();
                if turn % 2 == 0 && room >= 4 {
                    // Never refused: the liar's quota leaves the room.
                    honest.extend(honest_session.alloc_many(4, None).unwrap());
                } else if let Some(id) = honest.pop_first() {
                    assert_eq!(honest_session.free(&[id]).unwrap().pending, []);
                }
                ask_for_everything(&mut session, &honest, turn);
                if turn % 25 == 0 {
                    scene.adds_up(&honest);
                }
                if turn % 100 == 50 {
                    scene.daemon.kill_service();
                    scene.adds_up(&honest);
                }
            }
        }));
        done.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    scene.finish();
}
