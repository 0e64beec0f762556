//! Real peers: processes in scratch cgroups, at sockets and behind pidfds.

use super::*;
use crate::sys::cgroup::scratch::Scratch;
use crate::sys::pidfd::Offer;
use crate::sys::{listener, seqpacket};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

fn host(offer: Offer) -> Host {
    Host { offer, ..Host::find(None, None).unwrap() }
}

fn offers() -> [Offer; 2] {
    [Offer::of_this_kernel(), Offer::NONE]
}

/// A process that waits to be killed, and is at the end.
struct Waiter(Child);

impl Waiter {
    fn new(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn sleep() -> Self {
        Self::new(Command::new("sleep").arg("1000"))
    }

    fn peer(&self, uid: u32, host: &Host) -> Peer {
        Peer::of_pidfd(pidfd::open(self.0.id()).unwrap(), uid, host).unwrap()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn who_connects_is_known_by_its_process() {
    for offer in offers() {
        let host = host(offer);
        let (a, _b) = seqpacket::pair().unwrap();
        let peer = Peer::of_socket(a.as_fd(), &host).unwrap();
        assert_eq!((peer.pid, peer.uid), (std::process::id(), 0));
        assert_eq!(peer.cgroup(&host).unwrap().path, membership(peer.pid).unwrap());
        assert!(peer.is_administrator() && peer.is_alive());
    }
}

#[test]
fn a_peer_is_followed_when_it_moves() {
    for offer in offers() {
        let (host, scratch) = (host(offer), Scratch::new());
        let waiter = Waiter::sleep();
        let peer = waiter.peer(0, &host);
        for name in ["a", "b (deleted)"] {
            let path = scratch.child(name);
            scratch.join(&path, peer.pid);
            for _ in 0..2 {
                let located = peer.cgroup(&host).unwrap();
                assert_eq!((&located.path, located.id), (&path, scratch.root.id_of(&path).unwrap()));
                assert_eq!(located.lineage.len(), 3);
            }
        }
        drop(waiter);
        assert_eq!(peer.cgroup(&host).unwrap_err().refusal(), Some(&gone()));
    }
}

#[test]
fn a_process_in_a_threaded_cgroup_is_charged_to_the_domain() {
    for offer in offers() {
        let (host, scratch) = (host(offer), Scratch::new());
        let inner = scratch.child("inner");
        let waiter = Waiter::sleep();
        let peer = waiter.peer(0, &host);
        std::fs::write(scratch.directory(&inner).join("cgroup.type"), "threaded").unwrap();
        scratch.join(&inner, peer.pid);
        assert_eq!(peer.cgroup(&host).unwrap().path, scratch.path);
    }
}

#[test]
fn a_cgroup_made_threaded_while_its_process_was_away_is_noticed() {
    for offer in offers() {
        let (host, scratch) = (host(offer), Scratch::new());
        let (inner, aside) = (scratch.child("inner"), Scratch::new());
        let waiter = Waiter::sleep();
        let peer = waiter.peer(0, &host);
        scratch.join(&inner, peer.pid);
        assert_eq!(peer.cgroup(&host).unwrap().path, inner);
        aside.join(&aside.path, peer.pid);
        std::fs::write(scratch.directory(&inner).join("cgroup.type"), "threaded").unwrap();
        scratch.join(&inner, peer.pid);
        assert_eq!(peer.cgroup(&host).unwrap().path, scratch.path);
    }
}

#[test]
fn the_dead_are_refused() {
    for offer in offers() {
        let host = host(offer);
        let waiter = Waiter::sleep();
        let pid = waiter.0.id();
        let pinned = pidfd::open(pid).unwrap();
        drop(waiter);
        assert_eq!(Peer::of_pidfd(pinned, 0, &host).unwrap_err().refusal(), Some(&gone()));
        assert_eq!(Peer::of_pid(pid, 0, &host).unwrap_err().refusal(), Some(&gone()));
    }
}

#[test]
fn only_root_with_the_capability_in_the_initial_namespace_is_privileged() {
    let host = host(Offer::of_this_kernel());
    let cases: [(&[&str], bool); 4] = [
        (&["--clear-groups"], true),
        (&["--bounding-set", "-sys_admin"], false),
        (&["--reuid", "65534", "--clear-groups"], false),
        (&["--inh-caps", "-all", "--bounding-set", "-all"], false),
    ];
    for (options, expected) in cases {
        let waiter = Waiter::new(Command::new("setpriv").args(options).args(["sleep", "1000"]));
        wait_for_exec(waiter.0.id(), "sleep");
        assert_eq!(waiter.peer(0, &host).is_administrator(), expected, "{options:?}");
        assert!(!waiter.peer(65534, &host).is_administrator(), "told another uid");
    }
    let waiter = Waiter::new(Command::new("unshare").args(["-Ur", "sleep", "1000"]));
    wait_for_exec(waiter.0.id(), "sleep");
    assert!(!waiter.peer(0, &host).is_administrator(), "root of another user namespace");
    let own = Host { administrator_uid: Some(1000), ..host };
    assert!(waiter.peer(1000, &own).is_administrator() && !waiter.peer(0, &own).is_administrator());
}

#[test]
fn who_gave_its_privileges_up_is_no_administrator_any_more() {
    let host = host(Offer::of_this_kernel());
    let mut given_up = Command::new("sh");
    given_up.args(["-c", "read _; exec setpriv --reuid 65534 --clear-groups sleep 1000"]).stdin(Stdio::piped());
    let mut waiter = Waiter::new(&mut given_up);
    let peer = waiter.peer(0, &host);
    assert!(peer.is_administrator());
    waiter.0.stdin.take().unwrap().write_all(b"\n").unwrap();
    wait_for_exec(waiter.0.id(), "sleep");
    assert!(!peer.is_administrator(), "it was, when it was pinned");
}

fn wait_for_exec(pid: u32, name: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim() != name {
        assert!(std::time::Instant::now() < deadline, "no exec");
        std::thread::yield_now();
    }
}

#[test]
fn another_user_at_the_socket_is_that_user() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(65534), None).unwrap();
    let path = dir.path().join("s");
    let listener = listener::Listener::bind(&path, 0o666).unwrap();
    let code = "import socket,sys,time\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ns.connect(sys.argv[1])\ns.recv(1)";
    let setpriv = ["--reuid", "65534", "--regid", "65533", "--groups", "7,9", "/usr/bin/python3", "-c", code];
    let waiter = Waiter::new(Command::new("setpriv").args(setpriv).arg(&path));
    let deadline = Some(std::time::Instant::now() + std::time::Duration::from_secs(10));
    let served = listener.accept(deadline).unwrap();
    for offer in offers() {
        let host = host(offer);
        let peer = Peer::of_socket(served.as_fd(), &host).unwrap();
        assert_eq!((peer.pid, peer.uid, peer.gid), (waiter.0.id(), 65534, 65533));
        assert_eq!(peer.groups, [7, 9]);
        assert!(!peer.is_administrator());
    }
    drop(waiter);
    for offer in offers() {
        let refused = Peer::of_socket(served.as_fd(), &host(offer)).unwrap_err();
        assert_eq!(refused.refusal(), Some(&gone()), "{offer:?}");
    }
}

#[test]
fn a_peer_that_moves_all_the_time_is_never_misplaced() {
    for offer in offers() {
        let (host, scratch) = (host(offer), Scratch::new());
        let (a, b) = (scratch.child("a"), scratch.child("b"));
        let waiter = Waiter::sleep();
        scratch.join(&a, waiter.0.id());
        let peer = Arc::new(waiter.peer(0, &host));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..200 {
                    scratch.join(if round % 2 == 0 { &b } else { &a }, peer.pid);
                }
            });
            for _ in 0..500 {
                match peer.cgroup(&host) {
                    Ok(located) => assert_eq!(located.id, scratch.root.id_of(&located.path).unwrap()),
                    Err(failure) => assert!(matches!(failure.refusal(), Some(Refusal::Stale { .. })), "{failure}"),
                }
            }
        });
    }
}
