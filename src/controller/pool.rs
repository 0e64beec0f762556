//! One number space: which ids are free, leased or resting, and whose they are.

use super::IdSource;
use super::ledger::{Ledger, Standing};
use super::rests::Rests;
use crate::bitmap::{Bitmap, Search, words_needed};
use crate::model::{Domain, Fault, Pasid, PasidRange, Refusal, SetId};
use crate::proto::message_ids::FAULT;
use crate::proto::{DomainInfo, MapRun, RunState};
use crate::sync::AtomicU64;
use crate::sys::clock;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many ids in a row the source may refuse before a request is: each costs a system call under the lock.
const MOST_REFUSED: usize = 256;

/// The ids of one domain.
///
/// The bitmap says which are free; everything that is not free is reserved, owned by a set, or rests before
/// another set can get it. Expired rests end when somebody asks for ids or looks, never by a timer: an idle
/// service does not wake up.
#[derive(Debug)]
pub(super) struct Pool {
    domain: Domain,
    bits: u32,
    bitmap: Bitmap<Vec<AtomicU64>>,
    /// By id: the set that leases it, 0 for nobody. Zeroed pages that are never touched cost nothing.
    owners: Vec<u64>,
    /// By id: the tag of the request that leased it last.
    tags: Vec<u64>,
    reserved: Vec<PasidRange>,
    resting: Rests,
    quarantine: Duration,
    source: Option<Arc<dyn IdSource>>,
    leased: u64,
    peak: u64,
    /// Where all this is written down; `None` where nothing is to outlive the service.
    ledger: Option<Ledger>,
}

impl Pool {
    /// A space of `bits` bits in which id 0 and `reserved` are never handed out.
    pub(super) fn new(domain: Domain, bits: u32, reserved: &[PasidRange], quarantine: Duration) -> Result<Self, Fault> {
        let ids = 1_u32
            .checked_shl(bits)
            .filter(|ids| *ids > 1 && *ids - 1 <= Pasid::LAST.get())
            .ok_or_else(|| Fault::new(format!("domain {domain} of {bits} bits")))?;
        let bitmap = words_needed(ids)
            .and_then(|words| Bitmap::new(ids, std::iter::repeat_with(AtomicU64::default).take(words).collect()))
            .ok_or_else(|| Fault::new(format!("bitmap of {ids} ids")))?;
        let all = PasidRange::new(0, ids - 1).unwrap_or(PasidRange::ALL);
        let reserved = within(reserved, all);
        for range in &reserved {
            bitmap.withhold(range.min(), range.max());
        }
        let (owners, tags) = (vec![0; ids as usize], vec![0; ids as usize]);
        let resting = Rests::new(ids);
        let (leased, peak) = (0, 0);
        let (source, ledger) = (None, None);
        Ok(Self { domain, bits, bitmap, owners, tags, reserved, resting, quarantine, source, leased, peak, ledger })
    }

    /// All numbers of the space, reserved ones included.
    pub(super) fn range(&self) -> PasidRange {
        PasidRange::new(0, self.bitmap.len() - 1).unwrap_or(PasidRange::ALL)
    }

    /// How many ids it can hand out.
    pub(super) fn capacity(&self) -> u64 {
        u64::from(self.bitmap.len()) - self.reserved.iter().map(|r| u64::from(r.count())).sum::<u64>()
    }

    /// From now on ids that are claimed are taken from `source`, too, and given back to it when their rest is over.
    pub(super) fn set_source(&mut self, source: Option<Arc<dyn IdSource>>) {
        self.source = source;
    }

    /// From now on given back ids rest this long.
    pub(super) fn set_quarantine(&mut self, quarantine: Duration) {
        self.quarantine = quarantine;
    }

    /// The set that leases `pasid`.
    pub(super) fn owner(&self, pasid: Pasid) -> Option<SetId> {
        self.owners.get(pasid.index()).copied().filter(|id| *id != 0).map(SetId)
    }

