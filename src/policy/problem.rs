//! What is wrong with a policy, told so that it can be mended.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// One mistake in one file.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// The file as it was named.
    pub file: String,
    /// The line, from 1; 0 where the file as a whole is meant (it cannot be read).
    pub line: usize,
    /// The column in characters, from 1; 0 with line 0.
    pub column: usize,
    /// The key, from the top of the file (`rule[0].quota.max`); empty where there is none.
    pub key: String,
    /// What is wrong: a lower-case clause that names subject and value.
    pub reason: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
    /// The bytes of `text` that offend.
    #[serde(skip)]
    span: Range<usize>,
    /// The file's text.
    #[serde(skip)]
    text: Arc<str>,
}

impl Problem {
    /// A mistake at `span`, bytes of `text`; a span that leaves the text or cuts a character is mended.
    pub(super) fn at(file: &str, text: &Arc<str>, span: Range<usize>, key: &str, reason: String) -> Self {
        let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        let start = boundary(span.start);
        let span = start..boundary(span.end).max(start);
        let before = text.get(..span.start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            key: key.to_owned(),
            reason,
            hint: None,
            span,
            text: Arc::clone(text),
        }
    }

    /// The file as a whole cannot be used.
    pub(super) fn file(file: &str, reason: String) -> Self {
        let text = Arc::from("");
        Self { file: file.to_owned(), line: 0, column: 0, key: String::new(), reason, hint: None, span: 0..0, text }
    }

    pub(super) fn hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    pub(super) fn stands_in(&self, file: &str, span: &Range<usize>) -> bool {
        self.file == file && span.contains(&self.span.start)
    }

    fn group(&self) -> Group<'_> {
        let title = if self.key.is_empty() { self.reason.clone() } else { format!("{}: {}", self.key, self.reason) };
        let group = Level::ERROR.primary_title(title);
        let group = match self.line {
            0 => group.element(annotate_snippets::Origin::path(self.file.as_str())),
            _ => group.element(
                Snippet::source(&*self.text)
                    .path(self.file.as_str())
                    .annotation(AnnotationKind::Primary.span(self.span.clone())),
            ),
        };
        match &self.hint {
            Some(hint) => group.element(Level::HELP.message(hint.as_str())),
            None => group,
        }
    }
}

/// Every mistake of every file, in the order of files and lines. Never empty.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// `None` where there is none.
    pub(super) fn new(problems: Vec<Problem>) -> Option<Self> {
        if problems.is_empty() { None } else { Some(Self(problems)) }
    }

    /// The same, sorted by the files' order and then by where they stand.
    pub(super) fn in_order_of<'a>(mut self, files: impl Iterator<Item = &'a str> + Clone) -> Self {
        let order = |file: &str| files.clone().position(|name| name == file).unwrap_or(usize::MAX);
        self.0.sort_by_cached_key(|problem| (order(&problem.file), problem.span.start));
        self
    }

    /// These, then those: for who checks several policies at once.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Each of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Problem> {
        self.0.iter()
    }

    /// For people: each with file, line and column, the offending text underlined, reason and hint; with colour
    /// (ANSI escapes) for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for problem in &self.0 {
            text.push_str(&renderer.render(&[problem.group()]));
            text.push_str("\n\n");
        }
        text.push_str(&match self.0.len() {
            1 => "1 problem".to_owned(),
            n => format!("{n} problems"),
        });
        text
    }

    /// The first one on a line, and how many more there are: for a refusal or a line of the journal.
    pub fn summary(&self) -> String {
        let Some(first) = self.0.first() else { return String::new() };
        let key = if first.key.is_empty() { String::new() } else { format!("{}: ", first.key) };
        let more = match self.0.len() {
            0 | 1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        // A file that cannot be read has no line to name.
        let place = match (first.line, first.column) {
            (0, _) => first.file.clone(),
            (line, column) => format!("{}:{line}:{column}", first.file),
        };
        format!("{place}: {key}{}{more}", first.reason)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Problems {}

/// What `policy check` says: `{"valid", "problems"}`.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict<'a> {
    /// Whether there is no problem.
    pub valid: bool,
    /// All of them.
    pub problems: &'a [Problem],
}

impl<'a> Verdict<'a> {
    /// The verdict over what [`super::load()`] or [`super::check()`] returned.
    pub fn of<T>(outcome: &'a Result<T, Problems>) -> Self {
        match outcome {
            Ok(_) => Self { valid: true, problems: &[] },
            Err(problems) => Self { valid: false, problems: &problems.0 },
        }
    }
}
