//! Watches: what sessions are told of a set, and the order in which an id's users are quiesced before it rests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Cgroups, Daemon, eventually, refusal};
use ioasid::client::{FreeOutcome, Session, Set};
use ioasid::model::{Pasid, Refusal, SetRequest};
use ioasid::proto::{Map, Phase, RevokeSet, WatchEvent, WatchKind};
use ioasid::shm::Region;
use ioasid::sync::{AtomicBool, AtomicU64, Ordering, observe};
use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(10);

struct Scene {
    cgroups: Cgroups,
    daemon: Daemon,
}

impl Scene {
    fn new() -> Self {
        let cgroups = Cgroups::new();
        let daemon = Daemon::start(&common::policy(&cgroups, "quarantine = \"0s\"", "[lease]\nbatch = 32\n"));
        Self { cgroups, daemon }
    }

    fn set(&self, quota: u32) -> Set {
        self.cgroups.make("guest");
        let actor = common::Actor::new(&self.cgroups, "guest");
        actor.create_set(&self.daemon, SetRequest { quota: Some(quota), ..SetRequest::default() })
    }
}

fn next(session: &mut Session) -> WatchEvent {
    session.next_event(Some(common::deadline())).unwrap().expect("an event in time")
}

/// Nothing was told up to now: what was, lies in the queue before the answer to a question.
fn told_nothing(session: &mut Session) {
    let _ = session.verify(Pasid::LAST).unwrap();
    assert_eq!(session.next_event(Some(Instant::now())).unwrap(), None);
}

#[test]
fn watchers_are_told_in_the_order_of_phases_and_an_id_rests_after_the_last() {
    let scene = Scene::new();
    let set = scene.set(64);
    let mapped = set.map().unwrap();
    let first = mapped.alloc().unwrap();
    let (mut device, mut cpu) = (set.session().unwrap(), set.session().unwrap());
    let timeout = Duration::from_secs(10);
    let snapshot = device.watch(&[WatchKind::Free], Phase::Device, timeout).unwrap();
    assert_eq!(snapshot.pasids, [first]);
    cpu.watch(&[WatchKind::Free], Phase::Cpu, timeout).unwrap();
    assert_eq!(mapped.free(first).unwrap(), FreeOutcome::Pending);
    let told = cpu.next_event(Some(common::deadline())).unwrap().unwrap();
    assert_eq!((told.event, told.phase, told.ack), (WatchKind::Free, Some(Phase::Cpu), true));
    assert_eq!(told.pasids, [first]);
    // The next phase has not begun: its watcher was told nothing.
    assert!(device.next_event(Some(Instant::now())).unwrap().is_none());
    assert!(matches!(refusal(device.hold(first).unwrap_err()), Refusal::Busy { .. }));
    cpu.ack(&told).unwrap();
    let told = device.next_event(Some(common::deadline())).unwrap().unwrap();
    assert_eq!((told.phase, &told.pasids), (Some(Phase::Device), &vec![first]));
    assert!(!set.session().unwrap().verify(first).unwrap());
    assert_eq!(set.session().unwrap().info().unwrap().leased, 32);
    device.ack(&told).unwrap();
    assert_eq!(set.session().unwrap().info().unwrap().leased, 31);
    // Without a watcher frees are in the fast path again.
    drop((device, cpu));
    eventually("the watch is over", || {
        let pasid = mapped.alloc().unwrap();
        (mapped.free(pasid).unwrap() == FreeOutcome::Freed).then_some(())
    });
    drop((mapped, set));
    scene.daemon.finish();
}

