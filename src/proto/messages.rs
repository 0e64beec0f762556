//! The calls: what each takes and gives.
//!
//! One type a call; [`Call`] ties it to its op and its reply. Requests refuse unknown fields, replies ignore them.

use crate::model::{CgroupId, CgroupPath, Domain, Limit, Pasid, PasidRange, SetId, SetRequest, SetState};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A call over the socket.
pub trait Call: Serialize + DeserializeOwned {
    /// Its number on the wire; never used for anything else.
    const OP: u16;
    /// What it gives when it is done.
    type Reply: Serialize + DeserializeOwned;
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $op:literal { $($(#[$fdoc:meta])* $field:ident : $type:ty),* $(,)? } -> $reply:ty;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
            #[serde(deny_unknown_fields)]
            pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }
            impl Call for $name {
                const OP: u16 = $op;
                type Reply = $reply;
            }
        )*
        /// The name of the call with this op; `None` for an op that no version of the protocol has.
        pub fn call_name(op: u16) -> Option<&'static str> {
            match op { $($op => Some(stringify!($name)),)* _ => None }
        }
    };
}

calls! {
    /// The first call on `ioasid.sock`: versions and features.
    Hello = 1 {
        /// Features the caller knows.
        #[serde(default)] features: Vec<String>,
    } -> Greeting;

    /// Makes a set and gives its FD, which rides on the reply; the iommufd, where one was asked for, rides after it.
    CreateSet = 16 {
        /// What the set shall be.
        #[serde(default)] request: SetRequest,
    } -> SetInfo;
    /// Another FD of a set, on the reply: for its creator's uid from its creator's cgroup, or an administrator.
    OpenSet = 17 {
        /// The set.
        set: u64,
    } -> SetInfo;
    /// Which set is the FD that rides on the request?
    IdentifySet = 18 {} -> Identified;
    /// Is the id leased to the set whose FD rides on the request?
    VerifyPasid = 19 {
        /// The id.
        pasid: u32,
    } -> Verified;
    /// All sets, or those charged to a cgroup and below it.
    ListSets = 20 {
        /// Only those of this cgroup and below.
        #[serde(default, skip_serializing_if = "Option::is_none")] cgroup: Option<CgroupPath>,
    } -> Vec<SetInfo>;
    /// One set, with its ids.
    ShowSet = 21 {
        /// The set.
        set: u64,
    } -> SetInfo;
    /// The service at a glance.
    GetStatus = 22 {} -> Status;
    /// A cgroup and, where `recurse`, all below it that the service knows.
    GetCgroup = 23 {
        /// Which one; left out, the root.
        #[serde(default, skip_serializing_if = "Option::is_none")] path: Option<CgroupPath>,
        /// Its children too.
        #[serde(default)] recurse: bool,
    } -> CgroupInfo;
    /// Sets a cgroup's `max`: an administrator, or below a delegated cgroup its owner.
    SetCgroupMax = 24 {
        /// Which one.
        #[serde(default)] cgroup: String,
        /// Digits, `max`, or `policy` for what the policy says.
        #[serde(default)] max: String,
        /// Written to `90-set-max.toml` too.
        #[serde(default)] persist: bool,
    } -> Done;
    /// Makes `current` the `peak`: administrators.
    ResetPeak = 25 {
        /// Which one.
        #[serde(default)] cgroup: String,
    } -> Done;
    /// Moves a set's charge to another cgroup: administrators.
    Recharge = 26 {
        /// The set.
        set: u64,
        /// Where its charge goes.
        #[serde(default)] cgroup: String,
    } -> Done;
    /// Revokes a set: administrators, and its creator.
    RevokeSet = 27 {
        /// The set.
        set: u64,
        /// Why, for those who are refused.
        #[serde(default)] reason: String,
    } -> Done;
    /// Reads the policy again: administrators. A bad policy changes nothing.
    Reload = 28 {} -> Done;
    /// What the policy would say.
    Explain = 29 {
        /// The user, by name or number.
        #[serde(default)] user: String,
        /// The cgroup that asks.
        #[serde(default)] cgroup: String,
        /// The quota asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")] quota: Option<u32>,
    } -> serde_json::Value;
    /// What happened lately and, where `follow`, what happens from now on, as event frames.
    GetEvents = 30 {
        /// Go on.
        #[serde(default)] follow: bool,
    } -> Vec<Event>;
    /// Changes a set's quota from outside its FD: its creator within the rule's max, or an administrator.
    SetSetQuota = 31 {
        /// The set.
        set: u64,
        /// The new quota.
        quota: u32,
    } -> SetInfo;
    /// Who has which ids of a domain, as runs.
    GetMap = 32 {
        /// The number space.
        #[serde(default)] domain: Domain,
    } -> SpaceMap;

    /// An iommufd, on the reply, for who presents a set FD and may open that set: for those whose CreateSet could not
    /// carry it.
    OpenIommufd = 33 {} -> Done;

    /// Opens a session on a set FD; one end of a fresh pair rides on it. Answered on that end, by [`Opened`].
    OpenSession = 48 {
        /// Chosen at random once per session; a session opened again after a restart names the same.
        #[serde(default)] key: u64,
    } -> Opened;

    /// Leases ids and marks them used.
    Alloc = 64 {
        /// How many: all of them or none.
        #[serde(default = "one")] count: u32,
        /// From this range only, both ends included; the set's own range bounds it further.
        #[serde(default, skip_serializing_if = "Option::is_none")] range: Option<PasidRange>,
    } -> Pasids;
    /// Gives ids back. Idempotent; what is held elsewhere is `free-pending`.
    Free = 65 {
        /// The ids.
        #[serde(default)] pasids: Vec<u32>,
    } -> Freed;
    /// The set, with its ids.
    Info = 66 {} -> SetInfo;
    /// Gives an id another name in this set.
    AliasAdd = 67 {
        /// The id.
        pasid: u32,
        /// Its alias: any number.
        alias: u64,
    } -> Done;
    /// The id behind an alias.
    AliasFind = 68 {
        /// The alias.
        alias: u64,
    } -> Aliased;
    /// Forgets an alias.
    AliasDel = 69 {
        /// The alias.
        alias: u64,
    } -> Done;
    /// Takes a reference on an id for this session.
    Hold = 70 {
        /// The id.
        pasid: u32,
    } -> Done;
    /// Puts one reference that this session took.
    Put = 71 {
        /// The id.
        pasid: u32,
    } -> Done;
    /// Changes the set's quota, within the max of the rule that allowed the set.
    SetQuota = 72 {
        /// The new quota.
        quota: u32,
    } -> SetInfo;
    /// Gives unused leases back.
    Trim = 73 {} -> Trimmed;
    /// Maps the set: the region's descriptor rides on the reply.
    Map = 74 {} -> Mapped;
    /// Leases up to `count` more ids ahead, at least one, for a holder that maps the set.
    Refill = 75 {
        /// The most that is wanted; the policy's `batch` bounds it further.
        #[serde(default = "one")] count: u32,
        /// From this range only, both ends included.
        #[serde(default, skip_serializing_if = "Option::is_none")] range: Option<PasidRange>,
    } -> Refilled;
    /// Is the id leased to this set?
    Verify = 76 {
        /// The id.
        pasid: u32,
    } -> Verified;
    /// Subscribes to the set's events; the reply is the snapshot they go on from.
    Watch = 77 {
        /// Which events; none named, all of them.
        #[serde(default)] events: Vec<WatchKind>,
        /// When in the order of phases this watcher is told of an id that is freed.
        #[serde(default)] phase: Phase,
        /// How long a phase waits for this watcher, in milliseconds; at most 10,000.
        #[serde(default = "default_watch_timeout")] timeout_ms: u32,
    } -> Snapshot;
    /// Says that what an event asked for is done.
    Ack = 78 {
        /// The `serial` of the event.
        serial: u64,
    } -> Done;
    /// Tells the watchers that an id is bound to a device, or no longer.
    Bind = 79 {
        /// The id.
        pasid: u32,
        /// Bound, or unbound.
        bound: bool,
    } -> Done;
}

