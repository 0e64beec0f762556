//! Metrics: what a scraper gets, and what it costs nobody.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Actor, Cgroups, Daemon};
use ioasid::model::{Refusal, SetRequest};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn policy(cgroups: &Cgroups, more: &str) -> String {
    format!(
        r#"
        version = 1
        {more}
        [space]
        bits = 12
        quarantine = "1h"
        [[cgroup]]
        path = "{scratch}/guest"
        max = 8
        [[rule]]
        name = "tests"
        cgroup = "{scratch}/**"
        users = ["*"]
        action = "allow"
        quota = {{ default = 16, max = 64 }}
        "#,
        scratch = cgroups.path("")
    )
}

/// The head and the body of the answer to a request.
fn converse(mut stream: impl Read + Write, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn ask(daemon: &Daemon, request: &str) -> (String, String) {
    let stream = UnixStream::connect(daemon.runtime_dir().join("metrics.sock")).unwrap();
    converse(stream, &format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
}

fn scrape(daemon: &Daemon) -> String {
    let (head, body) = ask(daemon, "GET /metrics");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.lines().any(|line| line == kind), "{head}");
    body
}

/// The value behind a name with its labels.
fn value<'a>(text: &'a str, sample: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))
}

#[test]
fn a_scrape_tells_cgroups_domains_sets_sessions_and_refusals() {
    let cgroups = Cgroups::new();
    let guest = cgroups.make("guest");
    let daemon = Daemon::start(&policy(&cgroups, ""));
    let before = daemon.snapshot();
    let actor = Actor::new(&cgroups, "guest");
    let set = actor.create_set(&daemon, SetRequest::default());
    let mut session = set.session().unwrap();
    let pasids = session.alloc_many(8, None).unwrap();
    assert!(matches!(session.alloc().unwrap_err().refusal(), Some(Refusal::LimitExceeded { .. })));
    session.free(&pasids[..2]).unwrap();

    let text = scrape(&daemon);
    assert!(text.lines().filter(|line| line.starts_with("# TYPE ")).count() > 15, "{text}");
    let labels = format!("{{cgroup=\"{guest}\"}}");
    for (sample, expected) in [
        (format!("ioasid_cgroup_max{labels}"), "8.0"),
        (format!("ioasid_cgroup_current{labels}"), "6.0"),
        (format!("ioasid_cgroup_peak{labels}"), "8.0"),
        (format!("ioasid_cgroup_max_events_total{labels}"), "1"),
        (format!("ioasid_cgroup_max_events_local_total{labels}"), "1"),
        (format!("ioasid_cgroup_max_events_total{{cgroup=\"{}\"}}", cgroups.path("")), "1"),
        (format!("ioasid_cgroup_max_events_local_total{{cgroup=\"{}\"}}", cgroups.path("")), "0"),
        ("ioasid_cgroup_current{cgroup=\"/\"}".into(), "6.0"),
        ("ioasid_domain_capacity{domain=\"global\"}".into(), "3072.0"),
        ("ioasid_domain_current{domain=\"global\"}".into(), "6.0"),
        ("ioasid_domain_resting{domain=\"global\"}".into(), "2.0"),
        ("ioasid_domain_peak{domain=\"global\"}".into(), "8.0"),
        ("ioasid_sets{state=\"active\"}".into(), "1.0"),
        ("ioasid_sets_created_total".into(), "1"),
        ("ioasid_sessions".into(), "1.0"),
        ("ioasid_refusals_total{error=\"LimitExceeded\"}".into(), "1"),
    ] {
        assert_eq!(value(&text, &sample), Some(expected), "{sample} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    prometheus_reads(&text);
    drop((session, set, actor));
    daemon.settles_to(&before);
    daemon.finish();
}

#[test]
fn a_refusal_counts_once_whatever_edge_it_is_given_at() {
    let cgroups = Cgroups::new();
    cgroups.make("guest");
    let bus = common::bus::PrivateBus::start();
    let daemon = bus.serve(&policy(&cgroups, "[bus]\ntrust_pid = true"));
    let actor = Actor::of_user(&cgroups, "guest", 65534);
    let over_bus = bus.connect_as(&actor);
    over_bus.create_set(&[("quota", 65_u32.into())]).unwrap_err();
    over_bus.create_set(&[("quotum", 1_u32.into())]).unwrap_err();
    over_bus.manager::<(), _>("Reload", &()).unwrap_err();
    let request = SetRequest { quota: Some(65), ..SetRequest::default() };
    actor.connect(&daemon).create_set(request).unwrap_err();
    let text = scrape(&daemon);
    let count = |name: &str| value(&text, &format!("ioasid_refusals_total{{error=\"{name}\"}}"));
    assert_eq!((count("NotPermitted"), count("InvalidArgument")), (Some("3"), Some("1")), "{text}");
    drop((over_bus, actor));
    daemon.finish();
}

/// Prometheus' own client library reads every sample (Debian: python3-prometheus-client, where root can install it).
fn prometheus_reads(text: &str) {
    let script = "import sys\n\
        from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse\n\
        print(sum(len(f.samples) for f in parse(sys.stdin.read())))";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "prometheus_client does not read\n{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), samples.to_string());
}

#[test]
fn other_resources_and_methods_are_refused() {
    let cgroups = Cgroups::new();
    let daemon = Daemon::start(&policy(&cgroups, ""));
    let before = daemon.snapshot();
    assert!(ask(&daemon, "GET /secrets").0.starts_with("HTTP/1.1 404 "));
    let (head, _) = ask(&daemon, "POST /metrics");
    assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("allow: GET, HEAD"), "{head}");
    let (head, body) = ask(&daemon, "HEAD /metrics");
    assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty(), "{head}\n{body}");
    daemon.settles_to(&before);
    daemon.finish();
}