#[test]
fn a_watcher_that_lets_its_time_pass_or_dies_is_not_waited_for() {
    let scene = Scene::new();
    let set = scene.set(64);
    let mut session = set.session().unwrap();
    let pasids = session.alloc_many(2, None).unwrap();
    let mut sleeper = set.session().unwrap();
    sleeper.watch(&[], Phase::Last, Duration::from_millis(50)).unwrap();
    assert_eq!(session.free(&pasids[..1]).unwrap().pending, &pasids[..1]);
    eventually("its time is over", || (session.info().unwrap().leased == 1).then_some(()));
    sleeper.watch(&[], Phase::Last, Duration::from_secs(10)).unwrap();
    assert_eq!(session.free(&pasids[1..]).unwrap().pending, &pasids[1..]);
    drop(sleeper);
    eventually("it is not waited for", || (session.info().unwrap().leased == 0).then_some(()));
    drop((session, set));
    scene.daemon.finish();
}

#[test]
fn serials_go_on_from_the_snapshot_and_revocation_is_told() {
    let scene = Scene::new();
    let set = scene.set(2);
    let (mut watcher, mut session) = (set.session().unwrap(), set.session().unwrap());
    let before = session.alloc().unwrap();
    let snapshot = watcher.watch(&[], Phase::Cpu, Duration::from_secs(10)).unwrap();
    assert_eq!(snapshot.pasids, [before]);
    let after = session.alloc().unwrap();
    session.call(&ioasid::proto::Bind { pasid: after.get(), bound: true }).unwrap();
    assert!(session.alloc().is_err());
    scene.daemon.connect().ask(&RevokeSet { set: session.set().0, reason: "over".into() }).unwrap();
    let mut next = || watcher.next_event(Some(common::deadline())).unwrap().unwrap();
    let told: Vec<_> = (0..4).map(|_| next()).collect();
    let kinds: Vec<_> = told.iter().map(|event| event.event).collect();
    assert_eq!(kinds, [WatchKind::Alloc, WatchKind::Bind, WatchKind::Limit, WatchKind::Revoke]);
    let serials: Vec<_> = told.iter().map(|event| event.serial - snapshot.serial).collect();
    assert_eq!(serials, [1, 2, 3, 4]);
    assert_eq!((told[0].pasids.as_slice(), told[3].detail.as_str()), (&[after][..], "over"));
    drop((watcher, session, set));
    scene.daemon.finish();
}

#[test]
fn all_four_phases_follow_each_other_and_each_waits_for_all_of_its_watchers() {
    let scene = Scene::new();
    let set = scene.set(8);
    let mut holder = set.session().unwrap();
    let id = holder.alloc().unwrap();
    let order = [Phase::Cpu, Phase::Device, Phase::Device, Phase::Iommu, Phase::Last];
    // Subscribed backwards: the phases decide, not who came first.
    let mut watchers: Vec<Session> = order.iter().map(|_| set.session().unwrap()).collect();
    for (watcher, phase) in watchers.iter_mut().zip(order).rev() {
        watcher.watch(&[WatchKind::Free], phase, LONG).unwrap();
    }
    assert_eq!(holder.free(&[id]).unwrap().pending, [id]);
    let mut serials = Vec::new();
    for phase in [Phase::Cpu, Phase::Device, Phase::Iommu, Phase::Last] {
        let mut told = Vec::new();
        for (watcher, own) in watchers.iter_mut().zip(order) {
            if own == phase {
                told.push(next(watcher));
            } else {
                told_nothing(watcher);
            }
        }
        assert!(told.iter().all(|event| event.phase == Some(phase) && event.ack && event.pasids == [id]), "{told:?}");
        serials.push(told[0].serial);
        let mut own = watchers.iter_mut().zip(order).filter(|(_, own)| *own == phase);
        for (at, event) in told.iter().enumerate() {
            assert_eq!(holder.info().unwrap().leased, 1, "{phase:?} waits for all of its watchers");
            // Again, or by who was not asked: nothing happens.
            holder.ack(event).unwrap();
            assert_eq!(holder.info().unwrap().leased, 1);
            own.next().unwrap().0.ack(&told[at]).unwrap();
        }
    }
    assert!(serials.windows(2).all(|pair| pair[0] < pair[1]), "{serials:?}");
    assert_eq!(holder.info().unwrap().leased, 0);
    drop((watchers, holder, set));
    scene.daemon.finish();
}

