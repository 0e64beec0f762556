//! Mapped sets: ids without a system call; leases ahead, taken back when they are in the way; holders that die or lie.

mod common;

use common::{Cgroups, Daemon, eventually, refusal};
use ioasid::client::{ClientError, FreeOutcome, MappedSet, Set};
use ioasid::model::{Pasid, PasidRange, Refusal, SetRequest};
use ioasid::proto::RevokeSet;
use ioasid::shm::{Region, SetRegion};
use ioasid::sync::{AtomicU64, publish};
use std::collections::HashSet;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// A space of 3,071 ids; rule `tests` allows up to 512 a set; two thirds of a batch is no power of two.
fn policy(cgroups: &Cgroups, max: &str, batch: u32) -> String {
    format!(
        r#"
        version = 1
        [space]
        bits = 12
        reserved = ["0-1023"]
        quarantine = "0s"
        [lease]
        batch = {batch}
        [[cgroup]]
        path = "{scratch}"
        max = {max}
        [[rule]]
        name = "tests"
        cgroup = "{scratch}/**"
        users = ["*"]
        action = "allow"
        quota = {{ default = 512, max = 512 }}
        "#,
        scratch = cgroups.path("")
    )
}

struct Scene {
    cgroups: Cgroups,
    daemon: Daemon,
}

impl Scene {
    fn new(max: &str, batch: u32) -> Self {
        let cgroups = Cgroups::new();
        let daemon = Daemon::start(&policy(&cgroups, max, batch));
        Self { cgroups, daemon }
    }

    /// A set charged to the cgroup `guest`.
    fn set(&self, guest: &str, quota: u32) -> Set {
        self.cgroups.make(guest);
        let actor = common::Actor::new(&self.cgroups, guest);
        actor.create_set(&self.daemon, SetRequest { quota: Some(quota), ..SetRequest::default() })
    }

    fn current(&self, guest: &str) -> u64 {
        self.daemon.current(&self.cgroups.path(guest))
    }
}

#[test]
fn a_mapped_set_leases_batches_and_charges_what_it_leases() {
    let scene = Scene::new("512", 48);
    let set = scene.set("guest", 100);
    let mapped = set.map().unwrap();
    let first = mapped.alloc().unwrap();
    assert!(first.get() >= 1024);
    assert_eq!(scene.current("guest"), 48);
    let mut all = HashSet::from([first]);
    for _ in 1..100 {
        assert!(all.insert(mapped.alloc().unwrap()));
    }
    // Two whole batches and what the quota left of the third.
    assert_eq!(scene.current("guest"), 100);
    let number = mapped.set();
    assert_eq!(
        refusal(mapped.alloc().unwrap_err()),
        Refusal::QuotaExceeded { set: number, quota: 100, leased: 100, asked: 1 }
    );
    let info = set.session().unwrap().info().unwrap();
    assert_eq!((info.leased, info.in_use), (100, 100));
    for pasid in &all {
        assert_eq!(mapped.free(*pasid).unwrap(), FreeOutcome::Freed);
    }
    // Freed without a system call: leased and charged still, until they are trimmed.
    let info = set.session().unwrap().info().unwrap();
    assert_eq!((info.leased, info.in_use, info.pasids), (100, 0, Some(Vec::new())));
    assert_eq!(set.session().unwrap().trim().unwrap(), 100);
    assert_eq!(scene.current("guest"), 0);
    drop((mapped, set));
    scene.daemon.finish();
}

#[test]
fn a_batch_is_as_large_as_the_policy_says() {
    let scene = Scene::new("512", 200);
    let set = scene.set("guest", 300);
    let mapped = set.map().unwrap();
    mapped.alloc().unwrap();
    assert_eq!(scene.current("guest"), 200);
    drop((mapped, set));
    scene.daemon.finish();
}

#[test]
fn an_id_of_another_set_is_not_freed_and_said_to_be() {
    let scene = Scene::new("512", 64);
    let (set, other) = (scene.set("guest", 64), scene.set("other", 64));
    let (mapped, mut session) = (set.map().unwrap(), other.session().unwrap());
    mapped.alloc().unwrap();
    let theirs = session.alloc().unwrap();
    assert_eq!(refusal(mapped.free(theirs).unwrap_err()), Refusal::ForeignPasid { pasid: theirs });
    assert_eq!(session.info().unwrap().pasids, Some(vec![theirs]));
    drop((mapped, set, session, other));
    scene.daemon.finish();
}

