//! Descriptors left with the service manager: they outlive the service and come back by name.
//!
//! What is parked: the service's end of every set FD, the regions of mapped sets, the ends of sessions that carry
//! references. All names travel in one environment variable at the next start, and the kernel takes 128 KiB for one
//! (MAX_ARG_STRLEN, `include/uapi/linux/binfmts.h`): so names are short, and their sum is bounded here, where it can be
//! refused. Past it the next start could not be executed. How many descriptors the manager keeps it says itself
//! (FDSTORE); what is more it would close without a word.

use crate::model::{Failure, Fault, Refusal, SetId};
use crate::sys::service_manager::Notifier;
use std::os::fd::BorrowedFd;

/// Descriptors that are kept and not counted here: the listening socket, the channels of the device and of the cgroup files.
const OTHERS: usize = 8;

/// Bytes that all names may take; below 128 KiB by what the listening sockets' names take.
const ROOM: usize = 120 << 10;

/// What a parked descriptor is, as its name says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Parked {
    /// The service's end of a set FD: the set, and which of its FDs.
    End(SetId, u32),
    /// The region of a mapped set.
    Region(SetId),
    /// The service's end of a session: the set, and the session's key.
    Session(SetId, u64),
}

impl Parked {
    /// The name: a letter and numbers of base 36.
    pub(super) fn name(self) -> String {
        match self {
            Self::End(set, 0) => format!("s{}", base36(set.0)),
            Self::End(set, serial) => format!("s{}.{}", base36(set.0), base36(serial.into())),
            Self::Region(set) => format!("r{}", base36(set.0)),
            Self::Session(set, key) => format!("c{}.{}", base36(set.0), base36(key)),
        }
    }

    /// What the name says; `None` where it is none of ours.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let number = |text: &str| u64::from_str_radix(text, 36).ok();
        let (kind, rest) = name.split_at_checked(1)?;
        let parked = match (kind, rest.split_once('.')) {
            ("s", None) => Self::End(SetId(number(rest)?), 0),
            ("s", Some((set, serial))) => Self::End(SetId(number(set)?), number(serial)?.try_into().ok()?),
            ("r", None) => Self::Region(SetId(number(rest)?)),
            ("c", Some((set, key))) => Self::Session(SetId(number(set)?), number(key)?),
            _ => return None,
        };
        (parked.name() == name).then_some(parked)
    }
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit((number % 36) as u32, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}

/// What is parked, and what is to be taken out.
#[derive(Debug)]
pub(super) struct Parking {
    notifier: Notifier,
    /// Bytes that the names take.
    taken: usize,
    /// How many descriptors are parked, and how many can be.
    count: usize,
    most: usize,
    /// Of things that ended: taken out once the records say so, too.
    over: Vec<Parked>,
}

impl Parking {
    pub(super) fn new(notifier: Notifier) -> Self {
        let most = Notifier::store_size().unwrap_or(usize::MAX);
        Self { notifier, taken: 0, count: 0, most, over: Vec::new() }
    }

    /// Counts what came back as parked.
    pub(super) fn came_back(&mut self, what: Parked) {
        self.taken += what.name().len() + 1;
        self.count += 1;
    }

    /// Leaves a copy with the service manager. `TooMany` where the next start could not be told of more.
    pub(super) fn park(&mut self, what: Parked, fd: BorrowedFd<'_>) -> Result<(), Failure> {
        let name = what.name();
        let bytes = name.len() + 1;
        if self.taken + bytes > ROOM {
            let limit = "names of parked descriptors, in bytes".to_owned();
            return Err(Refusal::TooMany { limit, value: ROOM as u64 }.into());
        }
        if self.count.saturating_add(OTHERS) >= self.most {
            let limit = "descriptors that the service manager keeps".to_owned();
            return Err(Refusal::TooMany { limit, value: self.most as u64 }.into());
        }
        let parked = self.notifier.store(&name, fd);
        parked.map_err(|e| Fault::from(e).while_doing("leave a descriptor with the service manager"))?;
        self.taken += bytes;
        self.count += 1;
        Ok(())
    }

    /// Takes it out now: it was never used, or its end must show.
    pub(super) fn take_out(&mut self, what: Parked) {
        self.taken = self.taken.saturating_sub(what.name().len() + 1);
        self.count = self.count.saturating_sub(1);
        if let Err(error) = self.notifier.remove(&what.name()) {
            tracing::warn!(%error, name = what.name(), "a descriptor stays with the service manager");
        }
    }

    /// Takes it out with the next [`Parking::settle`].
    pub(super) fn ended(&mut self, what: Parked) {
        self.over.push(what);
    }

    /// Takes out what ended: the records are written.
    pub(super) fn settle(&mut self) {
        for what in std::mem::take(&mut self.over) {
            self.take_out(what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are_of() {
        let all = [
            Parked::End(SetId(1), 0),
            Parked::End(SetId(u64::MAX >> 2), 77),
            Parked::Region(SetId(35)),
            Parked::Session(SetId(36), u64::MAX),
        ];
        for parked in all {
            assert_eq!(Parked::of_name(&parked.name()), Some(parked), "{}", parked.name());
        }
        for name in ["", "s", "x1", "s1.0", "s01", "S1", "c1", "r1.1", "ioasid.sock", "listener", "ä1", "s1.zzzzzzzzz"]
        {
            assert_eq!(Parked::of_name(name), None, "{name}");
        }
        // Ten thousand sets have room.
        assert!((1..=10_000).map(|id| Parked::End(SetId(id), 0).name().len() + 1).sum::<usize>() < ROOM);
    }
}
