//! `org.ioasid1.Manager`, at `/org/ioasid1`.

use super::error::BusError;
use super::options::{Options, cgroup_path, set_request};
use super::{Core, path_of, set::SetObject, set_at};
use crate::controller::Deed;
use crate::model::{CgroupPath, Domain, Limit, Refusal};
use crate::proto::{CgroupInfo, DomainInfo};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::{Array, ObjectPath, OwnedFd, OwnedObjectPath, OwnedValue, Signature, Value};
use zbus::{Connection, interface};

/// SetCgroupMax: written to the policy's drop-in too.
const PERSIST: u32 = 1;
/// SetCgroupMax: no limit of its own, but the policy's line.
const POLICY: u32 = 2;
/// SetCgroupMax: no limit.
const MAX: u64 = u64::MAX;

type Fields = HashMap<&'static str, Value<'static>>;
type Given = HashMap<String, OwnedValue>;

/// The manager. Its state is the controller.
pub(super) struct Manager {
    core: Arc<Core>,
}

impl Manager {
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    fn global(&self) -> DomainInfo {
        let domains = self.core.controller.domains();
        let global = domains.into_iter().find(|domain| domain.name == Domain::Global);
        let none =
            DomainInfo { name: Domain::Global, bits: 0, capacity: 0, current: 0, peak: 0, reserved: 0, resting: 0 };
        global.unwrap_or(none)
    }
}