fn default_watch_timeout() -> u32 {
    1000
}

fn one() -> u32 {
    1
}

/// It is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The service's version.
    pub version: String,
    /// What it can do.
    pub features: Vec<String>,
}

/// What this service can do beyond the protocol's first version, as every edge tells it.
pub fn features() -> Vec<String> {
    ["sets", "sessions", "holds", "aliases", "events", "cgroups"].map(str::to_owned).to_vec()
}

/// A session is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The set it acts on.
    pub set: SetId,
    /// What the service can do.
    pub features: Vec<String>,
    /// Whether the service knew a session with this key, before a restart, and this one goes on with it.
    #[serde(default)]
    pub resumed: bool,
}

/// A set, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetInfo {
    /// Its number.
    pub set: SetId,
    /// Its label; empty where it has none.
    pub label: String,
    /// The cgroup it is charged to, by the path it had.
    pub cgroup: CgroupPath,
    /// That cgroup's id.
    pub cgroup_id: CgroupId,
    /// The uid that asked for it.
    pub owner_uid: u32,
    /// Its number space.
    pub domain: Domain,
    /// The most ids it may lease.
    pub quota: u32,
    /// How many it leases, in ids; all charged.
    pub leased: u32,
    /// How many of those are allocated, in ids.
    pub in_use: u32,
    /// Where it stands.
    pub state: SetState,
    /// When it was made, in microseconds since 1970-01-01 UTC.
    pub created_usec: u64,
    /// The policy rule that allowed it.
    #[serde(default)]
    pub rule: String,
    /// Its ids that are allocated, in order; only where one set is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pasids: Option<Vec<Pasid>>,
}

