//! Who may do what over the bus: nothing is open by accident, polkit decides what the policy leaves to it, and the
//! introspection data in `dbus/` is the service's.

mod common;

use common::agent::{Agent, Person};
use common::bus::{Caller, MANAGER, NAME, Polkit, PrivateBus, ROOT, SET};
use common::{Actor, Cgroups, eventually};
use ioasid::client::Set;
use ioasid::model::{Refusal, SetRequest};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::time::Instant;
use zbus::zvariant::{ObjectPath, StructureBuilder, Value};

/// The methods that anybody may call: they look. All others are refused to who has no business with their object.
const OPEN: [&str; 6] = ["IdentifySet", "VerifyPasid", "ListSets", "GetCgroup", "ListCgroups", "Explain"];

const RULES: &str = r#"
polkit.addRule(function(action, subject) {
    var cgroup = action.lookup("cgroup");
    if (action.id == "org.ioasid1.create-set" && subject.user == "nobody" && cgroup.match(/\/asked$/) &&
        action.lookup("label") == "small" && Number(action.lookup("quota")) <= 4) {
        return polkit.Result.YES;
    }
    if (action.id == "org.ioasid1.set-limits" && subject.user == "nobody" && cgroup.match(/\/asked$/)) {
        return polkit.Result.YES;
    }
    return polkit.Result.NOT_HANDLED;
});
"#;

fn policy(cgroups: &Cgroups) -> String {
    format!(
        r#"
        version = 1
        [bus]
        trust_pid = true
        [[rule]]
        name = "asked"
        cgroup = "{scratch}/asked"
        users = ["nobody"]
        action = "polkit"
        quota = {{ default = 8, max = 64 }}
        [[rule]]
        name = "root"
        cgroup = "/**"
        users = ["root"]
        action = "allow"
        quota = {{ default = 8, max = 64 }}
        on_behalf_of = ["{scratch}/**"]
        "#,
        scratch = cgroups.path("")
    )
}

/// An interface of an introspection document as lines, in an order of their own.
fn interface_of(xml: &str, interface: &str) -> Vec<String> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..roxmltree::ParsingOptions::default() };
    let document = roxmltree::Document::parse_with_options(xml.trim_start(), options).unwrap();
    let found = document.descendants().find(|node| node.attribute("name") == Some(interface)).expect(interface);
    let mut lines = Vec::new();
    for member in found.children().filter(roxmltree::Node::is_element) {
        let mut line = String::new();
        for node in member.descendants().filter(roxmltree::Node::is_element) {
            line += node.tag_name().name();
            let mut attributes: Vec<_> = node.attributes().map(|a| format!(" {}={}", a.name(), a.value())).collect();
            attributes.sort();
            line += &(attributes.concat() + "; ");
        }
        lines.push(line);
    }
    lines.sort();
    lines
}

/// The methods of an interface, each with the types of what it takes.
fn methods_of(xml: &str, interface: &str) -> Vec<(String, Vec<String>)> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..roxmltree::ParsingOptions::default() };
    let document = roxmltree::Document::parse_with_options(xml.trim_start(), options).unwrap();
    let found = document.descendants().find(|node| node.attribute("name") == Some(interface)).unwrap();
    let methods = found.children().filter(|node| node.has_tag_name("method"));
    let text = |node: &roxmltree::Node<'_, '_>, name: &str| node.attribute(name).unwrap().to_owned();
    methods
        .map(|method| {
            let taken = method.children().filter(|arg| arg.attribute("direction") == Some("in"));
            (text(&method, "name"), taken.map(|arg| text(&arg, "type")).collect())
        })
        .collect()
}

#[test]
fn the_introspection_data_in_the_tree_is_the_services() {
    let cgroups = Cgroups::new();
    let guest = cgroups.make("guest");
    let bus = PrivateBus::start();
    let daemon = bus.serve(&policy(&cgroups));
    let caller = bus.connect();
    let (held, path) = caller.create_set(&[("cgroup", guest.as_str().into())]).unwrap();
    for (object, interface) in [(ROOT, MANAGER), (path.as_str(), SET)] {
        let file = format!("{}/dbus/{interface}.xml", env!("CARGO_MANIFEST_DIR"));
        let written = std::fs::read_to_string(file).unwrap();
        assert_eq!(interface_of(&written, interface), interface_of(&caller.introspect(object), interface));
    }
    drop(held);
    daemon.finish();
}

