//! The cgroups that libvirt makes, and which domain they are.
//!
//! With systemd-machined a domain is `machine-qemu\x2d1\x2dNAME.scope`, the dashes of the machine's name escaped as
//! systemd.unit(5) says; without, `qemu-1-NAME.libvirt-qemu`, with a `_` before it where the name would look like a
//! file of the kernel's. Below come `libvirt`, `emulator`, `vcpu0`; whatever is below is the domain's.
//!
//! A name alone proves nothing: a user calls what is below a cgroup that was delegated to him as he likes. libvirtd makes
//! the cgroups of domains as root, where root alone can make any.

use crate::model::CgroupPath;
use crate::sys::cgroup::Root;
use std::io;

/// How deep below the root a domain's cgroup is looked for.
const DEPTH: usize = 6;

/// A domain by its cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DomainCgroup {
    /// Its cgroup, without what is below it.
    pub cgroup: CgroupPath,
    /// `qemu` or `lxc`.
    pub driver: String,
    /// Its number.
    pub id: u64,
}

/// The domain that a cgroup belongs to; `None` for one that is no domain's.
///
/// The outermost level decides: what a domain calls the cgroups inside its own does not make it another.
pub(super) fn domain_of(path: &CgroupPath) -> Option<DomainCgroup> {
    let mut above: Vec<CgroupPath> = path.lineage().collect();
    above.reverse();
    above.into_iter().find_map(|cgroup| {
        let (driver, id) = parse_name(cgroup.name()?)?;
        Some(DomainCgroup { cgroup, driver, id })
    })
}

/// The domain that a cgroup belongs to by a name that root gave: all that is above is root's. (The domain's own may be a
/// container's root's, as libvirt does with `<idmap>`.)
pub(super) fn domain_by_root(root: &Root, path: &CgroupPath) -> io::Result<Option<DomainCgroup>> {
    let Some(found) = domain_of(path) else { return Ok(None) };
    for above in found.cgroup.lineage().skip(1) {
        if root.open(&above)?.owner()? != 0 {
            return Ok(None);
        }
    }
    Ok(Some(found))
}

/// Driver and number from the name of a domain's cgroup.
fn parse_name(name: &str) -> Option<(String, u64)> {
    let machine = match name.strip_prefix("machine-").and_then(|rest| rest.strip_suffix(".scope")) {
        Some(escaped) => (unescape(escaped), None),
        None => {
            let (machine, suffix) = name.strip_prefix('_').unwrap_or(name).rsplit_once(".libvirt-")?;
            (machine.to_owned(), Some(suffix))
        }
    };
    let (machine, suffix) = machine;
    let (driver, rest) = machine.split_once('-')?;
    let (id, name) = rest.split_once('-').unwrap_or((rest, "-"));
    let known = matches!(driver, "qemu" | "lxc") && suffix.is_none_or(|suffix| suffix == driver) && !name.is_empty();
    let number = id.bytes().all(|digit| digit.is_ascii_digit()).then(|| id.parse().ok()).flatten();
    number.filter(|_| known).map(|id| (driver.to_owned(), id))
}

/// `\x2d` and its likes undone.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (plain, escaped) = rest.split_once("\\x").unwrap_or((rest, ""));
        bytes.extend_from_slice(plain.as_bytes());
        rest = match escaped.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                escaped.get(2..).unwrap_or_default()
            }
            None => escaped,
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The cgroup of a domain that runs.
pub(super) fn find(root: &Root, driver: &str, id: u64) -> Option<CgroupPath> {
    let mut level = vec![CgroupPath::root()];
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for parent in level {
            for child in children(root, &parent) {
                match domain_of(&child) {
                    Some(found) if found.driver == driver && found.id == id => return Some(found.cgroup),
                    // Somebody else's: nothing below it is ours.
                    Some(_) => {}
                    None => next.push(child),
                }
            }
        }
        level = next;
    }
    None
}

