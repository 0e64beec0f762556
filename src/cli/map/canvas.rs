//! A number space as dots: each stands for as many neighbouring ids as it takes to fit.

use crate::proto::{DomainInfo, MapRun, RunState, SpaceMap};
use std::collections::BTreeMap;

/// Dots in a line.
pub(super) const WIDTH: u32 = 128;
/// Dots in all, at most.
const MOST: u32 = 8192;

/// What a dot is coloured by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ink {
    /// Leased, charged to a cgroup; `None` where the service does not say which.
    Leased(Option<String>),
    /// Resting.
    Resting,
    /// Reserved.
    Reserved,
}

/// The dots of a space, and how many ids each ink stands for.
#[derive(Debug)]
pub(super) struct Canvas {
    /// The space.
    pub domain: DomainInfo,
    /// Ids a dot stands for.
    pub scale: u32,
    /// Line by line; nothing where all of a dot's ids are free.
    pub dots: Vec<Option<usize>>,
    /// The inks with their counts of ids; cgroups first, those with the most ids before others.
    pub inks: Vec<(Ink, u64)>,
}

impl Canvas {
    /// The picture of a space.
    pub fn of(space: &SpaceMap) -> Self {
        let ids = 1_u32 << space.domain.bits.min(20);
        let scale = (ids / MOST).max(1);
        let mut counts: BTreeMap<Ink, u64> = BTreeMap::new();
        for run in &space.runs {
            *counts.entry(ink_of(run)).or_default() += u64::from(run.range.count());
        }
        let mut inks: Vec<_> = counts.into_iter().collect();
        inks.sort_by_key(|(ink, count)| (!matches!(ink, Ink::Leased(_)), std::cmp::Reverse(*count)));
        let mut canvas = Self { domain: space.domain.clone(), scale, dots: vec![None; (ids / scale) as usize], inks };
        // What is leased is drawn last: a single id in a dot shall be seen.
        for leased in [false, true] {
            for run in space.runs.iter().filter(|run| (run.state == RunState::Leased) == leased) {
                canvas.draw(run);
            }
        }
        canvas
    }

    /// The ink of a run of the space that this is a picture of.
    pub fn ink(&self, run: &MapRun) -> Option<usize> {
        let ink = ink_of(run);
        self.inks.iter().position(|(known, _)| *known == ink)
    }

    fn draw(&mut self, run: &MapRun) {
        let Some(index) = self.ink(run) else { return };
        let (first, last) = (run.range.min() / self.scale, run.range.max() / self.scale);
        for dot in self.dots.iter_mut().take(last as usize + 1).skip(first as usize) {
            *dot = Some(index);
        }
    }

    /// The dots of one line.
    pub fn lines(&self) -> impl Iterator<Item = &[Option<usize>]> {
        self.dots.chunks(WIDTH as usize)
    }

    /// What the picture is of, and how many ids its smallest part stands for.
    pub fn title(&self, scale: u32, part: &str) -> String {
        let each = if scale == 1 { "an id".to_owned() } else { format!("{scale} ids") };
        let domain = &self.domain;
        let ids = 1_u64 << domain.bits.min(20);
        format!("{}: {ids} ids, {} of {} leased; a {part} is {each}", domain.name, domain.current, domain.capacity)
    }

    /// The inks by name, and how many ids there are of each; what is free at the end.
    pub fn legend(&self) -> Vec<(Option<usize>, String, u64)> {
        let name = |ink: &Ink| match ink {
            Ink::Leased(Some(cgroup)) => cgroup.clone(),
            Ink::Leased(None) => "leased".to_owned(),
            Ink::Resting => "resting".to_owned(),
            Ink::Reserved => "reserved".to_owned(),
        };
        let mut legend: Vec<_> =
            self.inks.iter().enumerate().map(|(index, (ink, count))| (Some(index), name(ink), *count)).collect();
        let domain = &self.domain;
        legend.push((None, "free".to_owned(), domain.capacity.saturating_sub(domain.current + domain.resting)));
        legend
    }
}

fn ink_of(run: &MapRun) -> Ink {
    match run.state {
        RunState::Leased => Ink::Leased(run.cgroup.as_ref().map(|cgroup| cgroup.as_str().to_owned())),
        RunState::Resting => Ink::Resting,
        RunState::Reserved => Ink::Reserved,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{Domain, PasidRange};

    /// A space with runs `(first, last, cgroup)`; `""` is reserved, `"~"` rests.
    pub fn space(bits: u32, runs: &[(u32, u32, &str)]) -> SpaceMap {
        let run = |(first, last, cgroup): &(u32, u32, &str)| MapRun {
            range: PasidRange::new(*first, *last).unwrap(),
            state: match *cgroup {
                "" => RunState::Reserved,
                "~" => RunState::Resting,
                _ => RunState::Leased,
            },
            cgroup: cgroup.starts_with('/').then(|| cgroup.parse().unwrap()),
            set: None,
        };
        let count = |of: &dyn Fn(&str) -> bool| {
            runs.iter().filter(|run| of(run.2)).map(|(first, last, _)| u64::from(last - first + 1)).sum::<u64>()
        };
        let reserved = count(&str::is_empty);
        let domain = DomainInfo {
            name: Domain::Global,
            bits,
            capacity: (1 << bits) - reserved,
            current: count(&|cgroup| cgroup.starts_with('/')),
            peak: 0,
            reserved,
            resting: count(&|cgroup| cgroup == "~"),
        };
        SpaceMap { domain, runs: runs.iter().map(run).collect() }
    }

    #[test]
    fn a_dot_is_as_many_ids_as_it_takes_and_one_leased_id_shows() {
        let canvas =
            Canvas::of(&space(20, &[(0, 1023, ""), (1024, 1024, "/b"), (1100, 1299, "/a"), (1300, 1300, "~")]));
        assert_eq!((canvas.scale, canvas.dots.len()), (128, 8192));
        let (a, b) = (Some(0), Some(1));
        assert_eq!(canvas.inks[0], (Ink::Leased(Some("/a".into())), 200));
        assert_eq!(canvas.dots[8..12], [a, a, a, None]);
        let small = Canvas::of(&space(8, &[(0, 0, ""), (7, 7, "/b"), (255, 255, "/a")]));
        assert_eq!((small.scale, small.dots.len(), small.lines().count()), (1, 256, 2));
        assert_eq!((small.dots[7].is_some(), small.dots[8], small.dots[255].is_some()), (b.is_some(), None, true));
        assert_eq!(small.legend().last().unwrap().2, 253);
    }
}
