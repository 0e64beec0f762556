//! Closing what others opened: it may take as long as they like.
//!
//! close(2) waits for a lingering TCP socket (socket(7), SO_LINGER) and for the FLUSH of a FUSE file, which whoever serves
//! that file system answers when it wants to. A thread that serves clients must not wait for that: what came with a message
//! is closed by threads of its own.

use super::readiness;
use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// So many closings can take long at a time; more wait for one of them, each with its descriptor.
const MOST_THREADS: usize = 16;
/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(5);
const STACK: usize = 64 << 10;

/// Descriptors that came with a message. Dropping them returns at once.
#[derive(Debug, Default)]
pub struct Riders(Vec<OwnedFd>);

impl Riders {
    /// Takes the last one out: to keep it, or to close it where it is known to be harmless.
    pub fn pop(&mut self) -> Option<OwnedFd> {
        self.0.pop()
    }
}

impl From<Vec<OwnedFd>> for Riders {
    fn from(fds: Vec<OwnedFd>) -> Self {
        Self(fds)
    }
}

impl Deref for Riders {
    type Target = [OwnedFd];

    fn deref(&self) -> &[OwnedFd] {
        &self.0
    }
}

impl Drop for Riders {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            elsewhere(self.0.drain(..));
        }
    }
}

/// A descriptor that is closed elsewhere if something is unread in it: descriptors may ride on that, and go with it.
#[derive(Debug)]
pub struct Queue(ManuallyDrop<OwnedFd>);

impl Queue {
    /// The descriptor, to be closed as any.
    pub fn into_fd(self) -> OwnedFd {
        let mut queue = ManuallyDrop::new(self);
        // SAFETY: taken once: `queue` is never dropped.
        unsafe { ManuallyDrop::take(&mut queue.0) }
    }
}

impl From<OwnedFd> for Queue {
    fn from(fd: OwnedFd) -> Self {
        Self(ManuallyDrop::new(fd))
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: taken once: this is the end of it.
        let fd = unsafe { ManuallyDrop::take(&mut self.0) };
        if readiness::now(fd.as_fd()).is_ok_and(|ready| ready.readable) {
            elsewhere(std::iter::once(fd));
        }
    }
}

struct Closers {
    waiting: VecDeque<OwnedFd>,
    threads: usize,
    idle: usize,
}

static CLOSERS: Mutex<Closers> = Mutex::new(Closers { waiting: VecDeque::new(), threads: 0, idle: 0 });
static MORE: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, Closers> {
    CLOSERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has descriptors closed by another thread. Where there can be none, they are closed here.
fn elsewhere(fds: impl Iterator<Item = OwnedFd>) {
    let mut closers = lock();
    closers.waiting.extend(fds);
    if closers.idle > 0 {
        MORE.notify_one();
    } else if closers.threads < MOST_THREADS {
        let started = thread::Builder::new().name("closing".to_owned()).stack_size(STACK).spawn(close_all);
        closers.threads += usize::from(started.is_ok());
    }
    let here = if closers.threads == 0 { std::mem::take(&mut closers.waiting) } else { VecDeque::new() };
    drop(closers);
    drop(here);
}

fn close_all() {
    let mut closers = lock();
    loop {
        if let Some(fd) = closers.waiting.pop_front() {
            drop(closers);
            drop(fd);
            closers = lock();
            continue;
        }
        closers.idle += 1;
        let (again, waited) = MORE.wait_timeout(closers, IDLE).unwrap_or_else(PoisonError::into_inner);
        closers = again;
        closers.idle -= 1;
        if waited.timed_out() && closers.waiting.is_empty() {
            closers.threads -= 1;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seqpacket;

    #[test]
    fn riders_that_are_dropped_are_closed() {
        let pairs: Vec<_> = (0..50).map(|_| seqpacket::pair().unwrap()).collect();
        let (kept, riders): (Vec<OwnedFd>, Vec<OwnedFd>) = pairs.into_iter().unzip();
        let mut riders = Riders::from(riders);
        let own = riders.pop().unwrap();
        drop(riders);
        for fd in &kept[..49] {
            let late = Some(std::time::Instant::now() + Duration::from_secs(30));
            readiness::wait(fd.as_fd(), readiness::Interest::Read, late).unwrap();
            assert!(readiness::now(fd.as_fd()).unwrap().hung_up);
        }
        assert!(!readiness::now(kept[49].as_fd()).unwrap().hung_up);
        drop(own);
    }
}
