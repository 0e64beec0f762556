//! Asking polkit.
//!
//! Who the subject is never comes from a message. polkit believes the uid that root gives it, so it is the kernel's or
//! the bus's: with polkit 126 the process by descriptor and the kernel's uid; before, for callers on the bus their
//! unique name, which polkit resolves by itself, and for others pid, start time and uid, read while the pinned process
//! lived. What polkit cannot be asked is refused; nothing passes because nobody answers.

use crate::controller::{Answer, Caller, Consent};
use crate::sys::{pidfd, process};
use std::collections::HashMap;
use std::future::Future;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use zbus::Connection;
use zbus::zvariant::{Fd, OwnedValue, Value};

const NAME: &str = "org.freedesktop.PolicyKit1";
const PATH: &str = "/org/freedesktop/PolicyKit1/Authority";
const AUTHORITY: &str = "org.freedesktop.PolicyKit1.Authority";
/// The first version that takes a process descriptor for a subject.
const TAKES_PIDFD: u32 = 126;
/// CheckAuthorization's flag for asking a person.
const ALLOW_INTERACTION: u32 = 1;
/// How long polkit may take where it asks nobody.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a person may take.
const PERSONS_PATIENCE: Duration = Duration::from_secs(120);
/// Why no person was asked.
const NOT_INTERACTIVE: &str = "polkit wants a person's password, and the call does not allow interactive authorization \
     (busctl --allow-interactive-authorization=yes)";
const NO_AGENT: &str = "polkit wants a person's password, and no agent is there to ask for it";
/// Questions of one uid that may be under way at a time.
const AT_A_TIME: u32 = 16;

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// Whether polkit takes process descriptors, once that is known.
    takes_pidfd: Option<bool>,
    /// Questions under way, by uid.
    under_way: HashMap<u32, u32>,
    serial: u64,
}

/// polkit, by the bus that is there at the moment.
pub(super) struct Polkit {
    state: Mutex<State>,
    /// Closed when the bus was tried for the first time: until then it is waited for.
    tried: Semaphore,
}

impl Default for Polkit {
    fn default() -> Self {
        Self { state: Mutex::default(), tried: Semaphore::new(0) }
    }
}

/// Callers on the socket have no name on the bus.
impl Consent for Polkit {
    fn ask<'a>(
        &'a self,
        caller: &'a Caller,
        action: &'static str,
        details: Vec<(&'static str, String)>,
        interactive: bool,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        Box::pin(self.ask_for(caller, None, action, details, interactive))
    }
}

/// polkit, asked for a caller with a name on the bus.
pub(super) struct BusConsent {
    polkit: Arc<Polkit>,
    sender: String,
}

impl BusConsent {
    pub fn new(polkit: Arc<Polkit>, sender: String) -> Self {
        Self { polkit, sender }
    }
}

impl Consent for BusConsent {
    fn ask<'a>(
        &'a self,
        caller: &'a Caller,
        action: &'static str,
        details: Vec<(&'static str, String)>,
        interactive: bool,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        Box::pin(self.polkit.ask_for(caller, Some(&self.sender), action, details, interactive))
    }
}

/// A question under way; it counts until it is dropped.
struct UnderWay<'a> {
    polkit: &'a Polkit,
    uid: u32,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.polkit.lock();
        if let Some(count) = state.under_way.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                state.under_way.remove(&self.uid);
            }
        }
    }
}

/// Takes a question back when it is dropped: nobody waits for the answer any more, and a person need not be asked.
struct Cancellation {
    connection: Connection,
    id: String,
    armed: bool,
}

impl Cancellation {
    fn new(connection: &Connection, serial: u64) -> Self {
        Self { connection: connection.clone(), id: format!("ioasidd-{}-{serial}", std::process::id()), armed: true }
    }

    /// It was answered.
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Cancellation {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (connection, id) = (self.connection.clone(), std::mem::take(&mut self.id));
        // Whether one that hangs hears of it is its own affair.
        tokio::spawn(async move {
            let cancel = (id.as_str(),);
            let method = "CancelCheckAuthorization";
            let call = connection.call_method(Some(NAME), PATH, Some(AUTHORITY), method, &cancel);
            let _ = tokio::time::timeout(PATIENCE, call).await;
        });
    }
}

impl Polkit {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bus to ask on from now on; `None`: there is none.
    pub fn use_bus(&self, connection: Option<Connection>) {
        let mut state = self.lock();
        state.connection = connection;
        state.takes_pidfd = None;
        self.tried.close();
    }

