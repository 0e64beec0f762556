//! A session: one holder's private way to a set. The set FD it was opened over is all the authority there is.

use super::Edge;
use super::channel::{Channel, Incoming, NOBODY, Reply, answer, failed, reply_to, unknown_op};
use crate::controller::{Asked, SessionId};
use crate::model::{Failure, SetId};
use crate::proto::{
    Ack, AliasAdd, AliasDel, AliasFind, Aliased, Alloc, Bind, Call, Done, Free, Freed, Header, Hold, Info, Kind, Map,
    OpenSession, Opened, Pasids, Put, Refill, Refilled, SetQuota, Trim, Trimmed, Verified, Verify, Watch, WatchEvent,
    encode,
};
use std::sync::{Arc, OnceLock};
use tokio::sync::mpsc;

/// Events that wait while a session's answer waits for its reader. Who is further behind has missed some: its session ends.
const MOST_BEHIND: usize = 512;

/// A session and the uid that made its socket pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opener {
    pub(super) id: SessionId,
    pub(super) uid: u32,
    /// It was open before a restart of the service, and goes on over the same pair.
    pub(super) resumed: bool,
}

/// What a session is told of its set.
#[derive(Debug)]
pub(super) struct Told {
    teller: Teller,
    events: mpsc::Receiver<Arc<WatchEvent>>,
    /// Under which request the holder watches; events go out under its id.
    watching: Header,
}

/// Tells a session.
#[derive(Clone, Debug)]
struct Teller {
    events: mpsc::Sender<Arc<WatchEvent>>,
    /// Set where the session missed an event.
    missed: Arc<OnceLock<()>>,
}

impl Teller {
    fn tell(&self, event: Arc<WatchEvent>) {
        // Where the session that reads the other end is gone, its watch goes with it.
        if self.events.try_send(event).is_err() {
            let _ = self.missed.set(());
        }
    }
}

impl Told {
    /// Nothing yet.
    pub(super) fn nothing() -> Self {
        let (sender, events) = mpsc::channel(MOST_BEHIND);
        let teller = Teller { events: sender, missed: Arc::default() };
        Self { teller, events, watching: Header { op: Watch::OP, ..NOBODY } }
    }

    /// What it watched before a restart.
    pub(super) fn again(edge: &Edge, set: SetId, session: SessionId) -> Self {
        let mut told = Self::nothing();
        let teller = told.teller.clone();
        let request = edge.controller.watch_again(set, session, Box::new(move |event| teller.tell(event)));
        told.watching.id = request.unwrap_or(0);
        told
    }
}

/// Serves the session until its holder ends it.
pub(super) async fn serve(edge: &Edge, channel: Channel, set: SetId, opener: Opener, told: Told) {
    let Told { teller, mut events, mut watching } = told;
    if opener.resumed {
        // The holder sends the request under way once more: the one before may have been lost.
        let opened = Opened { set, features: crate::proto::features(), resumed: true };
        if !channel
            .send_now(reply_to::<OpenSession>(Header { op: OpenSession::OP, ..NOBODY }, Ok((opened, Vec::new()))))
        {
            channel.end_both();
            edge.controller.close_session(set, opener.id);
            return;
        }
    }
    let mut last = None;
    loop {
        let reply = tokio::select! {
            // What happened before a request was answered is told before the answer.
            biased;
            Some(event) = events.recv() => {
                let header = Header { kind: Kind::Event, ..watching };
                Reply { header, frame: encode(header, event.as_ref()), fds: Vec::new() }
            }
            incoming = channel.receive() => match incoming {
                // Was not lost after all, and is answered.
                Incoming::Request(header, ..) if opener.resumed && last.replace(header.id) == Some(header.id) => continue,
                Incoming::Request(header, body, _) => match edge.controller.admit(opener.uid) {
                    Ok(()) if header.op == Watch::OP => {
                        watching = header;
                        watch(edge, set, &asked(opener, header, &channel), header, &body, &teller)
                    }
                    Ok(()) => handle(edge, set, &asked(opener, header, &channel), header, &body),
                    Err(refusal) => failed(header, refusal.into()),
                },
                Incoming::Malformed(refusal) => failed(NOBODY, refusal.into()),
                Incoming::Over | Incoming::Gone => break,
            },
        };
        if let Some(refusal) = reply.refusal() {
            edge.controller.count_refusal(&refusal);
        }
        edge.controller.spend(opener.uid, reply.cost());
        // One frame goes out at once or not at all; many are more than a socket's queue takes, and descriptors may wait.
        let sent = match reply.is_long() || !reply.fds.is_empty() {
            true => channel.send(reply, &edge.backlog, opener.uid).await,
            false => channel.send_now(reply),
        };
        if !sent || teller.missed.get().is_some() {
            break;
        }
    }
    channel.end_both();
    edge.controller.close_session(set, opener.id);
}