/// Those that root made: nobody else's name a domain.
fn children(root: &Root, parent: &CgroupPath) -> Vec<CgroupPath> {
    if !root.open(parent).and_then(|directory| directory.owner()).is_ok_and(|owner| owner == 0) {
        return Vec::new();
    }
    // Cgroups come and go: one that cannot be read is gone.
    let Ok(entries) = std::fs::read_dir(root.mount_point().join(parent.relative())) else { return Vec::new() };
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.filter_map(|entry| parent.child(entry.file_name().to_str()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Option<(String, String, u64)> {
        let found = domain_of(&path.parse().unwrap())?;
        Some((found.cgroup.as_str().to_owned(), found.driver, found.id))
    }

    #[test]
    fn every_form_and_what_is_below_it_is_the_domain() {
        for (path, cgroup, driver, id) in [
            (r"/machine.slice/machine-qemu\x2d1\x2dtiny.scope", 1, "qemu", 1),
            (r"/machine.slice/machine-qemu\x2d12\x2da\x2db.c.scope/libvirt/emulator", 1, "qemu", 12),
            (r"/machine.slice/machine-lxc\x2d20186\x2dtinyc.scope/libvirt", 1, "lxc", 20186),
            ("/machine/qemu-1-tiny.libvirt-qemu/emulator", 1, "qemu", 1),
            ("/machine/qemu-3-my-long-name.libvirt-qemu/vcpu0", 1, "qemu", 3),
            ("/machine/lxc-20186-tinyc.libvirt-lxc", 1, "lxc", 20186),
            ("/machine/web.partition/_qemu-4-x.libvirt-qemu", 2, "qemu", 4),
            (r"/a.slice/machine.slice/machine-qemu\x2d5\x2dn.scope/libvirt/vcpu1", 2, "qemu", 5),
        ] {
            let levels: Vec<&str> = path.split('/').take(cgroup + 2).collect();
            assert_eq!(of(path), Some((levels.join("/"), driver.to_owned(), id)), "{path}");
        }
    }

    #[test]
    fn others_are_no_domains() {
        for path in [
            "/",
            "/machine.slice",
            "/machine/emulator",
            r"/machine.slice/machine-web\x2d1.scope",
            "/machine.slice/machine-qemu.scope",
            r"/machine.slice/machine-qemu\x2dx\x2dtiny.scope",
            "/machine/qemu-1-tiny.libvirt-lxc",
            "/machine/qemu-+1-tiny.libvirt-qemu",
            "/user.slice/qemu-1-tiny",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
    }

    #[test]
    fn a_domain_cannot_call_itself_another() {
        let (cgroup, _, id) = of(r"/machine/lxc-5-c.libvirt-lxc/machine-qemu\x2d1\x2dtiny.scope").unwrap();
        assert_eq!((cgroup.as_str(), id), ("/machine/lxc-5-c.libvirt-lxc", 5));
    }

    #[test]
    fn a_user_cannot_call_a_cgroup_of_his_a_domain() {
        let scratch = crate::sys::cgroup::scratch::Scratch::new();
        let name = r"machine-qemu\x2d987654321\x2dtiny.scope";
        let made = scratch.child(name);
        let below = made.child("libvirt").unwrap();
        std::fs::create_dir(scratch.directory(&below)).unwrap();
        let found = domain_by_root(&scratch.root, &below).unwrap().unwrap();
        assert_eq!((found.cgroup, find(&scratch.root, "qemu", 987_654_321)), (made.clone(), Some(made.clone())));
        let own = |path: &CgroupPath, uid| {
            std::os::unix::fs::chown(scratch.directory(path), Some(uid), None).unwrap();
        };
        own(&made, 65534);
        assert!(domain_by_root(&scratch.root, &below).unwrap().is_some(), "a container's own");
        own(&scratch.path, 65534);
        assert_eq!(domain_by_root(&scratch.root, &below).unwrap(), None);
        assert_eq!(find(&scratch.root, "qemu", 987_654_321), None);
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        assert_eq!(unescape(r"a\x2db\x"), "a-b");
        assert_eq!(unescape(r"\xzz"), "zz");
    }
}
