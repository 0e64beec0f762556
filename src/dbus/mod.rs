//! The D-Bus edge: `org.ioasid1` on the bus.
//!
//! Lives here: who calls ([`caller`]), the objects ([`service`], [`set`]) and what lists them ([`objects`],
//! [`introspection`]), what is told without being asked ([`teller`]), polkit ([`polkit`]), the connection that comes and goes
//! ([`link`]), which descriptors come in over it ([`transport`]), and what the service manager says of our end
//! ([`manager_job`]). Objects hold no state but who they are: every call and every property asks the controller. Nothing
//! else in the service names zbus.
//!
//! Every method goes the same way, through [`Core::answer`](caller): it says who calls, `Call::permit` asks the
//! controller's one authorization function, the controller does it, and what is refused is counted. What lists
//! the objects alone is for whoever the bus lets in, and counted, too.

mod caller;
mod error;
mod introspection;
mod link;
mod manager_job;
mod objects;
mod options;
mod pending;
mod polkit;
mod service;
mod set;
mod teller;
mod transport;

pub use link::{Address, Bus};
pub use manager_job::is_restarting;

use crate::controller::{Controller, NewSet};
use crate::identity::Host;
use crate::model::{Failure, Refusal, SetId};
use crate::proto::BUS_SET_PREFIX;
use caller::Callers;
use polkit::Polkit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use zbus::zvariant::OwnedObjectPath;

/// Listens on a set that was made, and gives the FD to hand out: what a set FD says is another edge's to hear.
pub type Adopt = Box<dyn Fn(NewSet) -> Result<OwnedFd, Failure> + Send + Sync>;

/// What every object needs.
struct Core {
    controller: Arc<Controller>,
    host: Arc<Host>,
    adopt: Adopt,
    /// Where those are sent whom the bus cannot vouch for.
    socket_path: PathBuf,
    callers: Callers,
    polkit: Arc<Polkit>,
    /// Whose set is made. One at a time, and with a look at what else came in before each: who only looks does not wait
    /// until everybody has his set.
    turn: tokio::sync::Mutex<()>,
}

/// The object of a set.
fn path_of(id: SetId) -> Result<OwnedObjectPath, Failure> {
    let path = format!("{BUS_SET_PREFIX}{id}");
    OwnedObjectPath::try_from(path).map_err(|error| crate::model::Fault::from_error(&error).into())
}

/// The set behind an object that a caller names.
fn set_at(path: &str) -> Result<SetId, Refusal> {
    let number = path.strip_prefix(BUS_SET_PREFIX).and_then(|number| number.parse().ok());
    // One set has one object: `007` is not the object of set 7.
    let named = number.map(SetId).filter(|id| path_of(*id).is_ok_and(|object| object.as_str() == path));
    named.ok_or_else(|| Refusal::not_found(format!("set {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_and_its_object_name_each_other() {
        let path = path_of(SetId(17)).unwrap();
        assert_eq!(path.as_str(), "/org/ioasid1/set/17");
        assert_eq!(set_at(&path), Ok(SetId(17)));
        for no_set in [
            "/",
            "/org/ioasid1",
            "/org/ioasid1/set/",
            "/org/ioasid1/set/x",
            "/org/ioasid1/set/1/2",
            "/org/ioasid1/set/017",
        ] {
            assert!(set_at(no_set).is_err(), "{no_set}");
        }
    }
}
