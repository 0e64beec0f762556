//! What each feature pulls in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

use std::process::Command;

fn cargo(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO")).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
}

#[test]
fn the_client_alone_pulls_in_neither_tokio_nor_the_bus_nor_clap() {
    let arguments = ["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none", "--no-default-features"];
    let output = cargo(&[&arguments[..], &["--features", "client"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let crates: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains(&"nix") && crates.contains(&"serde_json"), "{tree}");
    for unwanted in
        ["tokio", "zbus", "clap", "clap_builder", "toml", "redb", "ratatui", "cgroups-rs", "tracing-subscriber"]
    {
        assert!(!crates.contains(&unwanted), "{unwanted} is in the client");
    }
}

/// In a target directory of its own, so that it does not throw away what the other tests were built with.
#[test]
fn the_client_alone_compiles() {
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target/client");
    let arguments =
        ["check", "--offline", "--locked", "--quiet", "--lib", "--no-default-features", "--target-dir", target];
    let output = cargo(&[&arguments[..], &["--features", "client"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
