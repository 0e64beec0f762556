//! Where what is logged goes: the journal where there is one, else standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The environment variable that sets the level: `error`, `warn`, `info` (the default), `debug`, `trace`.
const LEVEL: &str = "IOASIDD_LOG";

/// Starts logging. Under systemd it is structured, to the journal.
pub(super) fn start() {
    let level = EnvFilter::try_from_env(LEVEL).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(level);
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal.with_syslog_identifier("ioasidd".to_owned())).init();
        return;
    }
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).without_time();
    registry.with(lines).init();
}
