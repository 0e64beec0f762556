//! The keeper of a domain's set: holds its FD while the domain lives, and serves the domain at a socket.
//!
//! QEMU connects to `DRIVER-NAME.sock` by path (`<channel type='unix'><source mode='connect' …/>`), so what the guest
//! writes to its port arrives here: one JSON object a line, one answer a line. Everybody can connect, and who is not in
//! the domain's cgroup is hung up on: where a process is only the kernel says, and which cgroup is the domain's only root.
//!
//! | line | answer |
//! |---|---|
//! | `{"alloc": {"count": 2}}` | `{"pasids": [1024, 1025]}` |
//! | `{"free": {"pasids": [1024]}}` | `{"pending": […]}`, left out where nothing waits |
//! | `{"verify": {"pasid": 1024}}` | `{"leased": true}` |
//! | `{"info": {}}` | as `ioasidctl --json info` |
//!
//! A refusal is answered as `ioasidctl --json` prints it.

use super::domain::Domain;
use super::scope::domain_by_root;
use super::state::{self, State};
use crate::cli::outcome::{Failed, Outcome};
use crate::client::{ClientError, Session, Set};
use crate::model::{Refusal, SetId};
use crate::proto::{Alloc, Call, FAULT_ERRNO_NAME, FAULT_NAME, Free, Info, Verify, refusal_to_json};
use crate::sys::cgroup::{self, Root};
use crate::sys::{inherited, pidfd, process, socket_option};
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// The longest line in bytes.
const LONGEST: u64 = 1 << 16;
/// The longest path of a socket in bytes: `sun_path` in unix(7), less the NUL.
const LONGEST_ADDRESS: usize = 107;
/// How many connections are served at a time.
const AT_A_TIME: usize = 16;

/// Starts a keeper for a domain's set, listening already.
pub(super) fn start(runtime_dir: &Path, name: &str, domain: &Domain, set: &Set, id: SetId) -> Result<(), Failed> {
    let fault = |what: &'static str| move |error: io::Error| Failed::fault(what, &error);
    state::make_directory(runtime_dir)?;
    let socket = state::file(runtime_dir, name, &domain.driver, "sock")?;
    let room = LONGEST_ADDRESS.saturating_sub(socket.as_os_str().len() - name.len());
    if name.len() > room {
        let expected = format!("a name of at most {room} bytes, for the path of its socket has to fit an address");
        return Err(Refusal::invalid("domain", name, expected).into());
    }
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).map_err(fault("listen for the domain"))?;
    let everybody = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(&socket, everybody).map_err(fault("listen for the domain"))?;
    let held = set.as_fd().try_clone_to_owned().map_err(fault("pass the set FD on"))?;
    let program = std::env::current_exe().map_err(fault("find ioasidctl"))?;
    // The descriptors come where they are sure to be passed on; and libvirt waits until its own are closed.
    let keeper = Command::new(program)
        .arg("libvirt-keeper")
        .arg(state::file(runtime_dir, name, &domain.driver, "json")?)
        .arg(&domain.driver)
        .current_dir("/")
        .stdin(held)
        .stdout(std::os::fd::OwnedFd::from(listener))
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(fault("start the keeper of a set"))?;
    move_out(keeper.id(), name);
    let keeper_started = process::start_time(keeper.id()).map_err(fault("start the keeper of a set"))?;
    let state = State { set: id.0, keeper: keeper.id(), keeper_started, id: domain.id };
    state.write(runtime_dir, name, &domain.driver)
}

