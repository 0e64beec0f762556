//! What this service can see to on this host, and what goes past it.

use crate::survey::{Host, enforcement};
use serde_json::Value;

/// By class of user: `enforced`, `observed` or `open`, with the reason.
pub(super) fn survey() -> Value {
    enforcement(&Host::at("/"))
}
