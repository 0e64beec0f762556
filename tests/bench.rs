//! `ioasidctl bench`: every figure beside its limit, from a service that runs.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Cgroups, Daemon};
use serde_json::Value;

#[test]
fn every_figure_has_its_limit_and_nothing_is_left_over() {
    let _cgroups = Cgroups::new();
    let policy = "version = 1\n[space]\nquarantine = \"0s\"\n[[rule]]\nname = \"root\"\ncgroup = \"/**\"\n\
        users = [\"root\"]\naction = \"allow\"\nquota = { default = 64, max = 64 }";
    let daemon = Daemon::start(policy);
    let before = daemon.snapshot();
    let output = daemon.run_ctl(&["--json", "bench", "--rounds", "1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for name in
        ["mapped_pair", "mapped_pair_2t", "pool_churn_95", "mapped_set_pair", "session_round_trip", "set_create"]
    {
        let results = report["results"].as_array().unwrap();
        let result = results.iter().find(|result| result["name"] == name).unwrap_or_else(|| panic!("{name}: {report}"));
        let positive = |key: &str| result[key].as_f64().is_some_and(|number| number > 0.0);
        assert!(positive("median_ns") && positive("limit_ns") && positive("ratio"), "{result}");
        assert!(results.iter().any(|limit| limit["name"] == result["limit"]), "{result}");
    }
    daemon.settles_to(&before);
    daemon.finish();
}

#[test]
fn without_a_service_it_is_not_reachable() {
    let output = std::process::Command::new(common::daemon::IOASIDCTL)
        .args(["--socket", "/nonexistent", "bench"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
}
