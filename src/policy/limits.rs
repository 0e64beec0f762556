//! The `[[cgroup]]` lines: which `max` a cgroup gets.

use super::Source;
use super::glob::Pattern;
use crate::model::{CgroupPath, Limit};
use std::collections::HashMap;

/// One line: the `max` of the cgroups that a pattern names.
#[derive(Clone, Debug)]
pub struct CgroupLine {
    /// Which cgroups.
    pub pattern: Pattern,
    /// Their `max`.
    pub max: Limit,
    /// The line that says so.
    pub source: Source,
}

/// All lines, laid out so that a cgroup finds its own fast: literal paths by name, the rest from the most to the
/// least specific.
#[derive(Clone, Debug, Default)]
pub(super) struct Limits {
    /// Of several lines with one path the last decides.
    literal: HashMap<String, Vec<CgroupLine>>,
    globs: Vec<CgroupLine>,
}

impl Limits {
    /// Takes the lines in the order of files; of two that are as specific, the later one wins.
    pub fn new(lines: impl IntoIterator<Item = CgroupLine>) -> Self {
        let mut limits = Self::default();
        for line in lines {
            match line.pattern.literal() {
                Some(path) => limits.literal.entry(path).or_default().push(line),
                None => limits.globs.push(line),
            }
        }
        // The sort is stable: the later one stays ahead.
        limits.globs.reverse();
        limits.globs.sort_by(|one, other| other.pattern.specificity(&one.pattern));
        limits
    }

    /// The cgroups that a line names without a glob, and their `max`; in no order.
    pub fn literal(&self) -> impl Iterator<Item = (CgroupPath, Limit)> {
        self.literal.iter().filter_map(|(path, lines)| Some((path.parse().ok()?, lines.last()?.max)))
    }

    /// Takes out the lines of a file that name this cgroup without a glob.
    pub fn forget(&mut self, cgroup: &CgroupPath, is_of_file: impl Fn(&Source) -> bool) {
        if let Some(lines) = self.literal.get_mut(cgroup.as_str()) {
            lines.retain(|line| !is_of_file(&line.source));
        }
    }

    /// The line that decides for this cgroup. The root has no `max`, whatever matches it.
    pub fn find(&self, cgroup: &CgroupPath) -> Option<&CgroupLine> {
        if cgroup.is_root() {
            return None;
        }
        // A literal path is more specific than anything else that matches it.
        self.literal.get(cgroup.as_str()).and_then(|lines| lines.last()).or_else(|| {
            let names: Vec<&str> = cgroup.components().collect();
            self.globs.iter().find(|line| line.pattern.matches_levels(&names))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(lines: &[(&str, u64)]) -> Limits {
        Limits::new(lines.iter().enumerate().map(|(at, (path, max))| CgroupLine {
            pattern: Pattern::parse(path).unwrap(),
            max: Limit::Count(*max),
            source: Source { file: "t".into(), line: at as u32 + 1 },
        }))
    }

    fn max(limits: &Limits, path: &str) -> Option<u64> {
        match limits.find(&path.parse().unwrap())?.max {
            Limit::Count(n) => Some(n),
            Limit::Max => None,
        }
    }

    #[test]
    fn the_most_specific_line_wins_wherever_it_stands() {
        let mut lines =
            vec![("/**", 1), ("/m/**", 2), ("/m/*", 3), ("/m/*.scope", 4), ("/m/a.scope", 5), ("/m/*/in", 6)];
        for _ in 0..2 {
            let limits = limits(&lines);
            for (path, expected) in [
                ("/x", 1),
                ("/m", 2),
                ("/m/a", 3),
                ("/m/b.scope", 4),
                ("/m/a.scope", 5),
                ("/m/q/in", 6),
                ("/m/q/out", 2),
            ] {
                assert_eq!(max(&limits, path), Some(expected), "{path}");
            }
            lines.reverse();
        }
    }

    #[test]
    fn of_two_as_specific_the_later_wins() {
        assert_eq!(max(&limits(&[("/a", 1), ("/a", 2)]), "/a"), Some(2));
        assert_eq!(max(&limits(&[("/a*", 1), ("/*b", 2)]), "/ab"), Some(2));
        assert_eq!(max(&limits(&[("/*b", 2), ("/a*", 1)]), "/ab"), Some(1));
    }

    #[test]
    fn a_line_that_is_forgotten_uncovers_the_one_before() {
        let mut limits = limits(&[("/**", 1), ("/a", 2), ("/a", 3), ("/b", 4)]);
        limits.forget(&"/a".parse().unwrap(), |source| source.line == 3);
        assert_eq!((max(&limits, "/a"), max(&limits, "/b")), (Some(2), Some(4)));
        limits.forget(&"/a".parse().unwrap(), |source| source.line == 2);
        assert_eq!(max(&limits, "/a"), Some(1));
    }

    #[test]
    fn the_root_and_what_nothing_names_are_unset() {
        assert_eq!(max(&limits(&[("/**", 1)]), "/"), None);
        assert_eq!(max(&limits(&[("/a", 1)]), "/a/b"), None);
    }
}