/// By quota, by limit, by the ids: nobody loses leases to a request that all of them would not make possible.
#[test]
fn who_asks_for_what_cannot_be_takes_nothing_from_others() {
    let scene = Scene::new("100", 64);
    let (set, other) = (scene.set("guest", 64), scene.set("other", 200));
    let (mapped, mut session) = (set.map().unwrap(), other.session().unwrap());
    mapped.alloc().unwrap();
    assert_eq!(scene.current("guest"), 64);
    for count in [201, 101, 100] {
        refusal(session.alloc_many(count, None).unwrap_err());
        assert_eq!((scene.current("guest"), scene.current("other")), (64, 0), "{count}");
    }
    // All but the one that is used, and no more than it takes.
    session.alloc_many(50, None).unwrap();
    assert_eq!((scene.current("guest"), scene.current("other")), (50, 50));
    let range = PasidRange::new(1024, 1123).unwrap();
    refusal(session.alloc_many(51, Some(range)).unwrap_err());
    assert_eq!(scene.current("guest"), 50);
    drop((mapped, set, session, other));
    scene.daemon.finish();
}

#[test]
fn a_double_free_is_noticed_and_changes_nothing() {
    let scene = Scene::new("512", 64);
    let set = scene.set("guest", 64);
    let mapped = set.map().unwrap();
    let pasid = mapped.alloc().unwrap();
    assert_eq!(mapped.free(pasid).unwrap(), FreeOutcome::Freed);
    assert_eq!(mapped.free(pasid).unwrap(), FreeOutcome::NotInUse);
    assert_eq!(mapped.free(Pasid::LAST).unwrap(), FreeOutcome::NotInUse);
    drop((mapped, set));
    scene.daemon.finish();
}

#[test]
fn a_fresh_id_goes_before_one_freed_a_moment_ago() {
    let scene = Scene::new("512", 64);
    let set = scene.set("guest", 64);
    let mapped = set.map().unwrap();
    let mut last = mapped.alloc().unwrap();
    for _ in 0..20 {
        mapped.free(last).unwrap();
        let next = mapped.alloc().unwrap();
        assert_ne!(next, last);
        last = next;
    }
    drop((mapped, set));
    scene.daemon.finish();
}

#[test]
fn ids_of_a_range_come_from_it() {
    let scene = Scene::new("512", 8);
    let set = scene.set("guest", 64);
    let mapped = set.map().unwrap();
    let range = PasidRange::new(2000, 2009).unwrap();
    let mut taken: Vec<u32> = (0..10).map(|_| mapped.alloc_in(range).unwrap().get()).collect();
    taken.sort_unstable();
    assert_eq!(taken, (2000..=2009).collect::<Vec<_>>());
    let Refusal::NoSpace { free: 0, asked: 1, range: refused, .. } = refusal(mapped.alloc_in(range).unwrap_err())
    else {
        panic!("not NoSpace")
    };
    assert_eq!(refused, range);
    drop((mapped, set));
    scene.daemon.finish();
}

#[test]
fn a_batch_of_ids_is_all_or_none() {
    let scene = Scene::new("512", 16);
    let set = scene.set("guest", 20);
    let mapped = set.map().unwrap();
    assert_eq!(mapped.alloc_many(20).unwrap().len(), 20);
    assert!(mapped.alloc_many(1).is_err());
    let held: Vec<_> = set.session().unwrap().info().unwrap().pasids.unwrap();
    for pasid in held.iter().take(5) {
        mapped.free(*pasid).unwrap();
    }
    assert!(matches!(refusal(mapped.alloc_many(6).unwrap_err()), Refusal::QuotaExceeded { .. }));
    assert_eq!(set.session().unwrap().info().unwrap().in_use, 15);
    assert_eq!(mapped.alloc_many(5).unwrap().len(), 5);
    drop((mapped, set));
    scene.daemon.finish();
}

