//! Answers that wait for their readers: bounded, for whoever asks and does not read has the service keep the answer.
//!
//! An answer that the socket's queue takes at once is not counted. Root is exempt: an administrator is not to be kept
//! out by others who read slowly.

use crate::model::Refusal;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that may wait for all connections of one uid: some listings of ten thousand sets.
const OF_ONE: usize = 16 << 20;
/// Bytes that may wait for all.
const OF_ALL: usize = 64 << 20;

#[derive(Debug, Default)]
struct Waiting {
    all: usize,
    by_uid: HashMap<u32, usize>,
}

/// What waits, by uid.
#[derive(Debug, Default)]
pub(super) struct Backlog(Mutex<Waiting>);

/// Room for an answer that waits; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    backlog: &'a Backlog,
    uid: u32,
    bytes: usize,
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for so many bytes for a reader of `uid`, or `TooMany`.
    pub(super) fn enter(&self, uid: u32, bytes: usize) -> Result<Place<'_>, Refusal> {
        let mut waiting = self.lock();
        let own = waiting.by_uid.get(&uid).copied().unwrap_or(0);
        let over = |now: usize, most: usize| uid != 0 && now.saturating_add(bytes) > most;
        if over(own, OF_ONE) {
            let limit = format!("bytes that wait for connections of uid {uid} to read");
            return Err(Refusal::TooMany { limit, value: OF_ONE as u64 });
        }
        if over(waiting.all, OF_ALL) {
            let limit = "bytes that wait for connections to read".to_owned();
            return Err(Refusal::TooMany { limit, value: OF_ALL as u64 });
        }
        waiting.all = waiting.all.saturating_add(bytes);
        waiting.by_uid.insert(uid, own.saturating_add(bytes));
        Ok(Place { backlog: self, uid, bytes })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.backlog.lock();
        waiting.all = waiting.all.saturating_sub(self.bytes);
        if let Some(own) = waiting.by_uid.get_mut(&self.uid) {
            *own = own.saturating_sub(self.bytes);
            if *own == 0 {
                waiting.by_uid.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_uid_and_all_together_have_a_bound_and_room_comes_back() {
        let backlog = Backlog::default();
        let half = OF_ONE / 2;
        let first = backlog.enter(5, half).unwrap();
        let _second = backlog.enter(5, half).unwrap();
        let refusal = backlog.enter(5, 1).map(drop).unwrap_err();
        assert!(matches!(&refusal, Refusal::TooMany { limit, value } if limit.contains("uid 5") && *value == 16 << 20));
        drop(first);
        let _third = backlog.enter(5, half).unwrap();
        let _others: Vec<Place<'_>> = (6..9).map(|uid| backlog.enter(uid, OF_ONE).unwrap()).collect();
        assert!(backlog.enter(9, 1).is_err(), "all together");
        assert!(backlog.enter(0, OF_ALL).is_ok(), "root is exempt");
    }

    #[test]
    fn a_uid_that_waits_for_nothing_is_forgotten() {
        let backlog = Backlog::default();
        drop(backlog.enter(5, 7).unwrap());
        let waiting = backlog.lock();
        assert_eq!((waiting.all, waiting.by_uid.len()), (0, 0));
    }
}
