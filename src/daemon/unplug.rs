//! Devices that go away.

use crate::controller::Controller;
use crate::model::Domain;
use crate::sys::pci::Functions;
use crate::sys::readiness::Registered;
use crate::sys::uevent::{self, Uevent, Uevents};
use std::io;
use std::sync::Arc;

/// Why the sets of a domain are revoked.
const REASON: &str = "the device was removed";

/// Listens for devices that are removed and revokes the sets of their domains, for ever.
///
/// What went before listening began is found by looking.
pub(super) async fn watch(controller: Arc<Controller>, functions: Functions) -> io::Result<()> {
    let uevents = Registered::for_reading(Uevents::listen()?.into_socket())?;
    revoke_missing(&controller, &functions);
    loop {
        match uevents.read(uevent::try_receive).await? {
            Uevent::PciRemoved(address) => {
                controller.revoke_domain(Domain::Pci(address), REASON);
            }
            Uevent::Lost => revoke_missing(&controller, &functions),
        }
    }
}

fn revoke_missing(controller: &Controller, functions: &Functions) {
    for domain in controller.domains() {
        if let Domain::Pci(address) = domain.name
            && !functions.exists(&address)
        {
            controller.revoke_domain(domain.name, REASON);
        }
    }
}
