//! Who calls over the bus.
//!
//! The bus vouches for uid and process of a unique name. Where it gives the process as a descriptor, that is the
//! process. Where it gives a pid alone, the process that had it may be gone and the pid be another's: then only root
//! is served, or who the policy says may be (`trust_pid`), after the pid was pinned and asked for again.
//!
//! A unique name is never used twice while the bus runs, so who it is can be kept until it leaves the bus.

use super::polkit::BusConsent;
use super::{Core, error::BusError};
use crate::controller::{Caller, Deed, Permit};
use crate::identity::Peer;
use crate::model::{Failure, Fault, Refusal};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use zbus::Connection;
use zbus::fdo::ConnectionCredentials;
use zbus::message::{Flags, Header};
use zbus::names::UniqueName;
use zbus::zvariant::Type;

/// How many callers are remembered; each keeps one descriptor open. Others are asked for at each call.
const REMEMBERED: usize = 2048;

/// So many entries of a listing take the time of a request.
const ENTRIES_OF_A_REQUEST: usize = 16;

/// The callers that are known, until they leave the bus.
#[derive(Default)]
pub(super) struct Callers {
    /// `None`: being asked for. Whoever leaves in between takes the place with it, and nothing is kept of it.
    known: Mutex<HashMap<String, Option<Arc<Peer>>>>,
    leaving: Notify,
}

impl Callers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Peer>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer of a name, where it is known.
    fn known(&self, name: &str) -> Option<Arc<Peer>> {
        self.lock().get(name).cloned().flatten()
    }

    /// The peer of a name that is known; else makes room for it.
    fn find(&self, name: &str) -> Option<Arc<Peer>> {
        let mut known = self.lock();
        if let Some(found) = known.get(name) {
            return found.clone();
        }
        if known.len() < REMEMBERED {
            known.insert(name.to_owned(), None);
        }
        None
    }

    fn remember(&self, name: &str, peer: &Arc<Peer>) {
        if let Some(place) = self.lock().get_mut(name) {
            *place = Some(Arc::clone(peer));
        }
    }

    /// The name left the bus, or nothing can be said of it.
    pub fn forget(&self, name: &str) {
        self.lock().remove(name);
        self.leaving.notify_waiters();
    }

    /// Another bus: its names are others.
    pub fn forget_all(&self) {
        self.lock().clear();
        self.leaving.notify_waiters();
    }

    /// Waits until the name is forgotten; for ever where it is not remembered. Cancel safe.
    async fn forgotten(&self, name: &str) {
        let known = || self.lock().contains_key(name);
        if !known() {
            return std::future::pending().await;
        }
        loop {
            let leaving = self.leaving.notified();
            if !known() {
                return;
            }
            leaving.await;
        }
    }
}

/// A method call: who makes it, and whether polkit may ask a person.
pub(super) struct Call {
    core: Arc<Core>,
    sender: String,
    pub caller: Caller,
    consent: BusConsent,
    interactive: bool,
}

impl Call {
    /// Counts a listing of so many entries. See [`Core::pay_for`].
    pub fn pay_for(&self, entries: usize) {
        self.core.pay_for(self.caller.uid, entries);
    }

    /// Asks the one authorization function. Nobody is asked any more for who leaves the bus meanwhile.
    pub async fn permit(&self, deed: Deed<'_>) -> Result<Permit, Failure> {
        tokio::select! {
            permit = self.core.controller.permit(&self.caller, deed, Some(&self.consent), self.interactive) => permit,
            () = self.core.callers.forgotten(&self.sender) => {
                Err(Refusal::not_found(format!("{} on the bus", self.sender)).into())
            }
        }
    }
}

impl Core {
    /// Answers a call: says who makes it, does what it asks for, and reports where that is refused or fails. Every
    /// method of every object goes through here, but for [`Core::answer_anybody`].
    pub async fn answer<T>(
        self: &Arc<Self>,
        connection: &Connection,
        header: &Header<'_>,
        deed: impl AsyncFnOnce(Call) -> Result<T, Failure>,
    ) -> Result<T, BusError> {
        let outcome = match self.identify(connection, header).await {
            Ok(call) => deed(call).await,
            Err(failure) => Err(failure),
        };
        self.told(outcome)
    }

    /// What the caller is told, and where it is no answer the controller.
    fn told<T>(&self, outcome: Result<T, Failure>) -> Result<T, BusError> {
        outcome.inspect_err(|failure| self.controller.report("D-Bus", failure)).map_err(BusError::from)
    }

    /// Answers a call that is open to whoever the bus lets in, also where it cannot vouch for a process. Counted against the
    /// uid, which the bus knows.
    pub async fn answer_anybody<T>(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        list: impl AsyncFnOnce(u32) -> Result<T, Failure>,
    ) -> Result<T, BusError> {
        let outcome = async {
            let sender = sender_of(header)?;
            let uid = match self.callers.known(sender) {
                Some(peer) => peer.uid,
                None => ask(connection, "GetConnectionUnixUser", sender).await?,
            };
            self.controller.admit(uid)?;
            list(uid).await
        };
        self.told(outcome.await)
    }

