//! ioasidctl: every verb against a service of its own; JSON shapes, exit statuses, descriptors handed on.
#![allow(clippy::unwrap_used)]

mod common;

use common::daemon::IOASIDCTL;
use common::{Cgroups, Daemon, eventually};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

fn policy(cgroups: &Cgroups) -> String {
    format!(
        r#"version = 1
[space]
bits = 12
reserved = ["0-1023"]
quarantine = "0s"
[[cgroup]]
path = "{scratch}"
max = 32
[[rule]]
name = "tests"
cgroup = "{scratch}/**"
users = ["*"]
action = "allow"
quota = {{ default = 8, max = 64 }}
on_behalf_of = ["{scratch}/other"]
"#,
        scratch = cgroups.path("")
    )
}

/// A service, a cgroup `guest` and one `other`, and ioasidctl in the first.
struct Scene {
    daemon: Daemon,
    cgroups: Cgroups,
}

impl Scene {
    fn new() -> Self {
        let cgroups = Cgroups::new();
        cgroups.make("guest");
        cgroups.make("other");
        Self { daemon: Daemon::start(&policy(&cgroups)), cgroups }
    }

    /// ioasidctl in the cgroup `guest`, ended after 20 seconds.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo $$ > "$0"/cgroup.procs && exec timeout -k 1 20 "$@""#])
            .arg(self.cgroups.directory("guest"))
            .arg(IOASIDCTL)
            .args(arguments)
            .env("CTL", IOASIDCTL)
            .env("IOASID_SOCKET", self.daemon.socket())
            .stdin(Stdio::null());
        for variable in ["IOASID_SET_FD", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
            command.env_remove(variable);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// Runs a shell script that holds a new set; `$CTL` is ioasidctl.
    fn script(&self, options: &[&str], script: &str) -> Ran {
        self.run(&[&["exec"], options, &["--", "sh", "-c", script]].concat())
    }

    fn start(&self, options: &[&str], script: &str) -> Child {
        let mut command = self.command(&[&["exec"], options, &["--", "sh", "-c", script]].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn path(&self, below: &str) -> String {
        self.cgroups.path(below).as_str().to_owned()
    }

    fn finish(self) {
        self.daemon.finish();
    }
}

#[derive(Debug)]
struct Ran {
    status: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap()),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Standard output, every line JSON.
    fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {self:?}"))).collect()
    }

    /// The one JSON of standard output, of a command that ended so.
    fn json(&self, status: i32) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        let mut lines = self.lines();
        assert_eq!(lines.len(), 1, "{self:?}");
        lines.remove(0)
    }

    fn words(&self, status: i32) -> &str {
        assert_eq!(self.status, status, "{self:?}");
        self.out.trim_end()
    }
}

fn keys(value: &Value, wanted: &[&str]) {
    for key in wanted {
        assert!(value.get(key).is_some(), "{key} is missing in {value}");
    }
}

const SET_KEYS: [&str; 11] = [
    "set",
    "label",
    "cgroup",
    "cgroup_id",
    "owner_uid",
    "domain",
    "quota",
    "leased",
    "in_use",
    "state",
    "created_usec",
];

#[test]
fn exec_hands_the_set_on_as_descriptor_3_under_all_three_variables() {
    let scene = Scene::new();
    let script = r#"echo $LISTEN_FDS $LISTEN_FDNAMES $IOASID_SET_FD; [ "$LISTEN_PID" = $$ ] && echo mine
        readlink /proc/self/fd/3 | cut -d: -f1; unset IOASID_SET_FD; exec $CTL identify"#;
    assert_eq!(scene.script(&[], script).words(0), "1 ioasid 3\nmine\nsocket\n1");
    // A child of the shell is not LISTEN_PID; the variable that names the number is for it.
    assert_eq!(scene.script(&[], "$CTL identify; $CTL identify --fd 3").words(0), "2\n2");
    assert_eq!(scene.script(&[], "exit 9").status, 9);
    scene.finish();
}

#[test]
fn a_command_that_does_not_run_is_126_or_127() {
    let scene = Scene::new();
    assert_eq!(scene.run(&["exec", "--", "/nonexistent/command"]).status, 127);
    assert_eq!(scene.run(&["exec", "--", "/etc/passwd"]).status, 126);
    assert_eq!(scene.script(&[], "$CTL open 3 -- /nonexistent/command").status, 127);
    assert_eq!(scene.script(&[], "$CTL hold $($CTL alloc) -- /nonexistent/command").status, 127);
    scene.finish();
}