/// Which set an FD is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identified {
    /// The set.
    pub set: SetId,
}

/// Whether an id is the set's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Whether it is leased to the set.
    pub leased: bool,
}

/// Ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pasids {
    /// In the order in which they were found.
    pub pasids: Vec<Pasid>,
}

/// What became of ids that were freed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freed {
    /// Those that wait for other holders.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<Pasid>,
}

/// The id behind an alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aliased {
    /// The id.
    pub pasid: Pasid,
}

/// What a trim gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trimmed {
    /// Unused leases given back, in ids.
    pub returned: u32,
}

/// The region of a mapped set; its descriptor rides on the reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapped {
    /// The set.
    pub set: SetId,
    /// The region's size in bytes.
    pub bytes: u64,
}

/// What a refill added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refilled {
    /// Ids leased, at least 1.
    pub leased: u32,
}

/// What a watcher can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum WatchKind {
    /// An id was allocated through the service, or leased to a mapped set.
    Alloc,
    /// An id is being freed.
    Free,
    /// An id was bound to a device.
    Bind,
    /// An id is no longer bound to a device.
    Unbind,
    /// The set is revoked.
    Revoke,
    /// A limit refused the set an id.
    Limit,
}

/// The order in which an id's users are quiesced before it rests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Phase {
    /// Who submits work: processors stop using the id.
    #[default]
    Cpu,
    /// Devices drain what they have under the id.
    Device,
    /// Translations are invalidated.
    Iommu,
    /// Bookkeeping.
    Last,
}

/// Where a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The serial of the last event before it; the first one told is greater.
    pub serial: u64,
    /// The ids that were allocated then.
    pub pasids: Vec<Pasid>,
    /// Of those, the ones that were bound.
    #[serde(default)]
    pub bound: Vec<Pasid>,
}

/// What a watcher is told, in an event frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchEvent {
    /// Counted up per set.
    pub serial: u64,
    /// What happened.
    pub event: WatchKind,
    /// The phase in which it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The ids it is about.
    #[serde(default)]
    pub pasids: Vec<Pasid>,
    /// Whether the set waits for an [`Ack`].
    #[serde(default)]
    pub ack: bool,
    /// Words for people: the reason of a revocation, the limit that was hit.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The service at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The service's version.
    pub version: String,
    /// What backs the ids: `userspace`, `cuse` or `kernel`.
    pub backend: String,
    /// Every number space in use.
    pub domains: Vec<DomainInfo>,
    /// Sets that exist.
    pub sets: u64,
    /// What is `enforced`, `observed` or `open`, by class of user, with the reason.
    pub enforcement: serde_json::Value,
    /// Where the policy comes from; empty where there is none.
    #[serde(default)]
    pub policy: Vec<String>,
}

/// A number space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainInfo {
    /// Its name.
    pub name: Domain,
    /// Its width.
    pub bits: u32,
    /// How many ids it can hand out.
    pub capacity: u64,
    /// How many are leased.
    pub current: u64,
    /// The most that ever were.
    pub peak: u64,
    /// How many the policy reserves, id 0 included.
    pub reserved: u64,
    /// How many rest before they can be leased again.
    pub resting: u64,
}

