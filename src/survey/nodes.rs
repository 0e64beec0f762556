//! Ways round the service: device nodes over which programs pick PASIDs by themselves, and who holds them.

use super::host::Node;
use super::{Finding, Host, Severity};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A class of device nodes.
struct Class {
    /// Its name in `status.enforcement`.
    name: &'static str,
    /// A node, or a directory of them.
    place: &'static str,
    /// What who opens one can do.
    way: &'static str,
    /// What udev calls it.
    udev: &'static str,
}

const CLASSES: &[Class] = &[
    Class {
        name: "iommufd",
        place: "/dev/iommu",
        way: "attaches devices under PASIDs of its own choice",
        udev: "KERNEL==\"iommu\", SUBSYSTEM==\"misc\"",
    },
    Class {
        name: "vfio",
        place: "/dev/vfio/devices",
        way: "attaches that device under PASIDs of its own choice, with an iommufd",
        udev: "SUBSYSTEM==\"vfio-dev\"",
    },
    Class {
        name: "idxd",
        place: "/dev/dsa",
        way: "gets a PASID from the kernel, past every quota",
        udev: "SUBSYSTEM==\"dsa\"",
    },
    Class {
        name: "iaa",
        place: "/dev/iax",
        way: "gets a PASID from the kernel, past every quota",
        udev: "SUBSYSTEM==\"dsa\"",
    },
];

impl Class {
    /// The nodes of the class that the host has.
    fn nodes(&self, host: &Host) -> Vec<(String, Node)> {
        let named = |path: String| host.node(&path).map(|node| (path, node));
        match named(self.place.to_owned()) {
            Some(node) => vec![node],
            None => {
                let names = host.names(self.place).into_iter();
                names.filter_map(|name| named(format!("{}/{name}", self.place))).collect()
            }
        }
    }

    /// Where it stands, and why.
    fn state(&self, host: &Host) -> (&'static str, String) {
        let nodes = self.nodes(host);
        if nodes.is_empty() {
            return ("enforced", format!("this host has no {}", self.place));
        }
        match nodes.iter().find(|(_, node)| node.mode & 0o077 != 0 || node.uid != 0) {
            Some((path, node)) => ("open", format!("{path} has mode {:04o}: who opens it {}", node.mode, self.way)),
            None => ("observed", format!("root alone can open {}, and then {}", self.place, self.way)),
        }
    }
}

/// By class of device: `enforced` (ids come from the service alone), `observed` (the service holds what it takes, root
/// may too) or `open` (who can open the node picks ids by itself), with the reason.
pub fn enforcement(host: &Host) -> Value {
    let mut all = BTreeMap::from([(
        "sets",
        json!({"state": "enforced", "why": "ids of sets are charged to cgroups by this service"}),
    )]);
    for class in CLASSES {
        let (state, why) = class.state(host);
        all.insert(class.name, json!({"state": state, "why": why}));
    }
    json!(all)
}

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut all = Vec::new();
    for class in CLASSES {
        let (state, why) = class.state(host);
        let severity = match state {
            "enforced" => Severity::Ok,
            "observed" => Severity::Note,
            _ => Severity::Warning,
        };
        let finding = Finding::new("way-round", severity, format!("{}: {state}: {why}", class.name));
        all.push(if severity == Severity::Warning { finding.mend(class.close()) } else { finding });
    }
    all.extend(holders(host));
    all
}

impl Class {
    fn close(&self) -> String {
        format!(
            "give the node to root alone, in /etc/udev/rules.d/70-ioasid.rules\n    {}, MODE=\"0600\", OWNER=\"root\"\nand keep units from it that have no business there, in a drop-in\n    [Service]\n    DevicePolicy=closed\n    PrivateDevices=yes",
            self.udev
        )
    }
}

/// Who has one of the nodes open, the service itself aside.
fn holders(host: &Host) -> Vec<Finding> {
    let mut by_node: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut hidden = false;
    for pid in host.names("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
        hidden |=
            std::fs::read_dir(host.path(&format!("/proc/{pid}/fd"))).is_err() && host.exists(&format!("/proc/{pid}"));
        let mut open: Vec<String> = host
            .names(&format!("/proc/{pid}/fd"))
            .iter()
            .filter_map(|fd| host.link(&format!("/proc/{pid}/fd/{fd}")))
            .filter(|target| CLASSES.iter().any(|class| target.starts_with(class.place)))
            .collect();
        open.sort_unstable();
        open.dedup();
        let command = host.text(&format!("/proc/{pid}/comm")).unwrap_or_default();
        if command == "ioasidd" {
            continue;
        }
        for node in open {
            by_node.entry(node).or_default().push(format!("{command} (pid {pid})"));
        }
    }
    let id = "holders";
    let mut all: Vec<Finding> = by_node
        .into_iter()
        .map(|(node, who)| {
            Finding::warning(id, format!("{node} is held by {}", who.join(", ")))
                .mend("what it uses there is charged to nobody; give it a set and hand it the descriptor (`ioasidctl exec --iommufd`)")
        })
        .collect();
    if hidden {
        all.push(Finding::note(id, "some processes' descriptors cannot be seen").mend("run it as root"));
    } else if all.is_empty() {
        all.push(Finding::ok(id, "nobody else holds such a node"));
    }
    all
}
