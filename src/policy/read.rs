//! Walks a parsed file: takes each key with its type, and reports what does not fit where it stands.
//!
//! By hand rather than by derived deserialisation, which stops at the first mistake.

use super::keys::TOP;
use super::problem::Problem;
use super::settings::Source;
use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One file's name and text.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub name: Arc<str>,
    pub text: Arc<str>,
    /// Where the lines end.
    ends: Arc<[usize]>,
}

impl File {
    pub fn new(name: &str, text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
        Self { name: name.into(), text: text.into(), ends }
    }

    /// The line that a byte stands in, from 1.
    pub fn line(&self, at: usize) -> usize {
        self.ends.partition_point(|end| *end < at) + 1
    }
}

/// Gathers the problems of all files.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: RefCell<Vec<Problem>>,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub place: Place,
}

/// A place in a file, and the key there.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub file: File,
    pub key: String,
    pub span: Range<usize>,
}

impl Place {
    /// The file and line, to be shown at run time.
    pub fn source(&self) -> Source {
        let line = self.file.line(self.span.start).try_into().unwrap_or(u32::MAX);
        Source { file: Arc::clone(&self.file.name), line }
    }
}

impl Report {
    pub fn at(&self, place: &Place, reason: impl Into<String>) {
        self.with_hint(place, reason, None::<String>);
    }

    pub fn with_hint(&self, place: &Place, reason: impl Into<String>, hint: Option<impl Into<String>>) {
        let Place { file, key, span } = place;
        let problem = Problem::at(&file.name, &file.text, span.clone(), key, reason.into());
        self.push(problem.hint(hint.map(Into::into)));
    }

    pub fn push(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Whether something within this place was reported already.
    pub fn spoke_of(&self, place: &Place) -> bool {
        self.problems.borrow().iter().any(|problem| problem.stands_in(&place.file.name, &place.span))
    }

    pub fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// A table whose keys are known.
pub(super) struct Table<'a> {
    report: &'a Report,
    entries: &'a DeTable<'a>,
    /// Where the table stands; its key ends in a dot unless it is the top.
    pub place: Place,
}

impl<'a> Table<'a> {
    /// The top of a file. Reports keys that are none of `keys`.
    pub fn top(report: &'a Report, file: File, entries: &'a DeTable<'a>, keys: &[&str]) -> Self {
        let table = Self { report, entries, place: Place { file, key: String::new(), span: 0..0 } };
        table.check_keys(keys);
        table
    }

    fn check_keys(&self, keys: &[&str]) {
        for (name, _) in self.entries {
            let word = name.get_ref().as_ref();
            if keys.contains(&word) {
                continue;
            }
            let hint = match nearest(word, keys) {
                // A key after a [table] is that table's, which TOML's newcomers do not expect.
                _ if TOP.contains(&word) => {
                    let or = match word {
                        "version" => String::new(),
                        "cgroup" | "rule" => format!(", or as [[{word}]]"),
                        _ => format!(", or as [{word}]"),
                    };
                    format!("`{word}` belongs to the file itself: write it above the first [table]{or}")
                }
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", keys.join(", ")),
            };
            self.report.with_hint(&self.below(word, name.span()), format!("unknown key {word:?}"), Some(hint));
        }
    }

    fn below(&self, name: &str, span: Range<usize>) -> Place {
        // A key that is not bare is quoted, so that it stays one word on one line.
        let bare = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '[' | ']');
        let name = if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { format!("{name:?}") };
        Place { file: self.place.file.clone(), key: format!("{}{name}", self.place.key), span }
    }

    /// The value of a key, and where it stands.
    fn value(&self, name: &str) -> Option<(&'a DeValue<'a>, Place)> {
        let value = self.entries.get(name)?;
        Some((value.get_ref(), self.below(name, value.span())))
    }

    /// Where a key's value stands; where there is none, the table itself.
    pub fn place_of(&self, name: &str) -> Place {
        self.value(name).map_or_else(|| self.below(name, self.place.span.clone()), |(_, place)| place)
    }

    fn wrong_type(&self, place: &Place, value: &DeValue<'_>, expected: &str, hint: Option<String>) {
        let (found, hint) = match (value, hint) {
            (DeValue::String(text), hint) => (format!("{:?} is a string", shortened(text)), hint),
            (value, hint) => (format!("it is {}", article(value.type_str())), hint),
        };
        self.report.with_hint(place, format!("{found}, not {expected}"), hint);
    }

    /// A table under this key. Reports a value of another type, and keys that are none of `keys`.
    pub fn table(&self, name: &str, keys: &[&str]) -> Option<Self> {
        let (value, place) = self.value(name)?;
        self.as_table(value, place, keys)
    }

    fn as_table(&self, value: &'a DeValue<'a>, mut place: Place, keys: &[&str]) -> Option<Self> {
        let Some(entries) = value.as_table() else {
            self.wrong_type(&place, value, "a table", None);
            return None;
        };
        place.key.push('.');
        let table = Self { report: self.report, entries, place };
        table.check_keys(keys);
        Some(table)
    }

    /// The tables `[[name]]`.
    pub fn tables(&self, name: &str, keys: &[&str]) -> Vec<Self> {
        let Some((value, place)) = self.value(name) else { return Vec::new() };
        let Some(items) = value.as_array() else {
            let hint = value.is_table().then(|| format!("write [[{name}]]"));
            self.wrong_type(&place, value, "an array of tables", hint);
            return Vec::new();
        };
        let item = |(at, item): (usize, &'a Spanned<DeValue<'a>>)| {
            let place = self.below(&format!("{name}[{at}]"), item.span());
            self.as_table(item.get_ref(), place, keys)
        };
        items.iter().enumerate().filter_map(item).collect()
    }

