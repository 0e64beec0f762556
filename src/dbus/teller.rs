//! What the bus is told without asking: objects that come and go, signals, changed properties.
//!
//! Events are told in their order. Changed properties are told together, at most every [`PAUSE`], with the values they
//! have then: a set whose ids come and go thousands of times a second costs the bus ten messages.

use super::pending::{Batch, Pending};
use super::service::{self, Manager, number_of};
use super::set::SetObject;
use super::{Core, path_of};
use crate::model::{Failure, Fault, SetId};
use crate::proto::{BUS_PATH, Happening, MANAGER_INTERFACE, SET_INTERFACE, SetInfo};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use zbus::Connection;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::Value;

/// The least time between two messages about the same object's properties.
const PAUSE: Duration = Duration::from_millis(100);

type Properties = Vec<(&'static str, Value<'static>)>;

/// Tells one bus.
pub(super) struct Teller {
    core: Arc<Core>,
    connection: Connection,
    manager: Manager,
    /// What was told last: of each set, and of the manager.
    told: BTreeMap<SetId, Properties>,
    told_of_manager: Properties,
    changed: BTreeSet<SetId>,
}

impl Teller {
    pub fn new(core: Arc<Core>, connection: Connection) -> Self {
        let manager = Manager::new(Arc::clone(&core));
        let told_of_manager = service::changing(&manager);
        Self { core, connection, manager, told: BTreeMap::new(), told_of_manager, changed: BTreeSet::new() }
    }

    /// Makes the objects what the controller's sets are.
    pub async fn compare(&mut self) -> Result<(), Failure> {
        let sets: BTreeMap<SetId, SetInfo> =
            self.core.controller.sets().into_iter().map(|set| (set.set, set)).collect();
        let gone: Vec<SetId> = self.told.keys().copied().filter(|id| !sets.contains_key(id)).collect();
        for id in gone {
            self.remove(id, "closed").await?;
        }
        for (id, info) in &sets {
            if !self.told.contains_key(id) {
                self.add(*id, Some(info)).await?;
            }
            self.changed.insert(*id);
        }
        Ok(())
    }

    /// Tells what happens, for ever; ends where the bus does not take it.
    pub async fn run(mut self, pending: &Pending) -> Failure {
        let mut next_look: Option<Instant> = None;
        loop {
            let due = async {
                match next_look {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let outcome = tokio::select! {
                batch = pending.next() => {
                    next_look = next_look.or_else(|| Some(Instant::now() + PAUSE));
                    self.tell(batch).await
                }
                () = due => {
                    next_look = None;
                    self.tell_changes().await
                }
            };
            if let Err(failure) = outcome {
                return failure;
            }
        }
    }

    async fn tell(&mut self, batch: Batch) -> Result<(), Failure> {
        for event in batch.events {
            match event {
                Happening::SetAdded { set, .. } => self.add(set, None).await?,
                Happening::SetRemoved { set, reason } => self.remove(set, &reason).await?,
                Happening::LimitHit { cgroup, max, asked, requester_cgroup } => {
                    let asked = u32::try_from(asked).unwrap_or(u32::MAX);
                    let (emitter, max) = (self.emitter()?, number_of(max));
                    let requester = requester_cgroup.as_str();
                    sent(Manager::limit_hit(&emitter, cgroup.as_str(), max, asked, requester).await)?;
                }
                _ => {}
            }
            // Who waits for a reply comes first.
            tokio::task::yield_now().await;
        }
        self.changed.extend(batch.changed);
        if batch.missed {
            tracing::warn!("the bus is slower than what happens: signals were dropped");
            self.compare().await?;
        }
        Ok(())
    }

    fn emitter(&self) -> Result<SignalEmitter<'static>, Failure> {
        sent(SignalEmitter::new(&self.connection, BUS_PATH))
    }

    async fn add(&mut self, id: SetId, info: Option<&SetInfo>) -> Result<(), Failure> {
        let info = match info {
            Some(info) => changing(info),
            // Gone again: SetRemoved follows, and the pair of signals is told all the same.
            None => self.core.controller.set(id).map_or_else(|_| Vec::new(), |info| changing(&info)),
        };
        if !info.is_empty() {
            SetObject::serve(&self.core, &self.connection, id).await?;
        }
        self.told.insert(id, info);
        sent(Manager::set_added(&self.emitter()?, path_of(id)?.into_inner()).await)
    }

    async fn remove(&mut self, id: SetId, reason: &str) -> Result<(), Failure> {
        SetObject::withdraw(&self.connection, id).await?;
        self.told.remove(&id);
        self.changed.remove(&id);
        sent(Manager::set_removed(&self.emitter()?, path_of(id)?.into_inner(), reason).await)
    }

    async fn tell_changes(&mut self) -> Result<(), Failure> {
        for id in std::mem::take(&mut self.changed) {
            let (Ok(info), Some(told)) = (self.core.controller.set(id), self.told.get_mut(&id)) else { continue };
            let news = news(told, changing(&info));
            if !news.is_empty() {
                properties_changed(&self.connection, path_of(id)?.as_str(), SET_INTERFACE, news).await?;
            }
        }
        let news = news(&mut self.told_of_manager, service::changing(&self.manager));
        if !news.is_empty() {
            properties_changed(&self.connection, BUS_PATH, MANAGER_INTERFACE, news).await?;
        }
        Ok(())
    }
}

/// The properties of a set that change.
fn changing(info: &SetInfo) -> Properties {
    vec![
        ("Cgroup", info.cgroup.as_str().to_owned().into()),
        ("CgroupId", info.cgroup_id.0.into()),
        ("Quota", info.quota.into()),
        ("Leased", info.leased.into()),
        ("InUse", info.in_use.into()),
        ("State", info.state.to_string().into()),
    ]
}

/// What differs from what was told, which it becomes.
fn news(told: &mut Properties, now: Properties) -> HashMap<&'static str, Value<'static>> {
    let was = std::mem::replace(told, now);
    told.iter().filter(|pair| !was.contains(pair)).map(|(name, value)| (*name, copy(value))).collect()
}

/// Properties hold no descriptors, which alone cannot be copied.
fn copy(value: &Value<'static>) -> Value<'static> {
    value.try_clone().unwrap_or_else(|_| Value::from(""))
}

async fn properties_changed(
    connection: &Connection,
    path: &str,
    interface: &str,
    news: HashMap<&'static str, Value<'static>>,
) -> Result<(), Failure> {
    let nobody = None::<zbus::names::BusName<'_>>;
    let body = (interface, news, Vec::<&str>::new());
    let properties = "org.freedesktop.DBus.Properties";
    sent(connection.emit_signal(nobody, path, properties, "PropertiesChanged", &body).await)
}

fn sent<T>(outcome: zbus::Result<T>) -> Result<T, Failure> {
    outcome.map_err(|error| Fault::from_error(&error).while_doing("tell the bus").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_news() {
        let mut told: Properties = vec![("Quota", 4_u32.into()), ("Leased", 0_u32.into())];
        let changed = news(&mut told, vec![("Quota", 4_u32.into()), ("Leased", 1_u32.into())]);
        assert_eq!(changed, HashMap::from([("Leased", Value::from(1_u32))]));
        assert!(news(&mut told, vec![("Quota", 4_u32.into()), ("Leased", 1_u32.into())]).is_empty());
    }
}
