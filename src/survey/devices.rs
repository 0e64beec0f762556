//! PCI functions with PASIDs, and the work queues of Intel's accelerators.

use super::{Finding, Host};
use crate::sys::pci::Functions;

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut all = pci(host);
    all.extend(work_queues(host));
    all
}

fn pci(host: &Host) -> Vec<Finding> {
    let id = "pasid-width";
    let present = host.names("/sys/bus/pci/devices");
    let able = Functions::at(&host.path("/sys")).with_pasids();
    if !able.is_empty() {
        let width = |(address, bits): &(_, u32)| Finding::ok(id, format!("{address}: PASIDs of {bits} bits"));
        return able.iter().map(width).collect();
    }
    // Without privilege the kernel shows the first 64 bytes of configuration space.
    let blind = present.iter().any(|name| {
        let config = std::fs::read(host.path(&format!("/sys/bus/pci/devices/{name}/config")));
        config.is_ok_and(|config| config.len() <= 64)
    });
    if blind {
        let found = "configuration spaces show their first 64 bytes alone, so PASID capabilities are out of sight";
        return vec![Finding::note(id, found).mend("run it as root")];
    }
    let found = format!("none of {} PCI function(s) has a PASID capability", present.len());
    vec![Finding::note(id, found).mend("ids can be handed out all the same; no device here can use them")]
}

fn work_queues(host: &Host) -> Vec<Finding> {
    let (id, directory) = ("work-queues", "/sys/bus/dsa/devices");
    let names = host.names(directory);
    let attribute = |name: &str, file: &str| host.text(&format!("{directory}/{name}/{file}")).unwrap_or_default();
    let mut all = Vec::new();
    for device in
        names.iter().filter(|name| !name.starts_with("wq") && host.exists(&format!("{directory}/{name}/pasid_enabled")))
    {
        if attribute(device, "pasid_enabled") != "1" {
            let found = format!("{device} works without PASIDs: shared work queues and user memory are out of reach");
            all.push(
                Finding::warning(id, found).mend("boot with\n    intel_iommu=on,sm_on\nand reload the driver idxd"),
            );
        }
    }
    let queues: Vec<_> = names.iter().filter(|name| name.starts_with("wq")).collect();
    for queue in &queues {
        let [state, mode, kind] = ["state", "mode", "type"].map(|file| attribute(queue, file));
        if state == "enabled" {
            let found = format!("{queue}: {mode}, type {kind}");
            // The kernel binds a PASID of its own to each opener of a user queue.
            all.push(if kind == "user" { Finding::note(id, found) } else { Finding::ok(id, found) });
        }
    }
    if queues.is_empty() {
        all.push(Finding::note(id, "no idxd work queues"));
    }
    all
}