    /// Leases `count` ids in `range` to `set`: all or none.
    ///
    /// The search goes on where the last one ended (next fit). Rests that are over are ended first; when the free
    /// ids do not suffice the oldest rests in the range end early, for nothing is refused while something rests.
    /// Refused with `NoSpace`; then nothing has changed but rests that were over.
    pub(super) fn carve(&mut self, set: SetId, count: u32, range: PasidRange) -> Result<Vec<Pasid>, Refusal> {
        self.end_rests(Instant::now());
        let Some(range) = range.intersect(self.range()) else {
            return Err(Refusal::NoSpace { domain: self.domain, range, free: 0, asked: count });
        };
        let mut ids = self.claim(count, range);
        let missing = count - u32::try_from(ids.len()).unwrap_or(count);
        if missing > 0 {
            if self.resting.count_in(range) < missing {
                self.unclaim(&ids);
                let free = self.available(range);
                return Err(Refusal::NoSpace { domain: self.domain, range, free, asked: count });
            }
            self.resting.wake(range, missing).into_iter().for_each(|pasid| self.free_bit(pasid));
            ids.extend(self.claim(missing, range));
        }
        if ids.len() < count as usize {
            // Free here, but others have them.
            self.unclaim(&ids);
            return Err(Refusal::NoSpace { domain: self.domain, range, free: 0, asked: count });
        }
        ids.iter().for_each(|pasid| self.adopt(set, *pasid));
        Ok(ids)
    }

    /// Claims up to `count` free ids in `range`.
    fn claim(&self, count: u32, range: PasidRange) -> Vec<Pasid> {
        let claim = || self.bitmap.claim(Search::Round, range.min(), range.max()).and_then(Pasid::new);
        match &self.source {
            None => std::iter::from_fn(claim).take(count as usize).collect(),
            Some(source) => self.claim_from(source.as_ref(), count, range, claim),
        }
    }

    /// Claims ids that `source` has, too: the one that is next here, else the one that it gives.
    fn claim_from(
        &self,
        source: &dyn IdSource,
        count: u32,
        range: PasidRange,
        claim: impl Fn() -> Option<Pasid>,
    ) -> Vec<Pasid> {
        let mut ids = Vec::with_capacity(count as usize);
        let mut refused = Vec::new();
        while ids.len() < count as usize && refused.len() < MOST_REFUSED {
            let Some(next) = claim() else { break };
            let only = PasidRange::new(next.get(), next.get());
            if only.and_then(|only| source.take(only)).is_some() {
                ids.push(next);
                continue;
            }
            refused.push(next);
            match source.take(PasidRange::new(next.get(), range.max()).unwrap_or(range)).or_else(|| source.take(range))
            {
                Some(given) if self.bitmap.claim_at(given.get()) => ids.push(given),
                // Reserved here.
                Some(given) => source.give(given),
                None => break,
            }
        }
        // Kept until now, so that the search did not come upon them again.
        for pasid in refused {
            let _ = self.bitmap.release(pasid.get());
        }
        ids
    }

    /// Puts claimed ids back that nobody has seen: they are free at once.
    fn unclaim(&self, ids: &[Pasid]) {
        ids.iter().for_each(|pasid| self.free_bit(*pasid));
    }

    /// Writes down that carved ids are leased, by the request with this tag. On a fault the ids are free again.
    pub(super) fn enter(&mut self, set: SetId, ids: &[Pasid], tag: u64) -> Result<(), Fault> {
        for pasid in ids {
            if let Some(of_id) = self.tags.get_mut(pasid.index()) {
                *of_id = tag;
            }
        }
        let Some(ledger) = &self.ledger else { return Ok(()) };
        let Err(fault) = ledger.write(ids, Standing::Leased(set), tag) else { return Ok(()) };
        // What was not written has no line yet; the others need no room.
        let _ = ids.iter().try_for_each(|pasid| ledger.erase(&[*pasid]));
        for pasid in ids {
            if self.owners.get_mut(pasid.index()).is_some_and(|owner| std::mem::take(owner) != 0) {
                self.leased -= 1;
                self.free_bit(*pasid);
            }
        }
        Err(fault)
    }