#[test]
fn ids_are_allocated_shown_and_given_back() {
    let scene = Scene::new();
    let script = "$CTL alloc -n 2; $CTL --json alloc -n 2 --min 2000 --max 2001; $CTL --json info; $CTL --json trim
        $CTL --json free 1024 2000; $CTL free 1024; $CTL --json show 1; $CTL --json sets; $CTL --json set-quota 9";
    let ran = scene.script(&["--label", "disk", "--quota", "5"], script);
    assert_eq!(ran.status, 0, "{ran:?}");
    let lines = ran.lines();
    assert_eq!(lines[..3], [json!(1024), json!(1025), json!({"pasids": [2000, 2001]})]);
    keys(&lines[3], &SET_KEYS);
    let wanted = json!({
        "set": 1, "label": "disk", "cgroup": scene.path("guest"), "cgroup_id": scene.cgroups.id("guest"),
        "owner_uid": 0, "domain": "global", "quota": 5, "leased": 4, "in_use": 4, "state": "active",
        "pasids": [1024, 1025, 2000, 2001],
    });
    for (key, value) in wanted.as_object().unwrap() {
        assert_eq!(lines[3].get(key), Some(value), "{key}");
    }
    assert_eq!(lines[4], json!({"returned": 0}));
    assert_eq!(lines[5]["freed"], json!([1024, 2000]));
    assert_eq!(lines[6]["pasids"], json!([1025, 2001]));
    keys(&lines[6], &SET_KEYS);
    keys(&lines[7][0], &SET_KEYS);
    assert_eq!((&lines[7][0]["leased"], lines[7][0].get("pasids")), (&json!(2), None));
    assert_eq!(lines[8]["quota"], json!(9));
    scene.finish();
}

#[test]
fn aliases_are_found_until_they_are_deleted() {
    let scene = Scene::new();
    let script = "$CTL alloc; $CTL alias add 1024 7 && $CTL alias find 7; $CTL --json alias find 7
        $CTL --json alias add 1024 7; echo $?; $CTL alias del 7 && $CTL --json alias find 7; echo $?";
    let lines = scene.script(&[], script).lines();
    assert_eq!(lines[..3], [json!(1024), json!(1024), json!({"pasid": 1024, "vpasid": 7})]);
    assert_eq!((&lines[3]["error"], &lines[3]["errno"], &lines[4]), (&json!("Exists"), &json!("EEXIST"), &json!(1)));
    assert_eq!((&lines[5]["error"], &lines[6]), (&json!("NotFound"), &json!(1)));
    scene.finish();
}

#[test]
fn a_refusal_is_1_with_its_fields_on_standard_output_and_words_on_standard_error() {
    let scene = Scene::new();
    let ran = scene.script(&["--quota", "4"], "$CTL --json alloc -n 5");
    assert_eq!(
        ran.json(1),
        json!({"error": "QuotaExceeded", "errno": "EDQUOT", "set": 1, "quota": 4, "leased": 0, "asked": 5})
    );
    assert!(ran.err.starts_with("ioasidctl: 5 more would exceed") && ran.err.contains("\nhint: "), "{ran:?}");
    let plain = scene.script(&["--quota", "4"], "$CTL alloc -n 5");
    assert_eq!((plain.words(1), &plain.err.replace("set 2", "set 1")), ("", &ran.err));
    let ran = scene.script(&["--quota", "64"], "$CTL --json alloc -n 33");
    assert_eq!(
        ran.json(1),
        json!({"error": "LimitExceeded", "errno": "EAGAIN", "cgroup": scene.path(""), "max": 32, "current": 0, "asked": 33})
    );
    let refused = scene.run(&["--json", "exec", "--quota", "65", "--", "true"]).json(1);
    assert_eq!((&refused["error"], &refused["rule"]), (&json!("NotPermitted"), &json!("tests")));
    scene.finish();
}

