//! What one user may use up of the service itself.

use crate::model::Refusal;
use crate::policy;
use std::collections::HashMap;
use std::time::Instant;

/// So many uids are known without a look at who of them could be forgotten.
const MANY: usize = 1024;

#[derive(Debug)]
struct Usage {
    sets: u32,
    sessions: u32,
    /// Requests that can be made at once; refilled with time.
    tokens: f64,
    since: Instant,
}

/// Counts per uid what the service spends on it.
#[derive(Debug)]
pub(super) struct Guard {
    limits: policy::Guard,
    users: HashMap<u32, Usage>,
}

impl Guard {
    pub(super) fn new(limits: policy::Guard) -> Self {
        Self { limits, users: HashMap::new() }
    }

    pub(super) fn set_limits(&mut self, limits: policy::Guard) {
        self.limits = limits;
    }

    fn usage(&mut self, uid: u32) -> &mut Usage {
        let tokens = f64::from(self.limits.requests_per_second);
        self.users.entry(uid).or_insert_with(|| Usage { sets: 0, sessions: 0, tokens, since: Instant::now() })
    }

    /// Counts one more set, or refuses.
    pub(super) fn add_set(&mut self, uid: u32) -> Result<(), Refusal> {
        let limit = self.limits.sets;
        let usage = self.usage(uid);
        if uid != 0 && usage.sets >= limit {
            return Err(Refusal::TooMany { limit: format!("[guard] sets of uid {uid}"), value: limit.into() });
        }
        usage.sets += 1;
        Ok(())
    }

    /// Counts a set that was there before a restart.
    pub(super) fn restore_set(&mut self, uid: u32) {
        self.usage(uid).sets += 1;
    }

    /// Counts a session that was there before a restart.
    pub(super) fn restore_session(&mut self, uid: u32) {
        self.usage(uid).sessions += 1;
    }

    pub(super) fn remove_set(&mut self, uid: u32) {
        let usage = self.usage(uid);
        usage.sets = usage.sets.saturating_sub(1);
        self.forget_if_idle(uid);
    }

    /// Counts one more session or connection, or refuses.
    pub(super) fn add_session(&mut self, uid: u32) -> Result<(), Refusal> {
        let limit = self.limits.sessions;
        let usage = self.usage(uid);
        if uid != 0 && usage.sessions >= limit {
            return Err(Refusal::TooMany { limit: format!("[guard] sessions of uid {uid}"), value: limit.into() });
        }
        usage.sessions += 1;
        Ok(())
    }

    pub(super) fn remove_session(&mut self, uid: u32) {
        let usage = self.usage(uid);
        usage.sessions = usage.sessions.saturating_sub(1);
        self.forget_if_idle(uid);
    }

    /// Takes one request from the uid's bucket, or refuses.
    pub(super) fn request(&mut self, uid: u32) -> Result<(), Refusal> {
        if uid == 0 {
            return Ok(());
        }
        let rate = self.limits.requests_per_second;
        let usage = self.usage(uid);
        usage.refill(rate);
        if usage.tokens < 1.0 {
            return Err(Refusal::TooMany {
                limit: format!("[guard] requests_per_second of uid {uid}"),
                value: rate.into(),
            });
        }
        usage.tokens -= 1.0;
        Ok(())
    }

    /// Takes so many more from the bucket, below empty where need be.
    pub(super) fn spend(&mut self, uid: u32, requests: u32) {
        self.usage(uid).tokens -= f64::from(requests);
    }

    /// Forgets a uid with nothing open that owes nothing; a fresh bucket is no gain to those who connect anew, for a
    /// connection is far dearer than a request. Who left in debt is forgotten when it is paid and many are known.
    fn forget_if_idle(&mut self, uid: u32) {
        let rate = self.limits.requests_per_second;
        if self.users.get_mut(&uid).is_some_and(|usage| usage.is_over(rate)) {
            self.users.remove(&uid);
        }
        if self.users.len() > MANY {
            self.users.retain(|_, usage| !usage.is_over(rate));
        }
    }
}

impl Usage {
    /// What time has brought since it was looked at last.
    fn refill(&mut self, rate: u32) {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.since).as_secs_f64();
        self.tokens = (self.tokens + elapsed * f64::from(rate)).min(f64::from(rate));
        self.since = now;
    }

    fn is_over(&mut self, rate: u32) -> bool {
        self.refill(rate);
        self.sets == 0 && self.sessions == 0 && self.tokens >= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: policy::Guard = policy::Guard { sets: 2, sessions: 1, requests_per_second: 3 };

    #[test]
    fn each_bound_holds_at_its_value_and_for_each_uid_alone() {
        let mut guard = Guard::new(LIMITS);
        assert!(guard.add_set(5).is_ok() && guard.add_set(5).is_ok());
        let refusal = guard.add_set(5).unwrap_err();
        assert_eq!(refusal, Refusal::TooMany { limit: "[guard] sets of uid 5".into(), value: 2 });
        assert!(guard.add_set(6).is_ok());
        guard.remove_set(5);
        assert!(guard.add_set(5).is_ok());
        assert!(guard.add_session(5).is_ok() && guard.add_session(5).is_err());
        assert!((0..3).all(|_| guard.request(5).is_ok()) && guard.request(5).is_err());
    }

    #[test]
    fn what_a_request_cost_beyond_itself_is_paid_back_first() {
        let mut guard = Guard::new(LIMITS);
        guard.request(5).unwrap();
        guard.spend(5, 4);
        assert!(guard.request(5).is_err());
        assert!(guard.request(6).is_ok());
    }

    #[test]
    fn who_owes_is_not_forgotten_by_connecting_anew() {
        let mut guard = Guard::new(LIMITS);
        guard.add_session(5).unwrap();
        guard.spend(5, 1000);
        guard.remove_session(5);
        guard.add_session(5).unwrap();
        assert!(guard.request(5).is_err());
    }

    #[test]
    fn root_is_exempt() {
        let mut guard = Guard::new(LIMITS);
        assert!((0..100).all(|_| guard.add_set(0).is_ok() && guard.add_session(0).is_ok() && guard.request(0).is_ok()));
    }

    #[test]
    fn a_uid_with_nothing_open_is_forgotten() {
        let mut guard = Guard::new(LIMITS);
        guard.add_session(7).unwrap();
        guard.remove_session(7);
        assert!(guard.users.is_empty());
    }
}