    /// Writes down that ids wait for the last reference on them.
    pub(super) fn pend(&self, set: SetId, ids: &[Pasid]) {
        let Some(ledger) = &self.ledger else { return };
        for pasid in ids {
            if let Err(fault) = ledger.write(&[*pasid], Standing::Pending(set), self.tag(*pasid)) {
                tracing::error!(MESSAGE_ID = FAULT, %fault, "an id that waits for its last reference is in use in the records");
            }
        }
    }

    /// The tag of the request that leased `pasid` last.
    pub(super) fn tag(&self, pasid: Pasid) -> u64 {
        self.tags.get(pasid.index()).copied().unwrap_or(0)
    }

    /// From now on everything is written down there.
    pub(super) fn set_ledger(&mut self, ledger: Option<Ledger>) {
        self.ledger = ledger;
    }

    /// Forgets what was written down: the space is made anew or not used any more.
    pub(super) fn remove_ledger(&mut self) {
        if let Some(ledger) = self.ledger.take() {
            ledger.remove();
        }
    }

    /// Reserved ranges, id 0 included.
    pub(super) fn reserved(&self) -> &[PasidRange] {
        &self.reserved
    }

    pub(super) fn bits(&self) -> u32 {
        self.bits
    }

    pub(super) fn peak(&self) -> u64 {
        self.peak
    }

    /// Whether it is of this width with these ranges reserved.
    pub(super) fn is_of(&self, bits: u32, reserved: &[PasidRange]) -> bool {
        self.bits == bits && self.reserved == within(reserved, self.range())
    }

    fn keep_peak(&mut self) {
        if let Some(ledger) = &mut self.ledger
            && let Err(fault) = ledger.keep_peak(self.peak)
        {
            tracing::error!(MESSAGE_ID = FAULT, %fault, "a peak is behind in the records");
        }
    }

    /// Brings an id back that was leased to `set` before a restart; `false` where that cannot be.
    pub(super) fn restore_lease(&mut self, set: SetId, pasid: Pasid, tag: u64) -> bool {
        if !self.bitmap.claim_at(pasid.get()) {
            return false;
        }
        self.take_again(pasid);
        if let Some(of_id) = self.tags.get_mut(pasid.index()) {
            *of_id = tag;
        }
        self.adopt(set, pasid);
        true
    }

    /// Lets an id rest on that rested before a restart, since this many microseconds. Oldest first.
    pub(super) fn restore_rest(&mut self, pasid: Pasid, since: Duration) {
        let rest = self.quarantine.saturating_sub(since);
        if !rest.is_zero() && self.bitmap.claim_at(pasid.get()) {
            self.take_again(pasid);
            self.resting.add(pasid, Instant::now() + rest);
        }
    }

    /// Takes an id that was ours before a restart from the source again, where that let go of it meanwhile.
    fn take_again(&self, pasid: Pasid) {
        if let Some(source) = &self.source {
            PasidRange::new(pasid.get(), pasid.get()).and_then(|only| source.take(only));
        }
    }

    /// Brings the peak of before a restart back.
    pub(super) fn restore_peak(&mut self, peak: u64) {
        self.peak = self.peak.max(peak);
        self.keep_peak();
    }

    fn adopt(&mut self, set: SetId, pasid: Pasid) {
        if let Some(owner) = self.owners.get_mut(pasid.index()) {
            *owner = set.0;
        }
        self.leased += 1;
        self.peak = self.peak.max(self.leased);
    }

    /// Takes leased ids back; they rest before another set can get them. `tag` is of the request that gives them back.
    pub(super) fn give_back(&mut self, ids: &[Pasid], tag: u64) {
        self.keep_peak();
        if let Some(ledger) = &self.ledger
            && let Err(fault) = ledger.write(ids, Standing::Resting(clock::monotonic_usec()), tag)
        {
            // The line exists, so it needs no room: the memory behind the file is at fault.
            tracing::error!(MESSAGE_ID = FAULT, %fault, "an id that is given back stays leased in the records");
        }
        let now = Instant::now();
        for pasid in ids {
            if self.disown(*pasid) {
                self.resting.add(*pasid, now + self.quarantine);
            }
        }
        if self.quarantine.is_zero() {
            self.end_rests(now);
        }
    }