#[test]
fn a_bad_value_is_refused_and_a_bad_shape_is_a_wrong_usage() {
    let scene = Scene::new();
    let bad_values: [&[&str]; 12] = [
        &["alloc", "-n", "abc"],
        &["alloc", "-n", "-1"],
        &["alloc", "--min", "9", "--max", "8"],
        &["free", "0"],
        &["show", "x"],
        &["exec", "--quota", "-1", "--", "true"],
        &["exec", "--domain", "moon", "--", "true"],
        &["exec", "--range", "9-8", "--", "true"],
        &["set-max", "/x", "-5"],
        &["set-max", "x", "5"],
        &["alloc", "--fd", "99"],
        &["identify", "--fd", "0"],
    ];
    for arguments in bad_values {
        let refused = scene.run(&[&["--json"], arguments].concat()).json(1);
        assert_eq!(refused["error"], "InvalidArgument", "{arguments:?}");
        keys(&refused, &["errno", "field", "value", "expected"]);
    }
    let bad_shapes: [&[&str]; 6] =
        [&[], &["allocate"], &["exec"], &["free"], &["set-max", "/x"], &["status", "--colour"]];
    for arguments in bad_shapes {
        let ran = scene.run(arguments);
        assert_eq!((ran.status, ran.out.as_str()), (2, ""), "{arguments:?}");
    }
    assert_eq!(scene.run(&["--json", "alloc"]).json(1)["error"], "NotFound");
    scene.finish();
}

#[test]
fn nobody_who_answers_is_3() {
    let cgroups = Cgroups::new();
    let daemon = Daemon::start(&policy(&cgroups));
    for verb in ["status", "sets", "cgroup", "events"] {
        let output =
            Command::new(IOASIDCTL).args(["--json", "--socket", "/nonexistent/socket", verb]).output().unwrap();
        assert_eq!(Ran::of(output).json(3)["error"], "Unreachable", "{verb}");
    }
    daemon.finish();
}

#[test]
fn a_set_whose_service_is_gone_for_good_is_3_at_once() {
    let mut scene = Scene::new();
    scene.daemon.may_warn();
    let script = format!("$CTL alloc >&2; kill -9 {}; $CTL --json alloc; echo $?", scene.daemon.pid());
    let lines = scene.script(&[], &script).lines();
    assert_eq!((&lines[0]["error"], &lines[1]), (&json!("Unreachable"), &json!(3)));
    scene.daemon.wait();
    assert_eq!(scene.run(&["status"]).status, 3);
    scene.daemon.start_again(&common::Options::default());
    assert_eq!(scene.script(&[], "$CTL alloc").status, 0);
    scene.finish();
}

#[test]
fn identify_and_verify_take_the_set_held_alone() {
    let scene = Scene::new();
    let script = "unset IOASID_SOCKET; $CTL alloc; $CTL --json identify; $CTL --json verify 1024; $CTL --json verify 1025; echo $?";
    let lines = scene.script(&[], script).lines();
    assert_eq!(lines[1], json!({"set": 1}));
    assert_eq!((&lines[2]["leased"], &lines[3]["leased"], &lines[4]), (&json!(true), &json!(false), &json!(1)));
    scene.finish();
}

#[test]
fn open_gives_the_creator_another_descriptor_of_the_same_set() {
    let scene = Scene::new();
    let script = "$CTL alloc; $CTL open $($CTL identify) -- sh -c '$CTL identify; $CTL alloc'; $CTL --json info";
    let lines = scene.script(&[], script).lines();
    assert_eq!(lines[..3], [json!(1024), json!(1), json!(1025)]);
    assert_eq!(lines[3]["pasids"], json!([1024, 1025]));
    assert_eq!(scene.run(&["--json", "open", "77", "--", "true"]).json(1)["error"], "NotFound");
    scene.finish();
}

#[test]
fn a_held_id_is_free_pending_until_the_command_ends() {
    let scene = Scene::new();
    let script = "$CTL alloc; $CTL hold 1024 -- sh -c '$CTL --json free 1024; $CTL --json hold 1024 -- true; exit 7'
        echo $?; $CTL --json info; $CTL hold 1024 -- true; echo $?; $CTL hold $($CTL alloc) -- sh -c 'kill -9 $$'; echo $?";
    let lines = scene.script(&[], script).lines();
    assert_eq!(lines[1], json!({"freed": [], "pending": [1024]}));
    assert_eq!((&lines[2]["error"], &lines[2]["pasid"], &lines[3]), (&json!("Busy"), &json!(1024), &json!(7)));
    assert_eq!((&lines[4]["leased"], &lines[5], &lines[6]), (&json!(0), &json!(1), &json!(137)));
    scene.finish();
}

