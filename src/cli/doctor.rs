//! `doctor`: what this host lacks, and how to mend it. Needs no service.

use super::context::Context;
use super::outcome::{Failed, Outcome};
use super::table::printable;
use crate::proto::GetStatus;
use crate::survey::{Finding, Host, Severity, enforcement, findings, policy_from};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;
use std::path::PathBuf;

#[derive(Debug, Serialize)]
struct Diagnosis {
    findings: Vec<Finding>,
    enforcement: Value,
}

/// Looks at this host, or at a recording of another one below `root`.
pub(super) fn doctor(context: &Context, root: Option<PathBuf>) -> Outcome {
    let host = Host::at(root.unwrap_or_else(|| PathBuf::from("/")));
    let mut findings = findings(&host);
    if host.is_this() {
        ask(context).into_iter().for_each(|asked| replace(&mut findings, asked));
    }
    context.print(&Diagnosis { findings, enforcement: enforcement(&host) }, render)
}

/// Whether the service answers, where this command looks for it, and with what policy: it may have been started with
/// another than the host's.
fn ask(context: &Context) -> Vec<Finding> {
    let service = |severity, found, remedy: Option<&str>| Finding {
        id: "service",
        severity,
        found,
        remedy: remedy.map(str::to_owned),
    };
    match context.ask(&GetStatus {}) {
        Ok(status) => {
            let answers = service(Severity::Ok, format!("ioasidd {} answers", status.version), None);
            vec![answers, policy_from(&status.policy)]
        }
        Err(failed) => {
            let why = match failed {
                Failed::Call(error) => error.to_string(),
                Failed::Launch { message, .. } | Failed::Verdict { message, .. } => message,
            };
            let found = format!("ioasidd does not answer: {why}");
            vec![service(Severity::Warning, found, Some("systemctl enable --now ioasidd"))]
        }
    }
}

/// Puts a finding in the place of what the files of the host said about the same.
fn replace(findings: &mut [Finding], by: Finding) {
    if let Some(found) = findings.iter_mut().find(|finding| finding.id == by.id) {
        *found = by;
    }
}

fn render(diagnosis: &Diagnosis) -> String {
    let mut text = String::new();
    for finding in &diagnosis.findings {
        let mark = match finding.severity {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Warning => "WARNING",
            Severity::Problem => "PROBLEM",
        };
        let _ = writeln!(text, "{mark:<8} {:<14} {}", finding.id, printable(&finding.found));
        for line in finding.remedy.iter().flat_map(|remedy| remedy.lines()) {
            let _ = writeln!(text, "{:<8} {:<14} → {line}", "", "");
        }
    }
    let count = |severity| diagnosis.findings.iter().filter(|finding| finding.severity == severity).count();
    let _ = write!(text, "\n{} problem(s), {} warning(s)", count(Severity::Problem), count(Severity::Warning));
    text
}
