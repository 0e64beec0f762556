//! The ids of a space that rest: oldest first, and by number.
//!
//! A queue has the order in which they go, a bitmap says which rest, so that a small range is looked through as fast as it
//! is small, however many rest elsewhere. Who is woken out of turn stays in the queue as a stale entry, known by its turn;
//! when there are more stale entries than others they are swept out, so each costs its share once.

use crate::model::{Pasid, PasidRange};
use std::collections::VecDeque;
use std::time::Instant;

/// Below so many entries the queue is not swept.
const FEW: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Rest {
    pasid: Pasid,
    until: Instant,
    turn: u64,
}

/// The resting ids of a space.
#[derive(Debug)]
pub(super) struct Rests {
    /// By turn; has an entry for each id that rests, and stale ones.
    queue: VecDeque<Rest>,
    /// By id, 64 a word: whether it rests.
    words: Vec<u64>,
    /// By id: the turn of its last rest. Zeroed pages that are never touched cost nothing.
    turns: Vec<u64>,
    count: u32,
    last_turn: u64,
}

impl Rests {
    /// None yet, of ids below `ids`.
    pub(super) fn new(ids: u32) -> Self {
        let ids = ids as usize;
        let (words, turns) = (vec![0; ids.div_ceil(64)], vec![0; ids]);
        Self { queue: VecDeque::new(), words, turns, count: 0, last_turn: 0 }
    }

    /// How many rest.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// How many rest in `range`.
    pub(super) fn count_in(&self, range: PasidRange) -> u32 {
        self.masked(range).map(|(_, word)| word.count_ones()).sum()
    }

    /// The words of `range` with their first ids, without what is outside of it.
    fn masked(&self, range: PasidRange) -> impl Iterator<Item = (u32, u64)> {
        let (min, max) = (range.min(), range.max());
        (min / 64..=max / 64).map(move |at| {
            let word = self.words.get(at as usize).copied().unwrap_or(0);
            let from = if at == min / 64 { u64::MAX << (min % 64) } else { u64::MAX };
            let to = if at == max / 64 { u64::MAX >> (63 - max % 64) } else { u64::MAX };
            (at * 64, word & from & to)
        })
    }

