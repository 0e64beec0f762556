//! A service whose state directory is small enough to be filled.

use super::{Daemon, Options};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Starts a service whose state directory is a file system of 2 MiB of its own.
pub fn start(policy: &str, options: Options) -> Daemon {
    // The directory is known when the service starts, so the script finds it among the arguments.
    let script = r#"d=; for w in "$@"; do [ "$d" = --runtime-dir ] && STATE=$w/state; d=$w; done
        mkdir -p "$STATE" && mount -t tmpfs -o size=2m,mode=0700 tmpfs "$STATE" && exec "$@""#;
    let through = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"].map(str::to_owned);
    Daemon::start_with(policy, &Options { through: through.to_vec(), ..options })
}

/// Fills its state directory to the last byte with one file, which it gives.
pub fn fill(daemon: &Daemon) -> PathBuf {
    let path = state_of(daemon).join("ballast");
    let mut file = fs::File::create(&path).unwrap();
    for size in [1 << 16, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    path
}

/// Its state directory, by the service's root.
fn state_of(daemon: &Daemon) -> PathBuf {
    let state = daemon.runtime_dir().join("state");
    Path::new("/proc").join(daemon.pid().to_string()).join("root").join(state.strip_prefix("/").unwrap())
}