    async fn ask_for(
        &self,
        caller: &Caller,
        sender: Option<&str>,
        action: &'static str,
        details: Vec<(&'static str, String)>,
        interactive: bool,
    ) -> Answer {
        // The sockets are served before the service is on the bus: who asks again after a restart is not to be refused.
        let _closed = self.tried.acquire().await;
        let Some(connection) = self.lock().connection.clone() else {
            return Answer::Away("there is no bus".to_owned());
        };
        let Some((_counted, serial)) = self.begin(caller.uid) else {
            return Answer::Away(format!("uid {} has {AT_A_TIME} questions under way", caller.uid));
        };
        let patience = if interactive { PERSONS_PATIENCE } else { PATIENCE };
        let cancellation = Cancellation::new(&connection, serial);
        let asked = self.check(&connection, caller, sender, action, &details, interactive, &cancellation.id);
        let answered = tokio::time::timeout(patience, asked).await;
        match answered {
            Ok(answer) => {
                cancellation.disarm();
                answer
            }
            Err(_) => Answer::Away(format!("it did not answer within {} s", patience.as_secs())),
        }
    }

    fn begin(&self, uid: u32) -> Option<(UnderWay<'_>, u64)> {
        let mut state = self.lock();
        let count = state.under_way.entry(uid).or_default();
        if *count >= AT_A_TIME {
            return None;
        }
        *count += 1;
        state.serial += 1;
        Some((UnderWay { polkit: self, uid }, state.serial))
    }

    #[allow(clippy::too_many_arguments)]
    async fn check(
        &self,
        connection: &Connection,
        caller: &Caller,
        sender: Option<&str>,
        action: &str,
        details: &[(&'static str, String)],
        interactive: bool,
        cancellation: &str,
    ) -> Answer {
        let takes_pidfd = match self.takes_pidfd(connection).await {
            Ok(takes) => takes,
            Err(error) => return away(&error),
        };
        let subject = match subject(caller, sender, takes_pidfd) {
            Ok(subject) => subject,
            Err(why) => return Answer::Away(why),
        };
        let details: HashMap<&str, &str> = details.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let flags = if interactive { ALLOW_INTERACTION } else { 0 };
        let body = (subject, action, details, flags, cancellation);
        let reply = connection.call_method(Some(NAME), PATH, Some(AUTHORITY), "CheckAuthorization", &body).await;
        match reply.map(|reply| reply.body().deserialize::<(bool, bool, HashMap<String, String>)>()) {
            Ok(Ok((true, ..))) => Answer::Yes,
            // Challenged: where a person may be asked, an agent was missing.
            Ok(Ok((_, true, _))) if interactive => Answer::WantsPerson(NO_AGENT),
            Ok(Ok((_, true, _))) => Answer::WantsPerson(NOT_INTERACTIVE),
            Ok(Ok(_)) => Answer::No,
            Ok(Err(error)) | Err(error) => away(&error),
        }
    }

    async fn takes_pidfd(&self, connection: &Connection) -> zbus::Result<bool> {
        if let Some(known) = self.lock().takes_pidfd {
            return Ok(known);
        }
        let properties = Some("org.freedesktop.DBus.Properties");
        let reply = connection.call_method(Some(NAME), PATH, properties, "Get", &(AUTHORITY, "BackendVersion")).await?;
        let version: OwnedValue = reply.body().deserialize()?;
        let takes = match &*version {
            Value::Str(version) => takes_pidfd(version.as_str()),
            _ => false,
        };
        self.lock().takes_pidfd = Some(takes);
        Ok(takes)
    }
}

/// Versions are `0.105` and before, then `121` and so on.
fn takes_pidfd(version: &str) -> bool {
    version.split('.').next().and_then(|major| major.parse().ok()).is_some_and(|major: u32| major >= TAKES_PIDFD)
}

type Subject<'a> = (&'static str, HashMap<&'static str, Value<'a>>);

fn subject<'a>(caller: &'a Caller, sender: Option<&'a str>, takes_pidfd: bool) -> Result<Subject<'a>, String> {
    let uid = i32::try_from(caller.uid).map_err(|_| format!("uid {} is none that it knows", caller.uid))?;
    if takes_pidfd {
        let process = Value::Fd(Fd::from(caller.pidfd.as_fd()));
        return Ok(("unix-process", HashMap::from([("pidfd", process), ("uid", Value::from(uid))])));
    }
    if let Some(sender) = sender {
        return Ok(("system-bus-name", HashMap::from([("name", Value::from(sender))])));
    }
    let start = process::start_time(caller.pid);
    // Read by pid: believed as the process still lives.
    let start = match (start, pidfd::is_alive(caller.pidfd.as_fd())) {
        (Ok(start), Ok(true)) => start,
        _ => return Err("the process that asks has ended".to_owned()),
    };
    let fields = [("pid", Value::from(caller.pid)), ("start-time", Value::from(start)), ("uid", Value::from(uid))];
    Ok(("unix-process", HashMap::from(fields)))
}

fn away(error: &zbus::Error) -> Answer {
    Answer::Away(match error {
        zbus::Error::MethodError(_, Some(text), _) => text.clone(),
        zbus::Error::MethodError(name, None, _) => name.to_string(),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_of_two_ages() {
        assert!(takes_pidfd("126") && takes_pidfd("127"));
        assert!(!takes_pidfd("122") && !takes_pidfd("0.105") && !takes_pidfd(""));
    }

    #[test]
    fn one_uid_cannot_have_all_questions() {
        let polkit = Polkit::default();
        let mut first: Vec<_> = (0..AT_A_TIME).map(|_| polkit.begin(5).unwrap()).collect();
        assert!(polkit.begin(5).is_none() && polkit.begin(6).is_some());
        first.pop();
        assert!(polkit.begin(5).is_some());
        drop(first);
        assert!(polkit.lock().under_way.is_empty());
    }
}
