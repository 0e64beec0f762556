//! The socket edge: `ioasid.sock`, set FDs and the sessions on them.
//!
//! Lives here: receiving, parsing, asking the controller, translating back. Three kinds of tasks on one thread:
//! one a connection to `ioasid.sock` ([`connection`]), one a set FD ([`set_end`]), one a session ([`session`]).
//! What arrives is drained at once with every descriptor in it, and descriptors that a call does not take are
//! closed: no set FD hides in a queue of ours.

mod backlog;
mod channel;
mod connection;
mod session;
mod set_end;

use crate::controller::{Consent, Controller, NewSet, Notice, ResumedSession, SetEnd, kept_free, refuse_when_scarce};
use crate::identity::{Host, Peer};
use crate::model::{Failure, Fault, Refusal};
use crate::proto::Event;
use crate::sys::listener::Listener;
use crate::sys::process::files_left;
use crate::sys::readiness::Registered;
use crate::sys::socket_option;
use backlog::Backlog;
use channel::Channel;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, mpsc};

/// What a connection, a set FD or a session needs to be served.
pub struct Edge {
    controller: Arc<Controller>,
    host: Arc<Host>,
    consent: OnceLock<Arc<dyn Consent>>,
    events: broadcast::Sender<Event>,
    backlog: Backlog,
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edge").finish_non_exhaustive()
    }
}

impl Edge {
    /// An edge before `controller`. Must be called inside the runtime that serves it.
    pub fn new(controller: Arc<Controller>, host: Arc<Host>) -> Arc<Self> {
        let (events, _) = broadcast::channel(256);
        let teller = events.clone();
        let (deadline, deadlines) = mpsc::unbounded_channel();
        controller.observe(Box::new(move |notice| match notice {
            // Nobody follows: nobody is told.
            Notice::Event(event) => drop(teller.send(event.clone())),
            Notice::Deadline(when) => drop(deadline.send(*when)),
            Notice::SetChanged(_) | Notice::CgroupEvents(_) => {}
        }));
        tokio::spawn(keep_time(Arc::downgrade(&controller), deadlines));
        Arc::new(Self { controller, host, consent: OnceLock::new(), events, backlog: Backlog::default() })
    }

    /// Where polkit is asked from now on.
    pub fn set_consent(&self, consent: Arc<dyn Consent>) {
        let _ = self.consent.set(consent);
    }

    fn consent(&self) -> Option<&dyn Consent> {
        self.consent.get().map(AsRef::as_ref)
    }

    /// Listens on a set that was made, and gives the FD to hand out.
    pub fn adopt(self: &Arc<Self>, made: NewSet) -> Result<OwnedFd, Failure> {
        let NewSet { holder, service, end, .. } = made;
        self.listen_on_set(service, end)?;
        Ok(holder)
    }

    /// Listens on the service's end of a set FD until it hangs up.
    pub fn listen_on_set(self: &Arc<Self>, service: OwnedFd, end: SetEnd) -> Result<(), Fault> {
        let socket = Registered::new(service)?;
        let edge = Arc::clone(self);
        tokio::spawn(async move { set_end::serve(&edge, socket, end).await });
        Ok(())
    }

    /// Goes on with a session that was open before a restart.
    pub fn resume_session(self: &Arc<Self>, resumed: ResumedSession) -> Result<(), Fault> {
        let ResumedSession { end, set, session, uid } = resumed;
        let channel = Channel::new(end).inspect_err(|_| self.controller.close_session(set, session))?;
        let edge = Arc::clone(self);
        let opener = session::Opener { id: session, uid, resumed: true };
        let told = session::Told::again(self, set, session);
        tokio::spawn(async move { session::serve(&edge, channel, set, opener, told).await });
        Ok(())
    }

    /// Who connected, if there is room for it: at once, not in a task of its own, for many may come at a time. It counts
    /// against its uid from here on, and [`connection::serve`] ends that; nothing counts where it is refused.
    fn identify(&self, connection: BorrowedFd<'_>) -> Result<Peer, Failure> {
        let uid = socket_option::peer_credentials(connection).map_err(Fault::from)?.uid;
        has_room(connection, uid)?;
        // Before its process is looked at, which costs far more: who is past its share is turned away cheaply.
        self.controller.enter(uid)?;
        let look = || {
            let peer = Peer::of_socket(connection, &self.host)?;
            has_room(peer.pidfd.as_fd(), uid)?;
            Ok(peer)
        };
        look().inspect_err(|_| self.controller.leave(uid))
    }

    /// Accepts on `ioasid.sock` for ever.
    pub async fn accept(self: Arc<Self>, listener: Listener) -> Result<(), Fault> {
        let listening = Registered::for_reading(listener.as_fd().try_clone_to_owned()?)?;
        loop {
            match listening.read(|_| listener.try_accept()).await {
                Ok(socket) => {
                    let edge = Arc::clone(&self);
                    match self.identify(socket.as_fd()) {
                        Ok(peer) => drop(tokio::spawn(async move { connection::serve(&edge, socket, peer).await })),
                        Err(failure) => connection::turn_away(&edge, socket, failure),
                    }
                    // While others wait to be accepted nothing here would: who is served has its turn in between.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    // Out of descriptors, or the peer went away: wait a little rather than spin.
                    tracing::debug!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
}

/// Refuses a connection that would keep this descriptor where few are left. An administrator may have half of those that are
/// kept free: to see what is going on, and to end it.
fn has_room(newest: BorrowedFd<'_>, uid: u32) -> Result<(), Refusal> {
    let roots = uid == 0 && files_left(newest) >= kept_free() / 2;
    if roots { Ok(()) } else { refuse_when_scarce(newest) }
}

/// Calls the controller when a watcher's time is over; without deadlines it sleeps for good.
async fn keep_time(controller: Weak<Controller>, mut deadlines: mpsc::UnboundedReceiver<Instant>) {
    let mut next: Option<Instant> = None;
    loop {
        let over = async {
            match next {
                Some(when) => tokio::time::sleep_until(when.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            deadline = deadlines.recv() => match deadline {
                Some(deadline) => next = Some(next.map_or(deadline, |next| next.min(deadline))),
                None => return,
            },
            () = over => match controller.upgrade() {
                Some(controller) => next = controller.tick(),
                None => return,
            },
        }
    }
}
