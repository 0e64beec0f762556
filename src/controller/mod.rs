//! Who holds what: the only room that changes it.
//!
//! Lives here: number spaces and their rest, sets with their ids, holders and aliases, the charge each set carries,
//! what one user may use up, and what happened. Not here: sockets, the bus, files, threads, timers. The edges
//! parse, call a method, translate the answer; every method is synchronous, takes the one lock for a few
//! microseconds, and either does all of what it says or nothing.
//!
//! Order inside a request: the set's state, its cgroup, its quota, the charge, the ids, the record, the event. What
//! was taken is dropped in reverse where a later step refuses. Ids go back before the charge that paid for them.

mod admin;
mod authority;
mod consent;
mod counters;
mod device;
mod entry;
mod events;
mod figures;
mod guard;
mod ids;
mod iommufd;
mod keep;
mod ledger;
mod life;
mod mapping;
mod parking;
mod pool;
mod query;
mod records;
mod request;
mod restore;
mod rests;
mod set;
mod source;
mod tally;
mod watch;

pub use authority::{Deed, Permit, Question, Verdict};
pub use consent::{Answer, Consent};
pub use counters::Counters;
#[doc(hidden)]
pub use entry::decode_entry;
pub use events::{Notice, Observer};
pub use figures::{CgroupFigures, Figures};
pub use iommufd::OpenIommufd;
#[doc(hidden)]
pub use ledger::decode_ledger;
pub use life::{Closed, NewSet};
pub use request::Asked;
pub use restore::{Restored, ResumedSession};
pub use set::{SessionId, SetEnd};
pub use source::IdSource;
pub use watch::Teller;

use crate::identity::{Located, Peer};
use crate::model::{CgroupId, CgroupPath, Domain, Failure, Fault, Limit, Pasid, PasidRange, Refusal, SetId};
use crate::policy::{Bits, Policy};
use crate::quota::{Node, Tree};
use crate::sys::socket_diag::SocketTable;
use events::Events;
use guard::Guard;
use keep::Keep;
use pool::Pool;
use set::Set;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who asks, pinned and read by `identity`.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The process, pinned.
    pub pidfd: Arc<OwnedFd>,
    /// Its pid, as the service's pid namespace has it.
    pub pid: u32,
    /// Its uid, as the service's user namespace has it.
    pub uid: u32,
    /// Its groups, the primary one included.
    pub groups: Vec<u32>,
    /// Whether it is an administrator.
    pub privileged: bool,
    /// The cgroup it is in.
    pub located: Located,
}

impl Caller {
    /// The peer, in the cgroup it is in now.
    pub fn new(peer: &Peer, located: Located) -> Self {
        Self {
            pidfd: Arc::clone(&peer.pidfd),
            pid: peer.pid,
            uid: peer.uid,
            groups: peer.groups.clone(),
            privileged: peer.is_administrator(),
            located,
        }
    }
}

/// The cgroup hierarchy as the controller needs it; `sys` has the real one.
pub trait Cgroups: Send + Sync {
    /// Ids and paths of `path` and its ancestors, near to far, the root last, read together; `None` where there is no
    /// such cgroup. A threaded cgroup gives its domain cgroup.
    fn lineage(&self, path: &CgroupPath) -> Result<Option<Vec<(CgroupId, CgroupPath)>>, Fault>;
    /// Every cgroup at `path` and at most so many levels below it that can be charged, as [`Cgroups::lineage`] gives it; none
    /// where it is not there.
    fn below(&self, path: &CgroupPath, levels: usize) -> Result<Vec<Vec<(CgroupId, CgroupPath)>>, Fault>;
    /// Whether the cgroup with this path still is the one with this id.
    fn is_alive(&self, path: &CgroupPath, id: CgroupId) -> bool;
    /// The uid that owns the directory; `None` where there is none.
    fn owner(&self, path: &CgroupPath) -> Result<Option<u32>, Fault>;
    /// The id of the root.
    fn root(&self) -> CgroupId;
}

