//! The drop-in file that keeps what `set-max --persist` set.

use super::glob::escape;
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
