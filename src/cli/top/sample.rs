//! One look at the service, and what the looks before it were.

use crate::client::{ClientError, Service};
use crate::model::CgroupId;
use crate::proto::{CgroupInfo, Event, GetCgroup, GetEvents, GetStatus, ListSets, SetInfo, Status};
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// Looks that are remembered for the sparklines.
pub(super) const REMEMBERED: usize = 60;

/// One look.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    /// The service.
    pub status: Status,
    /// The tree from the root.
    pub cgroups: CgroupInfo,
    /// The sets.
    pub sets: Vec<SetInfo>,
    /// What happened last, the newest at the end.
    pub events: Vec<Event>,
}

impl Sample {
    /// Asks the service.
    pub fn take(service: &mut Service) -> Result<Self, ClientError> {
        Ok(Self {
            status: service.call(&GetStatus {}, &[])?.0,
            cgroups: service.call(&GetCgroup { path: None, recurse: true }, &[])?.0,
            sets: service.call(&ListSets { cgroup: None }, &[])?.0,
            events: service.call(&GetEvents { follow: false }, &[])?.0,
        })
    }
}

/// What is known of one cgroup over time.
#[derive(Clone, Debug, Default)]
pub(super) struct Track {
    /// `current` at each look.
    pub current: VecDeque<u64>,
    /// Ids more or less since the last look, a second.
    pub rate: f64,
    /// Refusals by its limit since the last look, a second.
    pub hits: f64,
    events: u64,
}

/// The last look, and the way to it.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The last look.
    pub sample: Option<Sample>,
    tracks: HashMap<CgroupId, Track>,
    /// Leased ids of the whole host at each look.
    pub leased: VecDeque<u64>,
    at: Option<Instant>,
}

impl History {
    /// Adds a look.
    pub fn add(&mut self, sample: Sample, now: Instant) {
        let seconds = self.at.map_or(0.0, |before| now.duration_since(before).as_secs_f64());
        let mut tracks = HashMap::new();
        for node in flat(&sample.cgroups) {
            let known = self.tracks.remove(&node.id);
            let is_new = known.is_none();
            let mut track = known.unwrap_or_default();
            let a_second = |now: u64, before: u64| match seconds > 0.0 && !is_new {
                true => (now as f64 - before as f64) / seconds,
                false => 0.0,
            };
            track.rate = a_second(node.current, track.current.back().copied().unwrap_or(0));
            track.hits = a_second(node.events_local.max, track.events);
            track.events = node.events_local.max;
            remember(&mut track.current, node.current);
            tracks.insert(node.id, track);
        }
        remember(&mut self.leased, sample.status.domains.iter().map(|domain| domain.current).sum());
        (self.tracks, self.at, self.sample) = (tracks, Some(now), Some(sample));
    }

    /// What is known of a cgroup.
    pub fn track(&self, id: CgroupId) -> Option<&Track> {
        self.tracks.get(&id)
    }
}

fn remember(values: &mut VecDeque<u64>, value: u64) {
    if values.len() == REMEMBERED {
        values.pop_front();
    }
    values.push_back(value);
}

/// A tree as a list, parents before children.
pub(super) fn flat(top: &CgroupInfo) -> Vec<&CgroupInfo> {
    let mut all = vec![top];
    let mut at = 0;
    while let Some(node) = all.get(at) {
        all.extend(&node.children);
        at += 1;
    }
    all
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{CgroupPath, Domain, Limit, SetId, SetState};
    use crate::proto::{DomainInfo, EventCounts};
    use std::time::Duration;

    fn node(id: u64, path: &str, max: Limit, current: u64, hits: u64, children: Vec<CgroupInfo>) -> CgroupInfo {
        CgroupInfo {
            path: path.parse().unwrap(),
            id: CgroupId(id),
            max,
            effective_max: max,
            current,
            peak: current + 1,
            events: EventCounts { max: hits },
            events_local: EventCounts { max: hits },
            dying: false,
            source: None,
            set_by: String::new(),
            capacity: None,
            children,
            deeper: false,
        }
    }

    /// A host with `/a` (16 at most) and `/b` (no limit), and two sets.
    pub fn sample(a: u64, b: u64, hits: u64) -> Sample {
        let children = vec![node(2, "/a", Limit::Count(16), a, hits, vec![]), node(3, "/b", Limit::Max, b, 0, vec![])];
        let set = |number: u64, cgroup: &str, leased: u64| SetInfo {
            set: SetId(number),
            label: format!("vm{number}"),
            cgroup: cgroup.parse::<CgroupPath>().unwrap(),
            cgroup_id: CgroupId(number + 1),
            owner_uid: 0,
            domain: Domain::Global,
            quota: 64,
            leased: leased as u32,
            in_use: leased as u32,
            state: SetState::Active,
            created_usec: 0,
            rule: String::new(),
            pasids: None,
        };
        let domain = DomainInfo {
            name: Domain::Global,
            bits: 12,
            capacity: 3072,
            current: a + b,
            peak: 99,
            reserved: 1024,
            resting: 4,
        };
        Sample {
            status: Status {
                version: "1".into(),
                backend: "userspace".into(),
                domains: vec![domain],
                sets: 2,
                enforcement: serde_json::Value::Null,
                policy: vec![],
            },
            cgroups: node(1, "/", Limit::Max, a + b, 0, children),
            sets: vec![set(1, "/a", a), set(2, "/b", b)],
            events: vec![],
        }
    }

    #[test]
    fn rates_are_by_the_second_and_of_the_same_cgroup() {
        let (mut history, start) = (History::default(), Instant::now());
        history.add(sample(4, 0, 7), start);
        assert_eq!(history.track(CgroupId(2)).map(|track| (track.rate, track.hits)), Some((0.0, 0.0)));
        history.add(sample(2, 9, 11), start + Duration::from_secs(2));
        assert_eq!(history.track(CgroupId(2)).map(|track| (track.rate, track.hits)), Some((-1.0, 2.0)));
        assert_eq!(history.track(CgroupId(3)).unwrap().current, [0, 9]);
        assert_eq!(history.leased, [4, 11]);
    }
}
