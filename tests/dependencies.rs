//! What is linked in, by deny.toml: permissive licences alone, from the registry alone, and nothing it denies.
//!
//! `cargo deny` looks at more (ci/dependencies); this needs nothing but cargo, so it is always looked at.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::process::Command;

const SOURCE: &str = env!("CARGO_MANIFEST_DIR");
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The packages of the whole tree, with all features, for building and testing too.
fn packages() -> Vec<Value> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--offline", "--locked", "--format-version", "1", "--all-features"]);
    // Those of this platform: others are not fetched.
    cargo.args(["--filter-platform", "x86_64-unknown-linux-gnu"]).current_dir(SOURCE);
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn deny() -> toml::Value {
    toml::from_str(&std::fs::read_to_string(format!("{SOURCE}/deny.toml")).unwrap()).unwrap()
}

fn strings(value: &toml::Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

/// Whether an SPDX expression can be kept to with these licences alone: of an OR one side will do, of an AND both must.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().collect::<Vec<_>>().into_iter().peekable();
    let answer = any(&mut words, allowed);
    assert_eq!(words.next(), None, "{expression}");
    answer
}

type Words<'a> = std::iter::Peekable<std::vec::IntoIter<&'a str>>;

fn any(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let mut answer = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        answer |= all(words, allowed);
    }
    answer
}

fn all(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let mut answer = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        answer &= one(words, allowed);
    }
    answer
}

fn one(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let first = words.next().unwrap();
    if first == "(" {
        let answer = any(words, allowed);
        assert_eq!(words.next(), Some(")"));
        return answer;
    }
    match words.next_if_eq(&"WITH").and_then(|_| words.next()) {
        Some(exception) => allowed.contains(&format!("{first} WITH {exception}").as_str()) || allowed.contains(&first),
        None => allowed.contains(&first),
    }
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    let allowed = ["MIT", "Apache-2.0"];
    for good in ["MIT", "MIT/GPL-2.0", "GPL-3.0 OR MIT", "MIT AND Apache-2.0", "(GPL-2.0 OR MIT) AND Apache-2.0"] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in ["GPL-2.0", "LGPL-2.1 WITH x", "MIT AND GPL-2.0", "(MIT AND GPL-3.0) OR LGPL-3.0", "GPL-2.0 OR MPL-2.0"]
    {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}

#[test]
fn every_dependency_is_permissive_and_from_the_registry() {
    let (deny, packages) = (deny(), packages());
    let allowed = strings(&deny["licenses"]["allow"]);
    let exceptions = deny["licenses"]["exceptions"].as_array().unwrap();
    let banned: Vec<&str> =
        deny["bans"]["deny"].as_array().unwrap().iter().map(|ban| ban["crate"].as_str().unwrap()).collect();
    assert!(packages.len() > 50, "{}", packages.len());
    for package in &packages {
        let name = package["name"].as_str().unwrap();
        let more = exceptions.iter().filter(|exception| exception["crate"].as_str() == Some(name));
        let allowed = [allowed.clone(), more.flat_map(|exception| strings(&exception["allow"])).collect()].concat();
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(is_allowed(licence, &allowed), "{name} is under {licence}");
        assert!(
            name == env!("CARGO_PKG_NAME") || package["source"] == REGISTRY,
            "{name} is from {}",
            package["source"]
        );
        assert!(!banned.contains(&name), "{name} is denied");
    }
}