/// A cgroup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CgroupInfo {
    /// Its path from the cgroup2 root.
    pub path: CgroupPath,
    /// Its id.
    pub id: CgroupId,
    /// Its own limit; `max` at the root.
    pub max: Limit,
    /// The least limit of it and its ancestors.
    pub effective_max: Limit,
    /// Ids charged to it and below.
    pub current: u64,
    /// The highest `current` since it was made, or since it was reset.
    pub peak: u64,
    /// Refusals by its limit or one below it.
    pub events: EventCounts,
    /// Refusals by its own limit.
    pub events_local: EventCounts,
    /// Whether the directory is gone and charges remain.
    pub dying: bool,
    /// The policy line behind `max`.
    pub source: Option<LimitSource>,
    /// What stands behind `max`, in words: `policy`, `administrator`, `delegated` or `unset`.
    #[serde(default)]
    pub set_by: String,
    /// At the root: what the global domain can hand out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
    /// The cgroups below it that the service knows.
    #[serde(default)]
    pub children: Vec<CgroupInfo>,
    /// Whether there are some that are not told, for they are more than 60 levels below the one that was asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deeper: bool,
}

/// Counts of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCounts {
    /// Requests refused by a limit.
    pub max: u64,
}

/// A line of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitSource {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

/// Something that happened, for `ioasidctl events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in microseconds since 1970-01-01 UTC.
    pub time_usec: u64,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Happening {
    /// A cgroup's limit refused ids.
    LimitHit {
        /// The level.
        cgroup: CgroupPath,
        /// Its limit.
        max: Limit,
        /// How many were asked for.
        asked: u64,
        /// Who asked: the cgroup that was to be charged.
        requester_cgroup: CgroupPath,
    },
    /// A set was made.
    SetAdded {
        /// The set.
        set: SetId,
        /// Its label.
        label: String,
        /// The cgroup it is charged to.
        cgroup: CgroupPath,
        /// The uid that asked for it.
        uid: u32,
    },
    /// A set is gone.
    SetRemoved {
        /// The set.
        set: SetId,
        /// Why: `closed`, or the reason of its revocation.
        reason: String,
    },
    /// A set was revoked.
    SetRevoked {
        /// The set.
        set: SetId,
        /// Why.
        reason: String,
        /// The uid that did it; absent where the service did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by_uid: Option<u32>,
    },
    /// A cgroup's limit was changed by hand.
    MaxChanged {
        /// The cgroup.
        cgroup: CgroupPath,
        /// Its limit from now on.
        max: Limit,
        /// The uid that did it.
        by_uid: u32,
    },
    /// A set's charge was moved.
    Recharged {
        /// The set.
        set: SetId,
        /// Where it was.
        from: CgroupPath,
        /// Where it is.
        to: CgroupPath,
        /// The uid that did it.
        by_uid: u32,
    },
    /// The peak of a cgroup was reset.
    PeakReset {
        /// The cgroup.
        cgroup: CgroupPath,
        /// The uid that did it.
        by_uid: u32,
    },
    /// The policy was read again.
    PolicyReloaded {
        /// The uid that asked; absent for a signal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by_uid: Option<u32>,
    },
}

/// The map of a number space, as runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceMap {
    /// The number space.
    pub domain: DomainInfo,
    /// What is not free, in order.
    pub runs: Vec<MapRun>,
}

/// Neighbouring ids in the same state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapRun {
    /// First and last.
    pub range: PasidRange,
    /// What they are.
    pub state: RunState,
    /// The cgroup that is charged for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<CgroupPath>,
    /// The set that leases them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<SetId>,
}

/// What ids of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Reserved by the policy.
    Reserved,
    /// Leased to a set.
    Leased,
    /// Given back, and resting.
    Resting,
}

/// The service failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultNotice {
    /// Always [`FAULT_NAME`](super::FAULT_NAME).
    pub error: String,
    /// The chain; the journal has it too.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_refuse_unknown_fields() {
        assert!(serde_json::from_str::<OpenSet>(r#"{"set": 1, "pid": 5}"#).is_err());
        assert!(serde_json::from_str::<CreateSet>(r#"{"request": {"pid": 5}}"#).is_err());
    }

    #[test]
    fn alloc_takes_one_unless_told() {
        let alloc: Alloc = serde_json::from_str(r#"{"count": 3, "range": "10-20"}"#).unwrap();
        assert_eq!((alloc.count, alloc.range), (3, PasidRange::new(10, 20)));
        assert_eq!(serde_json::from_str::<Alloc>("{}").unwrap().count, 1);
    }

    #[test]
    fn events_are_flat_objects() {
        let event = Event { time_usec: 5, what: Happening::SetRemoved { set: SetId(2), reason: "closed".into() } };
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json, serde_json::json!({"time_usec": 5, "event": "set-removed", "set": 2, "reason": "closed"}));
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
    }
}
