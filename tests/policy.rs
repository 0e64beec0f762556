//! The policy's files: samples valid and invalid, what ships, drop-ins, and text of any kind.
#![cfg(feature = "policy")]
#![allow(clippy::unwrap_used)] // in what the tests share

use ioasid::model::{CgroupPath, Limit, PasidRange, SetRequest};
use ioasid::policy::{self, Accounts, Asker, Bits, Decision, Policy, Problems, Profile, Sources, Verdict};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A host with two users and a group.
struct Few;

impl Accounts for Few {
    fn uid(&self, name: &str) -> Result<Option<u32>, String> {
        Ok(match name {
            "root" => Some(0),
            "ana" => Some(1000),
            _ => None,
        })
    }
    fn gid(&self, name: &str) -> Result<Option<u32>, String> {
        Ok((name == "kvm").then_some(36))
    }
}

/// A host that has every account: what ships names some that this one may lack.
struct All;

impl Accounts for All {
    fn uid(&self, name: &str) -> Result<Option<u32>, String> {
        Ok(Some(if name == "root" { 0 } else { 1000 }))
    }
    fn gid(&self, _: &str) -> Result<Option<u32>, String> {
        Ok(Some(36))
    }
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn toml_files(directory: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(here(directory)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(!files.is_empty(), "{directory}");
    files
}

fn check_text(text: &str) -> Result<Policy, Problems> {
    policy::check(&[("policy.toml".to_owned(), text.to_owned())], &Few)
}

fn path(text: &str) -> CgroupPath {
    text.parse().unwrap()
}

/// `IOASID_BLESS=1` writes down what is said today, to be read before it is committed.
#[test]
fn every_mistake_is_reported_as_expected() {
    for file in toml_files("tests/policy/invalid") {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let outcome = policy::check(&[(name, fs::read_to_string(&file).unwrap())], &Few);
        let problems = outcome.expect_err(&format!("{} is taken for valid", file.display()));
        let said = format!("{problems}\n");
        let expected = file.with_extension("expected");
        if std::env::var_os("IOASID_BLESS").is_some() {
            fs::write(&expected, &said).unwrap();
        }
        assert_eq!(said, fs::read_to_string(&expected).unwrap(), "{}", file.display());
    }
}

#[test]
fn a_problem_in_json_has_place_key_reason_and_hint() {
    let outcome = check_text("version = 1\n[space]\nbist = 4\n");
    let json = serde_json::to_value(Verdict::of(&outcome)).unwrap();
    let problem = serde_json::json!({
        "file": "policy.toml", "line": 3, "column": 1, "key": "space.bist",
        "reason": "unknown key \"bist\"", "hint": "did you mean `bits`?",
    });
    assert_eq!(json, serde_json::json!({"valid": false, "problems": [problem]}));
    let json = serde_json::to_value(Verdict::of(&check_text("version = 1"))).unwrap();
    assert_eq!(json, serde_json::json!({"valid": true, "problems": []}));
}

#[test]
fn columns_count_characters() {
    let Err(problems) =
        check_text("version = 1\n[[rule]]\nname = \"é\" # é\nusers = [\"é\", \"root\", \"zed\"]\naction=\"allow\"")
    else {
        panic!("taken for valid")
    };
    let places: Vec<_> = problems.iter().map(|problem| (problem.line, problem.column)).collect();
    assert_eq!(places, [(4, 10), (4, 23)]);
}

#[test]
fn what_is_valid_is_taken() {
    for directory in ["tests/policy/valid", "policy", "policy/examples"] {
        for file in toml_files(directory) {
            if let Err(problems) = policy::load(&Sources::file(&file), &All) {
                panic!("{problems}");
            }
        }
    }
}

#[test]
fn every_key_of_a_full_policy_arrives() {
    let policy = check_text(include_str!("policy/valid/full.toml")).unwrap();
    let range = |min, max| PasidRange::new(min, max).unwrap();
    assert_eq!(policy.space.bits, Bits::Fixed(16));
    assert_eq!(policy.space.reserved, [range(0, 1023), range(4096, 4096), range(0x2000, 0x20ff)]);
    assert_eq!((policy.space.quarantine, policy.space.profile), (Duration::from_secs(90), Profile::RfcV4));
    assert_eq!(policy.space.most(), 65536 - 1024 - 1 - 256);
    assert!(policy.bus.trust_pid);
    assert_eq!((policy.guard.sets, policy.guard.sessions, policy.guard.requests_per_second), (12, 34, 56));
    assert_eq!((policy.lease.batch, policy.metrics.port), (7, Some(9753)));
    assert_eq!(policy.unset_limit(), Limit::Count(0));
    let (max, source) = policy.limit(&path("/machine.slice/a.scope")).unwrap();
    assert_eq!((max, source.line), (Limit::Count(256), 29));
    assert_eq!(policy.limit(&path("/free/x")).unwrap().0, Limit::Max);
    assert!(policy.limit(&path("/else")).is_none());
    let names: Vec<_> = policy.rules().iter().map(|rule| (rule.name(), rule.source().line)).collect();
    assert_eq!(names, [("guests", 35), ("others", 47)]);
}

/// `IOASID_BLESS=1` writes it.
#[test]
fn the_schema_that_ships_is_current() {
    let schema = serde_json::to_string_pretty(&policy::schema()).unwrap() + "\n";
    if std::env::var_os("IOASID_BLESS").is_some() {
        fs::write(here("policy/schema.json"), &schema).unwrap();
    }
    assert_eq!(fs::read_to_string(here("policy/schema.json")).unwrap(), schema);
}

#[test]
fn as_shipped_only_services_of_root_get_a_set() {
    let policy = policy::load(&Sources::file(here("policy/policy.toml")), &All).unwrap();
    let ask =
        |uid, cgroup: &str| policy.decide(&Asker { uid, gids: &[uid], cgroup: &path(cgroup) }, &SetRequest::default());
    assert!(matches!(ask(0, "/system.slice/x.service"), Decision::Allow(_)));
    assert!(matches!(ask(0, "/machine.slice/container"), Decision::Deny(_)));
    assert!(matches!(ask(1000, "/system.slice/x.service"), Decision::Deny(_)));
    // libvirt's hook asks on behalf of guests, which is all that it may.
    let libvirtd = path("/system.slice/libvirtd.service");
    let on_behalf = |of: &str| {
        let request = SetRequest { cgroup: Some(path(of)), ..SetRequest::default() };
        policy.decide(&Asker { uid: 0, gids: &[0], cgroup: &libvirtd }, &request)
    };
    assert!(matches!(on_behalf("/machine.slice"), Decision::Allow(_)));
    assert!(matches!(on_behalf("/user.slice"), Decision::Deny(_)));
}

#[test]
fn explain_names_rule_line_quota_and_the_limits_above() {
    let policy = check_text(include_str!("policy/valid/full.toml")).unwrap();
    let cgroup = path("/machine.slice/a.scope/inner");
    let asker = Asker { uid: 1000, gids: &[1000], cgroup: &cgroup };
    let explained = policy.explain(&asker, &SetRequest { quota: Some(100), ..SetRequest::default() });
    assert_eq!(
        serde_json::to_value(explained).unwrap(),
        serde_json::json!({
            "decision": "allow", "rule": "guests", "file": "policy.toml", "line": 35, "quota": 100,
            "limits": [
                {"cgroup": "/machine.slice/a.scope", "max": 256, "file": "policy.toml", "line": 29},
                {"cgroup": "/machine.slice", "max": 4096, "file": "policy.toml", "line": 25},
            ],
        })
    );
    let explained = policy.explain(&asker, &SetRequest { quota: Some(257), ..SetRequest::default() });
    assert_eq!((explained.decision, explained.rule.as_str(), explained.quota), ("deny", "guests", None));
    assert_eq!(explained.bound, "quota 257 is above its max 256");
    let explained = policy.explain(&Asker { uid: 7, ..asker }, &SetRequest::default());
    assert_eq!((explained.decision, explained.rule.as_str(), explained.line), ("deny", "no rule matches", None));
}

#[test]
fn drop_ins_apply_by_name_and_etc_hides_usr_lib() {
    let root = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| {
        let file = root.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    let rule = |name: &str| format!("version = 1\n[[rule]]\nname = \"{name}\"\nusers = [\"*\"]\naction = \"allow\"\n");
    write("etc/ioasidd/policy.toml", &(rule("main") + "[guard]\nsets = 1\nsessions = 1\n"));
    write("usr/lib/ioasidd/policy.d/10-a.toml", &rule("hidden"));
    write(
        "usr/lib/ioasidd/policy.d/20-b.toml",
        &(rule("vendor") + "[guard]\nsets = 2\n[[cgroup]]\npath='/a'\nmax=1\n"),
    );
    write("usr/lib/ioasidd/policy.d/40-masked.toml", &rule("masked"));
    write("etc/ioasidd/policy.d/10-a.toml", &(rule("own") + "[[cgroup]]\npath='/a'\nmax=2\n"));
    write("etc/ioasidd/policy.d/40-masked.toml", "");
    write("etc/ioasidd/policy.d/30-no.conf", "junk");
    let policy = policy::load(&Sources::under(root.path()), &Few).unwrap();
    let names: Vec<_> = policy.rules().iter().map(|rule| rule.name().to_owned()).collect();
    assert_eq!(names, ["main", "own", "vendor"]);
    assert_eq!((policy.guard.sets, policy.guard.sessions), (2, 1));
    let (max, source) = policy.limit(&path("/a")).unwrap();
    assert_eq!((max, source.file.ends_with("usr/lib/ioasidd/policy.d/20-b.toml")), (Limit::Count(1), true));

    write("etc/ioasidd/policy.d/50-bad.toml", "version = 3\n");
    write("etc/ioasidd/policy.d/60-bytes.toml", "version = 1\n# \u{1}\n");
    fs::write(root.path().join("etc/ioasidd/policy.d/70-latin.toml"), b"version = 1\n# caf\xe9\n").unwrap();
    fs::create_dir(root.path().join("etc/ioasidd/policy.d/80-directory.toml")).unwrap();
    let problems = policy::load(&Sources::under(root.path()), &Few).unwrap_err();
    let mut places: Vec<_> =
        problems.iter().map(|problem| (problem.file.rsplit('/').next().unwrap(), problem.line)).collect();
    places.sort();
    assert_eq!(places, [("50-bad.toml", 1), ("60-bytes.toml", 2), ("70-latin.toml", 2), ("80-directory.toml", 0)]);
}

#[test]
fn no_files_are_an_empty_policy_but_a_named_file_has_to_be_there() {
    let root = tempfile::tempdir().unwrap();
    assert!(policy::load(&Sources::under(root.path()), &Few).unwrap().is_empty());
    let problems = policy::load(&Sources::file(root.path().join("none.toml")), &Few).unwrap_err();
    assert!(problems.summary().contains("none.toml"), "{problems}");
    fs::write(root.path().join("empty.toml"), "").unwrap();
    let problems = policy::load(&Sources::file(root.path().join("empty.toml")), &Few).unwrap_err();
    assert_eq!(problems.iter().next().unwrap().reason, "there is no version");
}

#[test]
fn a_users_own_service_gives_256_ids_to_that_user() {
    let policy = policy::load(&Sources::embedded_user(1000), &Few).unwrap();
    let cgroup = path("/user.slice/x");
    let ask = |uid, quota| {
        let request = SetRequest { quota: Some(quota), ..SetRequest::default() };
        policy.decide(&Asker { uid, gids: &[], cgroup: &cgroup }, &request)
    };
    assert!(matches!(ask(1000, 256), Decision::Allow(_)));
    assert!(matches!(ask(1000, 257), Decision::Deny(_)) && matches!(ask(0, 1), Decision::Deny(_)));
    assert_eq!(policy.limit(&path("/user.slice")).unwrap().0, Limit::Count(256));
    // Of all cgroups together.
    assert_eq!(policy.space.bits, policy::Bits::Fixed(9));
    assert_eq!(policy.space.reserved, ["0-255".parse().unwrap()]);
}

#[test]
fn two_thousand_cgroups_find_their_line_among_ten_thousand() {
    let lines: String = (0..10_000).map(|n| format!("[[cgroup]]\npath='/a/b/c{n}'\nmax={n}\n")).collect();
    let policy = check_text(&format!("version = 1\n{lines}[[cgroup]]\npath='/a/**'\nmax=1\n")).unwrap();
    for n in 0..2_000 {
        assert_eq!(policy.limit(&path(&format!("/a/b/c{n}"))).unwrap().0, Limit::Count(n));
    }
}

#[test]
fn problems_of_all_files_come_in_their_order_and_names_differ_across_them() {
    let rule = "[[rule]]\nname = \"a\"\nusers = [\"*\"]\naction = \"allow\"\n";
    let files = [
        ("b.toml".to_owned(), format!("version = 1\n{rule}[space]\nreserved = [\"0-300\"]\n")),
        ("a.toml".to_owned(), format!("version = 1\n\"odd\\nkey\" = 1\nspace.bits = 8\n{rule}")),
        ("c.toml".to_owned(), "x = ".to_owned()),
    ];
    let problems = policy::check(&files, &Few).unwrap_err();
    let said: Vec<_> = problems.iter().map(|p| (p.file.as_str(), p.line, p.key.as_str(), p.hint.as_deref())).collect();
    let keys = "known here: version, space, bus, guard, lease, metrics, cgroup, rule";
    assert_eq!(
        said,
        [
            ("b.toml", 7, "space.reserved", None),
            ("b.toml", 7, "space.reserved", Some("a.toml:3 sets bits = 8")),
            ("a.toml", 2, r#""odd\nkey""#, Some(keys)),
            ("a.toml", 5, "rule[0].name", Some("first at b.toml:3")),
            ("c.toml", 1, "", None),
        ]
    );
}

fn cgroup_paths() -> impl Strategy<Value = CgroupPath> {
    proptest::collection::vec(r"[a-z*?\[\]\\'\x22\t .é!-]{1,6}", 1..4)
        .prop_filter_map("no cgroup", |names| format!("/{}", names.join("/")).parse().ok())
}

fn limits() -> impl Strategy<Value = Limit> {
    prop_oneof![any::<u64>().prop_map(Limit::Count), Just(Limit::Max)]
}

proptest! {
    #[test]
    fn persisted_limits_read_back_for_these_cgroups_alone(
        limits in proptest::collection::vec((cgroup_paths(), limits()), 0..6),
        other in cgroup_paths(),
    ) {
        let text = policy::set_max_file(&limits);
        let read = policy::set_max_entries(policy::SET_MAX_FILE, &text).unwrap();
        let kept: std::collections::BTreeMap<_, _> = limits.iter().cloned().collect();
        prop_assert_eq!(read, kept.into_iter().collect::<Vec<_>>());
        let policy = check_text(&text).map_err(|problems| TestCaseError::fail(problems.to_string()))?;
        for (cgroup, _) in limits.iter().chain([&(other, Limit::Max)]) {
            let expected = limits.iter().rev().find(|(set, _)| set == cgroup).map(|(_, max)| *max);
            prop_assert_eq!(policy.limit(cgroup).map(|(max, _)| max), expected);
        }
    }

    #[test]
    fn text_of_any_kind_is_a_policy_or_has_problems_that_can_be_shown(text in any::<String>()) {
        shown(&text);
    }

    #[test]
    fn a_mutated_policy_is_a_policy_or_has_problems_that_can_be_shown(
        at in any::<prop::sample::Index>(), length in 0usize..40, with in r#"[\[\]{}"'=.,#\n\t\-*0-9a-zé]{0,8}"#,
    ) {
        let mut chars: Vec<char> = include_str!("policy/valid/full.toml").chars().collect();
        let start = at.index(chars.len());
        let end = (start + length).min(chars.len());
        chars.splice(start..end, with.chars());
        shown(&chars.into_iter().collect::<String>());
    }
}

fn shown(text: &str) {
    if let Err(problems) = check_text(text) {
        assert!(problems.iter().len() > 0 && !problems.render(true).is_empty() && !problems.summary().is_empty());
        let lines = text.lines().count() + 1;
        assert!(problems.iter().all(|problem| (1..=lines).contains(&problem.line)), "{problems}");
    }
}