#[test]
fn unused_leases_are_taken_back_before_a_neighbour_is_refused() {
    let scene = Scene::new("64", 64);
    let greedy = scene.set("greedy", 64);
    let mapped = greedy.map().unwrap();
    let mine = mapped.alloc().unwrap();
    assert_eq!(scene.current("greedy"), 64);
    // The slice is full of leases, of which one is used.
    let neighbour = scene.set("neighbour", 64);
    let mut session = neighbour.session().unwrap();
    let theirs = session.alloc_many(63, None).unwrap();
    assert!(!theirs.contains(&mine));
    assert_eq!((scene.current("greedy"), scene.current("neighbour")), (1, 63));
    let Refusal::LimitExceeded { cgroup, current: 64, asked: 1, .. } = refusal(session.alloc().unwrap_err()) else {
        panic!("not LimitExceeded")
    };
    assert_eq!(cgroup, scene.cgroups.path(""));
    // The holder notices nothing but that its next id takes a system call, and is refused like any other.
    assert!(matches!(refusal(mapped.alloc().unwrap_err()), Refusal::LimitExceeded { .. }));
    session.free(&theirs[..1]).unwrap();
    assert!(mapped.alloc().is_ok());
    drop((mapped, greedy, session, neighbour));
    scene.daemon.finish();
}

#[test]
fn what_is_held_or_named_is_freed_through_the_service() {
    let scene = Scene::new("512", 64);
    let set = scene.set("guest", 64);
    let mapped = set.map().unwrap();
    let (held, named) = (mapped.alloc().unwrap(), mapped.alloc().unwrap());
    let mut other = set.session().unwrap();
    other.hold(held).unwrap();
    other.alias_add(named, 7).unwrap();
    assert_eq!(mapped.free(held).unwrap(), FreeOutcome::Pending);
    assert!(matches!(refusal(other.hold(held).unwrap_err()), Refusal::Busy { holders: 1, .. }));
    assert_eq!(mapped.free(named).unwrap(), FreeOutcome::Freed);
    assert!(matches!(refusal(other.alias_find(7).unwrap_err()), Refusal::NotFound { .. }));
    assert_eq!(other.info().unwrap().leased, 63);
    other.put(held).unwrap();
    assert_eq!(other.info().unwrap().leased, 62);
    // What nobody uses cannot be held.
    let unused = mapped.alloc().unwrap();
    mapped.free(unused).unwrap();
    assert!(matches!(refusal(other.hold(unused).unwrap_err()), Refusal::NotFound { .. }));
    drop((mapped, other, set));
    scene.daemon.finish();
}

#[test]
fn a_revoked_set_says_so_at_the_next_call() {
    let scene = Scene::new("512", 64);
    let set = scene.set("guest", 64);
    let mapped = set.map().unwrap();
    let pasid = mapped.alloc().unwrap();
    let number = mapped.set();
    scene.daemon.connect().ask(&RevokeSet { set: number.0, reason: "misbehaved".into() }).unwrap();
    let revoked = Refusal::Revoked { set: number, reason: "misbehaved".into() };
    assert_eq!(refusal(mapped.alloc().unwrap_err()), revoked);
    assert_eq!(refusal(mapped.free(pasid).unwrap_err()), revoked);
    assert_eq!(scene.current("guest"), 0);
    drop((mapped, set));
    scene.daemon.finish();
}

/// Set for the processes of [`processes_that_die_in_the_middle_lose_nothing`].
const CHURN: &str = "IOASID_TEST_CHURN";

/// Not a test: what the processes of the next test run, until they are killed. They inherit the set FD as 3.
#[test]
fn churn_until_killed() {
    if std::env::var_os(CHURN).is_none() {
        return;
    }
    let set = Set::from_number(3).unwrap();
    let mapped = set.map().unwrap();
    let mut mine = Vec::new();
    loop {
        match mapped.alloc() {
            Ok(pasid) if mine.len() < 8 => mine.push(pasid),
            Ok(pasid) => drop(mapped.free(pasid).unwrap()),
            Err(_) => {}
        }
        if mine.len() == 8 {
            mine.drain(..4).for_each(|pasid| assert_eq!(mapped.free(pasid).unwrap(), FreeOutcome::Freed));
        }
    }
}

