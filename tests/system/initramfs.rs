//! The initramfs: the service, the checks and what they call, as the kernel unpacks it.

use super::{output, which};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The files of an initramfs, by path.
#[derive(Default)]
pub struct Files(BTreeMap<String, (u32, Vec<u8>)>);

impl Files {
    /// What every machine has: init, busybox, two users, the service and the checks.
    pub fn with_checks() -> Result<Self, String> {
        let mut files = Self::default();
        files.put("/init", 0o755, include_bytes!("init.sh").to_vec());
        files.put(
            "/etc/passwd",
            0o644,
            b"root:x:0:0::/:/bin/sh\nann:x:1001:1001::/:/bin/sh\nbob:x:1002:1002::/:/bin/sh\n".to_vec(),
        );
        files.put("/etc/group", 0o644, b"root:x:0:\nann:x:1001:\nbob:x:1002:\n".to_vec());
        files.tool("/bin/busybox", "busybox")?;
        // Busybox's shell runs its own applets first, and its setpriv sets no uid.
        for tool in ["sh", "setpriv", "unshare"] {
            files.tool(&format!("/usr/bin/{tool}"), tool)?;
        }
        // Where the tests look for them.
        for program in [env!("CARGO_BIN_EXE_ioasidd"), env!("CARGO_BIN_EXE_ioasidctl")] {
            files.program(program, Path::new(program))?;
        }
        files.program("/bin/checks", &std::env::current_exe().map_err(|e| e.to_string())?)?;
        Ok(files)
    }

    /// A program of this host.
    pub fn tool(&mut self, path: &str, name: &str) -> Result<(), String> {
        self.program(path, &which(name).ok_or(format!("{name} is not installed"))?)
    }

    /// A directory of this host and all below it, links left out.
    pub fn tree(&mut self, directory: &Path) -> Result<(), String> {
        let read = |e: std::io::Error| format!("{}: {e}", directory.display());
        for entry in fs::read_dir(directory).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.is_symlink() {
                continue;
            }
            match path.is_dir() {
                true => self.tree(&path)?,
                false => self.put(&path.to_string_lossy(), 0o644, fs::read(&path).map_err(read)?),
            }
        }
        Ok(())
    }

    pub fn put(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        for (at, _) in path.match_indices('/').skip(1) {
            self.0.entry(path[..at].to_owned()).or_insert((0o40_755, Vec::new()));
        }
        self.0.insert(path.to_owned(), (0o100_000 | mode, content));
    }

    /// A program without its debug information, and the libraries it names.
    fn program(&mut self, path: &str, from: &Path) -> Result<(), String> {
        let stripped = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
        output(Command::new("strip").arg("-o").arg(stripped.path()).arg(from))?;
        self.put(path, 0o755, fs::read(stripped.path()).map_err(|e| e.to_string())?);
        // It fails for a static program, which needs none.
        let libraries = output(Command::new("ldd").arg(from)).unwrap_or_default();
        for library in String::from_utf8_lossy(&libraries).split_whitespace().filter(|word| word.starts_with('/')) {
            self.put(library, 0o755, fs::read(library).map_err(|e| format!("{library}: {e}"))?);
        }
        Ok(())
    }

    /// The archive: cpio's "new ASCII" format, `Documentation/driver-api/early-userspace/buffer-format.rst`.
    pub fn archive(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let console = ("/dev/console".to_owned(), (0o20_600, Vec::new()));
        let dev = ("/dev".to_owned(), (0o40_755, Vec::new()));
        let files = self.0.iter().map(|(path, file)| (path.clone(), file.clone()));
        for (number, (path, (mode, content))) in [dev, console].into_iter().chain(files).enumerate() {
            let (major, minor) = if mode == 0o20_600 { (5, 1) } else { (0, 0) };
            entry(&mut bytes, number + 1, path.trim_start_matches('/'), mode, (major, minor), &content);
        }
        entry(&mut bytes, 0, "TRAILER!!!", 0, (0, 0), &[]);
        bytes
    }
}

fn entry(bytes: &mut Vec<u8>, inode: usize, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
    let fields = [
        inode,
        mode as usize,
        0,
        0,
        1,
        0,
        content.len(),
        0,
        0,
        device.0 as usize,
        device.1 as usize,
        name.len() + 1,
        0,
    ];
    bytes.extend(b"070701");
    for field in fields {
        bytes.extend(format!("{field:08x}").bytes());
    }
    bytes.extend(name.bytes().chain([0]));
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
