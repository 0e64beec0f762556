//! Where what is logged goes: the journal where there is one, else standard error.

use std::fmt;
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The environment variable that sets the level: `error`, `warn`, `info` (the default), `debug`, `trace`.
const LEVEL: &str = "IOASIDD_LOG";

/// Starts logging. Under systemd it is structured, to the journal: a field is called there what it is called here.
pub(super) fn start() {
    let level = EnvFilter::try_from_env(LEVEL).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(level);
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal.with_syslog_identifier("ioasidd".to_owned()).with_field_prefix(None)).init();
        return;
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .fmt_fields(debug_fn(line_field));
    registry.with(lines).init();
}

/// A field on a line for people: those that are only for the journal repeat what the message says.
fn line_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "message" => write!(writer, "{value:?}"),
        name if name == "MESSAGE_ID" || name.starts_with("IOASID_") => Ok(()),
        // The message comes first.
        name => write!(writer, " {name}={value:?}"),
    }
}
