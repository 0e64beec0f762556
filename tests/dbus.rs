//! The D-Bus edge before a real dbus-daemon.

mod common;

use common::bus::{MANAGER, NAME, PROPERTIES, PrivateBus, ROOT, SET};
use common::lingering::lingering;
use common::{Actor, Cgroups, Daemon, eventually, eventually_equal};
use ioasid::client::Set;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use zbus::zvariant::{ObjectPath, OwnedObjectPath, OwnedValue, Value};

fn policy(cgroups: &Cgroups, trust_pid: bool) -> String {
    format!(
        r#"
        version = 1
        [space]
        bits = 12
        reserved = ["0-1023"]
        quarantine = "0s"
        [bus]
        trust_pid = {trust_pid}
        [[cgroup]]
        path = "{scratch}/small"
        max = 2
        [[rule]]
        name = "tests"
        cgroup = "{scratch}/**"
        users = ["*"]
        action = "allow"
        quota = {{ default = 8, max = 64 }}
        on_behalf_of = ["{scratch}/**"]
        [[rule]]
        name = "this process"
        cgroup = "/**"
        users = ["root"]
        action = "allow"
        quota = {{ default = 8, max = 64 }}
        on_behalf_of = ["{scratch}/**"]
        "#,
        scratch = cgroups.path("")
    )
}

#[allow(clippy::unwrap_used)]
fn set(fd: OwnedFd) -> Set {
    Set::from_fd(fd).unwrap()
}

fn fd(set: &Set) -> zbus::zvariant::Fd<'_> {
    set.as_fd().into()
}

fn name_of(error: &(String, String)) -> &str {
    error.0.strip_prefix("org.ioasid1.Error.").unwrap_or(&error.0)
}

#[test]
fn a_set_made_over_the_bus_is_a_set_fd_and_an_object_until_its_last_close() {
    let cgroups = Cgroups::new();
    let guest = cgroups.make("guest");
    let bus = PrivateBus::start();
    let daemon = bus.serve(&policy(&cgroups, true));
    let caller = bus.connect_as(&Actor::of_user(&cgroups, "guest", 65534));
    let before = daemon.snapshot();

    // The actor is gone, and with it who it was.
    assert_eq!(name_of(&caller.create_set(&[]).unwrap_err()), "NotFound");
    let actor = Actor::of_user(&cgroups, "guest", 65534);
    let caller = bus.connect_as(&actor);
    let (set_fd, path) = caller.create_set(&[("quota", 9_u32.into()), ("label", "disk".into())]).unwrap();
    let number: u64 = path.strip_prefix("/org/ioasid1/set/").unwrap().parse().unwrap();
    assert_eq!(caller.property::<u64>(&path, SET, "Id"), number);
    assert_eq!(caller.property::<String>(&path, SET, "Label"), "disk");
    assert_eq!(caller.property::<String>(&path, SET, "Cgroup"), guest.as_str());
    assert_eq!(caller.property::<u64>(&path, SET, "CgroupId"), cgroups.id("guest").0);
    assert_eq!(caller.property::<u32>(&path, SET, "OwnerUid"), 65534);
    assert_eq!(caller.property::<String>(&path, SET, "Domain"), "global");
    assert_eq!(caller.property::<String>(&path, SET, "State"), "active");
    assert!(caller.property::<u64>(&path, SET, "CreatedUsec") > 1_600_000_000_000_000);

    let held = set(set_fd);
    let pasids = held.session().unwrap().alloc_many(3, None).unwrap();
    let numbers: Vec<u32> = pasids.iter().copied().map(u32::from).collect();
    assert_eq!(caller.call::<Vec<u32>, _>(&path, SET, "Pasids", &()).unwrap(), numbers);
    assert_eq!(caller.property::<u32>(&path, SET, "Leased"), 3);
    assert_eq!(caller.property::<u64>(ROOT, MANAGER, "Current"), 3);
    let verify = |pasid: u32| caller.manager::<bool, _>("VerifyPasid", &(fd(&held), pasid)).unwrap();
    assert!(verify(numbers[0]) && !verify(5));
    let identified: OwnedObjectPath = caller.manager("IdentifySet", &(fd(&held),)).unwrap();
    assert_eq!(identified.as_str(), path);
    type Listed = Vec<(OwnedObjectPath, String, String, u64, u32, u32, u32)>;
    let listed: Listed = caller.manager("ListSets", &()).unwrap();
    let expected = (identified.clone(), "disk".into(), guest.as_str().into(), cgroups.id("guest").0, 9, 3, 3);
    assert_eq!(listed, [expected]);

    // Another FD of it; the first one is closed and the set stays.
    let again: zbus::zvariant::OwnedFd = caller.manager("OpenSet", &(&identified,)).unwrap();
    drop(held);
    let again = set(again.into());
    assert_eq!(again.session().unwrap().alloc_many(1, None).unwrap().len(), 1);
    drop(again);
    eventually("the object goes with the set", || {
        let get = caller.call::<OwnedValue, _>(&path, PROPERTIES, "Get", &(SET, "Id"));
        get.err().filter(|error| error.0.ends_with("UnknownObject"))
    });
    drop((caller, actor));
    daemon.settles_to(&before);
    daemon.finish();
}