/// Where the policy's text is; `daemon` has the real one.
pub trait PolicySource: Send + Sync {
    /// Reads and checks all of it. A bad policy is `InvalidArgument` with the first problem and how many there are.
    fn load(&self) -> Result<Policy, Failure>;
    /// Writes a limit where it outlives the host's restart, or takes it out again.
    fn persist(&self, cgroup: &CgroupPath, limit: Option<Limit>) -> Result<(), Failure>;
}

/// What the controller knows of the world, handed in once.
pub struct World {
    /// The cgroup hierarchy.
    pub cgroups: Box<dyn Cgroups>,
    /// The policy's text.
    pub policy_source: Box<dyn PolicySource>,
    /// The widths of devices.
    pub pasid_width: PasidWidth,
    /// Who has the last word on ids of the global space, where that is not this service.
    pub id_source: Option<Arc<dyn IdSource>>,
    /// Opens an iommufd.
    pub open_iommufd: OpenIommufd,
    /// What `bits = "auto"` comes to on this host.
    pub auto_bits: u32,
    /// What backs the ids: `userspace`, `cuse` or `kernel`.
    pub backend: String,
    /// What is enforced, observed or open on this host, asked anew each time.
    pub enforcement: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
}

/// What the channel of `/dev/ioasid` is called where it is parked: while it is open, so are the files on it.
pub const DEVICE_CHANNEL: &str = "device";

/// How wide the PASIDs of a PCI function are, in bits; `NotFound` or `Unsupported` where there are none.
pub type PasidWidth = Box<dyn Fn(&crate::model::PciAddress) -> Result<u32, Refusal> + Send + Sync>;

/// The service's state, behind one lock.
pub struct Controller {
    state: Mutex<State>,
    world: World,
    /// Asked outside the state's lock.
    sockets: Mutex<SocketTable>,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    policy: Arc<Policy>,
    tree: Tree,
    pools: BTreeMap<Domain, Pool>,
    sets: BTreeMap<SetId, Set>,
    /// SO_COOKIE of every holders' end, to its set.
    by_cookie: HashMap<u64, SetId>,
    /// Sets that have a region: whose unused leases may stand in the way.
    mapped: BTreeSet<SetId>,
    /// Sets by the cgroup that is charged.
    sets_of: HashMap<CgroupId, u32>,
    next_set: u64,
    next_session: u64,
    guard: Guard,
    events: Events,
    /// Refusals that edges handed out, by name.
    refusals: BTreeMap<&'static str, u64>,
    /// What stands for width where the policy says `auto` and no device says otherwise.
    auto_bits: u32,
    id_source: Option<Arc<dyn IdSource>>,
    /// Where it is written down; `None` where nothing is to outlive the service.
    keep: Option<Keep>,
    /// When so many cgroups are known, those that are gone are looked for.
    bury_at: usize,
    /// Cgroups that the records know.
    recorded_cgroups: HashSet<CgroupId>,
    /// Counts tags that no request is known by.
    next_tag: u64,
    /// By set and key of a session that was open before a restart: its last request that was done.
    done_before: HashMap<(SetId, u64), u64>,
    /// What requests leased or freed before a restart, by their tags: answered again, not done again.
    leased_before: HashMap<u64, Vec<Pasid>>,
    freed_before: HashMap<u64, Vec<Pasid>>,
}

impl Controller {
    /// A controller with nothing leased.
    pub fn new(policy: Arc<Policy>, world: World) -> Result<Self, Fault> {
        let mut state = State::new(policy, &world);
        state.make_pool(Domain::Global, None)?;
        Self::with(state, world)
    }

    fn with(state: State, world: World) -> Result<Self, Fault> {
        Ok(Self { state: Mutex::new(state), world, sockets: Mutex::new(SocketTable::open()?) })
    }

