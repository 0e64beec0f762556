//! The cgroup files against a constant file of an equal server: the same channel, the same loop, no values.
//!
//! `cargo bench --bench files [-- --json]`, as root. Rounds of ours and of the constant take turns; the figure is the
//! median round. All on one core: where a server woken on another is far away, that decides, and nothing else. `list_10000` is seconds, beside the kernel's own cgroup files of the same directories.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ioasid::sys::cgroup::Root;
use ioasid::sys::fuse::{Attributes, Channel, Message, Request, abi, mount, parse, send, try_receive, unmount};
use ioasid::sys::readiness::Registered;
use std::fs::{self, File};
use std::hint::black_box;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Instant;

const ROUNDS: usize = 41;
const TIMES: u32 = 500;
const MANY: usize = 10_000;
const POLICY: &str = "version = 1\n[[rule]]\nname = \"all\"\ncgroup = \"/**\"\nusers = [\"*\"]\naction = \"allow\"\n";

fn main() {
    let mut first = nix::sched::CpuSet::new();
    first.set(0).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &first).unwrap();
    let scratch = Scratch::new();
    let ours = scratch.files.join("ioasids.current");
    let constant = scratch.constant.path().join("d/constant");
    let mut results = vec![compare("file_read", || read_whole(&ours), || read_whole(&constant), 1.5), {
        let (ours, constant) = (File::open(&ours).unwrap(), File::open(&constant).unwrap());
        compare("file_pread", || read_at_start(&ours), || read_at_start(&constant), 1.5)
    }];
    results.push(list(&scratch));
    if std::env::args().any(|arg| arg == "--json") {
        println!("{}", serde_json::json!({ "results": results }));
        return;
    }
    for result in results {
        println!(
            "{:<12} {:>12.0} ns   limit {:>12.0} ns   ratio {:.2} (goal {})",
            result["name"].as_str().unwrap(),
            result["median_ns"].as_f64().unwrap(),
            result["limit_ns"].as_f64().unwrap(),
            result["ratio"].as_f64().unwrap(),
            result["goal"]
        );
    }
}

fn read_whole(path: &Path) {
    black_box(fs::read(path).unwrap());
}

fn read_at_start(file: &File) {
    black_box(file.read_at(&mut [0; 64], 0).unwrap());
}

fn compare(name: &str, ours: impl Fn(), limit: impl Fn(), goal: f64) -> serde_json::Value {
    let round = |work: &dyn Fn()| {
        let begun = Instant::now();
        (0..TIMES).for_each(|_| work());
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES)
    };
    let (mut a, mut b): (Vec<f64>, Vec<f64>) = (0..ROUNDS).map(|_| (round(&ours), round(&limit))).unzip();
    result(name, median(&mut a), median(&mut b), goal.to_string())
}

fn result(name: &str, ns: f64, limit: f64, goal: String) -> serde_json::Value {
    serde_json::json!({"name": name, "median_ns": ns, "limit_ns": limit, "ratio": ns / limit, "goal": goal})
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// `ls -l` of 10,000 cgroups, and a walk that reads each directory.
fn list(scratch: &Scratch) -> serde_json::Value {
    for number in 0..MANY {
        fs::create_dir(scratch.cgroup.join(format!("c{number}"))).unwrap();
    }
    let walk = |top: &Path| {
        let begun = Instant::now();
        let found = fs::read_dir(top).unwrap().filter(|entry| entry.as_ref().unwrap().metadata().is_ok()).count();
        assert!(found >= MANY);
        begun.elapsed().as_secs_f64() * 1e9
    };
    let mut ours: Vec<f64> = (0..5).map(|_| walk(&scratch.files)).collect();
    let mut kernels: Vec<f64> = (0..5).map(|_| walk(&scratch.cgroup)).collect();
    result("list_10000", median(&mut ours), median(&mut kernels), "1 s".to_owned())
}

/// A service, a cgroup of this process, and a server of one constant file.
struct Scratch {
    child: Child,
    directory: tempfile::TempDir,
    cgroup: PathBuf,
    files: PathBuf,
    constant: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let root = Root::find(None).unwrap();
        let cgroup = root.mount_point().join(format!("ioasid-bench-{}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("policy.toml"), POLICY).unwrap();
        let run = directory.path().join("run");
        let child = Command::new(env!("CARGO_BIN_EXE_ioasidd"))
            .args(["--bus", "none", "--device", "none", "--policy"])
            .arg(directory.path().join("policy.toml"))
            .arg("--runtime-dir")
            .arg(&run)
            .env("IOASIDD_LOG", "warn")
            .spawn()
            .unwrap();
        let files = run.join("cgroup").join(cgroup.file_name().unwrap());
        while !files.join("ioasids.current").exists() {
            std::thread::yield_now();
        }
        let constant = tempfile::tempdir().unwrap();
        let channel = mount(constant.path()).unwrap();
        std::thread::spawn(move || serve_constant(channel));
        Self { child, directory, cgroup, files, constant }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        unmount(self.constant.path()).unwrap();
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
        for entry in fs::read_dir(&self.cgroup).unwrap().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = fs::remove_dir(entry.path());
            }
        }
        let _ = fs::remove_dir(&self.cgroup);
        let _ = self.directory.path();
    }
}

/// One directory with one file that says `0`: the least that a server of files can do.
fn serve_constant(channel: Channel) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let channel = Registered::for_reading(channel.into()).unwrap();
        let mut buffer = vec![0; Channel::BUFFER];
        while let Ok(length) = channel.read(|fd| try_receive(fd, &mut buffer)).await {
            if let Some(reply) = constant(&buffer[..length]) {
                send(channel.as_fd(), &reply).unwrap();
            }
        }
    });
}

fn constant(message: &[u8]) -> Option<Message> {
    let (header, request) = parse(message).unwrap();
    let unique = header.unique;
    let node = |number| {
        let mode = if number == 3 { 0o100_444 } else { 0o040_555 };
        Attributes {
            inode: number,
            mode,
            links: 1,
            uid: 0,
            gid: 0,
            size: if number == 3 { 2 } else { 0 },
            changed: (0, 0),
        }
    };
    Some(match request {
        Request::Init(offer) => Message::init(unique, offer),
        Request::Lookup(name) if name == "d" => Message::entry(unique, 2, &node(2)),
        Request::Lookup(name) if name == "constant" => Message::entry(unique, 3, &node(3)),
        Request::Lookup(_) => Message::error(unique, 2),
        Request::Getattr => {
            Message::attributes_of(unique, &node(header.node), u64::from(header.node == abi::ROOT_NODE))
        }
        Request::Open { .. } => Message::opened(unique, 1, abi::OPEN_DIRECT_IO),
        Request::Read(window) => Message::data(unique, if window.offset == 0 { b"0\n" } else { b"" }),
        Request::Release { .. } => Message::done(unique),
        Request::Forget | Request::Interrupt { .. } | Request::Destroy => return None,
        _ => Message::error(unique, 38),
    })
}
