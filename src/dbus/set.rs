//! `org.ioasid1.Set`, at `/org/ioasid1/set/<id>`.

use super::error::BusError;
use super::{Core, path_of};
use crate::controller::Deed;
use crate::model::{Failure, Fault, SetId};
use crate::proto::SetInfo;
use std::sync::Arc;
use zbus::message::Header;
use zbus::{Connection, fdo, interface};

/// A set, by its number. All else is the controller's.
pub(super) struct SetObject {
    core: Arc<Core>,
    id: SetId,
}

impl SetObject {
    pub fn new(core: &Arc<Core>, id: SetId) -> Self {
        Self { core: Arc::clone(core), id }
    }

    /// Puts the object of a set on the bus, if it is not there.
    pub async fn serve(core: &Arc<Core>, connection: &Connection, id: SetId) -> Result<(), Failure> {
        let served = connection.object_server().at(path_of(id)?, Self::new(core, id)).await;
        served.map(drop).map_err(|error| Fault::from_error(&error).while_doing(format!("serve set {id}")).into())
    }

    /// Takes it off, if it is there; says whether it was.
    pub async fn withdraw(connection: &Connection, id: SetId) -> Result<bool, Failure> {
        match connection.object_server().remove::<Self, _>(path_of(id)?).await {
            Ok(_) => Ok(true),
            Err(zbus::Error::InterfaceNotFound) => Ok(false),
            Err(error) => Err(Fault::from_error(&error).while_doing(format!("withdraw set {id}")).into()),
        }
    }

    /// What a property says. A set that is gone is an object that is gone, which the bus will be told in a moment.
    fn info(&self) -> fdo::Result<SetInfo> {
        self.core.controller.set(self.id).map_err(|gone| fdo::Error::UnknownObject(gone.to_string()))
    }
}

#[interface(name = "org.ioasid1.Set", introspection_docs = false)]
impl SetObject {
    async fn set_quota(
        &self,
        quota: u32,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), BusError> {
        let changed = self.core.answer(connection, &header, async |call| {
            let permit = call.permit(Deed::SetQuota(self.id)).await?;
            self.core.controller.change_quota(&permit, quota).map(drop)
        });
        changed.await
    }

    async fn revoke(
        &self,
        reason: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), BusError> {
        let revoked = self.core.answer(connection, &header, async |call| {
            let permit = call.permit(Deed::Revoke(self.id)).await?;
            self.core.controller.revoke_set(&call.caller, &permit, reason)
        });
        revoked.await
    }

    #[zbus(out_args("pasids"))]
    async fn pasids(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<u32>, BusError> {
        let seen = self.core.answer(connection, &header, async |call| {
            let permit = call.permit(Deed::SeeIds(self.id)).await?;
            let set = self.core.controller.set_with_ids(&permit)?;
            Ok(set.pasids.unwrap_or_default().into_iter().map(u32::from).collect())
        });
        seen.await
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> u64 {
        self.id.0
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn label(&self) -> fdo::Result<String> {
        Ok(self.info()?.label)
    }

    #[zbus(property)]
    fn cgroup(&self) -> fdo::Result<String> {
        Ok(self.info()?.cgroup.as_str().to_owned())
    }

    #[zbus(property)]
    fn cgroup_id(&self) -> fdo::Result<u64> {
        Ok(self.info()?.cgroup_id.0)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn owner_uid(&self) -> fdo::Result<u32> {
        Ok(self.info()?.owner_uid)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn domain(&self) -> fdo::Result<String> {
        Ok(self.info()?.domain.to_string())
    }

    #[zbus(property)]
    fn quota(&self) -> fdo::Result<u32> {
        Ok(self.info()?.quota)
    }

    #[zbus(property)]
    fn leased(&self) -> fdo::Result<u32> {
        Ok(self.info()?.leased)
    }

    #[zbus(property)]
    fn in_use(&self) -> fdo::Result<u32> {
        Ok(self.info()?.in_use)
    }

    #[zbus(property)]
    fn state(&self) -> fdo::Result<String> {
        Ok(self.info()?.state.to_string())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn created_usec(&self) -> fdo::Result<u64> {
        Ok(self.info()?.created_usec)
    }
}