    fn disown(&mut self, pasid: Pasid) -> bool {
        match self.owners.get_mut(pasid.index()) {
            Some(owner) if *owner != 0 => {
                *owner = 0;
                self.leased -= 1;
                true
            }
            _ => false,
        }
    }

    fn free_bit(&self, pasid: Pasid) {
        if let Some(source) = &self.source {
            source.give(pasid);
        }
        let released = self.bitmap.release(pasid.get());
        debug_assert!(released.is_ok(), "pasid {pasid} rested and was free");
    }

    fn end_rests(&mut self, now: Instant) {
        while let Some(pasid) = self.resting.end_one(now) {
            self.free_bit(pasid);
        }
    }

    /// What of `range` could be had now, resting ids included.
    pub(super) fn available(&mut self, range: PasidRange) -> u32 {
        self.end_rests(Instant::now());
        let Some(range) = range.intersect(self.range()) else { return 0 };
        self.bitmap.count_free(range.min(), range.max()) + self.resting.count_in(range)
    }

    /// Whether nobody leases any of it and none rests: it could be made anew.
    pub(super) fn is_idle(&mut self) -> bool {
        self.end_rests(Instant::now());
        self.leased == 0 && self.resting.count() == 0
    }

    /// The space for people and programs.
    pub(super) fn info(&mut self) -> DomainInfo {
        self.end_rests(Instant::now());
        DomainInfo {
            name: self.domain,
            bits: self.bits,
            capacity: self.capacity(),
            current: self.leased,
            peak: self.peak,
            reserved: u64::from(self.bitmap.len()) - self.capacity(),
            resting: self.resting.count().into(),
        }
    }

    /// What is not free, as runs in order; leased runs name their set.
    pub(super) fn runs(&mut self) -> Vec<MapRun> {
        self.end_rests(Instant::now());
        let mut marks: Vec<(u32, RunState, Option<SetId>)> = Vec::new();
        for range in &self.reserved {
            marks.extend((range.min()..=range.max()).map(|id| (id, RunState::Reserved, None)));
        }
        marks.extend(self.resting.in_range(self.range()).map(|id| (id.get(), RunState::Resting, None)));
        let owned = self.owners.iter().zip(0_u32..).filter(|(owner, _)| **owner != 0);
        marks.extend(owned.map(|(owner, id)| (id, RunState::Leased, Some(SetId(*owner)))));
        marks.sort_unstable_by_key(|(id, ..)| *id);
        let mut runs: Vec<MapRun> = Vec::new();
        for (id, state, set) in marks {
            let Some(single) = PasidRange::new(id, id) else { continue };
            match runs.last_mut() {
                Some(run) if run.state == state && run.set == set && run.range.max() + 1 == id => {
                    run.range = PasidRange::new(run.range.min(), id).unwrap_or(run.range);
                }
                _ => runs.push(MapRun { range: single, state, cgroup: None, set }),
            }
        }
        runs
    }
}

