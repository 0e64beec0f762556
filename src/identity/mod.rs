//! From a connection to a [`Peer`]: the process pinned, its uid, groups, privilege and cgroup.
//!
//! A peer's process is held by a pidfd, so its pid cannot come to mean another one unnoticed: whatever is read by pid
//! is believed only if the pidfd says afterwards that the process still lives. Nothing here decides what a peer may do.

mod peer;
mod standing;
mod thread;

pub use peer::{Located, Peer};

use crate::model::Fault;
use crate::sys::cgroup::Root;
use crate::sys::pidfd::Offer;
use std::path::Path;
use std::sync::Arc;

/// What identification needs to know of the host and of the service.
#[derive(Clone, Debug)]
pub struct Host {
    /// The cgroup2 tree.
    pub cgroups: Arc<Root>,
    /// What the kernel offers; [`Offer::NONE`] takes the ways of older kernels.
    pub offer: Offer,
    /// With `--user` the uid of the service itself, which administrates it. `None`: root with CAP_SYS_ADMIN does.
    pub administrator_uid: Option<u32>,
}

impl Host {
    /// Looks at this host. Faults where it has no cgroup2, in a sentence for the administrator.
    pub fn find(cgroup_root: Option<&Path>, administrator_uid: Option<u32>) -> Result<Self, Fault> {
        let cgroups = Arc::new(Root::find(cgroup_root)?);
        Ok(Self { cgroups, offer: Offer::of_this_kernel(), administrator_uid })
    }
}