#[test]
fn every_member_is_in_the_manual_page_with_its_types() {
    let root = env!("CARGO_MANIFEST_DIR");
    let page = std::fs::read_to_string(format!("{root}/packaging/man/org.ioasid1.5")).unwrap();
    for interface in [MANAGER, SET] {
        let xml = std::fs::read_to_string(format!("{root}/dbus/{interface}.xml")).unwrap();
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..roxmltree::ParsingOptions::default() };
        let document = roxmltree::Document::parse_with_options(&xml, options).unwrap();
        for member in document
            .descendants()
            .filter(|node| node.is_element() && node.parent_element().is_some_and(|p| p.has_tag_name("interface")))
        {
            let name = member.attribute("name").unwrap();
            if member.has_tag_name("property") {
                let written = format!("Va {name} Vt {}", member.attribute("type").unwrap());
                assert!(page.contains(&written), "{interface}: {written}");
                continue;
            }
            let line = page.lines().find(|line| line.split(' ').take(3).eq([".It", "Ic", name]));
            let line = line.unwrap_or_else(|| panic!("{interface}.{name}"));
            for arg in member.children().filter(|node| node.has_tag_name("arg")) {
                let written = format!("{} {}", arg.attribute("type").unwrap(), arg.attribute("name").unwrap());
                assert!(line.contains(&written), "{interface}.{name}: {written}");
            }
        }
    }
}

/// A value for an argument that would do something if it were let.
fn argument<'a>(signature: &str, cgroup: &'a str, set: &'a str, fd: BorrowedFd<'a>) -> Value<'a> {
    match signature {
        "s" => cgroup.into(),
        "o" => ObjectPath::try_from(set).unwrap().into(),
        "u" => 0_u32.into(),
        "t" => 1_u64.into(),
        "h" => Value::Fd(fd.into()),
        "a{sv}" => {
            let user = std::collections::HashMap::from([("user", Value::from("root")), ("cgroup", cgroup.into())]);
            user.into()
        }
        other => panic!("what is there to give for {other}?"),
    }
}