    /// The state. A panic under the lock left no half-done change that later calls could trip over: counters give
    /// back on drop, so a poisoned lock is used on.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What backs the ids.
    pub fn backend(&self) -> &str {
        &self.world.backend
    }

    /// Tells `observer` all that happens from now on.
    pub fn observe(&self, observer: Observer) {
        self.lock().events.observe(observer);
    }

    /// Counts a connection or session of `uid`, until [`Controller::leave`]. Refused past the guard's bound.
    pub fn enter(&self, uid: u32) -> Result<(), Refusal> {
        self.lock().guard.add_session(uid)
    }

    /// Ends what [`Controller::enter`] counted.
    pub fn leave(&self, uid: u32) {
        self.lock().guard.remove_session(uid);
    }

    /// Counts a request of `uid`. Refused past the guard's rate.
    pub fn admit(&self, uid: u32) -> Result<(), Refusal> {
        if uid == 0 { Ok(()) } else { self.lock().guard.request(uid) }
    }

    /// Counts what a request of `uid` cost beyond itself, in requests: later ones are refused sooner.
    pub fn spend(&self, uid: u32, requests: u32) {
        if uid != 0 && requests > 0 {
            self.lock().guard.spend(uid, requests);
        }
    }
}

impl State {
    fn new(policy: Arc<Policy>, world: &World) -> Self {
        Self {
            tree: Tree::new(world.cgroups.root()),
            pools: BTreeMap::new(),
            sets: BTreeMap::new(),
            by_cookie: HashMap::new(),
            mapped: BTreeSet::new(),
            sets_of: HashMap::new(),
            next_set: 1,
            next_session: 1,
            guard: Guard::new(policy.guard),
            events: Events::default(),
            refusals: BTreeMap::new(),
            auto_bits: world.auto_bits,
            id_source: world.id_source.clone(),
            policy,
            keep: None,
            bury_at: query::FEW_CGROUPS,
            recorded_cgroups: HashSet::new(),
            // Monotonic: a date that is set back must not bring tags of before a restart again.
            next_tag: crate::sys::clock::monotonic_usec(),
            done_before: HashMap::new(),
            leased_before: HashMap::new(),
            freed_before: HashMap::new(),
        }
    }

    fn set(&self, id: SetId) -> Result<&Set, Refusal> {
        self.sets.get(&id).ok_or_else(|| Refusal::not_found(format!("set {id}")))
    }

    fn set_mut(&mut self, id: SetId) -> Result<&mut Set, Refusal> {
        self.sets.get_mut(&id).ok_or_else(|| Refusal::not_found(format!("set {id}")))
    }

    /// Makes the pool of `domain` if there is none; `width` is the device's, for a `pci:` domain. One that nobody uses is made
    /// anew where the policy has another space by now.
    fn make_pool(&mut self, domain: Domain, width: Option<u32>) -> Result<(), Fault> {
        let (bits, reserved) = self.space_of(domain, width);
        let mut peak = 0;
        if let Some(pool) = self.pools.get_mut(&domain) {
            let used = || self.sets.values().any(|set| set.domain == domain && !set.gone);
            if pool.is_of(bits, &reserved) || used() || !pool.is_idle() {
                return Ok(());
            }
            peak = pool.peak();
            pool.remove_ledger();
            self.pools.remove(&domain);
        }
        let source = self.id_source.clone().filter(|_| domain == Domain::Global);
        let mut pool = Pool::new(domain, bits, &reserved, self.policy.space.quarantine)?;
        pool.set_source(source);
        pool.set_ledger(self.make_ledger(domain, bits, pool.reserved())?);
        pool.restore_peak(peak);
        self.pools.insert(domain, pool);
        Ok(())
    }

    /// The width and the reserved ranges that the policy in force gives a domain.
    fn space_of(&self, domain: Domain, width: Option<u32>) -> (u32, Vec<PasidRange>) {
        let space = &self.policy.space;
        let bits = match (width, &space.bits) {
            (Some(width), _) => width,
            (None, Bits::Fixed(bits)) => *bits,
            (None, Bits::Auto) => self.auto_bits,
        };
        let source = self.id_source.as_ref().filter(|_| domain == Domain::Global);
        let bits = source.map_or(bits, |source| bits.min(source.bits()));
        (bits, space.reserved_at(bits))
    }