#[test]
fn a_time_limit_is_1_to_10000_milliseconds() {
    let scene = Scene::new();
    let set = scene.set(8);
    let mut session = set.session().unwrap();
    for (millis, allowed) in [(0, false), (1, true), (10_000, true), (10_001, false)] {
        let watched = session.watch(&[], Phase::Cpu, Duration::from_millis(millis));
        match watched {
            Ok(_) => assert!(allowed, "{millis} ms"),
            Err(error) => {
                let Refusal::InvalidArgument { field, .. } = refusal(error) else { panic!("not InvalidArgument") };
                assert!(!allowed && field == "timeout_ms", "{millis} ms: {field}");
            }
        }
    }
    drop((session, set));
    scene.daemon.finish();
}

#[test]
fn a_double_free_is_noticed_while_somebody_watches_and_told_to_nobody() {
    let scene = Scene::new();
    let set = scene.set(64);
    let mapped = set.map().unwrap();
    let (free, used) = (mapped.alloc().unwrap(), mapped.alloc().unwrap());
    assert_eq!(mapped.free(free).unwrap(), FreeOutcome::Freed);
    let mut watcher = set.session().unwrap();
    assert_eq!(watcher.watch(&[WatchKind::Free], Phase::Last, LONG).unwrap().pasids, [used]);
    assert_eq!(mapped.free(free).unwrap(), FreeOutcome::NotInUse);
    told_nothing(&mut watcher);
    assert_eq!(mapped.free(used).unwrap(), FreeOutcome::Pending);
    let event = next(&mut watcher);
    watcher.ack(&event).unwrap();
    assert_eq!(mapped.free(used).unwrap(), FreeOutcome::NotInUse);
    told_nothing(&mut watcher);
    assert_eq!(watcher.info().unwrap().leased, 31);
    drop((watcher, mapped, set));
    scene.daemon.finish();
}

/// Somebody allocates and frees all the while; whoever subscribes in the middle and follows the events from the snapshot
/// on knows at the end what is in use.
#[test]
fn an_id_that_a_free_names_ten_thousand_times_is_answered_and_told_once() {
    let scene = Scene::new();
    let set = scene.set(8);
    let (mut holder, mut watcher) = (set.session().unwrap(), set.session().unwrap());
    let ids = holder.alloc_many(2, None).unwrap();
    watcher.watch(&[WatchKind::Free], Phase::Cpu, LONG).unwrap();
    // In the order in which they are named first.
    let named: Vec<Pasid> = std::iter::once(ids[1]).chain([ids[0], ids[1]].repeat(5000)).collect();
    assert_eq!(holder.free(&named).unwrap().pending, [ids[1], ids[0]]);
    let told = next(&mut watcher);
    assert_eq!(told.pasids, [ids[1], ids[0]]);
    told_nothing(&mut watcher);
    // Again while it waits: answered once, told to nobody.
    assert_eq!(holder.free(&named).unwrap().pending, [ids[1], ids[0]]);
    told_nothing(&mut watcher);
    watcher.ack(&told).unwrap();
    assert_eq!(holder.info().unwrap().leased, 0);
    assert_eq!(holder.free(&named).unwrap().pending, []);
    drop((holder, watcher, set));
    scene.daemon.finish();
}