#[test]
fn a_set_is_sent_to_a_receiver_that_takes_it_from_the_right_user() {
    let scene = Scene::new();
    let directory = common::daemon::scratch_directory();
    let path = directory.path().join("handover");
    let waiting = |arguments: &[&str]| {
        let mut command = scene.command(&[&["receive", "--from", path.to_str().unwrap()], arguments].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("the receiver listens", || path.exists().then_some(()));
        child
    };
    let received = r#"echo $IOASID_SET_FD $LISTEN_FDS $LISTEN_FDNAMES; $CTL --json info"#;
    let receiver = waiting(&["--peer-uid", "0", "--", "sh", "-c", received]);
    let send = |arguments: &str| format!("$CTL alloc >&2; $CTL --json send --to {} {arguments}", path.display());
    // The wrong listener, the wrong sender's descriptor, then the right one.
    let wrong = scene.script(&[], &send("--peer-uid 5"));
    assert_eq!(wrong.json(1)["error"], "NotPermitted");
    let null = scene.run(&["--json", "send", "--to", path.to_str().unwrap(), "--fd", "0"]);
    assert_eq!(null.json(1)["error"], "InvalidArgument");
    let sent = scene.script(&["--label", "moved"], &send("--peer-uid 0"));
    assert_eq!(sent.json(0), json!({"set": 2}));
    let ran = Ran::of(receiver.wait_with_output().unwrap());
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.out.starts_with("3 1 ioasid\n"), "{ran:?}");
    // The sender is gone; the ids are there.
    let info: Value = serde_json::from_str(ran.out.lines().nth(1).unwrap()).unwrap();
    assert_eq!((&info["label"], &info["leased"]), (&json!("moved"), &json!(1)));
    assert!(!path.exists());
    assert_eq!(scene.script(&[], &send("")).json(1)["error"], "NotFound");
    scene.finish();
}

#[test]
fn a_receiver_that_a_signal_ends_leaves_no_file() {
    let scene = Scene::new();
    let directory = common::daemon::scratch_directory();
    let path = directory.path().join("handover");
    for (name, number) in [("HUP", 1), ("INT", 2), ("TERM", 15)] {
        let mut receiver = scene.command(&["receive", "--from", path.to_str().unwrap(), "--", "true"]).spawn().unwrap();
        eventually("the receiver listens", || path.exists().then_some(()));
        // One who connects and says nothing does not put the end off.
        let silent = ioasid::sys::listener::connect(&path, None).unwrap();
        let killed = Command::new("kill").args([&format!("-{name}"), &receiver.id().to_string()]).status().unwrap();
        assert!(killed.success());
        assert_eq!(receiver.wait().unwrap().signal(), Some(number), "it ends as it would have");
        assert!(!path.exists(), "{name} leaves the file");
        drop(silent);
    }
    // What it becomes has its signals as usual.
    let receive = ["receive", "--from", path.to_str().unwrap(), "--", "grep", "SigBlk", "/proc/self/status"];
    let receiver = scene.command(&receive).stdout(Stdio::piped()).spawn().unwrap();
    eventually("the receiver listens", || path.exists().then_some(()));
    scene.script(&[], &format!("$CTL send --to {}", path.display()));
    let ran = Ran::of(receiver.wait_with_output().unwrap());
    assert_eq!(ran.out.split_whitespace().last(), Some("0000000000000000"), "{ran:?}");
    scene.finish();
}

