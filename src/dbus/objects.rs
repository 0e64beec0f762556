//! `org.freedesktop.DBus.ObjectManager`, at `/org/ioasid1` and at `/`.
//!
//! zbus has one, which counts its calls against nobody and holds up every set that comes or goes while it lists. This one
//! lists what the controller has. The signals are zbus's: it sends them from the nearest object with an interface of this
//! name.

use super::error::BusError;
use super::service::Manager;
use super::set::SetObject;
use super::{Core, path_of};
use crate::model::{Failure, Fault};
use crate::proto::BUS_PATH;
use std::collections::HashMap;
use std::sync::Arc;
use zbus::fdo::ManagedObjects;
use zbus::message::Header;
use zbus::names::{InterfaceName, OwnedInterfaceName};
use zbus::object_server::{Interface, SignalEmitter};
use zbus::zvariant::{ObjectPath, OwnedObjectPath, OwnedValue, Value};
use zbus::{Connection, interface};

/// So many sets are listed in one go, before others have their turn.
const AT_A_TIME: usize = 64;

type Described = (OwnedObjectPath, HashMap<OwnedInterfaceName, HashMap<String, OwnedValue>>);

/// Where it stands: with the manager below it, or beside it.
pub(super) struct Objects {
    core: Arc<Core>,
    with_manager: bool,
}

impl Objects {
    /// The one at the manager's own path: its objects are the sets.
    pub fn of_sets(core: &Arc<Core>) -> Self {
        Self { core: Arc::clone(core), with_manager: false }
    }

    /// The one at the root, where some clients look: the manager is one of its objects.
    pub fn of_all(core: &Arc<Core>) -> Self {
        Self { core: Arc::clone(core), with_manager: true }
    }

    async fn list(&self, connection: &Connection) -> Result<ManagedObjects, Failure> {
        let mut objects = ManagedObjects::new();
        if self.with_manager {
            let path = OwnedObjectPath::try_from(BUS_PATH).map_err(|error| Fault::from_error(&error))?;
            let manager = Manager::new(Arc::clone(&self.core));
            objects.extend(described(connection, path, &manager).await?);
        }
        for (n, set) in self.core.controller.sets().into_iter().enumerate() {
            let object = SetObject::new(&self.core, set.set);
            objects.extend(described(connection, path_of(set.set)?, &object).await?);
            if n % AT_A_TIME == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(objects)
    }
}

/// An object with its interface and all its properties; `None` where it is gone meanwhile.
async fn described<I: Interface>(
    connection: &Connection,
    path: OwnedObjectPath,
    object: &I,
) -> Result<Option<Described>, Failure> {
    let emitter = SignalEmitter::new(connection, path.clone()).map_err(|error| Fault::from_error(&error))?;
    let properties = object.get_all(connection.object_server(), connection, None, &emitter).await;
    Ok(properties.ok().map(|properties| (path, HashMap::from([(I::name().into(), properties)]))))
}

#[interface(name = "org.freedesktop.DBus.ObjectManager", introspection_docs = false)]
impl Objects {
    async fn get_managed_objects(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<ManagedObjects, BusError> {
        let listed = self.core.answer_anybody(connection, &header, async |uid| {
            let objects = self.list(connection).await?;
            self.core.pay_for(uid, objects.len());
            Ok(objects)
        });
        listed.await
    }

    #[zbus(signal)]
    async fn interfaces_added(
        emitter: &SignalEmitter<'_>,
        object_path: ObjectPath<'_>,
        interfaces_and_properties: HashMap<InterfaceName<'_>, HashMap<&str, Value<'_>>>,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn interfaces_removed(
        emitter: &SignalEmitter<'_>,
        object_path: ObjectPath<'_>,
        interfaces: Vec<InterfaceName<'_>>,
    ) -> zbus::Result<()>;
}
