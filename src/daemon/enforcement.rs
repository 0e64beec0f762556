//! What this service can see to on this host, and what goes past it.

use serde_json::{Value, json};
use std::path::Path;

/// By class of user: `enforced` (ids come from us alone), `observed` (we hold what it takes, others may too) or `open`
/// (who can open the node picks ids by itself), with the reason.
pub(super) fn survey() -> Value {
    let node = |path: &str, name: &str| {
        if Path::new(path).exists() {
            json!({"state": "open", "why": format!("who can open {path} picks {name} by itself: close it by mode, udev or the device cgroup")})
        } else {
            json!({"state": "enforced", "why": format!("this host has no {path}")})
        }
    };
    json!({
        "sets": {"state": "enforced", "why": "ids of sets are charged to cgroups by this service"},
        "iommufd": node("/dev/iommu", "PASIDs"),
        "idxd": node("/dev/dsa", "work queues"),
    })
}