#[test]
fn a_snapshot_and_the_events_after_it_add_up_to_what_is_in_use() {
    const TURNS: u64 = 400;
    let scene = Scene::new();
    let set = scene.set(256);
    let (turn, left) = (AtomicU64::new(0), OnceLock::new());
    // Up to where each watcher has read: who is far behind is cut off, and whoever has not begun waits for nobody.
    let read: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(TURNS)).collect();
    std::thread::scope(|scope| {
        for (read, begin) in read.iter().zip((0..).step_by(TURNS as usize / 10)) {
            let (set, turn, left) = (&set, &turn, &left);
            scope.spawn(move || {
                // ORDERING: one after the other, in the middle of it; nothing is handed over. So below.
                eventually("its turn", || (turn.load(Ordering::Relaxed) >= begin).then_some(()));
                let mut watcher = set.session().unwrap();
                let kinds = [WatchKind::Alloc, WatchKind::Free];
                let snapshot = watcher.watch(&kinds, Phase::Last, Duration::from_millis(1)).unwrap();
                let mut book = Book { serial: snapshot.serial, in_use: snapshot.pasids.into_iter().collect() };
                eventually("the book is up to date", || {
                    read.store(turn.load(Ordering::Relaxed), Ordering::Relaxed);
                    // An answer comes after all that was told before it.
                    watcher.verify(Pasid::LAST).unwrap();
                    while let Some(event) = watcher.next_event(Some(Instant::now())).unwrap() {
                        book.enter(&event);
                    }
                    left.get().is_some_and(|left| book.in_use == *left).then_some(())
                });
            });
        }
        let mut busy = set.session().unwrap();
        let mut own: Vec<Pasid> = Vec::new();
        for at in 0..TURNS {
            turn.store(at, Ordering::Relaxed);
            read.iter().for_each(|read| {
                eventually("all have read", || (read.load(Ordering::Relaxed) + 10 >= at).then_some(()));
            });
            // Refused where too many wait for watchers that say nothing.
            own.extend(busy.alloc_many(3, None).unwrap_or_default());
            let freed: Vec<Pasid> = own.drain(..own.len().min(2)).collect();
            busy.free(&freed).unwrap();
            if own.len() > 40 {
                busy.free(&own).unwrap();
                own.clear();
            }
        }
        left.set(own.into_iter().collect::<BTreeSet<_>>()).unwrap();
    });
    drop(set);
    scene.daemon.finish();
}

/// What a watcher knows. An id enters once and leaves once.
struct Book {
    serial: u64,
    in_use: BTreeSet<Pasid>,
}

impl Book {
    fn enter(&mut self, event: &WatchEvent) {
        assert!(event.serial > self.serial, "{event:?} after {}", self.serial);
        self.serial = event.serial;
        for pasid in &event.pasids {
            let new = match event.event {
                WatchKind::Alloc => self.in_use.insert(*pasid),
                WatchKind::Free => self.in_use.remove(pasid),
                other => panic!("{other:?} was not asked for"),
            };
            assert!(new, "{event:?} is told twice, or what came before it is lost");
        }
    }
}

/// Holders free through the service from the subscription to its end, while the service restarts, too: else an id would
/// be freed untold between the two.
#[test]
fn the_watched_flag_stays_over_a_restart_and_goes_with_the_watcher() {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let daemon = Daemon::start_supervised(&common::policy(&cgroups, "", ""));
    let set = common::Actor::new(&cgroups, "guest").create_set(&daemon, SetRequest::default());
    let mapped = set.map().unwrap();
    let id = mapped.alloc().unwrap();
    let (_, mut fds) = set.session().unwrap().call_with_fds(&Map {}).unwrap();
    let region = Region::open(fds.pop().unwrap()).unwrap();
    let is_watched = || observe(&region.words()[8]) & 2 != 0;
    let mut watcher = set.session().unwrap();
    watcher.watch(&[], Phase::Last, LONG).unwrap();
    assert!(is_watched());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0_u64;
            // ORDERING: a stop sign.
            while !stop.load(Ordering::Relaxed) {
                assert!(is_watched(), "not watched, at look {looks}");
                looks += 1;
            }
            looks
        });
        for _ in 0..2 {
            daemon.kill_service();
            watcher.info().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(looking.join().unwrap() > 0);
    });
    assert_eq!(mapped.free(id).unwrap(), FreeOutcome::Pending);
    let event = next(&mut watcher);
    assert_eq!((event.event, event.pasids.as_slice()), (WatchKind::Free, &[id][..]));
    drop(watcher);
    eventually("nobody watches", || (!is_watched()).then_some(()));
    drop((mapped, set));
    daemon.finish();
}
