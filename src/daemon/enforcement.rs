//! What this service can see to on this host, and what goes past it.

use super::device::Standing;
use crate::survey::{Host, enforcement};
use serde_json::{Value, json};

/// By class of device: `enforced`, `observed` or `open`, with the reason.
pub(super) fn survey(device: &Standing) -> Value {
    let mut all = enforcement(&Host::at("/"));
    let (state, why) = device.look();
    if let Some(classes) = all.as_object_mut() {
        classes.insert("ioasid".to_owned(), json!({"state": state, "why": why}));
    }
    all
}