#[test]
fn what_is_not_allowed_has_the_name_of_its_refusal_and_its_fields() {
    let cgroups = Cgroups::new();
    cgroups.make("small");
    let bus = PrivateBus::start();
    let daemon = bus.serve(&policy(&cgroups, true));
    let actor = Actor::of_user(&cgroups, "small", 65534);
    let caller = bus.connect_as(&actor);
    let refused = |options: &[(&str, Value<'_>)]| caller.create_set(options).unwrap_err();

    for (options, field) in [
        (vec![("quota", Value::from(4_i32))], "quota"),
        (vec![("pid", Value::from(1_u32))], "pid"),
        (vec![("min", Value::from(9_u32)), ("max", Value::from(8_u32))], "min"),
        (vec![("domain", Value::from("local"))], "domain"),
        (vec![("label", Value::from("\n"))], "label"),
    ] {
        let error = refused(&options);
        assert_eq!(name_of(&error), "InvalidArgument", "{error:?}");
        assert!(error.1.contains(field), "{error:?}");
    }
    let error = refused(&[("quota", 65_u32.into())]);
    assert_eq!(name_of(&error), "NotPermitted");
    assert!(error.1.contains("tests") && error.1.contains("64"), "{error:?}");
    assert_eq!(name_of(&refused(&[("cgroup", "/nowhere".into())])), "NotPermitted");
    let nowhere = format!("{}/nowhere", cgroups.path(""));
    assert_eq!(name_of(&refused(&[("cgroup", nowhere.as_str().into())])), "NotFound");

    for (max, flags, field) in [(1_u64, 4_u32, "flags"), (1, 2, "max"), (u64::MAX, 3, "max"), (1, 1 << 31, "flags")] {
        let error = caller.manager::<(), _>("SetCgroupMax", &("/x", max, flags)).unwrap_err();
        assert_eq!((name_of(&error), error.1.contains(field)), ("InvalidArgument", true), "{error:?}");
    }
    let null = std::fs::File::open("/dev/null").unwrap();
    let error = caller.manager::<OwnedObjectPath, _>("IdentifySet", &(zbus::zvariant::Fd::from(null.as_fd()),));
    assert_eq!(name_of(&error.unwrap_err()), "NotFound");
    drop((caller, actor));
    daemon.finish();
}

#[test]
fn an_object_that_is_no_sets_is_not_found_and_one_that_was_is_unknown() {
    let cgroups = Cgroups::new();
    let bus = PrivateBus::start();
    let daemon = bus.serve(&policy(&cgroups, false));
    let root = bus.connect();
    let (held, path) = root.create_set(&[]).unwrap();
    let number = path.strip_prefix("/org/ioasid1/set/").unwrap();
    // Another spelling of a set's number is another object, of nobody's.
    let others = [format!("/org/ioasid1/set/0{number}"), format!("/other/ioasid1/set/{number}")];
    let never = ["/", ROOT, "/org/ioasid1/set", "/org/ioasid1/set/77", "/org/ioasid1/set/18446744073709551616"];
    for path in others.iter().map(String::as_str).chain(never) {
        let object = ObjectPath::try_from(path).unwrap();
        let opened = root.try_call(ROOT, MANAGER, "OpenSet", &(&object,));
        let moved = root.try_call(ROOT, MANAGER, "Recharge", &(&object, "/"));
        let revoked = root.try_call(ROOT, MANAGER, "RevokeSet", &(&object, ""));
        for answer in [opened, moved, revoked] {
            let error = answer.unwrap_err();
            assert_eq!(name_of(&error), "NotFound", "{path}: {error:?}");
        }
    }
    assert_eq!(root.property::<String>(&path, SET, "State"), "active");

    drop(held);
    eventually("the object goes with the set", || {
        let gone = root.try_call(&path, SET, "Pasids", &()).err()?;
        // While the bus is being told, the controller knows already.
        assert!(["NotFound", "org.freedesktop.DBus.Error.UnknownObject"].contains(&name_of(&gone)), "{gone:?}");
        gone.0.ends_with("UnknownObject").then_some(())
    });
    for (interface, method) in [(SET, "Pasids"), (PROPERTIES, "GetAll")] {
        let gone = root.try_call(&path, interface, method, &(SET,)).unwrap_err();
        assert_eq!(gone.0, "org.freedesktop.DBus.Error.UnknownObject", "{interface}.{method}");
    }
    let object = ObjectPath::try_from(path.as_str()).unwrap();
    assert_eq!(name_of(&root.try_call(ROOT, MANAGER, "OpenSet", &(object,)).unwrap_err()), "NotFound");
    daemon.finish();
}

#[test]
fn a_caller_that_does_not_wait_for_its_set_leaves_none() {
    let cgroups = Cgroups::new();
    let bus = PrivateBus::start();
    let daemon = bus.serve(&policy(&cgroups, false));
    let before = daemon.snapshot();
    let listener = bus.connect();
    let mut manager = listener.listen(MANAGER);
    let nothing = HashMap::<&str, Value<'_>>::new();
    let call = || zbus::Message::method_call(ROOT, "CreateSet").unwrap().destination(NAME).unwrap().interface(MANAGER);
    // One hangs up with its call under way: whether its set is made is a race, and it must not stay.
    let hasty = bus.connect();
    // It is known already, so that the bus need not be asked about it once it is gone.
    hasty.manager::<(), _>("Reload", &()).unwrap();
    hasty.block_on(hasty.connection.send(&call().unwrap().build(&(&nothing,)).unwrap())).unwrap();
    drop(hasty);
    // One wants no reply.
    let silent = bus.connect();
    let flags = zbus::message::Flags::NoReplyExpected;
    let message = call().unwrap().with_flags(flags).unwrap().build(&(&nothing,)).unwrap();
    silent.block_on(silent.connection.send(&message)).unwrap();
    while manager.next().header().member().unwrap() != "SetRemoved" {}
    drop(manager);
    drop((listener, silent));
    daemon.settles_to(&before);
    daemon.finish();
}

#[test]
fn sets_limits_and_properties_are_told_as_they_change() {
    let cgroups = Cgroups::new();
    let small = cgroups.make("small");
    let bus = PrivateBus::start();
    let daemon = bus.serve(&policy(&cgroups, true));
    let listener = bus.connect();
    let mut manager = listener.listen(MANAGER);
    let mut objects = listener.listen("org.freedesktop.DBus.ObjectManager");
    let mut properties = listener.listen(PROPERTIES);
    let actor = Actor::new(&cgroups, "small");

    // Whoever makes it, here over the socket.
    let (held, info) = actor.connect(&daemon).create_set_of(5).unwrap();
    let path = format!("/org/ioasid1/set/{}", info.set);
    let told = manager.next();
    assert_eq!(told.header().member().unwrap(), "SetAdded");
    assert_eq!(told.body().deserialize::<ObjectPath<'_>>().unwrap().as_str(), path);
    let told = objects.next();
    assert_eq!(told.header().member().unwrap(), "InterfacesAdded");
    assert_eq!(told.header().path().unwrap().as_str(), ROOT);
    type Added = (OwnedObjectPath, HashMap<String, HashMap<String, OwnedValue>>);
    let (object, mut interfaces): Added = told.body().deserialize().unwrap();
    assert_eq!(object.as_str(), path);
    let given = interfaces.remove(SET).unwrap();
    assert_eq!((given.len(), given["Quota"].clone()), (11, Value::from(5_u32).try_into().unwrap()));
    assert!(managed(&listener, ROOT).unwrap()[&object].contains_key(SET));

    let mut session = held.session().unwrap();
    session.alloc_many(2, None).unwrap();
    let mut leased = None;
    while leased != Some(2) {
        let told = properties.next();
        let (interface, changed, _): (String, HashMap<String, OwnedValue>, Vec<String>) =
            told.body().deserialize().unwrap();
        if interface == SET {
            assert_eq!(told.header().path().unwrap().as_str(), path);
            assert!(!changed.contains_key("Quota"), "it did not change");
            leased = changed.get("Leased").map(|value| u32::try_from(value.clone()).unwrap());
        }
    }
    session.alloc_many(3, None).unwrap_err();
    let told = manager.next();
    assert_eq!(told.header().member().unwrap(), "LimitHit");
    let hit: (String, u64, u32, String) = told.body().deserialize().unwrap();
    assert_eq!(hit, (small.as_str().to_owned(), 2, 3, small.as_str().to_owned()));

    drop((session, held));
    let told = manager.next();
    assert_eq!(told.header().member().unwrap(), "SetRemoved");
    let (object, reason): (OwnedObjectPath, String) = told.body().deserialize().unwrap();
    assert_eq!((object.as_str(), reason.as_str()), (path.as_str(), "closed"));
    assert_eq!(objects.next().header().member().unwrap(), "InterfacesRemoved");
    drop(actor);
    daemon.finish();
}

#[test]
fn callers_that_the_bus_cannot_vouch_for_are_sent_to_the_socket() {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let bus = PrivateBus::start();
    let daemon = bus.serve(&policy(&cgroups, false));
    let actor = Actor::of_user(&cgroups, "guest", 65534);
    if bus.gives_processes() {
        bus.connect_as(&actor).create_set(&[]).unwrap();
        return daemon.finish();
    }
    let error = bus.connect_as(&actor).create_set(&[]).unwrap_err();
    assert_eq!(name_of(&error), "Unsupported");
    assert!(error.1.contains(&daemon.socket().display().to_string()) && error.1.contains("trust_pid"), "{error:?}");
    bus.connect().create_set(&[]).unwrap();
    drop(actor);
    daemon.finish();
}

#[test]
fn an_administrator_administrates_over_the_bus() {
    let cgroups = Cgroups::new();
    let (guest, other) = (cgroups.make("guest"), cgroups.make("other"));
    let bus = PrivateBus::start();
    let daemon = bus.serve(&policy(&cgroups, false));
    let caller = bus.connect();
    let (held, path) = caller.create_set(&[("cgroup", guest.as_str().into())]).unwrap();
    let held = set(held);
    let mut session = held.session().unwrap();
    session.alloc_many(4, None).unwrap();
    let object = ObjectPath::try_from(path.as_str()).unwrap();

    caller.manager::<(), _>("SetCgroupMax", &(guest.as_str(), 4_u64, 0_u32)).unwrap();
    let fields: HashMap<String, OwnedValue> = caller.manager("GetCgroup", &(guest.as_str(),)).unwrap();
    let number = |key: &str| u64::try_from(fields[key].clone()).unwrap();
    assert_eq!((number("max"), number("current"), number("peak"), number("id")), (4, 4, 4, cgroups.id("guest").0));
    caller.manager::<(), _>("SetCgroupMax", &(guest.as_str(), u64::MAX, 0_u32)).unwrap();
    let fields: HashMap<String, OwnedValue> = caller.manager("GetCgroup", &(guest.as_str(),)).unwrap();
    assert_eq!(u64::try_from(fields["max"].clone()).unwrap(), u64::MAX);
    // Back to the policy, which has a line for this one.
    let small = cgroups.make("small");
    let max = || daemon.cgroup(&small).max.to_string();
    caller.manager::<(), _>("SetCgroupMax", &(small.as_str(), 5_u64, 0_u32)).unwrap();
    assert_eq!(max(), "5");
    caller.manager::<(), _>("SetCgroupMax", &(small.as_str(), 0_u64, 2_u32)).unwrap();
    assert_eq!(max(), "2");
    caller.manager::<(), _>("Recharge", &(&object, other.as_str())).unwrap();
    assert_eq!((daemon.current(&guest), daemon.current(&other)), (0, 4));
    caller.manager::<(), _>("ResetPeak", &(guest.as_str(),)).unwrap();
    assert_eq!(daemon.cgroup(&guest).peak, 0);
    let all: Vec<(String, HashMap<String, OwnedValue>)> = caller.manager("ListCgroups", &()).unwrap();
    assert!(all.iter().any(|(cgroup, _)| cgroup == other.as_str()));
    caller.call::<(), _>(&path, SET, "SetQuota", &(20_u32,)).unwrap();
    assert_eq!(caller.property::<u32>(&path, SET, "Quota"), 20);
    caller.manager::<(), _>("Reload", &()).unwrap();
    let asked = HashMap::from([("user", Value::from("nobody")), ("cgroup", Value::from(guest.as_str()))]);
    let said: HashMap<String, OwnedValue> = caller.manager("Explain", &(asked,)).unwrap();
    assert_eq!(String::try_from(said["rule"].clone()).unwrap(), "tests");
    caller.manager::<(), _>("RevokeSet", &(&object, "maintenance")).unwrap();
    assert_eq!(caller.property::<String>(&path, SET, "State"), "revoked");
    let error = session.alloc_many(1, None).unwrap_err();
    assert!(error.to_string().contains("maintenance"), "{error}");
    drop((session, held));
    daemon.finish();
}

#[test]
fn the_service_outlives_the_bus_and_comes_back_with_every_set() {
    let cgroups = Cgroups::new();
    let guest = cgroups.make("guest");
    let mut bus = PrivateBus::start();
    let mut daemon = bus.serve(&policy(&cgroups, false));
    daemon.may_warn();
    let (held, path) = bus.connect().create_set(&[("cgroup", guest.as_str().into())]).unwrap();
    let held = set(held);
    bus.stop();
    let mut session = held.session().unwrap();
    session.alloc_many(2, None).unwrap();
    let (over_socket, info) = daemon.connect().create_set_of(3).unwrap();
    eventually("it says so, once", || daemon.log().contains("not on the bus").then_some(()));
    bus.start_again();
    let caller = bus.connect();
    caller.wait_for(NAME);
    assert_eq!(caller.property::<u32>(&path, SET, "Leased"), 2);
    assert_eq!(caller.property::<u32>(&format!("/org/ioasid1/set/{}", info.set), SET, "Quota"), 3);
    assert_eq!(daemon.log().matches("not on the bus").count(), 1);
    drop((session, held, over_socket));
    eventually_equal("no set is left", &Some(0), || {
        caller
            .manager::<Vec<(OwnedObjectPath, String, String, u64, u32, u32, u32)>, _>("ListSets", &())
            .ok()
            .map(|s| s.len())
    });
    daemon.finish();
}

#[test]
fn a_service_starts_without_a_bus_and_joins_it_when_it_comes() {
    let cgroups = Cgroups::new();
    let mut bus = PrivateBus::start();
    bus.stop();
    let mut daemon = Daemon::start_with(&policy(&cgroups, false), &bus.options());
    daemon.may_warn();
    assert_eq!(daemon.status().sets, 0);
    bus.start_again();
    bus.connect().wait_for(NAME);
    daemon.finish();
}

#[test]
fn the_python_example_asks_over_the_bus_and_allocates_through_its_descriptor() {
    let cgroups = Cgroups::new();
    let bus = PrivateBus::start();
    let daemon = bus.serve(&policy(&cgroups, false));
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/python/allocate.py");
    let run = |count: &str| {
        let mut command = std::process::Command::new("/usr/bin/python3");
        command.args([example, count]).env("DBUS_SYSTEM_BUS_ADDRESS", bus.address()).output().unwrap()
    };
    let output = run("3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(said["set"].as_str().unwrap().starts_with("/org/ioasid1/set/"), "{said}");
    assert_eq!((said["pasids"].as_array().unwrap().len(), &said["leased"]), (3, &serde_json::json!(3)));
    let refused = run("65");
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.starts_with("org.ioasid1.Error.NotPermitted"), "{why}");
    daemon.finish();
}

#[test]
fn a_thousand_sets_by_twenty_callers_at_once_are_made_without_an_error() {
    let cgroups = Cgroups::new();
    let guest = cgroups.make("guest");
    let bus = PrivateBus::start();
    let many = policy(&cgroups, false).replace("quota = ", "sets_per_cgroup = 2000\n        quota = ");
    let daemon = bus.serve(&many);
    let callers: Vec<_> = (0..20).map(|_| bus.connect()).collect();
    let held: Vec<(OwnedFd, String)> = std::thread::scope(|scope| {
        let threads: Vec<_> = callers
            .iter()
            .map(|caller| {
                let options = || [("cgroup", Value::from(guest.as_str()))];
                scope.spawn(move || (0..50).map(|_| caller.create_set(&options()).unwrap()).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut paths: Vec<&String> = held.iter().map(|(_, path)| path).collect();
    paths.sort();
    paths.dedup();
    assert_eq!((paths.len(), daemon.sets().len()), (1000, 1000));
    let managed = managed(&callers[0], ROOT).unwrap();
    assert_eq!(managed.values().filter(|interfaces| interfaces.contains_key(SET)).count(), 1000);
    drop(held);
    eventually("all objects go", || (!callers[0].introspect("/org/ioasid1/set").contains("<node name=")).then_some(()));
    daemon.finish();
}

type Managed = HashMap<OwnedObjectPath, HashMap<String, HashMap<String, OwnedValue>>>;

fn managed(caller: &common::bus::Caller, at: &str) -> Result<Managed, (String, String)> {
    caller.call(at, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", &())
}

#[test]
fn the_objects_are_listed_with_all_they_say_while_sets_come_and_go() {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let bus = PrivateBus::start();
    let daemon = bus.serve(&policy(&cgroups, true));
    let root = bus.connect();
    let (held, path) = root.create_set(&[("cgroup", cgroups.path("guest").as_str().into())]).unwrap();
    let of_set: HashMap<String, OwnedValue> = root.call(&path, PROPERTIES, "GetAll", &(SET,)).unwrap();
    let of_manager: HashMap<String, OwnedValue> = root.call(ROOT, PROPERTIES, "GetAll", &(MANAGER,)).unwrap();

    let below = managed(&root, ROOT).unwrap();
    assert_eq!(below.keys().map(|path| path.as_str()).collect::<Vec<_>>(), [path.as_str()]);
    let path = OwnedObjectPath::try_from(path).unwrap();
    assert_eq!(below[&path], HashMap::from([(SET.to_owned(), of_set)]));
    let all = managed(&root, "/").unwrap();
    assert_eq!((all.len(), &all[&path]), (2, &below[&path]));
    let manager = OwnedObjectPath::try_from(ROOT).unwrap();
    assert_eq!(all[&manager], HashMap::from([(MANAGER.to_owned(), of_manager)]));

    // As tools find their way: from the root by the names below.
    let (mut at, mut found) = (vec!["/".to_owned()], Vec::new());
    while let Some(path) = at.pop() {
        let text = root.introspect(&path);
        let below = text.lines().filter_map(|line| line.trim().strip_prefix("<node name=\"")?.strip_suffix("\"/>"));
        at.extend(below.map(|name| format!("{}/{name}", path.trim_end_matches('/'))));
        found.push(path);
    }
    assert_eq!(found, ["/", "/org", ROOT, "/org/ioasid1/set", path.as_str()]);
    assert!(root.introspect("/").contains("ObjectManager"));

    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let passing = scope.spawn(|| {
            let actor = Actor::new(&cgroups, "guest");
            let wire = actor.connect(&daemon);
            // ORDERING: Relaxed: a round more or less is no matter.
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let sets: Vec<_> = (0..8).map(|_| wire.create_set_of(4).unwrap()).collect();
                drop(sets);
            }
        });
        let listed = (0..200).map(|_| managed(&root, ROOT)).find(Result::is_err);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        passing.join().unwrap();
        assert_eq!(listed.map(Result::unwrap_err), None);
    });
    drop(held);
    daemon.finish();
}

#[test]
fn who_lists_the_objects_on_and_on_is_told_to_slow_down() {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let bus = PrivateBus::start();
    let guard = "[guard]\nrequests_per_second = 50\n";
    // Nobody vouches for the process: the list is open to who is known by uid alone.
    let daemon = bus.serve(&(policy(&cgroups, false) + guard));
    let actor = Actor::of_user(&cgroups, "guest", 65534);
    let stranger = bus.connect_as(&actor);
    let refused = (0..2000).find_map(|_| managed(&stranger, ROOT).err()).unwrap();
    assert_eq!(name_of(&refused), "TooMany");
    assert!(refused.1.contains("requests_per_second of uid 65534"), "{refused:?}");
    let introspectable = "org.freedesktop.DBus.Introspectable";
    let refused = (0..2000).find_map(|_| stranger.try_call(ROOT, introspectable, "Introspect", &()).err()).unwrap();
    assert_eq!(name_of(&refused), "TooMany");
    // Others are served.
    managed(&bus.connect(), "/").unwrap();
    drop(actor);
    daemon.finish();
}

#[test]
fn a_descriptor_from_the_bus_whose_close_waits_holds_up_nobody() {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let bus = PrivateBus::start();
    let daemon = bus.serve(&policy(&cgroups, true));
    let (root, actor) = (bus.connect(), Actor::of_user(&cgroups, "guest", 65534));
    let stranger = bus.connect_as(&actor);
    let mut readers = Vec::new();
    // One that takes a set FD, one that takes none, one that there is not.
    for method in ["VerifyPasid", "CreateSet", "Nonsense"] {
        let (rider, reader) = lingering();
        daemon.signal("STOP");
        let call = zbus::Message::method_call(ROOT, method).unwrap().destination(NAME).unwrap();
        let call = call.interface(MANAGER).unwrap().with_flags(zbus::message::Flags::NoReplyExpected).unwrap();
        let call = call.build(&(zbus::zvariant::Fd::from(rider), 5_u32)).unwrap();
        stranger.block_on(stranger.connection.send(&call)).unwrap();
        drop(call);
        // What the service is given is the last copy: the bus has passed it on.
        eventually("the bus has closed it", || (!holds_tcp(bus.pid())).then_some(()));
        daemon.signal("CONT");
        readers.push(reader);
        daemon.status();
        managed(&root, ROOT).unwrap();
        stranger.property::<u64>(ROOT, MANAGER, "Current");
    }
    drop((readers, actor));
    daemon.finish();
}

/// Whether a process has a socket that is not one of Unix.
fn holds_tcp(pid: u32) -> bool {
    let tcp = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let inodes: Vec<&str> = tcp.lines().filter_map(|line| line.split_whitespace().nth(9)).collect();
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let names = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()?.into_os_string().into_string().ok());
    names.into_iter().any(|name| inodes.iter().any(|inode| name == format!("socket:[{inode}]")))
}
