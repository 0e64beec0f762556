//! The manual pages: they lint, and what the code has is in them.
#![allow(clippy::unwrap_used)]

mod common;

use common::shown;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/man");

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(PAGES).join(name)).unwrap()
}

fn pages() -> Vec<PathBuf> {
    fs::read_dir(PAGES).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// The macro lines of a page that begin so, without the beginning.
fn lines_of<'a>(page: &'a str, beginning: &'a str) -> impl Iterator<Item = &'a str> {
    page.lines().filter_map(move |line| line.strip_prefix(beginning)).map(str::trim)
}

#[test]
fn every_page_lints_without_a_warning() {
    let pages = pages();
    assert!(pages.len() >= 4);
    let output = Command::new("mandoc").args(["-Tlint", "-W", "warning"]).args(&pages).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// A macro takes the quotes of a word that begins with one for its own: JSON needs them escaped.
#[test]
fn quotes_of_json_survive() {
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        let lost =
            page.lines().find(|line| (line.starts_with(".Li ") || line.starts_with(".Ql ")) && line.contains('"'));
        assert_eq!(lost, None, "{}", path.display());
    }
}

#[test]
fn every_flag_of_the_service_is_documented() {
    let help = Command::new(env!("CARGO_BIN_EXE_ioasidd")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let page = page("ioasidd.8");
    let flags: Vec<&str> = help
        .lines()
        .filter_map(|line| {
            line.trim_start().strip_prefix("--").or_else(|| line.trim_start().split_once(", --").map(|p| p.1))
        })
        .filter_map(|rest| rest.split([' ', '=']).next())
        .collect();
    assert!(flags.len() > 10, "{help}");
    for flag in flags {
        let documented =
            lines_of(&page, ".It Fl").any(|item| item.split_whitespace().any(|word| word == format!("-{flag}")));
        assert!(documented, "--{flag} of ioasidd is not in ioasidd.8");
    }
}

/// The names of properties at any depth of a JSON schema.
fn keys(schema: &serde_json::Value, found: &mut Vec<String>) {
    for (key, below) in schema["properties"].as_object().into_iter().flatten() {
        if below["type"] == "object" || below["type"] == "array" && below["items"]["properties"].is_object() {
            keys(below, found);
            keys(&below["items"], found);
        }
        found.push(key.clone());
    }
}

#[test]
fn every_key_of_the_policy_is_documented() {
    let schema = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/policy/schema.json")).unwrap();
    let mut all = Vec::new();
    keys(&serde_json::from_str(&schema).unwrap(), &mut all);
    assert!(all.len() > 20, "{all:?}");
    let page = page("ioasidd-policy.5");
    for key in all {
        let item = |line: &str| line.split_whitespace().any(|word| word == key);
        let documented = lines_of(&page, ".It Cm").any(item)
            || lines_of(&page, ".Ss").any(|line| line.trim_matches(['[', ']']) == key)
            || lines_of(&page, ".Cm").any(item);
        assert!(documented, "{key} is not in ioasidd-policy.5");
    }
}

#[test]
fn policies_of_the_page_are_good_ones() {
    let directory = tempfile::tempdir().unwrap();
    let displays = shown::displays("packaging/man/ioasidd-policy.5");
    let policies: Vec<_> = displays.iter().filter(|display| display.starts_with("version = 1")).collect();
    assert_eq!(policies.len(), 2);
    for block in policies {
        let file = directory.path().join("policy.toml");
        fs::write(&file, block).unwrap();
        let output =
            Command::new(env!("CARGO_BIN_EXE_ioasidd")).args(["--check", "--policy"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 rule(s)"), "{block}\n{said}");
    }
}

#[test]
fn every_call_of_the_protocol_is_documented_with_its_op() {
    let page = page("ioasid-set.7");
    let calls: Vec<(u16, &str)> = (0..=u16::MAX).filter_map(|op| Some((op, ioasid::proto::call_name(op)?))).collect();
    assert!(calls.len() > 30);
    for (op, name) in calls {
        assert!(page.contains(&format!("\n.It {name} Ta {op} Ta")), "{name} = {op} is not in ioasid-set.7");
    }
}

#[test]
fn every_function_of_the_library_is_documented() {
    let exported = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/libioasid.map")).unwrap();
    let page = page("libioasid.3");
    for function in
        exported.lines().filter_map(|line| line.trim().strip_suffix(';')).filter(|word| word.starts_with("ioasid_"))
    {
        let documented = [".Fn", ".Fo"]
            .iter()
            .any(|macro_| lines_of(&page, macro_).any(|line| line.split(' ').next() == Some(function)));
        assert!(documented, "{function} is not in libioasid.3");
    }
}

#[test]
fn pages_of_ours_that_are_referred_to_exist() {
    for from in pages() {
        let text = fs::read_to_string(&from).unwrap();
        for line in lines_of(&text, ".Xr") {
            let mut words = line.split_whitespace();
            let (name, section) = (words.next().unwrap(), words.next().unwrap());
            let ours = name.contains("ioasid");
            let page = Path::new(PAGES).join(format!("{name}.{section}"));
            assert!(!ours || page.exists(), "{} refers to {name}({section})", from.display());
        }
    }
}
