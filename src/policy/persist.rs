//! The drop-in file that keeps what `set-max --persist` set.

use super::glob::{escape, unescape};
use crate::model::{CgroupPath, Limit};
use std::fmt::Write;

/// The text of `90-set-max.toml` with these limits: literal paths (see [`escape`]), which are as specific as a line
/// can be. It reads back as what was put in.
pub fn set_max_file(limits: &[(CgroupPath, Limit)]) -> String {
    let mut text = String::from(
        "# Written by `ioasidctl set-max --persist`; `set-max CGROUP policy --persist` takes a line out.\nversion = 1\n",
    );
    for (cgroup, max) in limits {
        let max = match max {
            Limit::Count(number) => number.to_string(),
            Limit::Max => "\"max\"".to_owned(),
        };
        // A write to a String cannot fail.
        let _ = write!(text, "\n[[cgroup]]\npath = {}\nmax = {max}\n", quoted(&escape(cgroup)));
    }
    text
}

/// The limits in the text of a `90-set-max.toml`. What is not one line of `set-max` is an error, in words: it would be
/// lost when the file is written again.
pub fn read_set_max_file(text: &str) -> Result<Vec<(CgroupPath, Limit)>, String> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(rename = "version")]
        _version: u32,
        #[serde(default)]
        cgroup: Vec<Line>,
    }
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        path: String,
        max: Limit,
    }
    let file: File = toml::from_str(text).map_err(|e| e.message().to_owned())?;
    let lines = file.cgroup.into_iter().map(|line| {
        let path = unescape(&line.path).ok_or_else(|| format!("path {:?} is a pattern", line.path))?;
        Ok((path, line.max))
    });
    lines.collect()
}

/// A TOML string: literal where it can be, for unit names have backslashes.
fn quoted(text: &str) -> String {
    if !text.contains(|c: char| c == '\'' || c.is_control()) {
        return format!("'{text}'");
    }
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
