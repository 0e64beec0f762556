//! The watch word: how a refusal is proven against releases that happen meanwhile (invariant 5).

use crate::sync::{AtomicU64, Ordering, load_total};

/// Somebody searches: a release must say that it happened.
const ARMED: u64 = 1;
/// Everything was seen claimed while armed, and nothing was released since.
const FULL: u64 = 2;
/// One step of the stamp, in the upper 62 bits.
const STEP: u64 = 4;

/// A view of the watch word.
///
/// States: open (no flag) → armed (by a searcher) → full (by a searcher that saw no free bit while the word stood at
/// the same stamp). A release brings it back to open with the next stamp. So whoever reads `full` knows, by one load,
/// that each release up to now has been claimed again.
#[derive(Clone, Copy)]
pub(super) struct Watch<'a>(pub &'a AtomicU64);

/// What the watch word was when a search began.
#[derive(Clone, Copy)]
pub(super) struct Ticket(u64);

impl Watch<'_> {
    /// Whether a proven full state stands.
    #[inline]
    pub fn is_full(self) -> bool {
        load_total(self.0) & FULL != 0
    }

    /// Asks releases to speak up; the leaves are to be read after this.
    pub fn arm(self) -> Ticket {
        let seen = load_total(self.0);
        if seen & (ARMED | FULL) != 0 {
            return Ticket(seen);
        }
        // ORDERING: SeqCst, before the searcher's loads of the leaves; pairs with `released`, which looks here after
        // it cleared its bit. Either the search sees the bit, or the release sees the flag.
        match self.0.compare_exchange(seen, seen | ARMED, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => Ticket(seen | ARMED),
            // Armed or opened by another meanwhile: an open word as a ticket is never confirmed.
            Err(now) => Ticket(now),
        }
    }

    /// Whether no release completed since `ticket` was taken. Reads only: for windows, which are not the whole.
    pub fn still(self, ticket: Ticket) -> bool {
        ticket.0 & (ARMED | FULL) != 0 && load_total(self.0) & !FULL == ticket.0 & !FULL
    }

    /// As [`Watch::still`], and if so lets the full state stand for those who come later.
    pub fn confirm_full(self, ticket: Ticket) -> bool {
        if ticket.0 & FULL != 0 {
            return self.still(ticket);
        }
        if ticket.0 & ARMED == 0 {
            return false;
        }
        // ORDERING: SeqCst, fails if a release changed the stamp since `arm`: the proof would be of an older state.
        match self.0.compare_exchange(ticket.0, ticket.0 | FULL, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => true,
            Err(now) => now == ticket.0 | FULL,
        }
    }

    /// Whether releases must speak up.
    #[inline]
    pub fn is_on(self) -> bool {
        load_total(self.0) & (ARMED | FULL) != 0
    }

    /// Says that a bit was cleared. Called after the `SeqCst` read-modify-write that cleared it, before the release
    /// returns. Wait-free: two tries are enough, for only `confirm_full` can come between without a new stamp.
    pub fn released(self) {
        let mut seen = load_total(self.0);
        if seen & (ARMED | FULL) == 0 {
            return;
        }
        let stamp = seen & !(ARMED | FULL);
        for _ in 0..2 {
            // ORDERING: SeqCst, pairs with `confirm_full` and `still`: they see the new stamp and look again.
            match self.0.compare_exchange(seen, stamp.wrapping_add(STEP), Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return,
                Err(now) if now & !(ARMED | FULL) != stamp => return,
                Err(now) => seen = now,
            }
        }
    }
}