    /// The node of the first cgroup of `lineage`, which goes up to the root; nodes that are new get the policy's limits.
    fn ensure_node(&mut self, lineage: &[(CgroupId, CgroupPath)]) -> Arc<Node> {
        let fresh: Vec<CgroupId> =
            lineage.iter().map(|(id, _)| *id).filter(|id| self.tree.find(*id).is_none()).collect();
        // The tree wants it from the child of the root down.
        let down: Vec<_> = lineage.iter().rev().filter(|(_, path)| !path.is_root()).cloned().collect();
        let leaf = self.tree.ensure(&down);
        for id in fresh {
            if let Some(node) = self.tree.find(id) {
                self.apply_policy(&node);
            }
        }
        leaf
    }

    /// Forgets the cgroups that are gone and have neither charges nor sets left: a set's record names its cgroup's.
    fn prune(&mut self) {
        let gone = self.tree.prune(|id| self.sets_of.contains_key(&id));
        self.forget_cgroups(&gone);
    }

    /// The same of a cgroup that lost a charge or a set, and of those above it: no free looks at all cgroups there are.
    fn prune_up(&mut self, node: &Arc<Node>) {
        let gone = self.tree.prune_up(node, |id| self.sets_of.contains_key(&id));
        self.forget_cgroups(&gone);
    }

    /// One set less in `cgroup`.
    fn uncount(&mut self, cgroup: CgroupId) {
        if let Some(count) = self.sets_of.get_mut(&cgroup) {
            *count -= 1;
            if *count == 0 {
                self.sets_of.remove(&cgroup);
            }
        }
    }

    /// Has the cgroup's limit follow the policy in force.
    fn apply_policy(&self, node: &Node) {
        match self.policy.limit(node.path()) {
            Some((limit, _)) => node.set_policy_limit(limit),
            None => node.set_unset_limit(self.policy.unset_limit()),
        }
    }
}

/// Now, in microseconds since 1970-01-01 UTC.
fn now_usec() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Descriptors that are left to those who are there already: to be answered takes some. What would stay open, sets and
/// regions, connections and sessions, is refused while fewer are left.
pub fn kept_free() -> u64 {
    (crate::sys::process::max_files() / 4).min(32)
}

/// Refuses where so few descriptors are left after this one that it must not stay open.
pub fn refuse_when_scarce(newest: BorrowedFd<'_>) -> Result<(), Refusal> {
    if crate::sys::process::files_left(newest) < kept_free() { Err(no_descriptors()) } else { Ok(()) }
}

fn no_descriptors() -> Refusal {
    Refusal::TooMany { limit: "descriptors of the service".to_owned(), value: crate::sys::process::max_files() }
}

/// Refuses where the kernel lets the service send no more descriptors until others have read theirs.
pub fn too_many_on_the_way() -> Refusal {
    let limit = "descriptors of the service that are on their way".to_owned();
    Refusal::TooMany { limit, value: crate::sys::process::max_files() }
}

/// A failed system call that made a descriptor: running out of them is the caller's refusal, anything else a fault.
fn descriptor_failure(error: std::io::Error, doing: &str) -> Failure {
    use std::io::ErrorKind;
    // EMFILE and ENFILE have no ErrorKind of their own.
    match error.raw_os_error() {
        Some(23 | 24) => no_descriptors().into(),
        // RLIMIT_FSIZE bounds a memfd, too.
        _ if matches!(error.kind(), ErrorKind::OutOfMemory | ErrorKind::FileTooLarge) => {
            Refusal::TooMany { limit: "memory of the service".to_owned(), value: 0 }.into()
        }
        _ => Fault::from(error).while_doing(doing).into(),
    }
}
