//! What the service manager of the system is about to do with this service.

use std::time::Duration;
use zbus::Connection;
use zbus::zvariant::{OwnedObjectPath, OwnedValue};

const MANAGER: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// How long it may take to say; an end does not wait longer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The caller's own unit, as GetUnitByPID takes it.
const CALLER: u32 = 0;

/// Whether the end that was asked of this service is the first half of a restart.
///
/// Source: `org.freedesktop.systemd1(5)`: while the first half of a restart runs, the unit's job is of the type `restart`.
/// Without an answer in time it is none.
pub async fn is_restarting() -> bool {
    let asked = tokio::time::timeout(PATIENCE, job_type()).await;
    match asked {
        Ok(Ok(job)) => job.as_deref() == Some("restart"),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the service manager does not say what it does");
            false
        }
        Err(_) => false,
    }
}

/// The type of the job that runs for this service's unit; `None` without a job.
async fn job_type() -> zbus::Result<Option<String>> {
    let bus = Connection::system().await?;
    let asked = bus.call_method(Some(MANAGER), MANAGER_PATH, Some(MANAGER_INTERFACE), "GetUnitByPID", &CALLER).await?;
    let unit: OwnedObjectPath = asked.body().deserialize()?;
    let (id, job): (u32, OwnedObjectPath) = property(&bus, unit, "org.freedesktop.systemd1.Unit", "Job").await?;
    match id {
        0 => Ok(None),
        _ => property(&bus, job, "org.freedesktop.systemd1.Job", "JobType").await.map(Some),
    }
}

async fn property<T>(bus: &Connection, path: OwnedObjectPath, interface: &str, name: &str) -> zbus::Result<T>
where
    T: TryFrom<OwnedValue>,
    zbus::Error: From<T::Error>,
{
    let reply = bus.call_method(Some(MANAGER), path, Some(PROPERTIES), "Get", &(interface, name)).await?;
    Ok(T::try_from(reply.body().deserialize::<OwnedValue>()?)?)
}
