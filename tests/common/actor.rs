//! Processes that act for a test: in a cgroup, as another user, in namespaces of their own.
//!
//! An actor is this test binary, started again to run the test [`stand_in`] alone, which obeys orders on its standard
//! input. Where it stands is decided before it starts, so the service sees a real process of that cgroup and user. The
//! test mostly has it connect and hands on what it got, and talks over that [`Wire`] itself.

use super::{Cgroups, Daemon, Wire, deadline};
use ioasid::client::{ClientError, Service, Set};
use ioasid::model::{Refusal, SetRequest};
use ioasid::sys::{listener, seqpacket};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Set for the process that shall obey.
const OBEY: &str = "IOASID_TEST_ACTOR";
/// The longest order or answer.
const LONGEST: usize = 1 << 16;

/// What an actor can be told to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Say who you are: `{"pid", "uid"}` in your own namespaces.
    Report,
    /// Connect to this socket, and hand the connection on.
    Connect(PathBuf),
    /// Connect to this stream socket, and hand the connection on.
    ConnectStream(PathBuf),
    /// Make a SEQPACKET pair, and hand both ends on.
    Pair,
    /// Open this device for reading and writing, and hand it on; `{"errno"}` where it cannot be.
    OpenDevice(PathBuf),
    /// Keep what rides on this order open.
    Keep,
    /// Close all that is kept.
    Release,
    /// Open a session on the set FD that rides on this order, allocate so many, keep the session open.
    Alloc(u32),
    /// The same, and `null` where a limit refused it.
    TryAlloc(u32),
    /// Make a set at the service at `socket`, allocate `count` ids, have a second session hold the first of them, keep it all
    /// open; `null` instead of the ids where a limit refused them.
    Take {
        /// The service.
        socket: PathBuf,
        /// How many ids.
        count: u32,
    },
    /// Open a session on the set FD that rides on this order, take a reference on each of these, keep the session open.
    Hold(Vec<u32>),
    /// Say so many things of [`SCRIPT_STEPS`] to the service, then wait with all of it open.
    Walk {
        /// The service.
        socket: PathBuf,
        /// How many.
        steps: usize,
    },
    /// Make a set and take and give ids, round after round; `{"most", "refused"}`: the most ids held at once and how
    /// often a limit refused.
    Storm {
        /// The service.
        socket: PathBuf,
        /// How many rounds.
        rounds: u32,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Outcome {
    value: Value,
    error: Option<String>,
}

/// A process that obeys until it is dropped; then it is killed.
pub struct Actor {
    child: Child,
    orders: OwnedFd,
    pid: u32,
    _program: Option<TempDir>,
}

impl Actor {
    /// One in the cgroup `below` the scratch cgroup, as root.
    pub fn new(cgroups: &Cgroups, below: &str) -> Self {
        Self::through(cgroups, below, &[])
    }

    /// One of another user.
    pub fn of_user(cgroups: &Cgroups, below: &str, uid: u32) -> Self {
        let id = uid.to_string();
        Self::through(cgroups, below, &["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"])
    }

    /// One in a container: user, mount, pid and cgroup namespaces of its own, root in there.
    pub fn in_container(cgroups: &Cgroups, below: &str) -> Self {
        Self::through(cgroups, below, &["unshare", "-UrmpC", "--fork", "--kill-child", "--propagation", "private"])
    }

    /// One that is started through another program, which runs what follows its own arguments.
    pub fn through(cgroups: &Cgroups, below: &str, program: &[&str]) -> Self {
        let test = module_path!().split_once("::").unwrap().1;
        let (executable, copied) = reachable(&std::env::current_exe().unwrap());
        let (orders, theirs) = seqpacket::pair().unwrap();
        let child = Command::new("sh")
            .args(["-c", r#"echo $$ > "$0"/cgroup.procs && exec "$@""#])
            .arg(cgroups.directory(below))
            .args(program)
            .arg(executable)
            .args([&format!("{test}::stand_in"), "--exact", "--nocapture", "--test-threads=1"])
            .env(OBEY, "1")
            .stdin(theirs)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        let actor = Self { child, orders, pid, _program: copied };
        actor.order(&Order::Report, &[]);
        actor
    }

    /// Its pid; of one in a container the pid of what started it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells it to do something and waits until it is done; gives what it says and hands on.
    pub fn order(&self, order: &Order, fds: &[BorrowedFd<'_>]) -> (Value, Vec<OwnedFd>) {
        self.begin(order, fds);
        self.end()
    }

    /// Tells it to do something.
    pub fn begin(&self, order: &Order, fds: &[BorrowedFd<'_>]) {
        let bytes = serde_json::to_vec(order).unwrap();
        seqpacket::send(self.orders.as_fd(), &bytes, fds, Some(deadline())).unwrap();
    }

    /// Waits until what was begun is done.
    pub fn end(&self) -> (Value, Vec<OwnedFd>) {
        let mut buffer = vec![0; LONGEST];
        match seqpacket::receive(self.orders.as_fd(), &mut buffer, Some(deadline())).unwrap() {
            seqpacket::Received::Message { len, fds } => {
                let outcome: Outcome = serde_json::from_slice(&buffer[..len]).unwrap();
                assert_eq!(outcome.error, None, "an actor failed");
                (outcome.value, fds)
            }
            other => panic!("an actor is gone: {other:?}"),
        }
    }

    /// A connection to the service as this process.
    pub fn connect(&self, daemon: &Daemon) -> Wire {
        self.connect_silently(daemon).greet()
    }

    /// The same without a handshake.
    pub fn connect_silently(&self, daemon: &Daemon) -> Wire {
        Wire::over(self.order(&Order::Connect(daemon.socket()), &[]).1.remove(0))
    }

    /// A pair that this process made, for a session that counts on its user.
    pub fn pair(&self) -> (OwnedFd, OwnedFd) {
        let (_, mut fds) = self.order(&Order::Pair, &[]);
        (fds.remove(0), fds.remove(0))
    }

    /// Makes a set as this process.
    pub fn create_set(&self, daemon: &Daemon, request: SetRequest) -> Set {
        self.connect(daemon).create_set(request).unwrap().0
    }

    /// Opens a device as this process; the errno where it cannot.
    pub fn open_device(&self, path: &Path) -> Result<OwnedFd, i32> {
        let (value, mut fds) = self.order(&Order::OpenDevice(path.to_owned()), &[]);
        fds.pop().ok_or_else(|| value["errno"].as_i64().unwrap().try_into().unwrap())
    }

    /// Connects, does this over the connection, and ends.
    pub fn connect_and<T>(self, daemon: &Daemon, act: impl FnOnce(&Wire) -> T) -> T {
        act(&self.connect(daemon))
    }

    /// Kills it as with `kill -9`, and waits for its end.
    pub fn kill(self) {}
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program where every user can run it: where its path is closed to others, a copy.
pub fn reachable(program: &Path) -> (PathBuf, Option<TempDir>) {
    use std::os::unix::fs::PermissionsExt;
    let open = |path: &Path| std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0);
    if program.ancestors().all(open) {
        return (program.to_owned(), None);
    }
    let directory = super::daemon::scratch_directory();
    let copy = directory.path().join("program");
    std::fs::copy(program, &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    (copy, Some(directory))
}

/// Not a test of its own: what an actor runs.
#[test]
fn stand_in() {
    if std::env::var_os(OBEY).is_some() {
        obey();
    }
}

/// Obeys until who orders is gone. Benchmarks, which have no tests in them, call it where [`OBEY`] is set.
pub fn obey() {
    let orders = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut kept = Kept::default();
    let mut buffer = vec![0; LONGEST];
    loop {
        let far = std::time::Instant::now() + std::time::Duration::from_secs(3600);
        let Ok(seqpacket::Received::Message { len, fds }) = seqpacket::receive(orders.as_fd(), &mut buffer, Some(far))
        else {
            std::process::exit(0);
        };
        let order: Order = serde_json::from_slice(&buffer[..len]).unwrap();
        let (outcome, fds) = match kept.act(order, fds) {
            Ok((value, fds)) => (Outcome { value, error: None }, fds),
            Err(error) => (Outcome { value: Value::Null, error: Some(error.to_string()) }, Vec::new()),
        };
        let riders: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let bytes = serde_json::to_vec(&outcome).unwrap();
        if seqpacket::send(orders.as_fd(), &bytes, &riders, Some(far)).is_err() {
            std::process::exit(0);
        }
    }
}

/// What an actor keeps open.
#[derive(Default)]
struct Kept {
    fds: Vec<OwnedFd>,
    things: Vec<Box<dyn std::any::Any>>,
}

type Done = (Value, Vec<OwnedFd>);

impl Kept {
    fn act(&mut self, order: Order, fds: Vec<OwnedFd>) -> Result<Done, Box<dyn std::error::Error>> {
        let nothing = |value| Ok((value, Vec::new()));
        match order {
            Order::Report => nothing(json!({"pid": std::process::id(), "uid": nix::unistd::getuid().as_raw()})),
            Order::Connect(path) => Ok((Value::Null, vec![listener::connect(&path, Some(deadline()))?])),
            Order::ConnectStream(path) => {
                let stream = std::os::unix::net::UnixStream::connect(path)?;
                Ok((Value::Null, vec![stream.into()]))
            }
            Order::Pair => {
                let (a, b) = seqpacket::pair()?;
                Ok((Value::Null, vec![a, b]))
            }
            Order::OpenDevice(path) => match std::fs::File::options().read(true).write(true).open(path) {
                Ok(file) => Ok((Value::Null, vec![file.into()])),
                Err(error) => nothing(json!({"errno": error.raw_os_error()})),
            },
            Order::Keep => {
                self.fds.extend(fds);
                nothing(Value::Null)
            }
            Order::Release => {
                *self = Self::default();
                nothing(Value::Null)
            }
            Order::Alloc(count) => {
                let mut session = set_of(fds)?.session()?;
                let pasids = session.alloc_many(count, None)?;
                self.things.push(Box::new(session));
                nothing(json!(pasids))
            }
            Order::TryAlloc(count) => {
                // Without the set FD the session could not be opened again.
                let set = set_of(fds)?;
                let mut session = set.session()?;
                let pasids = unless_limited(session.alloc_many(count, None))?;
                self.things.push(Box::new((set, session)));
                nothing(json!(pasids))
            }
            Order::Take { socket, count } => {
                let (set, _) = Service::connect(socket)?.create_set(SetRequest::default())?;
                let (mut session, mut holder) = (set.session()?, set.session()?);
                let pasids = unless_limited(session.alloc_many(count, None))?;
                if let Some(pasid) = pasids.iter().flatten().next() {
                    holder.hold(*pasid)?;
                }
                self.things.push(Box::new((set, session, holder)));
                nothing(json!(pasids))
            }
            Order::Hold(pasids) => {
                let mut session = set_of(fds)?.session()?;
                for pasid in pasids {
                    session.call(&ioasid::proto::Hold { pasid })?;
                }
                self.things.push(Box::new(session));
                nothing(Value::Null)
            }
            Order::Walk { socket, steps } => {
                self.walk(&socket, steps)?;
                nothing(Value::Null)
            }
            Order::Storm { socket, rounds } => nothing(storm(&socket, rounds)?),
        }
    }

    /// Goes so many steps of a conversation that has one of everything in it.
    fn walk(&mut self, socket: &Path, steps: usize) -> Result<(), Box<dyn std::error::Error>> {
        if steps == 0 {
            self.fds.push(listener::connect(socket, Some(deadline()))?);
            return Ok(());
        }
        let mut service = Service::connect(socket)?;
        if steps > 1 {
            let (set, info) = service.create_set(SetRequest::default())?;
            if steps > 2 {
                let (again, _) = service.open_set(info.set.0)?;
                self.things.push(Box::new(again));
            }
            if steps > 3 {
                service.identify(&set)?;
            }
            if steps > 4 {
                let mut first = set.session()?;
                if steps > 5 {
                    let pasids = first.alloc_many(4, None)?;
                    if steps > 6 {
                        first.hold(pasids[0])?;
                    }
                    if steps > 7 {
                        first.alias_add(pasids[1], 77)?;
                    }
                    if steps > 8 {
                        let mut second = set.session()?;
                        second.hold(pasids[2])?;
                        if steps > 9 {
                            first.free(&pasids)?;
                        }
                        self.things.push(Box::new(second));
                    }
                }
                self.things.push(Box::new(first));
            }
            self.things.push(Box::new(set));
        }
        self.things.push(Box::new(service));
        Ok(())
    }
}

/// How many steps [`Order::Walk`] knows.
pub const SCRIPT_STEPS: usize = 10;

fn set_of(mut fds: Vec<OwnedFd>) -> Result<Set, ClientError> {
    let fd = fds.pop().ok_or_else(|| Refusal::not_found("a set FD on the order"))?;
    Set::from_fd(fd)
}

/// What was asked for, or `None` where a limit refused it.
fn unless_limited<T>(outcome: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match outcome {
        Err(ClientError::Refused(Refusal::LimitExceeded { .. } | Refusal::QuotaExceeded { .. })) => Ok(None),
        outcome => outcome.map(Some),
    }
}

/// Takes and gives ids until it has done so often enough.
fn storm(socket: &Path, rounds: u32) -> Result<Value, ClientError> {
    let mut service = Service::connect(socket)?;
    let (mut most, mut refused) = (0, 0);
    for round in 0..rounds {
        let (set, _) = service.create_set(SetRequest { quota: Some(64), ..SetRequest::default() })?;
        let mut session = set.session()?;
        let mut held = Vec::new();
        for count in [1, 3, 7, 2] {
            match session.alloc_many(count + round % 3, None) {
                Ok(pasids) => held.extend(pasids),
                Err(ClientError::Refused(Refusal::LimitExceeded { .. })) => refused += 1,
                Err(error) => return Err(error),
            }
            most = most.max(held.len());
            if held.len() > 8 {
                session.free(&held.split_off(4))?;
            }
        }
        // Every other time the last close gives back what is left.
        if round % 2 == 0 {
            session.free(&held)?;
        }
    }
    Ok(json!({"most": most, "refused": refused}))
}
