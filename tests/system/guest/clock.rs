//! The date is moved while the service is at work: no id rests longer or shorter by it, nobody's time is over, and what
//! was written down before is found again.

use crate::common::{Actor, Cgroups, Daemon, eventually, policy};
use ioasid::model::SetRequest;
use ioasid::proto::{Phase, WatchKind};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const YEAR: i64 = 365 * 24 * 3600;

/// The date, moved; it is put right again at the end, as far as that took no time.
struct Date(i64);

impl Date {
    fn is() -> i64 {
        i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
    }

    fn set(seconds: i64) {
        assert!(Command::new("date").args(["-u", "-s", &format!("@{seconds}")]).status().unwrap().success());
        assert!((Self::is() - seconds).abs() < 60, "the date stays {}", Self::is());
    }

    fn moved(by: i64) -> Self {
        Self::set(Self::is() + by);
        Self(by)
    }
}

impl Drop for Date {
    fn drop(&mut self) {
        Self::set(Self::is() - self.0);
    }
}

#[test]
#[ignore = "runs in the virtual machine"]
fn the_date_decides_nothing() {
    let cgroups = Cgroups::new();
    let guest = cgroups.make("guest");
    let daemon = Daemon::start_supervised(&policy(&cgroups, "bits = 6\nquarantine = \"3s\"", ""));
    let actor = Actor::new(&cgroups, "guest");
    let set = actor.create_set(&daemon, SetRequest { quota: Some(32), ..SetRequest::default() });
    let (mut session, mut watcher) = (set.session().unwrap(), set.session().unwrap());
    let resting = || daemon.status().domains[0].resting;
    for by in [10 * YEAR, -10 * YEAR] {
        // Nothing rests any more of the round before.
        eventually("the space is at rest", || (resting() == 0).then_some(()));
        // What rests, rests on, and ends in time.
        let began = Instant::now();
        let ids = session.alloc_many(3, None).unwrap();
        session.free(&ids).unwrap();
        let date = Date::moved(by);
        let early = (resting(), began.elapsed());
        assert!(early.0 == 3 || early.1 >= Duration::from_secs(3), "{early:?}");
        eventually("the rest ends", || (resting() == 0).then_some(()));
        assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
        // Who watches has its time, and no more.
        let id = session.alloc().unwrap();
        watcher.watch(&[WatchKind::Free], Phase::Cpu, Duration::from_secs(2)).unwrap();
        let began = Instant::now();
        assert_eq!(session.free(&[id]).unwrap().pending, [id]);
        drop(date);
        let early = (session.info().unwrap().leased, began.elapsed());
        assert!(early.0 == 1 || early.1 >= Duration::from_secs(2), "{early:?}");
        eventually("its time is over", || (session.info().unwrap().leased == 0).then_some(()));
        assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
        // What was written on another date is what it was.
        let ids = session.alloc_many(2, None).unwrap();
        session.alias_add(ids[0], 7).unwrap();
        session.hold(ids[1]).unwrap();
        let created = session.info().unwrap().created_usec;
        let date = Date::moved(by);
        daemon.kill_service();
        let info = session.info().unwrap();
        assert_eq!((info.pasids.unwrap(), info.created_usec), (ids.clone(), created));
        assert_eq!(session.alias_find(7).unwrap(), ids[0]);
        // A new lease of an id that had an alias before has none.
        session.put(ids[1]).unwrap();
        watcher = set.session().unwrap();
        session.free(&ids).unwrap();
        drop(date);
        daemon.kill_service();
        assert!(session.alias_find(7).is_err());
        assert_eq!(daemon.current(&guest), 0);
    }
    drop((session, watcher, set, actor));
    daemon.finish();
    drop(cgroups);
}
