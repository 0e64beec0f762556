//! Patterns for cgroup paths and domains.
//!
//! A pattern is matched level by level; a level is a literal name, a partial glob, `*` (one level, whatever its
//! name) or `**` (any number of levels, none included: `/x/**` is `/x` and all below it). In a partial glob `*`
//! is any number of characters, `?` one, `[a-z]` one of these and `[!a-z]` one that is none of these.
//!
//! **Escapes.** A backslash is an ordinary character, for systemd writes names such as `machine-qemu\x2d1`. A
//! `*`, `?` or `[` that is meant literally stands in a class of its own: `[*]`, `[?]`, `[[]`. [`escape`] writes it so.

use crate::model::CgroupPath;
use std::cmp::Ordering;
use std::fmt;

/// A pattern over cgroup paths, from the cgroup2 root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    levels: Vec<Level>,
}

/// A glob over one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Vec<Token>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Literal(String),
    Partial(Glob),
    Any,
    Below,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    One,
    Many,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// Why a text is no pattern, and what to write instead where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadPattern {
    pub reason: String,
    pub hint: Option<&'static str>,
}

fn bad<T>(reason: String, hint: Option<&'static str>) -> Result<T, BadPattern> {
    Err(BadPattern { reason, hint })
}

impl Pattern {
    /// Reads a pattern; one trailing slash is ignored, as in a cgroup path.
    pub(super) fn parse(text: &str) -> Result<Self, BadPattern> {
        let Some(names) = text.strip_prefix('/') else {
            return bad(
                format!("the cgroup path {text:?} does not begin with a slash"),
                Some("paths start at the cgroup2 root, as /proc/PID/cgroup has them after 0::"),
            );
        };
        if text.len() > CgroupPath::MAX_BYTES {
            return bad(format!("the cgroup path is longer than {} bytes", CgroupPath::MAX_BYTES), None);
        }
        let names = names.strip_suffix('/').unwrap_or(names);
        let levels = match (names, text) {
            ("", "//") => return bad(format!("the cgroup path {text:?} has an empty level"), None),
            ("", _) => Vec::new(),
            _ => names.split('/').map(Level::parse).collect::<Result<_, _>>()?,
        };
        Ok(Self { text: text.to_owned(), levels })
    }

    /// Whether it is this cgroup.
    pub fn matches(&self, cgroup: &CgroupPath) -> bool {
        self.matches_levels(&cgroup.components().collect::<Vec<_>>())
    }

    pub(super) fn matches_levels(&self, names: &[&str]) -> bool {
        wildcard(&self.levels, names, |level| *level == Level::Below, |level, name| level.matches(name))
    }

    /// The one path it is, where it has no glob.
    pub(super) fn literal(&self) -> Option<String> {
        let mut path = String::new();
        for level in &self.levels {
            let Level::Literal(name) = level else { return None };
            path.push('/');
            path.push_str(name);
        }
        Some(if path.is_empty() { "/".to_owned() } else { path })
    }

    /// Orders by how specific two patterns are: level by level a literal is greater than a partial glob, that than
    /// `*`, that than `**`. Where one ends, it is greater than `**` and less than any other level.
    pub fn specificity(&self, other: &Self) -> Ordering {
        let ends = self.levels.len().max(other.levels.len());
        let rank = |pattern: &Self, at: usize| pattern.levels.get(at).map_or(1, Level::rank);
        (0..ends).map(|at| rank(self, at).cmp(&rank(other, at))).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl Level {
    fn parse(name: &str) -> Result<Self, BadPattern> {
        match name {
            "" => return bad("the cgroup path has an empty level".to_owned(), None),
            "." | ".." => return bad(format!("the cgroup path has {name:?} as a level"), None),
            "*" => return Ok(Self::Any),
            "**" => return Ok(Self::Below),
            _ => {}
        }
        if name.contains(['\0', '\n']) {
            return bad(format!("{name:?} is no name of a cgroup"), None);
        }
        if name.contains("**") {
            return bad(format!("`**` in {name:?} is not a level of its own"), Some("write `*` within a level"));
        }
        let glob = Glob::parse(name)?;
        Ok(glob.literal().map_or(Self::Partial(glob), Self::Literal))
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Literal(_) => 4,
            Self::Partial(_) => 3,
            Self::Any => 2,
            Self::Below => 0,
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Literal(literal) => literal == name,
            Self::Partial(glob) => glob.matches(name),
            Self::Any | Self::Below => true,
        }
    }
}

impl Glob {
    pub(super) fn parse(text: &str) -> Result<Self, BadPattern> {
        let mut tokens = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            tokens.push(match c {
                '*' => Token::Many,
                '?' => Token::One,
                '[' => match class(&mut rest) {
                    Some(class) => class,
                    None => {
                        return bad(
                            format!("the class in {text:?} is empty, backwards or not closed"),
                            Some("a literal [ is written [[]"),
                        );
                    }
                },
                _ => Token::Char(c),
            });
        }
        Ok(Self(tokens))
    }

    /// Whether it is this name.
    pub fn matches(&self, name: &str) -> bool {
        // Names differ early: most are told apart by what comes before the first glob.
        let mut chars = name.chars();
        for token in &self.0 {
            match token {
                Token::Char(c) if chars.next() != Some(*c) => return false,
                Token::Char(_) => {}
                _ => break,
            }
        }
        let name: Vec<char> = name.chars().collect();
        wildcard(&self.0, &name, |token| *token == Token::Many, |token, c| token.matches(*c))
    }

