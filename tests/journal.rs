//! The journal: each kind of event with its id and its fields, and nothing while all is well.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Actor, Cgroups, Daemon, Options, deadline, eventually};
use ioasid::model::SetRequest;
use ioasid::proto::{Recharge, ResetPeak, RevokeSet, SetCgroupMax, message_ids as ids};
use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use tempfile::TempDir;

/// A socket where the service, in a mount namespace of its own, finds `/run/systemd/journal/socket`.
struct Journal {
    directory: TempDir,
    socket: UnixDatagram,
}

type Entry = BTreeMap<String, String>;

impl Journal {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("socket")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { directory, socket }
    }

    /// A service that logs here.
    fn daemon(&self, policy: &str, level: Option<&str>) -> Daemon {
        let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
            mount --bind \"$0\" /run/systemd/journal && exec \"$@\"";
        let through = ["unshare", "-m", "sh", "-c", script, self.directory.path().to_str().unwrap()];
        let mut environment = vec![("JOURNAL_STREAM".to_owned(), "1:2".to_owned())];
        environment.push(("IOASIDD_LOG".to_owned(), level.unwrap_or("info").to_owned()));
        let through = through.map(str::to_owned).to_vec();
        Daemon::start_with(policy, &Options { through, environment, ..Options::default() })
    }

    /// The next entry, if there is one by now.
    fn next(&self) -> Option<Entry> {
        let mut buffer = [0; 1 << 16];
        loop {
            // An empty one is a knock on the door: is the journal there?
            match self.socket.recv(&mut buffer).ok()? {
                0 => {}
                length => return Some(entry(&buffer[..length])),
            }
        }
    }

    /// The next entry of this kind.
    fn await_kind(&self, id: &str) -> Entry {
        let deadline = deadline();
        let mut others = Vec::new();
        eventually("an entry", || {
            let entry = self.next()?;
            assert!(std::time::Instant::now() < deadline);
            if entry.get("MESSAGE_ID").is_some_and(|found| found == id) {
                return Some(entry);
            }
            others.push(entry);
            None
        })
    }
}

/// The fields of an entry in journald's native protocol: `NAME=text`, or a name, 8 bytes of length and the bytes.
fn entry(mut bytes: &[u8]) -> Entry {
    let mut fields = Entry::new();
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes = &bytes[end + 1..];
        if let Some((name, value)) = line.split_once('=') {
            fields.insert(name.to_owned(), value.to_owned());
        } else {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            fields.insert(line, String::from_utf8_lossy(&bytes[8..8 + length]).into_owned());
            bytes = &bytes[8 + length + 1..];
        }
    }
    fields
}

fn policy(cgroups: &Cgroups) -> String {
    format!(
        r#"
        version = 1
        [space]
        bits = 12
        quarantine = "0s"
        [[cgroup]]
        path = "{scratch}/guest"
        max = 4
        [[rule]]
        name = "tests"
        cgroup = "{scratch}/**"
        users = ["*"]
        action = "allow"
        quota = {{ default = 16, max = 64 }}
        "#,
        scratch = cgroups.path("")
    )
}

fn has(entry: &Entry, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        assert_eq!(entry.get(*name).map(String::as_str), Some(*value), "{name} in {entry:?}");
    }
    assert!(entry.contains_key("MESSAGE") && entry.contains_key("PRIORITY"), "{entry:?}");
    assert_eq!(entry.get("SYSLOG_IDENTIFIER").map(String::as_str), Some("ioasidd"));
}

#[test]
fn nothing_is_told_while_all_is_well() {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let journal = Journal::new();
    let mut daemon = journal.daemon(&policy(&cgroups), None);
    let actor = Actor::new(&cgroups, "guest");
    let wire = actor.connect(&daemon);
    let (set, info) = wire.create_set(SetRequest::default()).unwrap();
    let mut session = set.session().unwrap();
    let pasids = session.alloc_many(4, None).unwrap();
    session.free(&pasids).unwrap();
    // What a client is refused, but for a limit, is the client's to tell.
    session.alloc_many(17, None).unwrap_err();
    wire.ask(&ioasid::proto::ShowSet { set: info.set.0 + 1 }).unwrap_err();
    drop((session, set, wire, actor));
    eventually("the set is gone", || daemon.sets().is_empty().then_some(()));
    assert!(daemon.terminate().success());
    assert_eq!(journal.next(), None);
    assert_eq!(daemon.log(), "");
}

#[test]
fn without_a_journal_a_line_is_its_message() {
    let cgroups = Cgroups::new();
    let cgroup = String::from(cgroups.make("guest"));
    let environment = vec![("IOASIDD_LOG".to_owned(), "info".to_owned())];
    let daemon = Daemon::start_with(&policy(&cgroups), &common::Options { environment, ..common::Options::default() });
    daemon.connect().ask(&SetCgroupMax { cgroup: cgroup.clone(), max: "9".into(), persist: false }).unwrap();
    assert_eq!(daemon.log(), format!(" INFO ioasids.max of {cgroup} set to 9 by uid 0\n"));
    daemon.finish();
}