    /// The ids that rest in `range`, by number.
    pub(super) fn in_range(&self, range: PasidRange) -> impl Iterator<Item = Pasid> {
        self.masked(range)
            .flat_map(|(first, word)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first + bit))
            .filter_map(Pasid::new)
    }

    fn rests(&self, pasid: Pasid) -> bool {
        self.words.get(pasid.index() / 64).is_some_and(|word| word >> (pasid.index() % 64) & 1 == 1)
    }

    fn turn(&self, pasid: Pasid) -> u64 {
        self.turns.get(pasid.index()).copied().unwrap_or(0)
    }

    fn is_current(&self, rest: &Rest) -> bool {
        self.rests(rest.pasid) && self.turn(rest.pasid) == rest.turn
    }

    /// Lets an id that does not rest do so, after all others.
    pub(super) fn add(&mut self, pasid: Pasid, until: Instant) {
        let at = pasid.index();
        let (Some(word), Some(turn)) = (self.words.get_mut(at / 64), self.turns.get_mut(at)) else { return };
        debug_assert!(*word >> (at % 64) & 1 == 0, "pasid {pasid} rests twice");
        self.last_turn += 1;
        *word |= 1 << (at % 64);
        *turn = self.last_turn;
        self.count += 1;
        self.queue.push_back(Rest { pasid, until, turn: self.last_turn });
    }

    fn remove(&mut self, pasid: Pasid) {
        if self.rests(pasid)
            && let Some(word) = self.words.get_mut(pasid.index() / 64)
        {
            *word &= !(1 << (pasid.index() % 64));
            self.count -= 1;
        }
    }

    /// Ends the oldest rest where it is over; gives its id.
    pub(super) fn end_one(&mut self, now: Instant) -> Option<Pasid> {
        loop {
            let oldest = *self.queue.front()?;
            let current = self.is_current(&oldest);
            if current && oldest.until > now {
                return None;
            }
            self.queue.pop_front();
            if current {
                self.remove(oldest.pasid);
                return Some(oldest.pasid);
            }
        }
    }

    /// Ends the oldest rests in `range`, at most `wanted`; gives their ids, oldest first.
    pub(super) fn wake(&mut self, range: PasidRange, wanted: u32) -> Vec<Pasid> {
        let wanted = wanted as usize;
        // Sorting those of the range, or going down the queue until enough are found: what looks at fewer.
        let woken: Vec<Pasid> = if (self.count_in(range) as usize) < self.queue.len() / 16 {
            let mut found: Vec<Pasid> = self.in_range(range).collect();
            found.sort_unstable_by_key(|pasid| self.turn(*pasid));
            found.truncate(wanted);
            found
        } else {
            let of_range = self.queue.iter().filter(|rest| range.contains(rest.pasid.get()) && self.is_current(rest));
            of_range.map(|rest| rest.pasid).take(wanted).collect()
        };
        woken.iter().for_each(|pasid| self.remove(*pasid));
        self.sweep();
        woken
    }

    /// Takes stale entries out of the queue where they are the most of it.
    fn sweep(&mut self) {
        if self.queue.len() > FEW + 2 * self.count as usize {
            let mut queue = std::mem::take(&mut self.queue);
            queue.retain(|rest| self.is_current(rest));
            self.queue = queue;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn pasid(number: u32) -> Pasid {
        Pasid::new(number).unwrap()
    }

    fn range(min: u32, max: u32) -> PasidRange {
        PasidRange::new(min, max).unwrap()
    }

    #[test]
    fn ranges_count_at_the_edges_of_words() {
        let mut rests = Rests::new(256);
        let now = Instant::now();
        [1, 63, 64, 127, 128, 255].iter().for_each(|id| rests.add(pasid(*id), now));
        for (min, max, expected) in [
            (0, 255, 6),
            (0, 62, 1),
            (0, 63, 2),
            (64, 64, 1),
            (64, 127, 2),
            (65, 126, 0),
            (127, 128, 2),
            (129, 1 << 19, 1),
        ] {
            assert_eq!(rests.count_in(range(min, max)), expected, "{min}-{max}");
            assert_eq!(rests.in_range(range(min, max)).count(), expected as usize, "{min}-{max}");
        }
    }

    #[test]
    fn the_oldest_of_a_range_wake_first_and_in_their_turn_elsewhere() {
        let mut rests = Rests::new(4096);
        let (now, hour) = (Instant::now(), Duration::from_secs(3600));
        (1..4096).rev().for_each(|id| rests.add(pasid(id), now + hour));
        assert_eq!(rests.wake(range(10, 14), 2), [pasid(14), pasid(13)]);
        assert_eq!(rests.wake(range(0, 4095), 2), [pasid(4095), pasid(4094)]);
        // One that rests again goes to the end, whatever is left of its last rest.
        rests.add(pasid(14), now + hour);
        assert_eq!(rests.wake(range(10, 14), 9), [12, 11, 10, 14].map(pasid));
        assert_eq!((rests.end_one(now), rests.count()), (None, 4095 - 2 - 2 - 4 + 1));
        assert_eq!(rests.end_one(now + hour), Some(pasid(4093)));
    }

    #[test]
    fn who_rests_and_wakes_again_and_again_leaves_a_bounded_queue() {
        let mut rests = Rests::new(1024);
        let until = Instant::now() + Duration::from_secs(3600);
        (100..200).for_each(|id| rests.add(pasid(id), until));
        for _ in 0..10_000 {
            rests.add(pasid(1), until);
            assert_eq!(rests.wake(range(1, 1), 1), [pasid(1)]);
            assert!(rests.queue.len() <= FEW + 2 * 100 + 1);
        }
        assert_eq!(rests.wake(range(0, 1023), 1), [pasid(100)]);
    }

    #[test]
    fn any_actions_end_as_in_a_plain_list() {
        let mut rests = Rests::new(512);
        let mut plain: Vec<(u32, u64)> = Vec::new();
        let start = Instant::now();
        let mut word = 1_u64;
        let mut random = |below: u32| {
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            u32::try_from(word >> 33).unwrap() % below
        };
        for now in 0..20_000_u64 {
            let (id, other) = (1 + random(511), 1 + random(511));
            let at = start + Duration::from_millis(now);
            let some = range(id.min(other), id.max(other));
            match random(8) {
                0 => {
                    let wanted = random(4);
                    let mut expected = Vec::new();
                    plain.retain(|(id, _)| {
                        let wakes = some.contains(*id) && expected.len() < wanted as usize;
                        if wakes {
                            expected.push(pasid(*id));
                        }
                        !wakes
                    });
                    assert_eq!(rests.wake(some, wanted), expected);
                }
                1 => {
                    let over = plain.first().is_some_and(|(_, until)| *until <= now).then(|| plain.remove(0).0);
                    assert_eq!(rests.end_one(at), over.map(pasid));
                }
                _ if plain.iter().any(|(resting, _)| *resting == id) => {}
                _ => {
                    rests.add(pasid(id), at + Duration::from_millis(300));
                    plain.push((id, now + 300));
                }
            }
            let in_some = plain.iter().filter(|(id, _)| some.contains(*id)).count();
            assert_eq!((rests.count() as usize, rests.count_in(some) as usize), (plain.len(), in_some));
        }
        assert!(plain.len() > 10, "little happened");
    }
}