#[test]
fn a_receiver_refuses_another_user_and_goes_on_waiting() {
    let scene = Scene::new();
    let directory = common::daemon::scratch_directory();
    let path: PathBuf = directory.path().join("handover");
    let to = path.to_str().unwrap();
    let receive = ["receive", "--from", to, "--peer-uid", "65534", "--", "true"];
    let receiver = scene.command(&receive).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the receiver listens", || path.exists().then_some(()));
    assert_eq!(scene.run(&["--json", "receive", "--from", to, "--", "true"]).json(1)["error"], "Exists");
    let refused = scene.script(&[], &format!("$CTL --json send --to {to}"));
    assert_eq!(refused.json(1)["error"], "NotPermitted");
    let (program, _copy) = common::actor::reachable(Path::new(IOASIDCTL));
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    let sent = scene.script(&[], &format!("{nobody} {} --json send --to {to}", program.display()));
    assert_eq!(sent.json(0), json!({"set": 2}));
    let ran = Ran::of(receiver.wait_with_output().unwrap());
    assert_eq!(ran.status, 0);
    assert!(ran.err.contains("the other side is uid 0, not 65534"), "{ran:?}");
    scene.finish();
}

#[test]
fn the_cgroup_tree_has_limits_use_and_the_line_behind_each() {
    let scene = Scene::new();
    let script = "$CTL alloc -n 3 >&2; $CTL --json cgroup; $CTL --json cgroup $SLICE; $CTL cgroup $SLICE";
    let mut command = scene.command(&["exec", "--", "sh", "-c", script]);
    let ran = Ran::of(command.env("SLICE", scene.path("")).output().unwrap());
    assert_eq!(ran.status, 0, "{ran:?}");
    let mut lines = ran.out.lines();
    let root: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!((&root["path"], &root["current"]), (&json!("/"), &json!(3)));
    let slice: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    keys(&slice, &["id", "peak", "events", "events_local", "dying", "children"]);
    assert_eq!(
        (&slice["path"], &slice["max"], &slice["effective_max"]),
        (&json!(scene.path("")), &json!(32), &json!(32))
    );
    assert_eq!(slice["source"], json!({"file": scene.daemon.policy_file(), "line": 8}));
    let guest = &slice["children"][0];
    assert_eq!(
        (&guest["path"], &guest["max"], &guest["current"]),
        (&json!(scene.path("guest")), &json!("max"), &json!(3))
    );
    assert_eq!((&guest["source"], &guest["events"]["max"]), (&Value::Null, &json!(0)));
    assert!(lines.next().unwrap().starts_with("CGROUP"));
    assert_eq!(scene.run(&["--json", "cgroup", "/no/such/cgroup"]).json(1)["error"], "NotFound");
    scene.finish();
}

#[test]
fn limits_are_set_and_peaks_reset() {
    let scene = Scene::new();
    let slice = scene.path("");
    let max = |text: &str| scene.run(&["set-max", &slice, text]).words(0).to_owned();
    let found = || scene.run(&["--json", "cgroup", &slice]).json(0);
    for (text, json) in [("7", json!(7)), ("0x10", json!(16)), ("max", json!("max")), ("policy", json!(32))] {
        assert_eq!(max(text), "");
        assert_eq!(found()["max"], json, "{text}");
    }
    assert_eq!(scene.script(&[], "$CTL alloc -n 5 >&2").status, 0);
    eventually("the ids are back", || (found()["current"] == 0).then_some(()));
    assert_eq!(found()["peak"], 5);
    assert_eq!(scene.run(&["reset-peak", &slice]).words(0), "");
    assert_eq!(found()["peak"], 0);
    scene.finish();
}

#[test]
fn what_cannot_be_written_is_a_fault_a_bound_is_named_and_no_variable_of_others_passed_on() {
    let scene = Scene::new();
    let script = "$CTL alloc > /dev/full 2>&1; echo $?; $CTL info | true; echo $?
        $CTL --json alloc --max 0; echo $?; echo [$LISTEN_PIDFDID]";
    let ran = scene.script(&[], &format!("export LISTEN_PIDFDID=7; exec $CTL open 1 -- sh -c '{script}'"));
    let [full, closed, refused, status, variable] = ran.out.lines().collect::<Vec<_>>()[..] else { panic!("{ran:?}") };
    assert_eq!((full, closed, status, variable), ("4", "0", "1", "[]"), "{ran:?}");
    let refused: Value = serde_json::from_str(refused).unwrap();
    assert_eq!((&refused["field"], &refused["value"]), (&json!("max"), &json!("0")));
    scene.finish();
}

