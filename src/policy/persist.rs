//! The drop-in file that keeps what `set-max --persist` set.

use super::check::check;
use super::glob::escape;
use super::{Accounts, Problems};
use crate::model::{CgroupPath, Limit};
use std::fmt::Write;

/// The drop-in's name in `policy.d`.
pub const SET_MAX_FILE: &str = "90-set-max.toml";

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

/// What [`set_max_file`] wrote into this text, sorted by path; lines with globs, which others wrote, are left out.
/// `name` is what problems call the file.
pub fn set_max_entries(name: &str, text: &str) -> Result<Vec<(CgroupPath, Limit)>, Problems> {
    /// The file names no accounts.
    struct Nobody;
    impl Accounts for Nobody {
        fn uid(&self, _: &str) -> Result<Option<u32>, String> {
            Ok(None)
        }
        fn gid(&self, _: &str) -> Result<Option<u32>, String> {
            Ok(None)
        }
    }
    let policy = check(&[(name.to_owned(), text.to_owned())], &Nobody)?;
    let mut entries: Vec<_> = policy.limits.literal().collect();
    entries.sort();
    Ok(entries)
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