#[interface(name = "org.ioasid1.Manager", introspection_docs = false)]
impl Manager {
    #[zbus(out_args("set_fd", "set"))]
    async fn create_set(
        &self,
        options: Given,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(OwnedFd, OwnedObjectPath), BusError> {
        let made = self.core.answer(connection, &header, async |call| {
            let request = set_request(options)?;
            let permit = call.permit(Deed::CreateSet(&request)).await?;
            let _turn = self.core.turn.lock().await;
            tokio::task::yield_now().await;
            let made = self.core.controller.create_set(&call.caller, permit)?;
            let id = made.info.set;
            let path = path_of(id)?;
            let holder = (self.core.adopt)(made)?;
            // Whoever is given the path finds an object there.
            SetObject::serve(&self.core, connection, id).await?;
            Ok((holder.into(), path))
        });
        made.await
    }

    #[zbus(out_args("set_fd"))]
    async fn open_set(
        &self,
        set: ObjectPath<'_>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedFd, BusError> {
        let opened = self.core.answer(connection, &header, async |call| {
            let permit = call.permit(Deed::OpenSet(set_at(&set)?)).await?;
            let made = self.core.controller.open_set(&permit)?;
            Ok((self.core.adopt)(made)?.into())
        });
        opened.await
    }

    #[zbus(out_args("set"))]
    async fn identify_set(
        &self,
        set_fd: OwnedFd,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, BusError> {
        let identified = self.core.answer(connection, &header, async |call| {
            call.permit(Deed::Look).await?;
            path_of(self.core.controller.identify(set_fd.as_fd())?)
        });
        identified.await
    }

    /// For who made the set: CreateSet's reply has no room for a second descriptor.
    #[zbus(out_args("iommufd"))]
    async fn open_iommufd(
        &self,
        set_fd: OwnedFd,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedFd, BusError> {
        let opened = self.core.answer(connection, &header, async |call| {
            let id = self.core.controller.identify(set_fd.as_fd())?;
            let permit = call.permit(Deed::OpenSet(id)).await?;
            Ok(self.core.controller.open_iommufd(&permit)?.into())
        });
        opened.await
    }

    #[zbus(out_args("leased"))]
    async fn verify_pasid(
        &self,
        set_fd: OwnedFd,
        pasid: u32,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<bool, BusError> {
        let verified = self.core.answer(connection, &header, async |call| {
            call.permit(Deed::Look).await?;
            Ok(self.core.controller.verify_presented(set_fd.as_fd(), pasid)?)
        });
        verified.await
    }

    #[zbus(out_args("sets"))]
    #[allow(clippy::type_complexity)]
    async fn list_sets(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<(OwnedObjectPath, String, String, u64, u32, u32, u32)>, BusError> {
        let listed = self.core.answer(connection, &header, async |call| {
            call.permit(Deed::Look).await?;
            let sets = self.core.controller.sets();
            call.pay_for(sets.len());
            let listed = sets.into_iter().map(|set| {
                let cgroup = set.cgroup.as_str().to_owned();
                Ok((path_of(set.set)?, set.label, cgroup, set.cgroup_id.0, set.quota, set.leased, set.in_use))
            });
            listed.collect()
        });
        listed.await
    }

    #[zbus(out_args("fields"))]
    async fn get_cgroup(
        &self,
        cgroup: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Fields, BusError> {
        let fields = self.core.answer(connection, &header, async |call| {
            call.permit(Deed::Look).await?;
            Ok(fields_of(&self.core.controller.cgroup(&cgroup_path("cgroup", cgroup)?, false)?))
        });
        fields.await
    }

    #[zbus(out_args("cgroups"))]
    async fn list_cgroups(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<(String, Fields)>, BusError> {
        let listed = self.core.answer(connection, &header, async |call| {
            call.permit(Deed::Look).await?;
            let mut listed = Vec::new();
            list_cgroups(&self.core.controller.cgroup(&CgroupPath::root(), true)?, &mut listed);
            call.pay_for(listed.len());
            Ok(listed)
        });
        listed.await
    }

    async fn set_cgroup_max(
        &self,
        cgroup: &str,
        max: u64,
        flags: u32,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), BusError> {
        let set = self.core.answer(connection, &header, async |call| {
            let limit = limit_of(max, flags)?;
            let cgroup = cgroup_path("cgroup", cgroup)?;
            let permit = call.permit(Deed::SetLimit(&cgroup)).await?;
            self.core.controller.set_limit(&call.caller, &permit, limit, flags & PERSIST != 0)
        });
        set.await
    }

    async fn reset_peak(
        &self,
        cgroup: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), BusError> {
        let reset = self.core.answer(connection, &header, async |call| {
            let permit = call.permit(Deed::ResetPeak(&cgroup_path("cgroup", cgroup)?)).await?;
            self.core.controller.reset_peak(&call.caller, &permit)
        });
        reset.await
    }

    async fn recharge(
        &self,
        set: ObjectPath<'_>,
        cgroup: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), BusError> {
        let recharged = self.core.answer(connection, &header, async |call| {
            let cgroup = cgroup_path("cgroup", cgroup)?;
            let permit = call.permit(Deed::Recharge(set_at(&set)?)).await?;
            self.core.controller.recharge(&call.caller, &permit, &cgroup)
        });
        recharged.await
    }

    async fn revoke_set(
        &self,
        set: ObjectPath<'_>,
        reason: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), BusError> {
        let revoked = self.core.answer(connection, &header, async |call| {
            let permit = call.permit(Deed::Revoke(set_at(&set)?)).await?;
            self.core.controller.revoke_set(&call.caller, &permit, reason)
        });
        revoked.await
    }

    async fn reload(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), BusError> {
        let reloaded = self.core.answer(connection, &header, async |call| {
            let permit = call.permit(Deed::Reload).await?;
            self.core.controller.reload(&call.caller, &permit)
        });
        reloaded.await
    }

    #[zbus(out_args("explanation"))]
    async fn explain(
        &self,
        request: Given,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Fields, BusError> {
        let explained = self.core.answer(connection, &header, async |call| {
            call.permit(Deed::Look).await?;
            let mut options = Options::new(request, "user, cgroup, quota");
            let user = options.text("user")?.ok_or_else(|| missing("user", "the name or number of a user"))?;
            let cgroup = options.cgroup("cgroup")?.ok_or_else(|| missing("cgroup", "the cgroup that asks"))?;
            let quota = options.number("quota")?;
            options.finish()?;
            Ok(explanation(&self.core.controller.explain(&user, &cgroup, quota)?))
        });
        explained.await
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn backend(&self) -> &str {
        self.core.controller.backend()
    }

    #[zbus(property)]
    fn pasid_bits(&self) -> u32 {
        self.global().bits
    }

    #[zbus(property)]
    fn capacity(&self) -> u64 {
        self.global().capacity
    }

    #[zbus(property)]
    fn current(&self) -> u64 {
        self.core.controller.charged().0
    }

    #[zbus(property)]
    fn peak(&self) -> u64 {
        self.core.controller.charged().1
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn features(&self) -> Vec<String> {
        crate::proto::features()
    }

    #[zbus(property)]
    fn domains(&self) -> Vec<String> {
        self.core.controller.domains().iter().map(|domain| domain.name.to_string()).collect()
    }

    #[zbus(signal)]
    pub async fn set_added(emitter: &SignalEmitter<'_>, set: ObjectPath<'_>) -> zbus::Result<()>;

    #[zbus(signal)]
    pub async fn set_removed(emitter: &SignalEmitter<'_>, set: ObjectPath<'_>, reason: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    pub async fn limit_hit(
        emitter: &SignalEmitter<'_>,
        cgroup: &str,
        max: u64,
        asked: u32,
        requester_cgroup: &str,
    ) -> zbus::Result<()>;
}

/// The properties of the manager that change.
pub(super) fn changing(manager: &Manager) -> Vec<(&'static str, Value<'static>)> {
    vec![
        ("PasidBits", manager.pasid_bits().into()),
        ("Capacity", manager.capacity().into()),
        ("Current", manager.current().into()),
        ("Peak", manager.peak().into()),
        ("Domains", manager.domains().into()),
    ]
}

fn missing(field: &str, expected: &str) -> Refusal {
    Refusal::invalid(field, "", expected)
}

/// What SetCgroupMax asks for; `None`: the policy's line.
fn limit_of(max: u64, flags: u32) -> Result<Option<Limit>, Refusal> {
    if flags & !(PERSIST | POLICY) != 0 {
        return Err(Refusal::invalid("flags", flags, "0, or 1 to persist, 2 to go back to the policy, 3 for both"));
    }
    match (flags & POLICY != 0, max) {
        (true, 0) => Ok(None),
        (true, _) => Err(Refusal::invalid("max", max, "0, as it has to be with flag 2, which goes back to the policy")),
        (false, MAX) => Ok(Some(Limit::Max)),
        (false, count) => Ok(Some(Limit::Count(count))),
    }
}

/// A limit as the bus has it: 2^64-1 stands for `max`.
pub(super) fn number_of(limit: Limit) -> u64 {
    match limit {
        Limit::Count(count) => count,
        Limit::Max => MAX,
    }
}

/// A cgroup as `a{sv}`: names as in `ioasidctl --json cgroup`, the tree left out, limits as [`number_of`].
fn fields_of(info: &CgroupInfo) -> Fields {
    let events = |counts: crate::proto::EventCounts| Value::from(HashMap::from([("max", counts.max)]));
    let mut fields = HashMap::from([
        ("path", Value::from(info.path.as_str().to_owned())),
        ("id", Value::from(info.id.0)),
        ("max", Value::from(number_of(info.max))),
        ("effective_max", Value::from(number_of(info.effective_max))),
        ("current", Value::from(info.current)),
        ("peak", Value::from(info.peak)),
        ("events", events(info.events)),
        ("events_local", events(info.events_local)),
        ("dying", Value::from(info.dying)),
        ("set_by", Value::from(info.set_by.clone())),
    ]);
    if let Some(source) = &info.source {
        fields.insert("file", Value::from(source.file.clone()));
        fields.insert("line", Value::from(source.line));
    }
    if let Some(capacity) = info.capacity {
        fields.insert("capacity", Value::from(capacity));
    }
    fields
}

fn list_cgroups(info: &CgroupInfo, listed: &mut Vec<(String, Fields)>) {
    listed.push((info.path.as_str().to_owned(), fields_of(info)));
    info.children.iter().for_each(|child| list_cgroups(child, listed));
}

/// An explanation as `a{sv}`: texts and numbers as they are, what is absent left out, limits as `aa{sv}`.
fn explanation(json: &serde_json::Value) -> Fields {
    let mut fields = Fields::new();
    for key in ["decision", "rule", "file", "bound"] {
        if let Some(text) = json.get(key).and_then(|value| value.as_str()) {
            fields.insert(key, Value::from(text.to_owned()));
        }
    }
    for key in ["line", "quota"] {
        if let Some(number) = number(json.get(key)) {
            fields.insert(key, Value::from(number));
        }
    }
    let mut limits = Array::new(&Signature::dict(Signature::Str, Signature::Variant));
    for limit in json.get("limits").and_then(|limits| limits.as_array()).into_iter().flatten() {
        let text = |key| limit.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
        let max = limit.get("max").and_then(serde_json::Value::as_u64).unwrap_or(MAX);
        let line = number(limit.get("line")).unwrap_or_default();
        let mut entry: Fields = HashMap::from([
            ("cgroup", Value::from(text("cgroup"))),
            ("max", Value::from(max)),
            ("file", Value::from(text("file"))),
            ("line", Value::from(line)),
        ]);
        if !text("set_by").is_empty() {
            entry.insert("set_by", Value::from(text("set_by")));
        }
        // It has the array's type, so it fits.
        let _ = limits.append(Value::from(entry));
    }
    fields.insert("limits", Value::from(limits));
    fields
}

fn number(json: Option<&serde_json::Value>) -> Option<u32> {
    json.and_then(serde_json::Value::as_u64).and_then(|number| u32::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::object_server::Interface;

    #[test]
    fn interfaces_are_called_as_proto_says() {
        assert_eq!(Manager::name(), crate::proto::MANAGER_INTERFACE);
        assert_eq!(SetObject::name(), crate::proto::SET_INTERFACE);
    }

    #[test]
    fn a_limit_is_a_number_or_max_or_the_policys_and_nothing_in_between() {
        assert_eq!(limit_of(7, 0), Ok(Some(Limit::Count(7))));
        assert_eq!(limit_of(0, PERSIST), Ok(Some(Limit::Count(0))));
        assert_eq!(limit_of(MAX, PERSIST), Ok(Some(Limit::Max)));
        assert_eq!((limit_of(0, POLICY), limit_of(0, POLICY | PERSIST)), (Ok(None), Ok(None)));
        for (max, flags, field) in
            [(7, POLICY, "max"), (MAX, POLICY | PERSIST, "max"), (0, 4, "flags"), (7, !0, "flags")]
        {
            match limit_of(max, flags) {
                Err(Refusal::InvalidArgument { field: named, .. }) => assert_eq!(named, field, "{max} {flags}"),
                other => panic!("{max} {flags}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_explanation_keeps_its_fields() {
        let json = serde_json::json!({
            "decision": "allow", "rule": "guests", "file": "/etc/p.toml", "line": 7, "quota": 64,
            "limits": [{"cgroup": "/a", "max": 4, "file": "/etc/p.toml", "line": 3}, {"cgroup": "/", "max": "max"}],
        });
        let fields = explanation(&json);
        assert_eq!(fields["decision"], Value::from("allow"));
        assert_eq!((&fields["line"], &fields["quota"]), (&Value::from(7_u32), &Value::from(64_u32)));
        let Value::Array(limits) = &fields["limits"] else { panic!("no array") };
        assert_eq!((limits.len(), limits.signature().to_string().as_str()), (2, "aa{sv}"));
        let denied = explanation(&serde_json::json!({"decision": "deny", "rule": "no rule matches", "file": null}));
        assert!(!denied.contains_key("file") && denied.contains_key("limits"));
    }
}
