//! The state as an earlier service left it: records and descriptors are matched, and what has only one half ends.
//!
//! In order: the records are read, or set aside; cgroups get their limits and counts; spaces their leased and resting
//! ids; sets what they lease, and the charge for it; then the descriptors that came back are matched by name. A set
//! whose last FD was closed meanwhile ends now. Nobody is served before this is done.

mod descriptors;
mod files;
mod holdings;

use super::keep::Keep;
use super::parking::Parking;
use super::records::Unread;
use super::set::SetEnd;
use super::{Controller, SessionId, State, World};
use crate::model::{Fault, SetId, SetState};
use crate::policy::Policy;
use crate::sys::service_manager::{Inherited, Notifier};
use crate::sys::{clock, readiness};
use descriptors::Matched;
use files::{Sorted, clear, open, take};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

/// A session that goes on after the restart.
#[derive(Debug)]
pub struct ResumedSession {
    /// The service's end.
    pub end: OwnedFd,
    /// Its set.
    pub set: SetId,
    /// Its number.
    pub session: SessionId,
    /// Who opened it.
    pub uid: u32,
}

/// The controller as it was, and what is to be listened on again.
#[derive(Debug)]
pub struct Restored {
    /// The controller.
    pub controller: Controller,
    /// The service's ends of set FDs.
    pub ends: Vec<(OwnedFd, SetEnd)>,
    /// Sessions that carry references or watches.
    pub sessions: Vec<ResumedSession>,
    /// What came back and is not the controller's: sockets to listen on, channels.
    pub others: Vec<Inherited>,
}

impl Restored {
    /// A controller that begins anew.
    pub fn nothing(controller: Controller) -> Self {
        Self { controller, ends: Vec::new(), sessions: Vec::new(), others: Vec::new() }
    }
}

/// What ended because it had only one half.
#[derive(Debug, Default)]
struct Losses {
    sets: usize,
    sessions: usize,
    ids: usize,
    descriptors: usize,
}

impl Controller {
    /// A controller that writes everything down below `dir`, and goes on with what is written there and parked.
    ///
    /// Records that are damaged or of a newer version are set aside, with a warning, and nothing of them is used. What is
    /// of another boot is removed. Faults: the directory cannot be written, or another service uses it.
    pub fn restore(
        policy: Arc<Policy>,
        world: World,
        dir: &Path,
        notifier: Notifier,
        inherited: Vec<Inherited>,
    ) -> Result<Restored, Fault> {
        let doing = |e: std::io::Error| Fault::from(e).while_doing(format!("make {}", dir.display()));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(doing)?;
        // Before anything is looked at: two that start in a fresh directory would both make it theirs.
        let exclusive = take(dir)?;
        let boot = clock::boot_id()?;
        let (keep, contents, ledgers) = match open(dir, &boot) {
            Ok(opened) => opened,
            Err(Unread::Failed(fault)) => return Err(fault),
            Err(why) => {
                clear(dir, &why)?;
                open(dir, &boot).map_err(|why| match why {
                    Unread::Failed(fault) => fault,
                    _ => Fault::new("records that were just made cannot be read"),
                })?
            }
        };
        let mut state = State::new(policy, &world);
        let (records, tally) = keep;
        let parking = Parking::new(notifier);
        state.keep = Some(Keep { dir: dir.to_owned(), boot, records, tally, parking, _exclusive: exclusive });
        let mut losses = Losses::default();
        let mut contents = Sorted::of(contents, &mut state.next_set);
        state.restore_cgroups(&contents, &world);
        let lines = state.restore_spaces(ledgers)?;
        let restored = state.restore_sets(&mut contents, lines, &world, &mut losses)?;
        let (matched, others) = state.match_descriptors(restored, inherited, &contents, &mut losses);
        let controller = Self::with(state, world)?;
        controller.end_what_is_over(&matched, &mut losses)?;
        losses.report();
        controller.lock().prune();
        controller.settle();
        let Matched { ends, sessions, .. } = matched;
        let state = controller.lock();
        let ends = ends.into_iter().filter(|(_, end)| state.by_cookie.contains_key(&end.name.cookie)).collect();
        drop(state);
        Ok(Restored { controller, ends, sessions, others })
    }

    /// Goes on with ids that were on their way back: their phases begin anew where somebody still watches, else they go
    /// back at once. To be called when the sessions of [`Restored`] are served again.
    pub fn go_on(&self) {
        let mut state = self.lock();
        let ids: Vec<SetId> = state.sets.keys().copied().collect();
        for id in ids {
            let Some(set) = state.sets.get(&id) else { continue };
            let waiting =
                set.pending.iter().copied().filter(|pasid| set.holders(*pasid, None) == 0).collect::<Vec<_>>();
            state.release(id, &waiting, 0);
            state.bury_if_over(id);
        }
    }

    /// Ends every set: the process ends, and nobody keeps their descriptors.
    pub fn abandon(&self) {
        let mut state = self.lock();
        let ids: Vec<SetId> = state.sets.keys().copied().collect();
        for id in ids {
            let Some(set) = state.sets.get_mut(&id) else { continue };
            set.ends.clear();
            set.device_file = None;
            let sessions: Vec<SessionId> = set.sessions.keys().copied().collect();
            state.last_close(id);
            sessions.into_iter().for_each(|session| state.end_session(id, session));
        }
    }

    /// Ends sets whose last FD was closed while nobody listened, and those whose descriptors did not come back.
    fn end_what_is_over(&self, matched: &Matched, losses: &mut Losses) -> Result<(), Fault> {
        for (service, end) in &matched.ends {
            if readiness::now(service.as_fd()).is_ok_and(|ready| ready.hung_up) {
                self.end_hung_up(end)?;
            }
        }
        let mut state = self.lock();
        let has_device = matched.device;
        let ids: Vec<SetId> = state.sets.keys().copied().collect();
        for id in ids {
            let Some(set) = state.sets.get_mut(&id) else { continue };
            if !has_device {
                set.device_file = None;
            }
            let held = !set.ends.is_empty() || set.device_file.is_some();
            if set.state != SetState::Draining && !held {
                losses.sets += 1;
                "its descriptor was not kept".clone_into(&mut set.reason);
            }
            let (surrendered, draining) = (set.surrendered, set.state == SetState::Draining);
            if !held && !draining {
                state.last_close(id);
            } else if draining {
                state.bury_if_over(id);
            } else if surrendered {
                state.return_all(id);
            }
        }
        Ok(())
    }
}

impl Losses {
    fn report(&self) {
        let Self { sets, sessions, ids, descriptors } = *self;
        if sets + sessions + ids + descriptors > 0 {
            tracing::warn!(
                sets,
                sessions,
                ids,
                descriptors,
                "what was left of the service before had only one half, and was ended: {sets} set(s) whose descriptor \
                 was not kept, {sessions} session(s) likewise, {ids} id(s) of no set, {descriptors} region(s) that are \
                 not what was parked"
            );
        }
    }
}
