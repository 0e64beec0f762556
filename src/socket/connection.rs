//! A connection to `ioasid.sock`: every request of the manager and of sets by number.

use super::Edge;
use super::channel::{Channel, Incoming, NOBODY, Reply, answer, failed, reply_to, unknown_op};
use crate::controller::{Caller, Deed, Permit};
use crate::identity::Peer;
use crate::model::{CgroupPath, Failure, Limit, Refusal, SetId, trim_blanks};
use crate::proto::{
    Call, CreateSet, Done, Event, Explain, GetCgroup, GetEvents, GetMap, GetStatus, Greeting, Header, Hello,
    Identified, IdentifySet, Kind, ListSets, OpenIommufd, OpenSet, Recharge, Reload, ResetPeak, RevokeSet,
    SetCgroupMax, SetInfo, SetSetQuota, ShowSet, Verified, VerifyPasid, decode_request, encode,
};
use crate::sys::closing::Riders;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;

/// Serves the connection of a peer until it ends; then it counts against its uid no more.
pub(super) async fn serve(edge: &Arc<Edge>, socket: OwnedFd, peer: Peer) {
    match Channel::new(socket) {
        Ok(channel) => Connection { edge, peer: &peer, channel: &channel }.run().await,
        Err(error) => tracing::warn!(%error, "a connection cannot be listened on"),
    }
    edge.controller.leave(peer.uid);
}

/// Tells a peer that is not served why.
pub(super) fn turn_away(edge: &Edge, socket: OwnedFd, failure: Failure) {
    if let Failure::Refused(refusal) = &failure {
        edge.controller.count_refusal(refusal);
    }
    if let Ok(channel) = Channel::new(socket) {
        channel.send_now(failed(NOBODY, failure));
    }
}

struct Connection<'a> {
    edge: &'a Arc<Edge>,
    peer: &'a Peer,
    channel: &'a Channel,
}

