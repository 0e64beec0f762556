//! `ioasidctl top` in a real terminal, as a person would type.
#![allow(clippy::unwrap_used)]

mod common;

use common::daemon::IOASIDCTL;
use common::{Actor, Cgroups, Daemon, Terminal, eventually};
use ioasid::model::{SetRequest, SetState};

/// `ioasidctl top` against the service.
fn with_top(daemon: &Daemon, name: &str) -> Terminal {
    Terminal::start(name, 120, &[IOASIDCTL, "--socket", daemon.socket().to_str().unwrap(), "top"])
}

fn policy(cgroups: &Cgroups) -> String {
    format!(
        r#"
        version = 1
        [space]
        bits = 12
        quarantine = "0s"
        [[cgroup]]
        path = "{scratch}/full"
        max = 8
        [[rule]]
        name = "tests"
        cgroup = "{scratch}/**"
        users = ["*"]
        action = "allow"
        quota = {{ default = 64, max = 64 }}
        "#,
        scratch = cgroups.path("")
    )
}

/// The line of the screen with this in it.
fn line<'a>(screen: &'a str, part: &str) -> Option<(usize, &'a str)> {
    screen.lines().enumerate().find(|(_, line)| line.contains(part))
}

#[test]
fn a_person_sorts_filters_and_revokes() {
    let cgroups = Cgroups::new();
    let (full, busy) = (cgroups.make("full"), cgroups.make("busy"));
    let daemon = Daemon::start(&policy(&cgroups));
    let (first, second) = (Actor::new(&cgroups, "full"), Actor::new(&cgroups, "busy"));
    let labelled = |label: &str| SetRequest { label: label.into(), ..SetRequest::default() };
    let sets = (first.create_set(&daemon, labelled("one")), second.create_set(&daemon, labelled("two")));
    let mut sessions = (sets.0.session().unwrap(), sets.1.session().unwrap());
    sessions.0.alloc_many(8, None).unwrap();
    sessions.0.alloc().unwrap_err();
    sessions.1.alloc_many(20, None).unwrap();
    let terminal = with_top(&daemon, "top");

    let screen = terminal.shows("both cgroups", |s| s.contains(full.as_str()) && s.contains(busy.as_str()));
    let at = |screen: &str, part: &str| line(screen, part).unwrap().0;
    assert!(at(&screen, busy.as_str()) < at(&screen, full.as_str()), "the most ids first:\n{screen}");
    let (_, row) = line(&screen, full.as_str()).unwrap();
    assert!(row.contains("100%") && row.contains('█'), "{row}");
    assert!(screen.contains("28 of 3072"), "{screen}");
    // Live: another id shows without a key.
    sessions.1.alloc().unwrap();
    terminal.shows("another id", |s| s.contains("29 of 3072"));

    terminal.type_keys(&["s"]);
    terminal.shows("the nearest to its limit first", |s| {
        s.contains("by use") && at(s, full.as_str()) < at(s, busy.as_str())
    });
    terminal.type_keys(&["?"]);
    terminal.shows("help", |s| s.contains("Keys") && s.contains("x revoke"));
    terminal.type_keys(&["Escape"]);
    terminal.type_keys(&["/", "b", "u", "s", "y", "Enter"]);
    terminal
        .shows("one cgroup", |s| s.contains("filter /busy") && !s.lines().any(|line| line.starts_with(full.as_str())));
    terminal.type_keys(&["Enter"]);
    terminal.shows("its sets", |s| s.contains("LABEL") && s.contains("two") && !s.contains(" one "));
    terminal.type_keys(&["x"]);
    terminal.shows("the question", |s| s.contains("Revoke set 2?"));
    terminal.type_keys(&["n"]);
    terminal.shows("no question", |s| !s.contains("Revoke set"));
    assert_eq!(sessions.1.info().unwrap().state, SetState::Active, "no is no");
    terminal.type_keys(&["x"]);
    terminal.shows("the question again", |s| s.contains("Revoke set 2?"));
    terminal.type_keys(&["y"]);
    terminal.shows("the revocation", |s| s.contains("revoked"));
    sessions.1.info().unwrap_err();
    sessions.0.info().unwrap();
    terminal.type_keys(&["q"]);
    eventually("top ends", || terminal.is_over().then_some(()));
    drop((sessions, sets, first, second));
    daemon.finish();
}

#[test]
fn the_map_is_in_colours_where_the_terminal_has_them_and_in_letters_elsewhere() {
    let cgroups = Cgroups::new();
    cgroups.make("busy");
    let daemon = Daemon::start(&policy(&cgroups));
    let holder = Actor::new(&cgroups, "busy");
    let set = holder.create_set(&daemon, SetRequest::default());
    let mut session = set.session().unwrap();
    session.alloc_many(5, None).unwrap();
    let socket = daemon.socket();
    let socket = socket.to_str().unwrap();
    let script = "\"$0\" --socket \"$1\" map; exec sleep 1000";
    let map = |name: &str, variable: &str| {
        Terminal::start(name, 80, &["env", variable, "sh", "-c", script, IOASIDCTL, socket])
    };
    let coloured = map("map", "NO_COLOR=");
    let screen = coloured.shows("braille", |s| s.contains("3067  free") && s.contains('⣿'));
    assert!(screen.contains("⣿⣿     1024  reserved"), "{screen}");
    for (name, variable) in [("unwanted", "NO_COLOR=1"), ("dumb", "TERM=dumb")] {
        let plain = map(name, variable);
        let screen = plain.shows("letters", |s| s.contains("3067  free"));
        let (_, row) = line(&screen, "   1024 ").unwrap();
        assert_eq!(row.trim_start(), format!("1024 Aa{}", ".".repeat(62)), "{variable}:\n{screen}");
        assert!(screen.is_ascii() && line(&screen, "#     1024  reserved").is_some(), "{variable}:\n{screen}");
    }
    drop((session, set, holder));
    daemon.finish();
}

#[test]
fn the_screen_says_when_the_service_is_away_and_goes_on_when_it_is_back() {
    let cgroups = Cgroups::new();
    let mut daemon = Daemon::start(&policy(&cgroups));
    let terminal = with_top(&daemon, "away");
    terminal.shows("the service", |s| s.contains("0 of 3072"));
    assert!(daemon.terminate().success());
    terminal.shows("the trouble", |s| s.contains("no news:"));
    daemon.start_again(&common::Options::default());
    terminal.shows("the service again", |s| !s.contains("no news:") && s.contains("0 of 3072"));
    terminal.type_keys(&["C-c"]);
    eventually("top ends", || terminal.is_over().then_some(()));
    daemon.finish();
}

#[test]
fn without_a_terminal_it_is_refused_and_json_gives_one_sample() {
    let cgroups = Cgroups::new();
    let daemon = Daemon::start(&policy(&cgroups));
    let refused = daemon.run_ctl(&["top"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("it takes a terminal"));
    let sample: serde_json::Value = serde_json::from_slice(&daemon.run_ctl(&["--json", "top"]).stdout).unwrap();
    assert_eq!(sample["status"]["domains"][0]["capacity"], 3072);
    assert!(sample["cgroups"]["children"].is_array() && sample["sets"].is_array());
    daemon.finish();
}