    fn literal(&self) -> Option<String> {
        self.0.iter().map(|token| if let Token::Char(c) = token { Some(*c) } else { None }).collect()
    }
}

impl Token {
    fn matches(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::One | Self::Many => true,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)) != *negated
            }
        }
    }
}

/// What stands after a `[`, up to its `]`; a `]` right at the start is a member. A class of one is that character.
fn class(rest: &mut std::str::Chars<'_>) -> Option<Token> {
    let mut next = rest.next()?;
    let negated = next == '!';
    if negated {
        next = rest.next()?;
    }
    let mut ranges = Vec::new();
    loop {
        let mut ahead = rest.clone();
        let last = match (ahead.next()?, ahead.next()) {
            ('-', Some(last)) if last != ']' => {
                *rest = ahead;
                last
            }
            _ => next,
        };
        if last < next {
            return None;
        }
        ranges.push((next, last));
        match (rest.next()?, ranges.as_slice()) {
            (']', [(first, last)]) if first == last && !negated => return Some(Token::Char(*first)),
            (']', _) => return Some(Token::Class { negated, ranges }),
            (c, _) => next = c,
        }
    }
}

/// Matches greedily and goes back to the last `many` alone, which is enough: what came before it is matched as
/// short as it can be. Takes at most pattern times text steps.
fn wildcard<P, T>(pattern: &[P], text: &[T], many: impl Fn(&P) -> bool, one: impl Fn(&P, &T) -> bool) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while let Some(item) = text.get(t) {
        match pattern.get(p) {
            Some(token) if many(token) => {
                back = Some((p + 1, t));
                p += 1;
            }
            Some(token) if one(token, item) => {
                p += 1;
                t += 1;
            }
            _ => match back.as_mut() {
                Some((after, taken)) => {
                    *taken += 1;
                    (p, t) = (*after, *taken);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(many)
}

/// The text of a pattern that is this path and no other.
pub fn escape(path: &CgroupPath) -> String {
    let mut text = String::with_capacity(path.as_str().len());
    for c in path.as_str().chars() {
        match c {
            '*' | '?' | '[' => text.extend(['[', c, ']']),
            _ => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(&path.parse().unwrap())
    }

    #[test]
    fn a_star_stays_within_one_level() {
        assert!(matches("/a/*", "/a/b") && !matches("/a/*", "/a") && !matches("/a/*", "/a/b/c"));
        assert!(matches("/m/*.scope", "/m/x.scope") && !matches("/m/*.scope", "/m/x/y.scope"));
    }

    #[test]
    fn two_stars_are_the_cgroup_and_all_below() {
        for path in ["/x", "/x/y", "/x/y/z"] {
            assert!(matches("/x/**", path), "{path}");
        }
        assert!(!matches("/x/**", "/xy") && !matches("/x/**", "/") && matches("/**", "/"));
        assert!(matches("/a/**/c", "/a/c") && matches("/a/**/c", "/a/b/b/c") && !matches("/a/**/c", "/a/c/b"));
    }

    #[test]
    fn a_backslash_is_a_backslash() {
        assert!(matches(r"/m/machine-qemu\x2d1", r"/m/machine-qemu\x2d1"));
        assert!(matches(r"/m/machine-qemu\x2d*.scope", r"/m/machine-qemu\x2d17.scope"));
        assert!(!matches(r"/m/\*", "/m/*") && matches(r"/m/\*", r"/m/\x"));
    }

    #[test]
    fn classes_stand_for_one_character() {
        assert!(matches("/g[0-9]", "/g5") && !matches("/g[0-9]", "/gx") && matches("/g[!0-9]", "/gx"));
        assert!(matches("/g[]x]", "/g]") && matches("/g[a-]", "/g-") && matches("/g?", "/gé"));
    }

    #[test]
    fn an_escaped_path_is_that_path_alone() {
        for text in ["/a*b", "/a?b/[x]", r"/machine-qemu\x2d1.scope", "/", "/]["] {
            let path: CgroupPath = text.parse().unwrap();
            let pattern = Pattern::parse(&escape(&path)).unwrap();
            assert_eq!(pattern.literal().as_deref(), Some(text));
            assert!(pattern.matches(&path) && !pattern.matches(&"/axb".parse().unwrap()));
        }
    }

    #[test]
    fn level_by_level_a_literal_beats_a_partial_glob_beats_a_star_beats_two() {
        let ordered = ["/**", "/**/b", "/*", "/*/b", "/a*", "/a*/b", "/a/**", "/a", "/a/*", "/a/b*", "/a/b/**", "/a/b"];
        for pair in ordered.windows(2) {
            let [less, more] = pair else { panic!() };
            let (less, more) = (Pattern::parse(less).unwrap(), Pattern::parse(more).unwrap());
            assert_eq!(less.specificity(&more), Ordering::Less, "{less} {more}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "a", "//", "/a//b", "/a/../b", "/.", "/a**", "/[", "/[]", "/[z-a]", "/a[b", "/a\nb"] {
            assert!(Pattern::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn many_stars_do_not_take_forever() {
        let pattern = format!("/{}x", "*a".repeat(100));
        assert!(!matches(&pattern, &format!("/{}", "a".repeat(250))));
    }
}
