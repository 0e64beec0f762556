//! Sets: made, opened again, identified, verified, listed; closed, and all comes back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

mod common;

use common::{Actor, Cgroups, Daemon};
use ioasid::model::{Domain, Refusal, SetRequest, SetState};
use ioasid::proto::{IdentifySet, ListSets, RevokeSet, ShowSet, VerifyPasid};
use std::os::fd::AsFd;

fn policy(cgroups: &Cgroups) -> String {
    format!(
        r#"
        version = 1
        [space]
        bits = 12
        reserved = ["0-1023"]
        quarantine = "0s"
        [[rule]]
        name = "tests"
        cgroup = "{scratch}/**"
        users = ["*"]
        action = "allow"
        quota = {{ default = 8, max = 64 }}
        sets_per_cgroup = 4
        domains = ["global", "pci:*"]
        "#,
        scratch = cgroups.path("")
    )
}

#[test]
fn set_fds_of_one_set_are_made_by_the_thousand_and_no_more() {
    ioasid::sys::process::raise_max_files().unwrap();
    let cgroups = Cgroups::new();
    cgroups.make("a");
    let daemon = Daemon::start(&policy(&cgroups));
    let (actor, admin) = (Actor::new(&cgroups, "a"), daemon.connect());
    let (first, info) = actor.connect(&daemon).create_set_of(4).unwrap();
    let more: Vec<_> = (1..1024).map(|_| admin.open_set(info.set.0).unwrap()).collect();
    let refusal = admin.open_set(info.set.0).map(drop).unwrap_err();
    assert!(matches!(&refusal, Refusal::TooMany { value: 1024, .. }), "{refusal:?}");
    drop(more);
    common::eventually("room for one more", || admin.open_set(info.set.0).ok());
    drop((first, actor, admin));
    daemon.finish();
}

#[test]
fn a_set_is_what_was_asked_for_and_its_last_close_gives_everything_back() {
    let cgroups = Cgroups::new();
    let guest = cgroups.make("guest");
    let daemon = Daemon::start(&policy(&cgroups));
    let before = daemon.snapshot();
    let actor = Actor::new(&cgroups, "guest");
    let wire = actor.connect(&daemon);
    let request = SetRequest { quota: Some(9), label: "disk".into(), ..SetRequest::default() };
    let (set, info) = wire.create_set(request).unwrap();
    assert_eq!((info.label.as_str(), &info.cgroup, info.cgroup_id), ("disk", &guest, cgroups.id("guest")));
    assert_eq!((info.owner_uid, info.domain, info.quota, info.leased, info.in_use), (0, Domain::Global, 9, 0, 0));
    assert_eq!((info.state, info.rule.as_str()), (SetState::Active, "tests"));
    assert!(info.created_usec > 1_600_000_000_000_000);

    let mut session = set.session().unwrap();
    let pasids = session.alloc_many(9, None).unwrap();
    assert_eq!(daemon.current(&guest), 9);
    let shown = wire.ask(&ShowSet { set: info.set.0 }).unwrap();
    let mut sorted = pasids.clone();
    sorted.sort_unstable();
    assert_eq!((shown.leased, shown.in_use, shown.pasids), (9, 9, Some(sorted)));
    let listed = wire.ask(&ListSets { cgroup: Some(guest.clone()) }).unwrap();
    assert_eq!(listed.iter().map(|s| (s.set, s.leased)).collect::<Vec<_>>(), [(info.set, 9)]);
    assert!(wire.ask(&ListSets { cgroup: Some(cgroups.make("other")) }).unwrap().is_empty());

    drop((set, session, wire, actor));
    daemon.settles_to(&before);
    assert_eq!(daemon.current(&guest), 0);
    daemon.finish();
}

