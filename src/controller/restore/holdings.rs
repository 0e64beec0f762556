//! Memory as the records have it: cgroups, spaces, sets with what they lease.

use super::Losses;
use super::files::Sorted;
use crate::controller::entry::{Change, Key, OnLease};
use crate::controller::ledger::{Ledger, Line, Reading, Standing};
use crate::controller::pool::Pool;
use crate::controller::set::Set;
use crate::controller::{State, World};
use crate::model::{Domain, Fault, SetId};
use crate::sys::clock;
use std::collections::BTreeSet;
use std::time::Duration;

impl State {
    /// Cgroups with their limits, peaks and events; those that are gone by now are dying.
    pub(super) fn restore_cgroups(&mut self, contents: &Sorted, world: &World) {
        for (id, record) in &contents.cgroups {
            let down = record.lineage.clone();
            let up: Vec<_> = down.into_iter().rev().collect();
            let node = self.ensure_node(&up);
            node.set_administrator_limit(record.administrator);
            node.set_delegated_limit(record.delegated);
            self.recorded_cgroups.insert(*id);
        }
        for node in self.tree.nodes() {
            if !node.is_root() && !world.cgroups.is_alive(node.path(), node.id()) {
                node.mark_dying();
            }
        }
        let Some(keep) = &mut self.keep else { return };
        for node in self.tree.nodes() {
            let counts = keep.tally.of(node.id());
            node.restore(counts.peak, counts.events, counts.events_local);
        }
        for id in keep.tally.known() {
            if self.tree.find(id).is_none() {
                keep.tally.forget(id);
            }
        }
    }

    /// Number spaces as they were made; what the policy says of them by now waits until they are idle. Gives the lines
    /// that sets are to take up.
    pub(super) fn restore_spaces(&mut self, ledgers: Vec<(Ledger, Reading)>) -> Result<Vec<(Domain, Line)>, Fault> {
        let mut lines = Vec::new();
        let now = clock::monotonic_usec();
        let quarantine = self.policy.space.quarantine;
        let resting = |since: u64| Duration::from_micros(now.saturating_sub(since));
        for (mut ledger, reading) in ledgers {
            let domain = reading.space.domain;
            let idle = reading
                .lines
                .iter()
                .all(|line| matches!(line.standing, Standing::Resting(since) if resting(since) >= quarantine));
            if idle {
                // Made anew as the policy has it, but for the peak.
                if domain == Domain::Global {
                    self.make_pool(domain, None)?;
                    if let Some(pool) = self.pools.get_mut(&domain) {
                        pool.restore_peak(reading.peak);
                    }
                } else {
                    ledger.remove();
                }
                continue;
            }
            let mut pool = Pool::new(domain, reading.space.bits, &reading.space.reserved, quarantine)?;
            pool.set_source(self.id_source.clone().filter(|_| domain == Domain::Global));
            pool.restore_peak(reading.peak);
            ledger.keep_peak(reading.peak)?;
            pool.set_ledger(Some(ledger));
            let mut rests = Vec::new();
            for line in reading.lines {
                match line.standing {
                    Standing::Resting(since) => {
                        rests.push((since, line.pasid));
                        if line.tag != 0 {
                            self.freed_before.entry(line.tag).or_default().push(line.pasid);
                        }
                    }
                    Standing::Leased(_) | Standing::Pending(_) => lines.push((domain, line)),
                }
            }
            rests.sort_unstable();
            rests.into_iter().for_each(|(since, pasid)| pool.restore_rest(pasid, resting(since)));
            self.pools.insert(domain, pool);
        }
        self.make_pool(Domain::Global, None)?;
        Ok(lines)
    }

    /// Sets with what they lease, charged without regard to limits: it was charged before.
    pub(super) fn restore_sets(
        &mut self,
        contents: &mut Sorted,
        lines: Vec<(Domain, Line)>,
        world: &World,
        losses: &mut Losses,
    ) -> Result<BTreeSet<SetId>, Fault> {
        let mut known = BTreeSet::new();
        for (id, record) in std::mem::take(&mut contents.sets) {
            let up: Option<Vec<_>> =
                contents.cgroups.get(&record.cgroup).map(|cgroup| cgroup.lineage.iter().rev().cloned().collect());
            let node = match up {
                Some(up) => self.ensure_node(&up),
                None if record.cgroup == world.cgroups.root() => self.tree.root(),
                None => {
                    // Written in one transaction with the set: the records are not what a service wrote.
                    losses.sets += 1;
                    self.defer(Change::Remove(Key::Set(id)));
                    continue;
                }
            };
            self.guard.restore_set(record.owner_uid);
            *self.sets_of.entry(node.id()).or_default() += 1;
            let set = Set::of_record(id, record, node);
            self.sets.insert(id, set);
            known.insert(id);
        }
        for (domain, line) in lines {
            let (Standing::Leased(id) | Standing::Pending(id)) = line.standing else { continue };
            let Some(pool) = self.pools.get_mut(&domain) else { continue };
            let Some(set) = self.sets.get_mut(&id).filter(|set| set.domain == domain) else {
                // Of a set that was never answered for, or is gone: it rests like one that was given back.
                losses.ids += 1;
                if pool.restore_lease(id, line.pasid, line.tag) {
                    pool.give_back(&[line.pasid], 0);
                }
                continue;
            };
            if !pool.restore_lease(id, line.pasid, line.tag) {
                losses.ids += 1;
                continue;
            }
            set.leased.insert(line.pasid);
            if matches!(line.standing, Standing::Pending(_)) {
                set.pending.insert(line.pasid);
            }
            self.leased_before.entry(line.tag).or_default().push(line.pasid);
        }
        for set in self.sets.values_mut().filter(|set| !set.leased.is_empty()) {
            let charged = set.node.charge_regardless(u64::from(set.leased_count()));
            set.charge =
                Some(charged.map_err(|refusal| Fault::new(format!("charge set {} again: {refusal}", set.id)))?);
        }
        self.restore_aliases(contents);
        Ok(known)
    }

    /// Aliases of leases that are still the same. What waits to return has none: the free took them.
    fn restore_aliases(&mut self, contents: &Sorted) {
        for (id, alias, on) in &contents.aliases {
            let same = self.is_of_lease(*id, on);
            match self.sets.get_mut(id).filter(|set| same && !set.pending.contains(&on.pasid)) {
                Some(set) => drop(set.aliases.insert(*alias, on.pasid)),
                None => self.defer(Change::Remove(Key::Alias(*id, *alias))),
            }
        }
    }

    pub(super) fn is_of_lease(&self, id: SetId, on: &OnLease) -> bool {
        let Some(set) = self.sets.get(&id) else { return false };
        let tag = self.pools.get(&set.domain).map(|pool| pool.tag(on.pasid));
        set.leased.contains(&on.pasid) && tag == Some(on.tag)
    }
}
