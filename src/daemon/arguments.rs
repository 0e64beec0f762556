//! `ioasidd`'s command line.

use clap::{Parser, ValueEnum};
use std::path::{Path, PathBuf};

/// Shares out PASIDs on this host: per-cgroup quotas, sets held as file descriptors.
#[derive(Clone, Debug, Parser)]
#[command(name = "ioasidd", version, about, max_term_width = 100)]
pub struct Arguments {
    /// Read this policy file alone, instead of /etc/ioasidd/policy.toml and its drop-ins
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// Where the socket, the records and the cgroup files are [default: /run/ioasidd]
    #[arg(long, value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,

    /// The bus to be on: system, session, none, or an address [default: system; with --user none]
    #[arg(long, value_name = "BUS")]
    pub bus: Option<String>,

    /// The cgroup2 hierarchy [default: found in /proc/self/mountinfo]
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,

    /// What stands behind /dev/ioasid
    #[arg(long, value_enum, default_value_t = DeviceKind::Auto)]
    pub device: DeviceKind,

    /// The device node
    #[arg(long, value_name = "PATH", default_value = "/dev/ioasid")]
    pub device_path: PathBuf,

    /// Where the cgroup files are mounted, or none [default: cgroup below the runtime directory]
    #[arg(long, value_name = "DIR")]
    pub cgroup_fs: Option<PathBuf>,

    /// Be the small parent that keeps the descriptors where no service manager does
    #[arg(long)]
    pub supervise: bool,

    /// Do for a service in a sandbox what takes more than it may; started by ioasidd-outside.socket
    #[arg(long)]
    pub outside: bool,

    /// Serve this user alone, unprivileged, below $XDG_RUNTIME_DIR/ioasidd
    #[arg(long)]
    pub user: bool,

    /// Write nothing down: the sets end with this process. For the benchmark that tells what writing costs
    #[arg(long, hide = true)]
    pub volatile: bool,

    /// Check the policy and the host, say what is wrong, and end
    #[arg(long)]
    pub check: bool,
}

/// What stands behind `/dev/ioasid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceKind {
    /// The kernel's device where there is one, else CUSE where the kernel offers it, else none
    Auto,
    /// A device of ours, by CUSE
    Cuse,
    /// A kernel that has its own: ids come from there
    Kernel,
    /// No device
    None,
}

/// Which bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bus {
    /// The system bus.
    System,
    /// The session bus.
    Session,
    /// None.
    None,
    /// One at this address.
    At(String),
}

impl Arguments {
    /// The policy file, absolute: who is told of it later sits in another directory.
    pub fn policy(&self) -> Option<PathBuf> {
        // Only an empty path has no absolute one; reading it says what is wrong.
        self.policy.as_ref().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()))
    }

    /// The runtime directory; a fault of the invocation where `--user` has none.
    pub fn runtime_dir(&self) -> Result<PathBuf, String> {
        match (&self.runtime_dir, self.user) {
            (Some(dir), _) => Ok(dir.clone()),
            (None, false) => Ok(PathBuf::from("/run/ioasidd")),
            (None, true) => match std::env::var_os("XDG_RUNTIME_DIR") {
                Some(dir) if Path::new(&dir).is_absolute() => Ok(Path::new(&dir).join("ioasidd")),
                _ => Err("--user takes XDG_RUNTIME_DIR, or --runtime-dir DIR".to_owned()),
            },
        }
    }

    /// The bus.
    pub fn bus(&self) -> Bus {
        match self.bus.as_deref() {
            None if self.user => Bus::None,
            None | Some("system") => Bus::System,
            Some("session") => Bus::Session,
            Some("none") => Bus::None,
            Some(address) => Bus::At(address.to_owned()),
        }
    }

    /// Where the cgroup files are mounted, if anywhere.
    pub fn cgroup_fs(&self, runtime_dir: &Path) -> Option<PathBuf> {
        match &self.cgroup_fs {
            Some(dir) if dir.as_os_str() == "none" => None,
            Some(dir) => Some(dir.clone()),
            None if self.user => None,
            None => Some(runtime_dir.join("cgroup")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn buses_are_told_apart() {
        let bus = |args: &[&str]| Arguments::try_parse_from([&["ioasidd"], args].concat()).unwrap().bus();
        assert_eq!(bus(&[]), Bus::System);
        assert_eq!(bus(&["--user"]), Bus::None);
        assert_eq!(bus(&["--bus", "none"]), Bus::None);
        assert_eq!(bus(&["--bus", "unix:path=/x"]), Bus::At("unix:path=/x".into()));
    }
}