/// Has systemd, where it runs, put the keeper into a scope of its own. In the unit of libvirtd it would be left over at each
/// restart, and killed at it where the unit says so. Where this fails it stays there.
fn move_out(keeper: u32, domain: &str) {
    if !Path::new("/run/systemd/system").exists() {
        return;
    }
    let (scope, pid) = (format!("ioasid-keeper-{keeper}.scope"), keeper.to_string());
    let description = format!("PASID set of domain {domain}");
    let manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];
    let _ = Command::new("busctl")
        .args(["--quiet", "--timeout=5", "call"])
        .args(manager)
        .args(["StartTransientUnit", "ssa(sv)a(sa(sv))", &scope, "fail"])
        .args(["3", "PIDs", "au", "1", &pid, "Slice", "s", "machine.slice", "Description", "s", &description])
        .arg("0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Keeps the set on descriptor 0 and serves the listener on descriptor 1, until it is ended.
pub(in crate::cli) fn keep(state: &Path, driver: &str) -> Outcome {
    let set = Set::from_number(0)?;
    let listener = inherited::duplicate(1).map_err(|error| Failed::fault("find the listener", &error))?;
    let listener = UnixListener::from(listener);
    let root = super::cgroups()?;
    let served = Arc::new(());
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failed::fault("accept", &error)),
        };
        if Arc::strong_count(&served) > AT_A_TIME || !is_of_domain(&stream, &root, state, driver).unwrap_or(false) {
            continue;
        }
        let Ok(session) = set.session() else { continue };
        let serving = Arc::clone(&served);
        std::thread::spawn(move || {
            let _ = serve(&stream, session);
            drop(serving);
        });
    }
}

/// Whether who connected is in the domain's cgroup: by the kernel's word, while the process lives.
fn is_of_domain(stream: &UnixStream, root: &Root, state: &Path, driver: &str) -> io::Result<bool> {
    let state: State = serde_json::from_slice(&std::fs::read(state)?).map_err(io::Error::other)?;
    let peer = socket_option::peer_pidfd(stream.as_fd())
        .or_else(|_| pidfd::open(socket_option::peer_credentials(stream.as_fd())?.pid))?;
    let path = cgroup::membership(pidfd::pid(peer.as_fd())?)?;
    let of = domain_by_root(root, &path)?.is_some_and(|found| found.driver == driver && Some(found.id) == state.id);
    Ok(of && pidfd::is_alive(peer.as_fd())?)
}

fn serve(stream: &UnixStream, mut session: Session) -> io::Result<()> {
    let mut lines = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut line = Vec::new();
        if (&mut lines).take(LONGEST).read_until(b'\n', &mut line)? == 0 || line.last() != Some(&b'\n') {
            return Ok(());
        }
        let answer = answer(&mut session, &line).unwrap_or_else(|error| error_json(&error));
        writer.write_all(format!("{answer}\n").as_bytes())?;
    }
}

/// The answer to one line.
fn answer(session: &mut Session, line: &[u8]) -> Result<Value, ClientError> {
    let known = "an object with one of alloc, free, verify, info";
    let malformed = |_| Refusal::invalid("line", String::from_utf8_lossy(line).trim_end(), known);
    let asked: serde_json::Map<String, Value> = serde_json::from_slice(line).map_err(malformed)?;
    let mut asked = asked.into_iter();
    let (Some((what, body)), None) = (asked.next(), asked.next()) else {
        return Err(Refusal::invalid("line", String::from_utf8_lossy(line).trim_end(), known).into());
    };
    match what.as_str() {
        "alloc" => call::<Alloc>(session, body),
        "free" => call::<Free>(session, body),
        "verify" => call::<Verify>(session, body),
        "info" => call::<Info>(session, body),
        other => Err(Refusal::invalid("line", other, known).into()),
    }
}

fn call<C: Call>(session: &mut Session, body: Value) -> Result<Value, ClientError> {
    let text = body.to_string();
    let call: C = serde_json::from_value(body).map_err(|error| Refusal::invalid("line", text, error.to_string()))?;
    Ok(serde_json::to_value(session.call(&call)?).unwrap_or_default())
}

fn error_json(error: &ClientError) -> Value {
    match error {
        ClientError::Refused(refusal) => refusal_to_json(refusal),
        other => json!({"error": FAULT_NAME, "errno": FAULT_ERRNO_NAME, "message": other.to_string()}),
    }
}