#[test]
fn a_charge_is_moved_and_a_set_revoked() {
    let scene = Scene::new();
    let other = scene.path("other");
    let script = format!(
        "$CTL alloc >&2; $CTL recharge 1 {other}; $CTL --json sets --cgroup {other}
        $CTL revoke 1 --reason 'moved house'; $CTL --json alloc; echo $?; $CTL --json identify; echo $?"
    );
    let lines = scene.script(&[], &script).lines();
    assert_eq!((&lines[0][0]["set"], &lines[0][0]["leased"]), (&json!(1), &json!(1)));
    let revoked = json!({"error": "Revoked", "errno": "EPIPE", "set": 1, "reason": "moved house"});
    assert_eq!((&lines[1], &lines[2]), (&revoked, &json!(1)));
    let on_behalf = scene.script(&["--cgroup", &other], "$CTL --json info").json(0);
    assert_eq!(on_behalf["cgroup"], json!(other));
    scene.finish();
}

#[test]
fn a_watch_tells_from_its_snapshot_to_the_revocation() {
    let scene = Scene::new();
    let directory = common::daemon::scratch_directory();
    let told = directory.path().join("told");
    let script = format!("$CTL alloc >&2; exec $CTL --json watch > {}", told.display());
    let watching = scene.start(&[], &script);
    let lines = || fs::read_to_string(&told).unwrap_or_default().lines().count();
    eventually("the snapshot is told", || (lines() == 1).then_some(()));
    assert_eq!(scene.run(&["open", "1", "--", IOASIDCTL, "alloc"]).words(0), "1025");
    assert_eq!(scene.run(&["revoke", "1", "--reason", "enough"]).status, 0);
    let ran = Ran::of(watching.wait_with_output().unwrap());
    assert_eq!(ran.status, 0, "{ran:?}");
    let text = fs::read_to_string(&told).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&events[0]["event"], &events[0]["pasids"]), (&json!("SNAPSHOT"), &json!([1024])));
    assert_eq!((&events[1]["event"], &events[1]["pasids"]), (&json!("ALLOC"), &json!([1025])));
    assert!(events.iter().any(|event| event["event"] == "REVOKE" && event["detail"] == "enough"), "{text}");
    scene.finish();
}

#[test]
fn events_are_one_object_a_line_and_follow_goes_on() {
    let scene = Scene::new();
    let directory = common::daemon::scratch_directory();
    let told = directory.path().join("told");
    let file = fs::File::create(&told).unwrap();
    assert_eq!(scene.script(&["--quota", "64"], "$CTL alloc -n 33").status, 1);
    let mut following = Command::new(IOASIDCTL)
        .args(["--json", "events", "--follow", "--socket"])
        .arg(scene.daemon.socket())
        .stdout(file)
        .spawn()
        .unwrap();
    let has = |wanted: &str| {
        eventually(wanted, || {
            fs::read_to_string(&told).unwrap().lines().any(|line| line.contains(wanted)).then_some(())
        });
    };
    has("limit-hit");
    assert_eq!(scene.run(&["set-max", &scene.path("other"), "3"]).status, 0);
    has("max-changed");
    following.kill().unwrap();
    following.wait().unwrap();
    let events = scene.run(&["--json", "events"]).lines();
    let hit = events.iter().find(|event| event["event"] == "limit-hit").unwrap();
    let wanted = json!({
        "event": "limit-hit", "time_usec": hit["time_usec"], "cgroup": scene.path(""), "max": 32, "asked": 33,
        "requester_cgroup": scene.path("guest"),
    });
    assert_eq!(*hit, wanted);
    assert!(scene.run(&["events"]).out.contains("limit hit: 33 more"));
    scene.finish();
}

#[test]
fn status_says_what_there_is() {
    let scene = Scene::new();
    let status = scene.run(&["--json", "status"]).json(0);
    keys(&status, &["version", "backend", "domains", "enforcement"]);
    let wanted = json!({
        "name": "global", "bits": 12, "capacity": 3072, "current": 0, "peak": 0, "reserved": 1024, "resting": 0,
    });
    assert_eq!(status["domains"][0], wanted);
    assert!(scene.run(&["status"]).words(0).contains("DOMAIN"));
    scene.finish();
}