fn asked(opener: Opener, header: Header, channel: &Channel) -> Asked<'_> {
    Asked { session: opener.id, request: header.id, end: channel.end() }
}

fn watch(edge: &Edge, set: SetId, asked: &Asked<'_>, header: Header, body: &[u8], teller: &Teller) -> Reply {
    let teller = teller.clone();
    answer::<Watch>(header, body, |call| {
        edge.controller.watch(set, asked, &call, Box::new(move |event| teller.tell(event)))
    })
}

fn handle(edge: &Edge, set: SetId, asked: &Asked<'_>, header: Header, body: &[u8]) -> Reply {
    let controller = &edge.controller;
    match header.op {
        Alloc::OP => answer::<Alloc>(header, body, |call| {
            controller.alloc(set, Some(asked), call.count, call.range).map(|pasids| Pasids { pasids })
        }),
        Free::OP => answer::<Free>(header, body, |call| {
            controller.free(set, Some(asked), &call.pasids).map(|pending| Freed { pending })
        }),
        Info::OP => answer::<Info>(header, body, |_| controller.info(set)),
        AliasAdd::OP => {
            answer::<AliasAdd>(header, body, |call| done(controller.add_alias(set, asked, call.pasid, call.alias)))
        }
        AliasFind::OP => answer::<AliasFind>(header, body, |call| {
            controller.find_alias(set, call.alias).map(|pasid| Aliased { pasid })
        }),
        AliasDel::OP => answer::<AliasDel>(header, body, |call| done(controller.remove_alias(set, asked, call.alias))),
        Hold::OP => answer::<Hold>(header, body, |call| done(controller.hold(set, asked, call.pasid))),
        Put::OP => answer::<Put>(header, body, |call| done(controller.put(set, asked, call.pasid))),
        SetQuota::OP => answer::<SetQuota>(header, body, |call| controller.set_quota(set, call.quota)),
        Trim::OP => answer::<Trim>(header, body, |_| controller.trim(set).map(|returned| Trimmed { returned })),
        Refill::OP => answer::<Refill>(header, body, |call| {
            controller.refill(set, call.count, call.range).map(|leased| Refilled { leased })
        }),
        Ack::OP => answer::<Ack>(header, body, |call| done(controller.acknowledge(set, asked.session, call.serial))),
        Bind::OP => answer::<Bind>(header, body, |call| done(controller.bind(set, call.pasid, call.bound))),
        Map::OP => reply_to::<Map>(header, controller.map_set(set).map(|(mapped, region)| (mapped, vec![region]))),
        Verify::OP => answer::<Verify>(header, body, |call| {
            Ok(controller.verify(set, call.pasid).map(|leased| Verified { leased })?)
        }),
        op => failed(header, unknown_op(op, "a session")),
    }
}

fn done(outcome: Result<(), Failure>) -> Result<Done, Failure> {
    outcome.map(|()| Done {})
}