    /// Counts a listing of so many entries: making it is work that one request does not pay for.
    pub fn pay_for(&self, uid: u32, entries: usize) {
        self.controller.spend(uid, u32::try_from(entries / ENTRIES_OF_A_REQUEST).unwrap_or(u32::MAX));
    }

    /// Who makes this call, where it is now. Counts the call against its uid.
    async fn identify(self: &Arc<Self>, connection: &Connection, header: &Header<'_>) -> Result<Call, Failure> {
        let sender = sender_of(header)?;
        let peer = match self.callers.find(sender) {
            Some(peer) => peer,
            None => {
                let found = self.ask_bus(connection, sender).await.map(Arc::new);
                match found {
                    Ok(peer) => {
                        self.callers.remember(sender, &peer);
                        peer
                    }
                    Err(failure) => {
                        self.callers.forget(sender);
                        return Err(failure);
                    }
                }
            }
        };
        self.controller.admit(peer.uid)?;
        let caller = Caller::new(&peer, peer.cgroup(&self.host)?);
        let interactive = header.primary().flags().contains(Flags::AllowInteractiveAuth);
        let sender = sender.to_string();
        let consent = BusConsent::new(Arc::clone(&self.polkit), sender.clone());
        Ok(Call { core: Arc::clone(self), sender, caller, consent, interactive })
    }

    async fn ask_bus(&self, connection: &Connection, sender: &UniqueName<'_>) -> Result<Peer, Failure> {
        let credentials: ConnectionCredentials = ask(connection, "GetConnectionCredentials", sender).await?;
        let unknown = |what: &str| Fault::new(format!("the bus says no {what} of {sender}"));
        let uid = credentials.unix_user_id().ok_or_else(|| unknown("uid"))?;
        if let Some(pidfd) = credentials.process_fd() {
            let pidfd = std::os::fd::AsFd::as_fd(pidfd).try_clone_to_owned().map_err(Fault::from)?;
            return Peer::of_pidfd(pidfd, uid, &self.host);
        }
        let administrator = uid == 0 || self.host.administrator_uid == Some(uid);
        if !administrator && !self.controller.policy().bus.trust_pid {
            return Err(unvouched(&self.socket_path.display().to_string()).into());
        }
        let pid = credentials.process_id().ok_or_else(|| unknown("pid"))?;
        let peer = Peer::of_pid(pid, uid, &self.host)?;
        // Pinned: now the name must still be on the bus, and the pid be its own.
        let again: u32 = ask(connection, "GetConnectionUnixProcessID", sender).await?;
        if again != pid {
            return Err(Refusal::not_found(format!("the process of {sender}")).into());
        }
        Ok(peer)
    }
}

fn sender_of<'a>(header: &'a Header<'_>) -> Result<&'a UniqueName<'a>, Refusal> {
    header.sender().ok_or_else(|| Refusal::invalid("sender", "nobody", "a name on the bus"))
}

fn unvouched(socket: &str) -> Refusal {
    Refusal::Unsupported {
        what: "a caller other than root on this bus".to_owned(),
        why: format!(
            "the bus gives its pid alone, not its process (dbus-daemon 1.16 and dbus-broker 37 do); ask on {socket}, or \
             let the administrator set trust_pid in [bus] of the policy"
        ),
    }
}

/// Asks the bus about a name; `NotFound` where it has left.
async fn ask<T>(connection: &Connection, method: &str, name: &UniqueName<'_>) -> Result<T, Failure>
where
    T: serde::de::DeserializeOwned + Type,
{
    let bus = "org.freedesktop.DBus";
    let reply = connection.call_method(Some(bus), "/org/freedesktop/DBus", Some(bus), method, &name).await;
    let reply = match reply {
        Ok(reply) => reply,
        Err(zbus::Error::MethodError(error, ..)) if error.as_str() == "org.freedesktop.DBus.Error.NameHasNoOwner" => {
            return Err(Refusal::not_found(format!("{name} on the bus")).into());
        }
        Err(error) => return Err(Fault::from_error(&error).while_doing(format!("ask the bus for {method}")).into()),
    };
    reply.body().deserialize().map_err(|error| Fault::from_error(&error).while_doing(format!("read {method}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_while_being_asked_for_is_not_kept() {
        let callers = Callers::default();
        let host = Host::find(None, None).unwrap();
        let peer = Arc::new(Peer::of_pid(std::process::id(), crate::sys::process::effective_uid(), &host).unwrap());
        assert!(callers.find(":1.5").is_none());
        callers.forget(":1.5");
        callers.remember(":1.5", &peer);
        assert!(callers.lock().is_empty());
        assert!(callers.find(":1.5").is_none());
        callers.remember(":1.5", &peer);
        assert!(callers.find(":1.5").is_some());
    }

    use crate::identity::Host;
}
