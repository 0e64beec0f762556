//! The connection to the bus, which comes and goes; the service stays.

use super::caller::Callers;
use super::objects::Objects;
use super::pending::Pending;
use super::polkit::Polkit;
use super::service::Manager;
use super::teller::Teller;
use super::transport::BusStream;
use super::{Adopt, Core, introspection};
use crate::controller::{Consent, Controller};
use crate::identity::Host;
use crate::model::{Failure, Fault};
use crate::proto::{BUS_NAME, BUS_PATH};
use futures_core::Stream;
use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use zbus::fdo::RequestNameFlags;
use zbus::{Connection, MatchRule, MessageStream, connection, message};

/// How long the bus may take to let us in.
const PATIENCE: Duration = Duration::from_secs(5);
/// The waits between tries, first and longest. A path has no event for "somebody listens again".
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Which bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The system bus.
    System,
    /// The session bus.
    Session,
    /// The bus at this address.
    At(String),
}

/// The service on a bus.
pub struct Bus {
    core: Arc<Core>,
    pending: Arc<Pending>,
    address: Address,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Bus {
    /// An edge before `controller`. Sets that are made go through `adopt`; `socket_path` is where callers are sent whom
    /// the bus cannot vouch for.
    pub fn new(
        address: Address,
        controller: Arc<Controller>,
        host: Arc<Host>,
        adopt: Adopt,
        socket_path: &Path,
    ) -> Self {
        let pending = Arc::new(Pending::default());
        let noting = Arc::clone(&pending);
        controller.observe(Box::new(move |notice| noting.note(notice)));
        let polkit = Arc::new(Polkit::default());
        let socket_path = socket_path.to_owned();
        let (callers, turn) = (Callers::default(), tokio::sync::Mutex::default());
        let core = Core { controller, host, adopt, socket_path, callers, polkit, turn };
        Self { core: Arc::new(core), pending, address }
    }

    /// polkit, for callers of the other edges.
    pub fn consent(&self) -> Arc<dyn Consent> {
        Arc::clone(&self.core.polkit) as Arc<dyn Consent>
    }

    /// Goes on the bus and stays there until it ends, then again and again. Returns once the first try is over, whether
    /// it succeeded or not; the task goes on.
    pub async fn start(self) -> tokio::task::JoinHandle<()> {
        let (tried, first_try) = oneshot::channel();
        let task = tokio::spawn(self.run(tried));
        let _ = first_try.await;
        task
    }

    async fn run(self, tried: oneshot::Sender<()>) {
        let mut tried = Some(tried);
        let mut wait = FIRST_WAIT;
        let mut told = false;
        loop {
            let failure = match self.join().await {
                Ok((connection, teller, leavers)) => {
                    if told {
                        tracing::info!("on the bus again");
                    }
                    let _ = tried.take().map(|tried| tried.send(()));
                    (wait, told) = (FIRST_WAIT, false);
                    let failure = self.stay(&connection, teller, leavers).await;
                    self.leave();
                    failure
                }
                Err(failure) => failure,
            };
            let _ = tried.take().map(|tried| tried.send(()));
            // Once each time it goes away, not at each try.
            if !std::mem::replace(&mut told, true) {
                tracing::warn!("not on the bus, the sockets are served all the same: {failure}");
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Connects, puts every object there, then takes the name.
    async fn join(&self) -> Result<(Connection, Teller, MessageStream), Failure> {
        let joined = tokio::time::timeout(PATIENCE, self.try_join()).await;
        let joined = joined.unwrap_or_else(|_| Err(Fault::new("the bus does not answer").into()));
        joined.inspect_err(|_| self.leave())
    }

    async fn try_join(&self) -> Result<(Connection, Teller, MessageStream), Failure> {
        let failed = |error: zbus::Error| Failure::from(Fault::from_error(&error).while_doing("join the bus"));
        let address = match &self.address {
            Address::System => zbus::Address::system(),
            Address::Session => zbus::Address::session(),
            Address::At(address) => address.parse(),
        };
        let address = address.map_err(failed)?;
        let builder = match BusStream::connect(&address, &self.core.controller).await? {
            Some(stream) => connection::Builder::socket(stream),
            None => connection::Builder::address(address).map_err(failed)?,
        };
        let connection = builder.build().await.map_err(failed)?;
        self.serve(&connection).await.map_err(failed)?;
        let leavers = leavers(&connection).await.map_err(failed)?;
        self.core.polkit.use_bus(Some(connection.clone()));
        // Noted before the sets are listed: what comes in between is told twice rather than not at all.
        self.pending.start();
        let mut teller = Teller::new(Arc::clone(&self.core), connection.clone());
        teller.compare().await?;
        let flags = RequestNameFlags::DoNotQueue.into();
        connection.request_name_with_flags(BUS_NAME, flags).await.map_err(failed)?;
        Ok((connection, teller, leavers))
    }

    /// Puts there what is there always.
    async fn serve(&self, connection: &Connection) -> zbus::Result<()> {
        let server = connection.object_server();
        introspection::serve(&self.core, connection).await?;
        server.at(BUS_PATH, Manager::new(Arc::clone(&self.core))).await?;
        server.at(BUS_PATH, Objects::of_sets(&self.core)).await?;
        // At the root too, where some clients look; signals come from the nearer one.
        server.at("/", Objects::of_all(&self.core)).await?;
        Ok(())
    }

    /// Serves until the connection ends.
    async fn stay(&self, connection: &Connection, teller: Teller, leavers: MessageStream) -> Failure {
        tokio::select! {
            () = connection.closed() => Fault::new("the bus closed the connection").into(),
            failure = teller.run(&self.pending) => failure,
            () = self.forget(leavers) => Fault::new("the bus says nothing any more").into(),
        }
    }

    /// Forgets who leaves the bus.
    async fn forget(&self, mut leavers: MessageStream) {
        while let Some(Ok(message)) = poll_fn(|cx| Pin::new(&mut leavers).poll_next(cx)).await {
            if let Ok((name, _, _)) = message.body().deserialize::<(&str, &str, &str)>() {
                self.core.callers.forget(name);
            }
        }
    }

    fn leave(&self) {
        self.pending.stop();
        self.core.polkit.use_bus(None);
        self.core.callers.forget_all();
    }
}

/// Says which names leave the bus.
async fn leavers(connection: &Connection) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(message::Type::Signal)
        .sender("org.freedesktop.DBus")?
        .interface("org.freedesktop.DBus")?
        .member("NameOwnerChanged")?
        .arg(2, "")?
        .build();
    MessageStream::for_match_rule(rule, connection, Some(1024)).await
}
