//! The world that the controller is handed: the cgroup hierarchy, the policy's files, the devices.

use super::device::Backend;
use super::enforcement;
use super::privileged::{Privileged, functions};
use crate::controller::{Cgroups, PolicySource, World};
use crate::identity::Host;
use crate::model::{CgroupId, CgroupPath, Failure, Fault, Limit, MAX_BITS, Refusal};
use crate::policy::{self, HostAccounts, Policy, Problems, Sources};
use crate::proto::message_ids::POLICY_BAD;
use crate::sys::cgroup::{Kind, Root};
use crate::sys::pci::pasid_width_in;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

/// The real cgroup hierarchy.
pub(super) struct Hierarchy(pub(super) Arc<Root>);

/// `None` for what is not there, or is there no more. Whoever asks chooses the path: that it names nothing is no fault.
fn found<T>(result: std::io::Result<T>, path: &CgroupPath) -> Result<Option<T>, Fault> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error().is_some_and(|number| NOT_THERE.contains(&number)) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::from(error).while_doing(format!("look at cgroup {path}"))),
    }
}

/// `ENODEV`: a file of a cgroup that is just being removed. `ENOTDIR`: a name of the path is a file's. Longer names and
/// links there are none. Source: openat(2); the numbers are those of Linux.
const NOT_THERE: [i32; 2] = [19, 20];

impl Cgroups for Hierarchy {
    fn lineage(&self, path: &CgroupPath) -> Result<Option<Vec<(CgroupId, CgroupPath)>>, Fault> {
        found(self.0.charged_lineage(path), path)
    }

    fn below(&self, path: &CgroupPath, levels: usize) -> Result<Vec<Vec<(CgroupId, CgroupPath)>>, Fault> {
        let above = match found(self.0.charged_lineage(path), path)? {
            // A threaded cgroup is charged to one above it, and so is all below it.
            Some(lineage) if lineage.first().is_some_and(|(_, charged)| charged == path) => lineage,
            _ => return Ok(Vec::new()),
        };
        let deepest = above.len() + levels;
        let mut lineages = vec![above];
        let mut at = 0;
        while let Some(lineage) = lineages.get(at).cloned() {
            at += 1;
            if lineage.len() >= deepest {
                continue;
            }
            let Some((_, parent)) = lineage.first() else { continue };
            let Ok(directory) = self.0.open(parent) else { continue };
            for name in directory.children().unwrap_or_default() {
                let (Ok(path), Ok(child)) = (parent.child(&name), directory.child(&name)) else { continue };
                if let (Ok(id), Ok(Kind::Domain)) = (child.id(), child.kind()) {
                    lineages.push([vec![(id, path)], lineage.clone()].concat());
                }
            }
        }
        Ok(lineages)
    }

    fn is_alive(&self, path: &CgroupPath, id: CgroupId) -> bool {
        self.0.id_of(path).is_ok_and(|found| found == id)
    }

    fn owner(&self, path: &CgroupPath) -> Result<Option<u32>, Fault> {
        found(self.0.open(path).and_then(|directory| directory.owner()), path)
    }

    fn root(&self) -> CgroupId {
        self.0.id_of(&CgroupPath::root()).unwrap_or(CgroupId(1))
    }
}

/// The policy's files.
pub(super) struct PolicyFiles {
    sources: Sources,
}

impl PolicyFiles {
    pub(super) fn new(policy: Option<&Path>, user: Option<u32>) -> Self {
        let sources = match (policy, user) {
            (Some(file), _) => Sources::file(file),
            (None, Some(uid)) => Sources::embedded_user(uid),
            (None, None) => Sources::default_paths(),
        };
        Self { sources }
    }

    /// Reads and checks all of it.
    pub(super) fn read(&self) -> Result<Policy, Problems> {
        policy::load(&self.sources, &HostAccounts)
    }
}

impl PolicySource for PolicyFiles {
    fn load(&self) -> Result<Policy, Failure> {
        self.read().map_err(|problems| {
            tracing::warn!(
                MESSAGE_ID = POLICY_BAD,
                "the policy is bad and stays as it was:\n{}",
                problems.render(false)
            );
            Refusal::invalid("policy", problems.summary(), "a valid policy; `ioasidctl policy check` shows all of it")
                .into()
        })
    }

    fn persist(&self, cgroup: &CgroupPath, limit: Option<Limit>) -> Result<(), Failure> {
        let Some(file) = self.sources.set_max_path() else {
            let why = "the policy of --user is built in".to_owned();
            return Err(Refusal::Unsupported { what: "set-max --persist".to_owned(), why }.into());
        };
        let name = file.display().to_string();
        let mut lines = match std::fs::read_to_string(&file) {
            Ok(text) => policy::set_max_entries(&name, &text).map_err(|problems| {
                Refusal::invalid("persist", &name, format!("a file that set-max wrote: {}", problems.summary()))
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Fault::from(error).while_doing(format!("read {name}")).into()),
        };
        lines.retain(|(path, _)| path != cgroup);
        lines.extend(limit.map(|limit| (cgroup.clone(), limit)));
        replace(&file, &policy::set_max_file(&lines))
            .map_err(|e| Fault::from(e).while_doing(format!("write {name}")).into())
    }
}

/// Writes a file whole or not at all.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let fresh = file.with_extension("new");
    let mut out = std::fs::File::create(&fresh)?;
    // As the other files of the policy: whoever is refused may read why.
    out.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    std::fs::rename(&fresh, file)
}

/// The world of this host.
pub(super) fn world(
    host: &Host,
    policy_source: PolicyFiles,
    backend: &Backend,
    device_path: &Path,
    privileged: &Privileged,
) -> World {
    let device = backend.standing(device_path);
    let (configs, iommufds) = (privileged.clone(), privileged.clone());
    World {
        cgroups: Box::new(Hierarchy(Arc::clone(&host.cgroups))),
        policy_source: Box::new(policy_source),
        pasid_width: Box::new(move |address| pasid_width_in(address, configs.config(address))),
        open_iommufd: Box::new(move || iommufds.iommufd()),
        id_source: backend.id_source(),
        auto_bits: auto_bits(privileged),
        backend: backend.name().to_owned(),
        enforcement: Box::new(move || enforcement::survey(&device)),
    }
}

/// The smallest Max PASID Width of the devices that have one, else 20.
fn auto_bits(privileged: &Privileged) -> u32 {
    let mut least = None;
    for address in functions().addresses() {
        let opened = privileged.config(&address);
        // Nobody answers: asking for the others would take as long each.
        if let Err(error) = &opened
            && error.kind() == ErrorKind::TimedOut
        {
            tracing::warn!(%error, "the PASID widths of devices are not known");
            break;
        }
        let width = pasid_width_in(&address, opened).ok();
        least = least.into_iter().chain(width).min();
    }
    least.unwrap_or(MAX_BITS)
}