#[test]
fn processes_that_die_in_the_middle_lose_nothing() {
    let scene = Scene::new("256", 16);
    let set = scene.set("guest", 128);
    let greedy = scene.set("neighbour", 256);
    let spawn = || {
        Command::new("sh")
            .args(["-c", "exec 3<&0 0</dev/null; exec \"$0\" churn_until_killed --exact --nocapture"])
            .arg(std::env::current_exe().unwrap())
            .env(CHURN, "1")
            .stdin(set.as_fd().try_clone_to_owned().unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    // A neighbour has leases taken back from under them all the while.
    let mut neighbour = greedy.session().unwrap();
    for _ in 0..12 {
        let mut children: Vec<_> = (0..3).map(|_| spawn()).collect();
        eventually("all of them have been at work", || (scene.current("guest") > 8).then_some(()));
        for _ in 0..20 {
            if let Ok(pasids) = neighbour.alloc_many(150, None) {
                neighbour.free(&pasids).unwrap();
            }
        }
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    // What the dead used is the set's still, and a holder that lives can free it.
    let info = set.session().unwrap().info().unwrap();
    assert!(info.leased <= 128 && info.in_use <= info.leased);
    assert_eq!(scene.current("guest"), u64::from(info.leased));
    let mapped = set.map().unwrap();
    for pasid in info.pasids.unwrap() {
        assert_eq!(mapped.free(pasid).unwrap(), FreeOutcome::Freed);
    }
    assert_eq!(u32::try_from(mapped.alloc_many(128).unwrap().len()), Ok(128));
    drop((mapped, set, neighbour, greedy));
    scene.daemon.finish();
}

#[test]
fn threads_on_one_mapping_never_share_an_id() {
    let scene = Scene::new("512", 64);
    let set = scene.set("guest", 64);
    let mapped: Arc<MappedSet> = Arc::new(set.map().unwrap());
    let owners: Arc<Vec<AtomicU64>> = Arc::new((0..4096).map(|_| AtomicU64::new(0)).collect());
    let threads: Vec<_> = (1..=4_u64)
        .map(|me| {
            let (mapped, owners) = (Arc::clone(&mapped), Arc::clone(&owners));
            std::thread::spawn(move || {
                for _ in 0..20_000 {
                    let pasid = mapped.alloc().unwrap();
                    let owner = &owners[pasid.index()];
                    assert_eq!(owner.swap(me, ioasid::sync::Ordering::SeqCst), 0, "pasid {pasid} has two owners");
                    assert_eq!(owner.swap(0, ioasid::sync::Ordering::SeqCst), me);
                    assert_eq!(mapped.free(pasid).unwrap(), FreeOutcome::Freed);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(set.session().unwrap().info().unwrap().in_use, 0);
    drop((mapped, set));
    scene.daemon.finish();
}

#[test]
fn a_holder_that_scribbles_hurts_its_own_set_alone() {
    let scene = Scene::new("512", 32);
    let liar = scene.set("liar", 64);
    let honest = scene.set("honest", 64);
    let mapped = liar.map().unwrap();
    let theirs = honest.session().unwrap().alloc_many(10, None).unwrap();
    mapped.alloc().unwrap();
    for pattern in [u64::MAX, 0, 0x5555_5555_5555_5555, 0xFFFF_FFFF, 0xFFFF_FFFF_0000_0000] {
        let (_, mut fds) = liar.session().unwrap().call_with_fds(&ioasid::proto::Map {}).unwrap();
        let region = Region::open(fds.pop().unwrap()).unwrap();
        region.words().iter().for_each(|word| publish(word, pattern));
        let mut session = liar.session().unwrap();
        // Whatever it wrote, the service answers, and what it leases is what it says.
        let info = session.info().unwrap();
        assert!(info.leased <= 64);
        for pasid in &theirs {
            assert!(matches!(session.free(&[*pasid]), Err(ClientError::Refused(Refusal::ForeignPasid { .. }))));
        }
        session.trim().unwrap();
        let _ = session.call(&ioasid::proto::Refill { count: 64, range: None });
        let _ = session.alloc();
        assert!(scene.current("liar") <= 64);
        assert_eq!(scene.current("honest"), 10);
        assert!(SetRegion::open(region.as_fd().try_clone_to_owned().unwrap()).is_err());
    }
    let mut session = honest.session().unwrap();
    for pasid in &theirs {
        assert!(session.verify(*pasid).unwrap());
    }
    session.free(&theirs).unwrap();
    drop((mapped, liar, session, honest));
    scene.daemon.finish();
}