impl Connection<'_> {
    async fn run(&self) {
        loop {
            let reply = match self.channel.receive().await {
                Incoming::Request(header, body, fds) => match self.edge.controller.admit(self.peer.uid) {
                    Ok(()) if header.op == GetEvents::OP => match self.events(header, &body).await {
                        Some(reply) => reply,
                        None => return,
                    },
                    Ok(()) => self.handle(header, &body, fds).await,
                    Err(refusal) => failed(header, refusal.into()),
                },
                Incoming::Malformed(refusal) => failed(NOBODY, refusal.into()),
                Incoming::Over | Incoming::Gone => return,
            };
            if let Some(refusal) = reply.refusal() {
                self.edge.controller.count_refusal(&refusal);
            }
            self.edge.controller.spend(self.peer.uid, reply.cost());
            if !self.send(reply).await {
                return;
            }
            // Whoever asks without a pause would be served for a hundred requests on end, and the sets it closed meanwhile
            // counted as open: let the reactor look at the other sockets in between.
            tokio::task::yield_now().await;
        }
    }

    async fn send(&self, reply: Reply) -> bool {
        self.channel.send(reply, &self.edge.backlog, self.peer.uid).await
    }

    /// Who asks, where it is now.
    fn caller(&self) -> Result<Caller, Failure> {
        Ok(Caller::new(self.peer, self.peer.cgroup(&self.edge.host)?))
    }

    async fn permit(&self, caller: &Caller, deed: Deed<'_>) -> Result<Permit, Failure> {
        self.edge.controller.permit(caller, deed, self.edge.consent(), false).await
    }

    async fn handle(&self, header: Header, body: &[u8], fds: Riders) -> Reply {
        let controller = &self.edge.controller;
        match header.op {
            Hello::OP => answer::<Hello>(header, body, |_| {
                Ok(Greeting { version: env!("CARGO_PKG_VERSION").to_owned(), features: crate::proto::features() })
            }),
            CreateSet::OP => reply_to::<CreateSet>(header, self.create_set(body).await),
            OpenSet::OP => reply_to::<OpenSet>(header, self.open_set(body).await),
            IdentifySet::OP => answer::<IdentifySet>(header, body, |_| {
                Ok(Identified { set: controller.identify(presented(&fds)?.as_fd())? })
            }),
            VerifyPasid::OP => answer::<VerifyPasid>(header, body, |call| {
                let leased = controller.verify_presented(presented(&fds)?.as_fd(), call.pasid)?;
                Ok(Verified { leased })
            }),
            OpenIommufd::OP => reply_to::<OpenIommufd>(header, self.open_iommufd(body, &fds).await),
            ListSets::OP => answer::<ListSets>(header, body, |call| match &call.cgroup {
                Some(cgroup) => Ok(controller.sets_of(cgroup)?),
                None => Ok(controller.sets()),
            }),
            ShowSet::OP => reply_to::<ShowSet>(header, self.show_set(body).await.map(bare)),
            GetStatus::OP => answer::<GetStatus>(header, body, |_| Ok(controller.status())),
            GetCgroup::OP => answer::<GetCgroup>(header, body, |call| {
                controller.cgroup(&call.path.unwrap_or_else(CgroupPath::root), call.recurse)
            }),
            Explain::OP => answer::<Explain>(header, body, |call| {
                controller.explain(&call.user, &cgroup_path("cgroup", &call.cgroup)?, call.quota)
            }),
            GetMap::OP => {
                answer::<GetMap>(header, body, |call| Ok(controller.map(call.domain, self.peer.is_administrator())?))
            }
            SetCgroupMax::OP => reply_to::<SetCgroupMax>(header, self.set_cgroup_max(body).await.map(bare)),
            ResetPeak::OP => reply_to::<ResetPeak>(header, self.reset_peak(body).await.map(bare)),
            Recharge::OP => reply_to::<Recharge>(header, self.recharge(body).await.map(bare)),
            RevokeSet::OP => reply_to::<RevokeSet>(header, self.revoke_set(body).await.map(bare)),
            SetSetQuota::OP => reply_to::<SetSetQuota>(header, self.set_set_quota(body).await.map(bare)),
            Reload::OP => reply_to::<Reload>(header, self.reload().await.map(bare)),
            op => failed(header, unknown_op(op, "ioasid.sock")),
        }
    }

    async fn create_set(&self, body: &[u8]) -> Result<(SetInfo, Vec<OwnedFd>), Failure> {
        let call: CreateSet = decode_request(body)?;
        let caller = self.caller()?;
        let permit = self.permit(&caller, Deed::CreateSet(&call.request)).await?;
        let mut made = self.edge.controller.create_set(&caller, permit)?;
        let (info, iommufd) = (made.info.clone(), made.iommufd.take());
        Ok((info, std::iter::once(self.edge.adopt(made)?).chain(iommufd).collect()))
    }

    async fn open_set(&self, body: &[u8]) -> Result<(SetInfo, Vec<OwnedFd>), Failure> {
        let call: OpenSet = decode_request(body)?;
        let permit = self.permit(&self.caller()?, Deed::OpenSet(SetId(call.set))).await?;
        let made = self.edge.controller.open_set(&permit)?;
        let info = made.info.clone();
        Ok((info, vec![self.edge.adopt(made)?]))
    }

    async fn open_iommufd(&self, body: &[u8], fds: &[OwnedFd]) -> Result<(Done, Vec<OwnedFd>), Failure> {
        let _: OpenIommufd = decode_request(body)?;
        let id = self.edge.controller.identify(presented(fds)?.as_fd())?;
        let permit = self.permit(&self.caller()?, Deed::OpenSet(id)).await?;
        Ok((Done {}, vec![self.edge.controller.open_iommufd(&permit)?]))
    }

    async fn show_set(&self, body: &[u8]) -> Result<SetInfo, Failure> {
        let call: ShowSet = decode_request(body)?;
        let id = SetId(call.set);
        let info = self.edge.controller.set(id)?;
        match self.edge.controller.authorize(&self.caller()?, Deed::SeeIds(id))?.without_polkit() {
            Ok(permit) => self.edge.controller.set_with_ids(&permit),
            // Which ids they are is for the set's owner; that it exists is for all.
            Err(_) => Ok(info),
        }
    }

    async fn set_cgroup_max(&self, body: &[u8]) -> Result<Done, Failure> {
        let call: SetCgroupMax = decode_request(body)?;
        let cgroup = cgroup_path("cgroup", &call.cgroup)?;
        let limit: Option<Limit> = match trim_blanks(&call.max) {
            "policy" => None,
            max => Some(max.parse().map_err(|_| Refusal::invalid("max", &call.max, "a number of ids, max or policy"))?),
        };
        let caller = self.caller()?;
        let permit = self.permit(&caller, Deed::SetLimit(&cgroup)).await?;
        self.edge.controller.set_limit(&caller, &permit, limit, call.persist)?;
        Ok(Done {})
    }

    async fn reset_peak(&self, body: &[u8]) -> Result<Done, Failure> {
        let call: ResetPeak = decode_request(body)?;
        let cgroup = cgroup_path("cgroup", &call.cgroup)?;
        let caller = self.caller()?;
        let permit = self.permit(&caller, Deed::ResetPeak(&cgroup)).await?;
        self.edge.controller.reset_peak(&caller, &permit)?;
        Ok(Done {})
    }

    async fn recharge(&self, body: &[u8]) -> Result<Done, Failure> {
        let call: Recharge = decode_request(body)?;
        let cgroup = cgroup_path("cgroup", &call.cgroup)?;
        let caller = self.caller()?;
        let permit = self.permit(&caller, Deed::Recharge(SetId(call.set))).await?;
        self.edge.controller.recharge(&caller, &permit, &cgroup)?;
        Ok(Done {})
    }

    async fn revoke_set(&self, body: &[u8]) -> Result<Done, Failure> {
        let call: RevokeSet = decode_request(body)?;
        let caller = self.caller()?;
        let permit = self.permit(&caller, Deed::Revoke(SetId(call.set))).await?;
        self.edge.controller.revoke_set(&caller, &permit, &call.reason)?;
        Ok(Done {})
    }

    async fn set_set_quota(&self, body: &[u8]) -> Result<SetInfo, Failure> {
        let call: SetSetQuota = decode_request(body)?;
        let permit = self.permit(&self.caller()?, Deed::SetQuota(SetId(call.set))).await?;
        self.edge.controller.change_quota(&permit, call.quota)
    }

    async fn reload(&self) -> Result<Done, Failure> {
        let caller = self.caller()?;
        let permit = self.permit(&caller, Deed::Reload).await?;
        self.edge.controller.reload(&caller, &permit)?;
        Ok(Done {})
    }

    /// Answers with the last events and, where asked to, goes on telling until the connection ends: then `None`.
    async fn events(&self, header: Header, body: &[u8]) -> Option<Reply> {
        let call: GetEvents = match decode_request(body) {
            Ok(call) => call,
            Err(refusal) => return Some(failed(header, refusal.into())),
        };
        // Subscribed before the last ones are read: nothing is lost, and what is told twice is dropped below.
        let mut following = self.edge.events.subscribe();
        let recent: Vec<Event> = self.edge.controller.events();
        while call.follow && following.try_recv().is_ok() {}
        let reply = reply_to::<GetEvents>(header, Ok((recent, Vec::new())));
        if !call.follow {
            return Some(reply);
        }
        if !self.send(reply).await {
            return None;
        }
        loop {
            let event = tokio::select! {
                event = following.recv() => event,
                // Whoever follows asks nothing more: anything that comes in ends it.
                _ = self.channel.receive() => return None,
            };
            let event = match event {
                Ok(event) => event,
                Err(RecvError::Lagged(missed)) => {
                    let refusal = Refusal::TooMany { limit: "events behind".to_owned(), value: missed };
                    self.send(failed(header, refusal.into())).await;
                    return None;
                }
                Err(RecvError::Closed) => return None,
            };
            let header = Header { kind: Kind::Event, ..header };
            if !self.send(Reply { header, frame: encode(header, &event), fds: Vec::new() }).await {
                return None;
            }
        }
    }
}

fn bare<T>(reply: T) -> (T, Vec<OwnedFd>) {
    (reply, Vec::new())
}

/// The one descriptor that rides on the request.
fn presented(fds: &[OwnedFd]) -> Result<&OwnedFd, Refusal> {
    match fds {
        [fd] => Ok(fd),
        _ => Err(Refusal::invalid("descriptors", fds.len(), "one set FD")),
    }
}

fn cgroup_path(field: &str, text: &str) -> Result<CgroupPath, Refusal> {
    text.parse().map_err(|malformed| Refusal::malformed(field, &malformed))
}