#[test]
fn every_method_that_does_something_is_refused_to_a_stranger() {
    let cgroups = Cgroups::new();
    let (guest, _) = (cgroups.make("guest"), cgroups.make("stranger"));
    let bus = PrivateBus::start();
    let daemon = bus.serve(&policy(&cgroups));
    let root = bus.connect();
    let (held, path) = root.create_set(&[("cgroup", guest.as_str().into())]).unwrap();
    let held = Set::from_fd(held).unwrap();
    let mut session = held.session().unwrap();
    session.alloc_many(3, None).unwrap();
    session.free(&session_ids(&root, &path)[..1]).unwrap();

    let actor = Actor::of_user(&cgroups, "stranger", 65534);
    let stranger = bus.connect_as(&actor);
    let before = (daemon.sets(), daemon.cgroup(&guest));
    assert_eq!((before.1.current, before.1.peak), (2, 3), "there is a peak to reset");
    let mut seen = 0;
    for (object, interface) in [(ROOT, MANAGER), (path.as_str(), SET)] {
        for (method, taken) in methods_of(&stranger.introspect(object), interface) {
            let mut body = StructureBuilder::new();
            for signature in &taken {
                // Explain is given what it takes, CreateSet nothing.
                let empty = method == "CreateSet";
                body = match signature.as_str() {
                    "a{sv}" if empty => body.append_field(std::collections::HashMap::<&str, Value<'_>>::new().into()),
                    _ => body.append_field(argument(signature, guest.as_str(), &path, held.as_fd())),
                };
            }
            let answer = match taken.is_empty() {
                true => stranger.try_call(object, interface, &method, &()),
                false => stranger.try_call(object, interface, &method, &body.build().unwrap()),
            };
            match answer {
                Ok(_) => assert!(OPEN.contains(&method.as_str()), "{interface}.{method} is open to anybody"),
                Err((name, text)) => {
                    assert_eq!(name, "org.ioasid1.Error.NotPermitted", "{interface}.{method}: {text}");
                    assert!(!OPEN.contains(&method.as_str()), "{interface}.{method}: {text}");
                    // Without polkit an administrator's affair says that nobody was asked.
                    assert!(method == "CreateSet" || text.contains("polkit was not asked"), "{method}: {text}");
                }
            }
            seen += 1;
        }
        for property in interface_of(&stranger.introspect(object), interface) {
            assert!(!property.starts_with("property") || property.contains("access=read "), "{property}");
        }
    }
    assert_eq!(seen, 17);
    assert_eq!((daemon.sets(), daemon.cgroup(&guest)), before);
    drop((session, held, actor));
    daemon.finish();
}

fn session_ids(caller: &Caller, path: &str) -> Vec<ioasid::model::Pasid> {
    let ids: Vec<u32> = caller.call(path, SET, "Pasids", &()).unwrap();
    ids.into_iter().map(|id| id.try_into().unwrap()).collect()
}

#[test]
fn polkit_decides_what_the_policy_leaves_to_it_for_callers_of_every_edge() {
    let cgroups = Cgroups::new();
    let asked = cgroups.make("asked");
    let bus = PrivateBus::start();
    let _polkit = Polkit::start(&bus, RULES);
    let daemon = bus.serve(&policy(&cgroups));
    let actor = Actor::of_user(&cgroups, "asked", 65534);
    let over_bus = bus.connect_as(&actor);
    let small = |quota: u32| [("quota", Value::from(quota)), ("label", Value::from("small"))];
    let held = over_bus.create_set(&small(4)).unwrap();
    let (name, text) = over_bus.create_set(&small(5)).unwrap_err();
    assert_eq!(name, "org.ioasid1.Error.NotPermitted");
    assert!(text.contains("asked") && !text.contains("was not asked"), "{text}");
    over_bus.create_set(&[("quota", 4_u32.into())]).unwrap_err();

    let over_socket = actor.connect(&daemon);
    let request = |quota| SetRequest { quota: Some(quota), label: "small".into(), ..SetRequest::default() };
    let (set, _) = over_socket.create_set(request(4)).unwrap();
    let refusal = over_socket.create_set(request(5)).unwrap_err();
    assert!(matches!(&refusal, Refusal::NotPermitted { rule, .. } if rule == "asked"), "{refusal}");

    over_bus.manager::<(), _>("SetCgroupMax", &(asked.as_str(), 7_u64, 0_u32)).unwrap();
    assert_eq!(daemon.cgroup(&asked).max.to_string(), "7");
    let above = cgroups.path("");
    over_bus.manager::<(), _>("SetCgroupMax", &(above.as_str(), 7_u64, 0_u32)).unwrap_err();
    over_bus.manager::<(), _>("Reload", &()).unwrap_err();
    drop((held, set, over_socket, actor));
    daemon.finish();
}

/// polkit says yes to whatever uid 0 asks, so a container's root must not get as far.
#[test]
fn polkit_makes_no_administrator_of_a_root_without_the_capability() {
    let cgroups = Cgroups::new();
    let bus = PrivateBus::start();
    let _polkit = Polkit::start(&bus, RULES);
    let daemon = bus.serve(&policy(&cgroups));
    let reload = |root: &[&str]| {
        let mut command = Command::new(root[0]);
        command.args(&root[1..]).arg(env!("CARGO_BIN_EXE_ioasidctl")).arg("--socket").arg(daemon.socket());
        command.args(["--json", "policy", "reload"]).output().unwrap()
    };
    let refused = reload(&["setpriv", "--bounding-set", "-sys_admin"]);
    let refusal: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!((refused.status.code(), &refusal["error"]), (Some(1), &"NotPermitted".into()), "{refusal}");
    assert!(refusal["bound"].as_str().unwrap().contains("every uid 0"), "{refusal}");
    assert!(reload(&["env"]).status.success(), "an administrator is asked nothing");
    daemon.finish();
}

#[test]
fn polkit_that_hangs_costs_the_caller_its_answer_and_nobody_else() {
    let cgroups = Cgroups::new();
    cgroups.make("asked");
    let bus = PrivateBus::start();
    let polkit = Polkit::start(&bus, RULES);
    let daemon = bus.serve(&policy(&cgroups));
    stop(&polkit, "STOP");
    let actor = Actor::of_user(&cgroups, "asked", 65534);
    let waiting = bus.connect_as(&actor);
    let began = Instant::now();
    let asking = std::thread::spawn(move || waiting.create_set(&[("quota", 4_u32.into())]).unwrap_err());
    let root = bus.connect();
    let mut answered = 0;
    while !asking.is_finished() && answered < 100 {
        root.property::<u64>(ROOT, MANAGER, "Current");
        drop(root.create_set(&[]).unwrap());
        answered += 1;
    }
    assert_eq!(answered, 100, "others are served meanwhile");
    let (name, text) = asking.join().unwrap();
    assert_eq!(name, "org.ioasid1.Error.NotPermitted");
    assert!(text.contains("did not answer within 10 s") && began.elapsed().as_secs() >= 10, "{text}");
    stop(&polkit, "CONT");
    drop(actor);
    daemon.finish();
}

#[test]
fn a_person_is_asked_where_the_caller_allows_it_and_else_the_refusal_says_so_at_once() {
    let cgroups = Cgroups::new();
    cgroups.make("asked");
    let bus = PrivateBus::start();
    let _polkit = Polkit::start(&bus, RULES);
    let daemon = bus.serve(&policy(&cgroups));
    let actor = Actor::of_user(&cgroups, "asked", 65534);
    let caller = bus.connect_as(&actor);
    let create =
        |interactive| caller.create_set_asking(&[("quota", 5_u32.into()), ("label", "big".into())], interactive);
    let refused = |interactive, why: &str| {
        let (name, text) = create(interactive).unwrap_err();
        assert_eq!(name, "org.ioasid1.Error.NotPermitted", "{text}");
        assert!(text.contains(why), "{text}");
    };
    refused(false, "does not allow interactive authorization");
    refused(true, "no agent is there");

    let agent = Agent::register(&bus, actor.pid());
    refused(false, "does not allow interactive authorization");
    assert_eq!(agent.asked(), None, "nobody was bothered");
    agent.person(Person::Consents);
    let made = create(true).unwrap();
    let (action, details) = agent.asked().unwrap();
    assert_eq!(action, "org.ioasid1.create-set");
    assert_eq!(details["polkit.subject-pid"], actor.pid().to_string());
    agent.person(Person::Declines);
    refused(true, "polkit's consent");
    assert!(agent.asked().is_some() && agent.taken_back().is_none());

    // Nobody is asked any more for a caller that left.
    agent.person(Person::IsAway);
    let leaver = bus.connect_as(&actor);
    let call = zbus::Message::method_call(ROOT, "CreateSet").unwrap().destination(NAME).unwrap();
    let call = call.interface(MANAGER).unwrap().with_flags(zbus::message::Flags::AllowInteractiveAuth).unwrap();
    let call = call.build(&(std::collections::HashMap::<&str, Value<'_>>::new(),)).unwrap();
    leaver.block_on(leaver.connection.send(&call)).unwrap();
    eventually("the person is asked", || agent.asked());
    drop(leaver);
    eventually("the question is taken back", || agent.taken_back());
    drop((made, agent, caller, actor));
    daemon.finish();
}

fn stop(polkit: &Polkit, signal: &str) {
    let kill = std::process::Command::new("kill").args([&format!("-{signal}"), &polkit.pid().to_string()]).status();
    assert!(kill.unwrap().success());
    let stat = format!("/proc/{}/stat", polkit.pid());
    let stopped = signal == "STOP";
    eventually("it stops or goes on", || {
        let text = std::fs::read_to_string(&stat).unwrap();
        (text.rsplit_once(')').unwrap().1.trim_start().starts_with('T') == stopped).then_some(())
    });
}