#[test]
fn the_port_that_the_policy_names_is_served_on_loopback() {
    let cgroups = Cgroups::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let daemon = Daemon::start(&policy(&cgroups, &format!("[metrics]\nport = {port}")));
    let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (head, body) = converse(stream, "GET /metrics HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.0 200 ") || head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(body.ends_with("# EOF\n"));
    daemon.finish();
}

#[test]
fn many_who_connect_and_say_nothing_do_not_keep_the_service_from_others() {
    let cgroups = Cgroups::new();
    let daemon = Daemon::start(&policy(&cgroups, ""));
    let connect = || UnixStream::connect(daemon.runtime_dir().join("metrics.sock")).unwrap();
    let silent: Vec<_> = (0..64).map(|_| connect()).collect();
    // The socket of the sets is not held up, and of the silent ones only so many cost a descriptor.
    assert_eq!(daemon.status().sets, 0);
    assert!(daemon.descriptors() < 64, "{}", daemon.descriptors());
    // The newest takes the place of one that asks for nothing.
    assert!(scrape(&daemon).ends_with("# EOF\n"));
    drop(silent);
    assert!(scrape(&daemon).ends_with("# EOF\n"));
    daemon.finish();
}

#[test]
fn half_sent_requests_of_one_user_keep_no_scrape_of_another_out_and_end_soon() {
    let cgroups = Cgroups::new();
    let daemon = Daemon::start(&policy(&cgroups, ""));
    let path = daemon.runtime_dir().join("metrics.sock");
    let script = "import socket,sys\n\
        def begun():\n s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n \
        try: s.send(b'GET /metrics HTTP/1.1\\r\\nX: ')\n except OSError: pass\n return s\n\
        open=[begun() for _ in range(300)]; print('up', flush=True)\n\
        for s in open:\n \
        try:\n  while s.recv(1000): pass\n except OSError: pass\n\
        print('over')";
    let mut dawdler = Command::new("setpriv");
    dawdler.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/python3", "-c", script]);
    let mut dawdler = dawdler.arg(&path).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(dawdler.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "up");
    let begun = Instant::now();
    assert!(scrape(&daemon).ends_with("# EOF\n"));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // None of them is waited for as long as a connection may last.
    assert_eq!(said.next().unwrap().unwrap(), "over");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    dawdler.wait().unwrap();
    daemon.finish();
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_exist() {
    let cgroups = Cgroups::new();
    let daemon = Daemon::start(&policy(&cgroups, ""));
    cgroups.make("guest");
    let actor = Actor::new(&cgroups, "guest");
    let wire = actor.connect(&daemon);
    let made = wire.create_set(SetRequest::default()).unwrap();
    wire.ask(&ioasid::proto::ShowSet { set: 77 }).unwrap_err();
    made.0.session().unwrap().alloc().unwrap();
    let text = scrape(&daemon);
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/metrics/");
    for file in ["ioasidd.rules.yml", "ioasidd-dashboard.json"] {
        let content = std::fs::read_to_string(format!("{directory}{file}")).unwrap();
        let words = content.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: std::collections::BTreeSet<_> = words.filter(|word| word.starts_with("ioasid_")).collect();
        assert!(names.len() > 5, "{file}: {names:?}");
        for name in names {
            let known = text
                .lines()
                .any(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} ")));
            assert!(known, "{file} names {name}, which is not in\n{text}");
        }
    }
    serde_json::from_str::<serde_json::Value>(
        &std::fs::read_to_string(format!("{directory}ioasidd-dashboard.json")).unwrap(),
    )
    .unwrap();
    for arguments in [["check", "rules", "ioasidd.rules.yml"], ["test", "rules", "ioasidd.rules.test.yml"]] {
        let output = Command::new("promtool").args(arguments).current_dir(directory).output().unwrap();
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {said}\n{complained}");
    }
    drop((wire, made, actor));
    daemon.finish();
}
