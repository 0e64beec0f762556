//! `status`.

use super::context::Context;
use super::outcome::Outcome;
use super::table::{Side, Table, printable};
use crate::proto::{GetStatus, Status};
use serde_json::Value;
use std::fmt::Write;

/// The service at a glance.
pub(super) fn status(context: &Context) -> Outcome {
    context.print(&context.ask(&GetStatus {})?, render)
}

fn render(status: &Status) -> String {
    let mut text = format!("ioasidd {}, {} ids, {} set(s)\n", status.version, status.backend, status.sets);
    match &status.policy[..] {
        [] => text.push_str("policy: none, so every set is refused\n"),
        files => {
            let _ = writeln!(text, "policy: {}", printable(&files.join(", ")));
        }
    }
    let right = Side::Right;
    let mut domains = Table::new(&[
        ("DOMAIN", Side::Left),
        ("BITS", right),
        ("CAPACITY", right),
        ("CURRENT", right),
        ("PEAK", right),
        ("RESERVED", right),
        ("RESTING", right),
    ]);
    for domain in &status.domains {
        let numbers = [domain.capacity, domain.current, domain.peak, domain.reserved, domain.resting];
        let cells = numbers.map(|number| number.to_string());
        domains.row([domain.name.to_string(), domain.bits.to_string()].into_iter().chain(cells));
    }
    let mut enforcement = Table::new(&[("USE", Side::Left), ("STATE", Side::Left), ("WHY", Side::Left)]);
    for (class, how) in status.enforcement.as_object().into_iter().flatten() {
        let word = |key: &str| how.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let state = how.as_str().map_or_else(|| word("state"), str::to_owned);
        enforcement.row([class.clone(), state, word("why")]);
    }
    let _ = write!(text, "\n{}\n{}", domains.render(), enforcement.render());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Domain;
    use crate::proto::DomainInfo;

    #[test]
    fn everything_is_on_its_line() {
        let domain = DomainInfo {
            name: Domain::Global,
            bits: 20,
            capacity: 1_047_552,
            current: 7,
            peak: 9,
            reserved: 1_024,
            resting: 2,
        };
        let status = Status {
            version: "1.2".to_owned(),
            backend: "userspace".to_owned(),
            domains: vec![domain],
            sets: 3,
            enforcement: serde_json::json!({"idxd": {"state": "open", "why": "because"}, "sets": "enforced"}),
            policy: vec![],
        };
        let lines = [
            "ioasidd 1.2, userspace ids, 3 set(s)",
            "policy: none, so every set is refused",
            "",
            "DOMAIN  BITS  CAPACITY  CURRENT  PEAK  RESERVED  RESTING",
            "global    20   1047552        7     9      1024        2",
            "",
            "USE   STATE     WHY",
            "idxd  open      because",
            "sets  enforced",
        ];
        assert_eq!(render(&status).lines().collect::<Vec<_>>(), lines);
    }
}
