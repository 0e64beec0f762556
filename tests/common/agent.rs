//! A polkit authentication agent that answers for a person.

use super::bus::PrivateBus;
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;
use zbus::Connection;
use zbus::zvariant::{OwnedValue, Value};

const POLKIT: &str = "org.freedesktop.PolicyKit1";
const AUTHORITY: &str = "org.freedesktop.PolicyKit1.Authority";
const AUTHORITY_PATH: &str = "/org/freedesktop/PolicyKit1/Authority";
const AGENT_PATH: &str = "/test/agent";

/// What a person was asked: for which action, with which details.
pub type Asked = (String, HashMap<String, String>);

/// What a person does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Person {
    /// Gives the password.
    Consents,
    /// Closes the window.
    Declines,
    /// Is not there.
    IsAway,
}

/// An agent for one process, as `pkttyagent --process` is one. It is root's, so polkit takes its word without a password.
pub struct Agent {
    person: Arc<Mutex<Person>>,
    asked: Receiver<Asked>,
    taken_back: Receiver<()>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Agent {
    /// Registers one. The person declines until told otherwise.
    pub fn register(bus: &PrivateBus, pid: u32) -> Self {
        let ((tell, asked), (tell_back, taken_back)) = (channel(), channel());
        let person = Arc::new(Mutex::new(Person::Declines));
        let object = Object { person: Arc::clone(&person), asked: Mutex::new(tell), taken_back: Mutex::new(tell_back) };
        let (end, ended) = oneshot::channel();
        let (ready, registered) = channel();
        let address = bus.address();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let builder = zbus::connection::Builder::address(address.as_str()).unwrap();
                let connection = builder.serve_at(AGENT_PATH, object).unwrap().build().await.unwrap();
                register(&connection, pid).await;
                ready.send(()).unwrap();
                let _ = ended.await;
            });
        });
        registered.recv().expect("polkit takes the agent");
        Self { person, asked, taken_back, end: Some(end), thread: Some(thread) }
    }

    /// What the person does from now on.
    pub fn person(&self, person: Person) {
        *self.person.lock().unwrap() = person;
    }

    /// Whether a question was taken back, once each.
    pub fn taken_back(&self) -> Option<()> {
        self.taken_back.try_recv().ok()
    }

    /// What it was asked, once each.
    pub fn asked(&self) -> Option<Asked> {
        self.asked.try_recv().ok()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().unwrap().join();
    }
}

async fn register(connection: &Connection, pid: u32) {
    // Start time 0: polkit looks it up.
    let process = HashMap::from([("pid", Value::from(pid)), ("start-time", Value::from(0_u64))]);
    let body = (("unix-process", process), "C", AGENT_PATH);
    let call =
        connection.call_method(Some(POLKIT), AUTHORITY_PATH, Some(AUTHORITY), "RegisterAuthenticationAgent", &body);
    call.await.unwrap();
}

struct Object {
    person: Arc<Mutex<Person>>,
    asked: Mutex<Sender<Asked>>,
    taken_back: Mutex<Sender<()>>,
}

#[zbus::interface(name = "org.freedesktop.PolicyKit1.AuthenticationAgent")]
impl Object {
    #[allow(clippy::too_many_arguments)]
    async fn begin_authentication(
        &self,
        action: &str,
        _message: &str,
        _icon: &str,
        details: HashMap<String, String>,
        cookie: &str,
        identities: Vec<(String, HashMap<String, OwnedValue>)>,
        #[zbus(connection)] connection: &Connection,
    ) -> zbus::fdo::Result<()> {
        let _ = self.asked.lock().unwrap().send((action.to_owned(), details));
        let person = *self.person.lock().unwrap();
        if person == Person::IsAway {
            std::future::pending::<()>().await;
        }
        if person == Person::Consents {
            let who = identities.into_iter().next().expect("polkit names who may consent");
            // Of the agent: root's.
            let body = (0_u32, cookie, who);
            let method = "AuthenticationAgentResponse2";
            connection.call_method(Some(POLKIT), AUTHORITY_PATH, Some(AUTHORITY), method, &body).await?;
        }
        // What was not answered until now is a no.
        Ok(())
    }

    async fn cancel_authentication(&self, _cookie: &str) {
        let _ = self.taken_back.lock().unwrap().send(());
    }
}