#[test]
fn a_map_shows_every_lease() {
    let scene = Scene::new();
    let directory = common::daemon::scratch_directory();
    let svg = directory.path().join("map.svg");
    let script = format!("$CTL alloc -n 3 >&2; $CTL --json map; $CTL map --svg {}; $CTL map", svg.display());
    let ran = scene.script(&[], &script);
    let (json, words) = ran.out.split_once('\n').unwrap();
    let map: Value = serde_json::from_str(json).unwrap();
    assert_eq!(map["domain"]["name"], "global");
    let runs = map["runs"].as_array().unwrap();
    let leased = runs.iter().find(|run| run["state"] == "leased").unwrap();
    assert_eq!((&leased["range"], &leased["set"]), (&json!("1024-1026"), &json!(1)));
    assert!(words.starts_with("global: 4096 ids") && words.contains(&scene.path("guest")), "{words}");
    // No terminal, so no colours: letters. 1024 reserved ids are 256 characters.
    let row = |first: u32| words.lines().find_map(|line| line.strip_prefix(&format!("{first:>7} "))).unwrap();
    assert_eq!((row(768), row(1024)), ("#".repeat(64).as_str(), format!("A{}", ".".repeat(63)).as_str()));
    assert!(fs::read_to_string(&svg).unwrap().contains("1024-1026"));
    scene.finish();
}

#[test]
fn a_policy_is_checked_explained_and_reloaded() {
    let scene = Scene::new();
    let file = scene.daemon.policy_file();
    let path = file.to_str().unwrap();
    assert_eq!(scene.run(&["--json", "policy", "check", path]).json(0), json!({"valid": true, "problems": []}));
    let guest = scene.path("guest");
    let explain = ["--json", "policy", "explain", "--user", "root", "--cgroup", &guest];
    let explained = scene.run(&explain).json(0);
    let wanted = json!({
        "decision": "allow", "rule": "tests", "file": path, "line": 9, "quota": 8,
        "limits": [{"cgroup": scene.path(""), "max": 32, "file": path, "line": 8}],
    });
    for (key, value) in wanted.as_object().unwrap() {
        assert_eq!(explained.get(key), Some(value), "{key}");
    }
    assert_eq!(scene.run(&[&explain[..], &["--policy", path]].concat()).json(0), explained);
    assert_eq!(scene.run(&[&explain[..], &["--quota", "65"]].concat()).json(0)["decision"], "deny");
    assert_eq!(scene.run(&["policy", "reload"]).words(0), "");
    // What is refused is what is in force, not what the files say.
    let top = scene.path("");
    scene.run(&["set-max", &top, "2"]).words(0);
    scene.run(&["set-max", &guest, "7"]).words(0);
    let in_force = json!([
        {"cgroup": guest, "max": 7, "file": null, "line": null, "set_by": "administrator"},
        {"cgroup": top, "max": 2, "file": path, "line": 8, "set_by": "administrator"},
    ]);
    assert_eq!(scene.run(&explain).json(0)["limits"], in_force);
    let ran = scene.run(&explain[1..]);
    let words = ran.words(0);
    assert!(words.contains("  2  administrator, over ") && words.contains("  7  administrator\n"), "{words}");
    for cgroup in [&top, &guest] {
        scene.run(&["set-max", cgroup, "policy"]).words(0);
    }
    assert_eq!(scene.run(&explain).json(0), explained);

    let mut daemon = scene.daemon;
    daemon.may_warn();
    let scene = Scene { daemon, cgroups: scene.cgroups };
    fs::write(&file, "version = 1\nspeed = 5\n[space]\nbits = 99\n").unwrap();
    let ran = scene.run(&["--json", "policy", "check", path]);
    let verdict = ran.json(1);
    assert_eq!(verdict["valid"], false);
    let problems = verdict["problems"].as_array().unwrap();
    assert_eq!(problems.iter().map(|problem| &problem["line"]).collect::<Vec<_>>(), [2, 4]);
    keys(&problems[0], &["file", "line", "column", "key", "reason", "hint"]);
    assert!(ran.err.contains("2 problems"), "{ran:?}");
    assert_eq!(scene.run(&["--json", "policy", "reload"]).json(1)["error"], "InvalidArgument");
    assert_eq!(scene.run(&[&explain[..], &["--policy", path]].concat()).json(1)["error"], "InvalidArgument");
    assert_eq!(scene.run(&explain).json(0), explained, "a bad policy changes nothing");
    scene.finish();
}
