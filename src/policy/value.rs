//! Values that are more than their TOML type: ranges, patterns, domains, words, spans of time.

use super::glob::{BadPattern, Glob, Pattern};
use super::read::{nearest, shortened};
use super::rule::DomainGlob;
use crate::model::{Domain, MAX_BITS, PasidRange};
use std::time::Duration;

/// As many ids as the widest space has.
pub(super) const IDS: u64 = 1 << MAX_BITS;

/// Why a text is not what it should be, and what to do about it.
pub(super) type Reason = (String, Option<String>);

pub(super) fn range(text: &str) -> Result<PasidRange, Reason> {
    text.parse().map_err(|_| {
        let ends = text.split_once('-').map(|(min, max)| (min.trim().parse::<u64>(), max.trim().parse::<u64>()));
        match ends {
            Some((Ok(min), Ok(max))) if min > max => {
                (format!("the range {text:?} is empty"), Some(format!("did you mean \"{max}-{min}\"?")))
            }
            Some((Ok(_), Ok(_))) => (format!("the range {text:?} leaves the widest space, 0-{}", IDS - 1), None),
            _ => {
                let reason = format!("{:?} is no range", shortened(text));
                (reason, Some("both ends are included: \"1024-4095\"".to_owned()))
            }
        }
    })
}

pub(super) fn pattern(text: &str) -> Result<Pattern, Reason> {
    Pattern::parse(text).map_err(|BadPattern { reason, hint }| (reason, hint.map(str::to_owned)))
}

pub(super) fn domain(text: &str) -> Result<DomainGlob, Reason> {
    let no_domain = |hint: Option<&str>| (format!("{:?} is no domain", shortened(text)), hint.map(str::to_owned));
    let example = Some("write \"global\", \"pci:*\" or \"pci:0000:3a:00.0\"");
    let is_glob = text.contains(['*', '?', '[']);
    let glob = Glob::parse(text).map_err(|BadPattern { .. }| no_domain(example))?;
    let known = match text.strip_prefix("pci:") {
        Some(address) if is_glob => {
            address.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '.' | '*' | '?' | '[' | ']' | '-' | '!'))
        }
        _ => text == "*" || text.parse::<Domain>().is_ok(),
    };
    if known { Ok(DomainGlob { text: text.to_owned(), glob }) } else { Err(no_domain(example)) }
}

pub(super) fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, Reason> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = nearest(text, &known).map(|word| format!("did you mean {word:?}?"));
        (format!("{:?} is none of {}", shortened(text), known.join(", ")), hint)
    })
}

/// A span of time as systemd writes them: numbers with units, added up (`1min 30s`).
pub(super) fn duration(text: &str) -> Result<Duration, Reason> {
    let bad = || {
        let reason = format!("{:?} is no span of time", shortened(text));
        (reason, Some("write it with its unit: us, ms, s, min or h".to_owned()))
    };
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, tail) = rest.split_at(digits);
        let tail = tail.trim_start();
        let (unit, tail) = tail.split_at(tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len()));
        let micros: u64 = match unit {
            "us" => 1,
            "ms" => 1_000,
            "s" | "sec" => 1_000_000,
            "min" | "m" => 60_000_000,
            "h" => 3_600_000_000,
            _ => return Err(bad()),
        };
        let part = number.parse::<u64>().ok().and_then(|number| number.checked_mul(micros)).ok_or_else(bad)?;
        total = total.checked_add(Duration::from_micros(part)).ok_or_else(bad)?;
        rest = tail.trim_start();
        if rest.is_empty() {
            return Ok(total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_have_units_and_add_up() {
        for (text, micros) in
            [("0", 0), ("250ms", 250_000), ("1s", 1_000_000), ("1min 30s", 90_000_000), ("2h", 7_200_000_000)]
        {
            assert_eq!(duration(text).unwrap(), Duration::from_micros(micros), "{text}");
        }
        for text in ["", "1", "-1s", "s", "1.5s", "1 fortnight", "99999999999999999999s", "9999999999999999h", "1s s"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_domain_is_global_a_function_or_a_pattern_of_functions() {
        for text in ["global", "*", "pci:*", "pci:0000:3a:00.0", "pci:0000:3a:*", "pci:0000:3[ab]:00.?"] {
            assert!(domain(text).is_ok(), "{text}");
        }
        for text in ["", "Global", "glob*", "pci", "pci:", "pci:zz", "pci:z*", "pci:0000:3a:00", "pci:["] {
            assert!(domain(text).is_err(), "{text:?}");
        }
    }
}
