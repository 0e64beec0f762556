//! `policy`: check files, explain a decision, have the service read it again.

use super::arguments::PolicyVerb;
use super::context::Context;
use super::outcome::{Failed, Outcome};
use super::table::{Side, Table, has_colours, printable};
use super::values;
use crate::client::ClientError;
use crate::model::{CgroupPath, Refusal, SetRequest};
use crate::policy::{Asker, HostAccounts, Policy, Problems, Sources, Verdict, load, user_with_groups};
use crate::proto::{Explain, Reload};
use serde_json::{Value, json};
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

/// One of the three.
pub(super) fn policy(context: &Context, deed: &PolicyVerb) -> Outcome {
    match deed {
        PolicyVerb::Check { files } => check(context, files),
        PolicyVerb::Explain { user, cgroup, quota, policy } => {
            let cgroup = values::cgroup(cgroup)?;
            let quota = quota.as_deref().map(values::quota).transpose()?;
            let explained = match policy {
                Some(file) => explain_from(&Sources::file(file), user, &cgroup, quota)?,
                None => explain(context, user, &cgroup, quota)?,
            };
            context.print(&explained, render)
        }
        PolicyVerb::Reload => {
            context.ask(&Reload {})?;
            context.print(&json!({}), |_| String::new())
        }
    }
}

/// Checks each file on its own, or all that the service reads as one policy.
fn check(context: &Context, files: &[PathBuf]) -> Outcome {
    let sources = match files {
        [] => vec![Sources::default_paths()],
        files => files.iter().map(Sources::file).collect(),
    };
    let outcomes: Vec<_> = sources.iter().map(|sources| load(sources, &HostAccounts)).collect();
    let mut problems = Vec::new();
    let mut message = String::new();
    for outcome in &outcomes {
        problems.extend(Verdict::of(outcome).problems);
        if let Err(bad) = outcome {
            let _ = writeln!(message, "{}", bad.render(has_colours(&io::stderr())));
        }
    }
    let verdict = json!({"valid": problems.is_empty(), "problems": problems});
    if !problems.is_empty() {
        return Err(Failed::Verdict { json: verdict, message: message.trim_end().to_owned() });
    }
    context.print(&verdict, |_| outcomes.iter().flatten().map(summary).collect())
}

fn summary(policy: &Policy) -> String {
    match policy.files() {
        [] => "there is no policy: every set would be refused\n".to_owned(),
        files => format!("{}: {} rule(s), valid\n", printable(&files.join(", ")), policy.rules().len()),
    }
}

/// What the service says; what the files say where no service answers.
fn explain(context: &Context, user: &str, cgroup: &CgroupPath, quota: Option<u32>) -> Result<Value, Failed> {
    let call = Explain { user: user.to_owned(), cgroup: cgroup.as_str().to_owned(), quota };
    match context.ask(&call) {
        Err(Failed::Call(ClientError::Unreachable(_))) => explain_from(&Sources::default_paths(), user, cgroup, quota),
        answered => answered,
    }
}

fn explain_from(sources: &Sources, user: &str, cgroup: &CgroupPath, quota: Option<u32>) -> Result<Value, Failed> {
    let policy = load(sources, &HostAccounts).map_err(|problems| bad_policy(sources, &problems))?;
    let found = user_with_groups(user).map_err(|error| Failed::fault("explain", &io::Error::other(error)))?;
    let (uid, gids) = found.ok_or_else(|| Refusal::invalid("user", user, "the name or number of a user"))?;
    let request = SetRequest { quota, ..SetRequest::default() };
    let explained = policy.explain(&Asker { uid, gids: &gids, cgroup }, &request);
    serde_json::to_value(explained).map_err(|error| Failed::fault("explain", &error.into()))
}

fn bad_policy(sources: &Sources, problems: &Problems) -> Failed {
    let file = match sources {
        Sources::File(path) => path.as_path(),
        Sources::Paths { main, .. } => main.as_path(),
        Sources::EmbeddedUser(_) => Path::new("embedded"),
    };
    Refusal::invalid("policy", file.display(), format!("a valid policy: {}", problems.summary())).into()
}

fn render(explained: &Value) -> String {
    let word = |value: &Value, key: &str| match value.get(key) {
        Some(Value::String(text)) => printable(text),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let mut text = word(explained, "decision");
    let _ = match explained.get("file").is_some_and(Value::is_string) {
        true => write!(
            text,
            " by rule {:?} ({}:{})",
            word(explained, "rule"),
            word(explained, "file"),
            word(explained, "line")
        ),
        // No rule of a file decided: what stands there says why.
        false => write!(text, ": {}", word(explained, "rule")),
    };
    let bound = word(explained, "bound");
    let _ = writeln!(text, "{}{bound}", if bound.is_empty() { "" } else { ": " });
    let quota = word(explained, "quota");
    if !quota.is_empty() {
        let _ = writeln!(text, "quota {quota}");
    }
    let limits = explained.get("limits").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if !limits.is_empty() {
        let mut table = Table::new(&[("CGROUP", Side::Left), ("MAX", Side::Right), ("SET BY", Side::Left)]);
        for limit in limits {
            let line = limit.get("file").is_some_and(Value::is_string);
            let line = line.then(|| format!("{}:{}", word(limit, "file"), word(limit, "line")));
            let behind = match (word(limit, "set_by"), line) {
                (who, None) => who,
                (who, Some(line)) if who.is_empty() => line,
                (who, Some(line)) => format!("{who}, over {line}"),
            };
            table.row([word(limit, "cgroup"), word(limit, "max"), behind]);
        }
        text.push_str(&table.render());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_names_the_lines() {
        let explained = json!({
            "decision": "deny", "rule": "guests", "file": "p.toml", "line": 9, "quota": null,
            "bound": "quota 300 is above 256",
            "limits": [
                {"cgroup": "/a/b", "max": "max", "file": null, "line": null, "set_by": "delegated"},
                {"cgroup": "/a", "max": 64, "file": "p.toml", "line": 3},
                {"cgroup": "/", "max": 9, "file": "p.toml", "line": 5, "set_by": "administrator"},
            ],
        });
        let lines = [
            "deny by rule \"guests\" (p.toml:9): quota 300 is above 256",
            "CGROUP  MAX  SET BY",
            "/a/b    max  delegated",
            "/a       64  p.toml:3",
            "/         9  administrator, over p.toml:5",
        ];
        assert_eq!(render(&explained).lines().collect::<Vec<_>>(), lines);
    }
}