#[test]
fn each_kind_of_event_has_its_id_and_its_fields() {
    let cgroups = Cgroups::new();
    let (guest, other) = (cgroups.make("guest"), cgroups.make("other"));
    let journal = Journal::new();
    let mut daemon = journal.daemon(&policy(&cgroups), Some("debug"));
    daemon.may_warn();
    let actor = Actor::new(&cgroups, "guest");
    let (set, info) = actor.connect(&daemon).create_set(SetRequest::default()).unwrap();
    let number = info.set.to_string();
    let made = journal.await_kind(ids::SET_ADDED);
    has(&made, &[("IOASID_SET", &number), ("IOASID_CGROUP", guest.as_str()), ("IOASID_UID", "0"), ("PRIORITY", "6")]);

    let mut session = set.session().unwrap();
    for priority in ["5", "6"] {
        session.alloc_many(5, None).unwrap_err();
        let hit = journal.await_kind(ids::LIMIT_HIT);
        let fields = [("IOASID_CGROUP", guest.as_str()), ("IOASID_MAX", "4"), ("IOASID_ASKED", "5")];
        has(&hit, &fields);
        has(&hit, &[("IOASID_REQUESTER_CGROUP", guest.as_str()), ("PRIORITY", priority)]);
    }
    let admin = daemon.connect();
    let cgroup = guest.to_string();
    admin.ask(&SetCgroupMax { cgroup: cgroup.clone(), max: "9".into(), persist: false }).unwrap();
    let changed = journal.await_kind(ids::MAX_CHANGED);
    has(&changed, &[("IOASID_CGROUP", &cgroup), ("IOASID_MAX", "9"), ("IOASID_UID", "0")]);
    admin.ask(&ResetPeak { cgroup: cgroup.clone() }).unwrap();
    has(&journal.await_kind(ids::PEAK_RESET), &[("IOASID_CGROUP", &cgroup), ("IOASID_UID", "0")]);
    admin.ask(&Recharge { set: info.set.0, cgroup: other.to_string() }).unwrap();
    let moved = journal.await_kind(ids::RECHARGED);
    has(&moved, &[("IOASID_SET", &number), ("IOASID_FROM", &cgroup), ("IOASID_TO", other.as_str())]);
    admin.ask(&RevokeSet { set: info.set.0, reason: "a\nforged=line".into() }).unwrap_err();
    admin.ask(&RevokeSet { set: info.set.0, reason: "enough".into() }).unwrap();
    let revoked = journal.await_kind(ids::SET_REVOKED);
    has(&revoked, &[("IOASID_SET", &number), ("IOASID_REASON", "enough"), ("IOASID_UID", "0")]);
    drop((session, set, actor));
    has(&journal.await_kind(ids::SET_REMOVED), &[("IOASID_SET", &number), ("IOASID_REASON", "enough")]);

    daemon.signal("HUP");
    journal.await_kind(ids::POLICY_RELOADED);
    std::fs::write(daemon.policy_file(), "version = 2").unwrap();
    daemon.signal("HUP");
    let bad = journal.await_kind(ids::POLICY_BAD);
    has(&bad, &[("PRIORITY", "4")]);
    assert!(bad["MESSAGE"].contains("policy.toml:1"), "{}", bad["MESSAGE"]);
    drop(admin);
    daemon.finish();
}

#[test]
fn a_fault_that_ends_the_service_has_its_id() {
    let cgroups = Cgroups::new();
    let journal = Journal::new();
    let daemon = journal.daemon(&policy(&cgroups), None);
    let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
        mount --bind \"$0\" /run/systemd/journal && exec \"$@\"";
    let status = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .arg(journal.directory.path())
        .args([common::daemon::IOASIDD, "--bus", "none", "--policy", "/nonexistent/policy.toml", "--runtime-dir"])
        .arg(daemon.runtime_dir())
        .env("JOURNAL_STREAM", "1:2")
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    has(&journal.await_kind(ids::FAULT), &[("PRIORITY", "3")]);
    daemon.finish();
}

#[test]
fn journalctl_takes_the_catalog() {
    let root = tempfile::tempdir().unwrap();
    let (from, to) = (root.path().join("usr/lib/systemd/catalog"), root.path().join("var/lib/systemd/catalog"));
    std::fs::create_dir_all(&from).unwrap();
    std::fs::create_dir_all(&to).unwrap();
    let catalog = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/journal/ioasidd.catalog");
    std::fs::copy(catalog, from.join("ioasidd.catalog")).unwrap();
    let root = root.path().to_str().unwrap();
    let output = std::process::Command::new("journalctl").args(["--root", root, "--update-catalog"]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(to.join("database").metadata().unwrap().len() > 2048);
}