    /// A whole number within `bounds`, both ends included.
    pub fn number(&self, name: &str, bounds: RangeInclusive<u64>) -> Option<At<u64>> {
        let (value, place) = self.value(name)?;
        self.as_number(value, place, bounds)
    }

    fn as_number(&self, value: &DeValue<'_>, place: Place, bounds: RangeInclusive<u64>) -> Option<At<u64>> {
        let Some(integer) = value.as_integer() else {
            let unquoted = value.as_str().filter(|text| text.trim().parse::<u64>().is_ok());
            let hint = unquoted.map(|text| format!("write it without quotes: {}", text.trim()));
            self.wrong_type(&place, value, "a whole number", hint);
            return None;
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        match number.map(u64::try_from) {
            Some(Ok(value)) if bounds.contains(&value) => return Some(At { value, place }),
            Some(Err(_)) if number.is_some_and(|n| n < 0) => self.report.at(&place, format!("{integer} is negative")),
            _ => {
                let (least, most) = (bounds.start(), bounds.end());
                let reason = format!("{integer} is out of bounds, {least} to {most}");
                self.report.at(&place, reason);
            }
        }
        None
    }

    /// A whole number within `bounds`, or the one word that may stand for it (`None`).
    pub fn number_or(&self, name: &str, word: &str, bounds: RangeInclusive<u64>) -> Option<At<Option<u64>>> {
        let (value, place) = self.value(name)?;
        match value {
            DeValue::String(text) if text == word => Some(At { value: None, place }),
            DeValue::Integer(_) => {
                self.as_number(value, place, bounds).map(|At { value, place }| At { value: Some(value), place })
            }
            DeValue::String(text) => {
                let hint = match text.trim().parse::<u64>() {
                    Ok(number) => Some(format!("write it without quotes: {number}")),
                    Err(_) => nearest(text, &[word]).map(|word| format!("did you mean {word:?}?")),
                };
                self.wrong_type(&place, value, &format!("a whole number or {word:?}"), hint);
                None
            }
            _ => {
                self.wrong_type(&place, value, &format!("a whole number or {word:?}"), None);
                None
            }
        }
    }

    /// True or false.
    pub fn boolean(&self, name: &str) -> Option<At<bool>> {
        let (value, place) = self.value(name)?;
        if let Some(value) = value.as_bool() {
            return Some(At { value, place });
        }
        let unquoted = value.as_str().filter(|text| matches!(*text, "true" | "false"));
        self.wrong_type(
            &place,
            value,
            "true or false",
            unquoted.map(|text| format!("write it without quotes: {text}")),
        );
        None
    }

    /// A string.
    pub fn string(&self, name: &str) -> Option<At<String>> {
        let (value, place) = self.value(name)?;
        self.as_string(value, place)
    }

    fn as_string(&self, value: &DeValue<'_>, place: Place) -> Option<At<String>> {
        if let Some(text) = value.as_str() {
            return Some(At { value: text.to_owned(), place });
        }
        let hint = match value {
            DeValue::Integer(integer) => Some(format!("write it in quotes: \"{integer}\"")),
            _ => None,
        };
        self.wrong_type(&place, value, "a string", hint);
        None
    }

    /// A string that `parse` takes; what it says otherwise is a reason and a hint.
    pub fn parsed<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, (String, Option<String>)>) -> Option<At<T>> {
        self.string(name).and_then(|text| self.parse(text, &parse))
    }

    fn parse<T>(&self, text: At<String>, parse: impl Fn(&str) -> Result<T, (String, Option<String>)>) -> Option<At<T>> {
        match parse(&text.value) {
            Ok(value) => Some(At { value, place: text.place }),
            Err((reason, hint)) => {
                self.report.with_hint(&text.place, reason, hint);
                None
            }
        }
    }

    /// An array of strings that `parse` takes, those left out that it does not; `None` where the key is missing.
    pub fn list<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, (String, Option<String>)>,
    ) -> Option<At<Vec<At<T>>>> {
        let (value, place) = self.value(name)?;
        let Some(items) = value.as_array() else {
            let hint = value.as_str().map(|text| format!("write it in brackets: [{text:?}]"));
            self.wrong_type(&place, value, "an array of strings", hint);
            return None;
        };
        let item = |item: &Spanned<DeValue<'_>>| {
            let text = self.as_string(item.get_ref(), Place { span: item.span(), ..place.clone() })?;
            self.parse(text, &parse)
        };
        let value = items.iter().filter_map(item).collect();
        Some(At { value, place })
    }

    /// Whether the key is there, whatever its value.
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }
}

fn article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// At most 64 characters of a text.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The known word that was probably meant: at most a third of its letters differ.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    if word.len() > 64 {
        return None;
    }
    let distances = known.iter().map(|known| (distance(word, known), *known));
    let (distance, nearest) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= nearest.len().div_ceil(3)).then_some(nearest)
}

/// How many letters to insert, delete or replace to get from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (at, c) in from.chars().enumerate() {
        let mut next = vec![at + 1];
        for ((other, pair), left) in to.iter().zip(row.windows(2)).zip(0..) {
            let [diagonal, above]: [usize; 2] = pair.try_into().unwrap_or_default();
            let replaced = diagonal + usize::from(c != *other);
            let inserted = next.get(left).copied().unwrap_or_default() + 1;
            next.push(replaced.min(inserted).min(above + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_hand_finds_the_word() {
        let known = ["quota", "users", "groups", "on_behalf_of", "max"];
        for (word, meant) in
            [("qouta", Some("quota")), ("user", Some("users")), ("on_behalf", Some("on_behalf_of")), ("zzz", None)]
        {
            assert_eq!(nearest(word, &known), meant, "{word}");
        }
    }
}