/// The ranges with id 0, sorted, without overlaps.
fn normalized(ranges: impl Iterator<Item = PasidRange>) -> Vec<PasidRange> {
    let mut sorted: Vec<PasidRange> = ranges.chain(PasidRange::new(0, 0)).collect();
    sorted.sort_unstable_by_key(|r| r.min());
    let mut merged: Vec<PasidRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.min() <= last.max().saturating_add(1) => {
                *last = PasidRange::new(last.min(), last.max().max(range.max())).unwrap_or(*last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// What of the ranges lies within `all`, in order and merged.
fn within(ranges: &[PasidRange], all: PasidRange) -> Vec<PasidRange> {
    normalized(ranges.iter().filter_map(|range| range.intersect(all)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn pool(bits: u32, reserved: &[&str], quarantine: Duration) -> Pool {
        let reserved: Vec<_> = reserved.iter().map(|r| r.parse().unwrap()).collect();
        Pool::new(Domain::Global, bits, &reserved, quarantine).unwrap()
    }

    fn numbers(ids: &[Pasid]) -> Vec<u32> {
        ids.iter().map(|p| p.get()).collect()
    }

    #[test]
    fn zero_and_reserved_ids_are_never_handed_out() {
        let mut pool = pool(4, &["4-7", "6-9"], HOUR);
        assert_eq!(pool.capacity(), 16 - 6 - 1);
        let mut ids = numbers(&pool.carve(SetId(1), 9, PasidRange::ALL).unwrap());
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 3, 10, 11, 12, 13, 14, 15]);
        let refusal = pool.carve(SetId(1), 1, PasidRange::ALL).unwrap_err();
        let range = PasidRange::new(0, 15).unwrap();
        assert_eq!(refusal, Refusal::NoSpace { domain: Domain::Global, range, free: 0, asked: 1 });
    }

    #[test]
    fn a_batch_is_all_or_none() {
        let mut pool = pool(4, &[], HOUR);
        let range = PasidRange::new(3, 5).unwrap();
        let refusal = pool.carve(SetId(1), 4, range).unwrap_err();
        assert_eq!(refusal, Refusal::NoSpace { domain: Domain::Global, range, free: 3, asked: 4 });
        assert_eq!(pool.info().current, 0);
        assert_eq!(pool.carve(SetId(1), 3, range).unwrap().len(), 3);
    }

    #[test]
    fn a_returned_id_rests_until_nothing_else_is_free() {
        let mut pool = pool(3, &[], HOUR);
        let first = pool.carve(SetId(1), 2, PasidRange::ALL).unwrap();
        pool.give_back(&first, 1);
        assert_eq!((pool.info().current, pool.info().resting), (0, 2));
        let rest = pool.carve(SetId(2), 5, PasidRange::ALL).unwrap();
        assert!(rest.iter().all(|id| !first.contains(id)));
        // Five of seven are leased, two rest: the oldest is released early rather than refused.
        assert_eq!(pool.carve(SetId(3), 1, PasidRange::ALL).unwrap(), [first[0]]);
        assert_eq!(pool.info().resting, 1);
    }

    #[test]
    fn a_rest_that_is_over_ends_when_somebody_looks() {
        let mut pool = pool(3, &[], Duration::ZERO);
        let ids = pool.carve(SetId(1), 7, PasidRange::ALL).unwrap();
        pool.give_back(&ids, 1);
        assert_eq!((pool.info().resting, pool.available(PasidRange::ALL)), (0, 7));
    }

    #[test]
    fn allocation_goes_round() {
        let mut pool = pool(4, &[], Duration::ZERO);
        let mut seen = Vec::new();
        for _ in 0..15 {
            let ids = pool.carve(SetId(1), 1, PasidRange::ALL).unwrap();
            seen.extend(numbers(&ids));
            pool.give_back(&ids, 1);
        }
        seen.sort_unstable();
        assert_eq!(seen, (1..16).collect::<Vec<_>>());
    }

    #[test]
    fn owners_are_known_until_the_id_returns() {
        let mut pool = pool(4, &[], HOUR);
        let id = pool.carve(SetId(9), 1, PasidRange::ALL).unwrap()[0];
        assert_eq!(pool.owner(id), Some(SetId(9)));
        pool.give_back(&[id, id], 1);
        assert_eq!((pool.owner(id), pool.info().current, pool.info().resting), (None, 0, 1));
    }

    #[test]
    fn runs_name_what_is_not_free() {
        let mut pool = pool(4, &["0-3"], HOUR);
        let ids = pool.carve(SetId(1), 3, PasidRange::new(5, 7).unwrap()).unwrap();
        pool.give_back(&[ids[0]], 1);
        let runs: Vec<_> = pool.runs().iter().map(|r| (r.range.to_string(), r.state, r.set)).collect();
        assert_eq!(
            runs,
            [
                ("0-3".to_owned(), RunState::Reserved, None),
                ("5-5".to_owned(), RunState::Resting, None),
                ("6-7".to_owned(), RunState::Leased, Some(SetId(1))),
            ]
        );
    }
}
