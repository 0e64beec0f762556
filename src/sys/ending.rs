//! The signals that end a process, waited for by a thread, so that something is put away before they do.
//!
//! No handler is installed: the signals are blocked, and once all is put away the one that came ends the process as it
//! would have, so that whoever waits for it sees the signal.

use nix::sys::signal::{SigSet, Signal, raise};
use std::io;

/// Guards a stretch of work; see [`before_end`].
#[derive(Debug)]
#[must_use = "the signals stay blocked"]
pub struct Guarded {
    before: SigSet,
}

/// From here until [`Guarded::release`], SIGHUP, SIGINT and SIGTERM run `put_away` and then end the process. Blocks them in
/// this thread, and a thread of its own waits for them; threads that run already must not have them unblocked.
pub fn before_end(put_away: impl FnOnce() + Send + 'static) -> io::Result<Guarded> {
    let ends: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    let before = SigSet::thread_get_mask()?;
    ends.thread_block()?;
    std::thread::Builder::new().spawn(move || {
        // sigwait(3) fails for a set that has no meaning alone.
        let Ok(signal) = ends.wait() else { return };
        put_away();
        let _ = ends.thread_unblock();
        let _ = raise(signal);
    })?;
    Ok(Guarded { before })
}

impl Guarded {
    /// Lets the signals of this thread be as they were: what it becomes (execve(2)) inherits that.
    pub fn release(self) -> io::Result<()> {
        Ok(self.before.thread_set_mask()?)
    }
}