#[test]
fn sets_of_a_cgroup_that_was_made_again_are_not_those_of_the_one_before() {
    let cgroups = Cgroups::new();
    let guest = cgroups.make("guest");
    let daemon = Daemon::start(&policy(&cgroups));
    let before = daemon.snapshot();
    let wire = daemon.connect();
    let of = |path: &ioasid::model::CgroupPath| {
        let sets = wire.ask(&ListSets { cgroup: Some(path.clone()) }).unwrap();
        sets.into_iter().map(|set| (set.set, set.cgroup_id)).collect::<Vec<_>>()
    };
    let actor = Actor::new(&cgroups, "guest");
    let (set, info) = actor.connect(&daemon).create_set(SetRequest::default()).unwrap();
    set.session().unwrap().alloc().unwrap();
    let first = (info.set, cgroups.id("guest"));
    assert_eq!(of(&guest), [first]);
    drop(actor);
    cgroups.remove("guest");
    assert_eq!(of(&guest), [first], "nobody else is there");
    cgroups.make("guest");
    assert!(of(&guest).is_empty());
    assert_eq!(of(&cgroups.path("")), [first], "what is charged to it stays below those above");
    drop((set, wire));
    daemon.settles_to(&before);
    daemon.finish();
}

#[test]
fn a_label_and_a_reason_are_text_that_shows_as_it_is() {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let daemon = Daemon::start(&policy(&cgroups));
    let actor = Actor::new(&cgroups, "guest");
    let wire = actor.connect(&daemon);
    // An emoji of several people has joiners in it.
    let label = "👩\u{200d}👧 disk".to_owned();
    let (set, info) = wire.create_set(SetRequest { label: label.clone(), ..SetRequest::default() }).unwrap();
    assert_eq!(info.label, label);
    for text in ["a\nb", "\u{9b}2J", "\u{202e}neddih", "a\u{2028}b", "\u{2067}a", "\u{200b}"] {
        let invalid = |field: &str, bytes: u32| Refusal::InvalidArgument {
            field: field.to_owned(),
            value: text.to_owned(),
            expected: format!("at most {bytes} bytes of printable text"),
        };
        let refusal = wire.create_set(SetRequest { label: text.to_owned(), ..SetRequest::default() }).unwrap_err();
        assert_eq!(refusal, invalid("label", 64));
        let refusal = wire.ask(&RevokeSet { set: info.set.0, reason: text.to_owned() }).unwrap_err();
        assert_eq!(refusal, invalid("reason", 256));
        // What the refusal says is no better shown than the text is.
        assert!(refusal.to_string().chars().all(ioasid::model::is_printable), "{refusal}");
    }
    assert_eq!(set.session().unwrap().info().unwrap().state, SetState::Active);
    drop((set, wire, actor));
    daemon.finish();
}

#[test]
fn a_set_fd_is_identified_and_its_ids_verified() {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let daemon = Daemon::start(&policy(&cgroups));
    let actor = Actor::new(&cgroups, "guest");
    let wire = actor.connect(&daemon);
    let (ours, our_info) = wire.create_set_of(4).unwrap();
    let (theirs, _) = wire.create_set_of(4).unwrap();
    let identify = |fd: std::os::fd::BorrowedFd<'_>| wire.call(&IdentifySet {}, &[fd]).map(|(reply, _)| reply.set);
    assert_eq!(identify(ours.as_fd()), Ok(our_info.set));
    let (forged, _kept) = ioasid::sys::seqpacket::pair().unwrap();
    assert_eq!(
        identify(forged.as_fd()),
        Err(Refusal::NotFound { what: "a set with this descriptor".into() }),
        "any other socket is no set"
    );
    let pasid = ours.session().unwrap().alloc().unwrap();
    let verify = |set: &ioasid::client::Set, pasid: u32| {
        wire.call(&VerifyPasid { pasid }, &[set.as_fd()]).map(|(reply, _)| reply.leased)
    };
    assert_eq!(verify(&ours, pasid.get()), Ok(true));
    assert_eq!(verify(&theirs, pasid.get()), Ok(false), "leased to another set");
    assert_eq!(verify(&ours, 0), Ok(false));
    assert_eq!(verify(&ours, u32::MAX), Ok(false));
    ours.session().unwrap().free(&[pasid]).unwrap();
    assert_eq!(verify(&ours, pasid.get()), Ok(false), "given back");
    drop((ours, theirs, wire, actor));
    daemon.finish();
}
