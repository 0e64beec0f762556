//! The fences between the rooms, by reading the sources.
//!
//! What lies behind each: DESIGN says where a line of code lives. A room may be a file (`sync.rs`) or a directory; its
//! tests may look anywhere and are left out, and so are comments.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in what the tests share

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, bottom up: a room uses only rooms above it in this list.
const ROOMS: [&str; 21] = [
    "sync",
    "model",
    "bitmap",
    "quota",
    "shm",
    "sys",
    "proto",
    "survey",
    "policy",
    "identity",
    "client",
    "capi",
    "controller",
    "socket",
    "dbus",
    "device",
    "cgroupfs",
    "metrics",
    "bench",
    "cli",
    "daemon",
];
/// The edges: each parses, calls the controller, translates back.
const EDGES: [&str; 5] = ["socket", "dbus", "device", "cgroupfs", "metrics"];
/// Where `unsafe` may stand.
const UNSAFE: [&str; 3] = ["shm", "sys", "capi"];
/// Where memory orderings may stand.
const ORDERINGS: [&str; 3] = ["sync", "bitmap", "quota"];

/// A source file, and the room it is in.
struct Source {
    path: PathBuf,
    room: String,
    /// Its code alone: no comments, no strings' inside, no test modules.
    code: String,
    /// The same with strings.
    text: String,
}

impl Source {
    fn uses(&self, word: &str) -> bool {
        words(&self.code).any(|found| found == word)
    }

    fn uses_crate(&self, name: &str) -> bool {
        ["::", " as "].iter().any(|after| {
            let named = format!("{name}{after}");
            self.code
                .match_indices(&named)
                .any(|(at, _)| !self.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
        })
    }

    /// The rooms that it names: `crate::room`, also in a list of `use crate::{…}`.
    fn rooms(&self) -> Vec<String> {
        let mut rooms = Vec::new();
        for (at, _) in self.code.match_indices("crate::") {
            let rest = &self.code[at + "crate::".len()..];
            match rest.strip_prefix('{') {
                Some(list) => rooms.extend(heads_of_list(list)),
                None => rooms.extend(words(rest).next().map(str::to_owned)),
            }
        }
        rooms
    }
}

/// The first words of the members of a `{…}` list whose opening brace is passed already.
fn heads_of_list(list: &str) -> Vec<String> {
    let (mut depth, mut heads, mut member) = (0, Vec::new(), String::new());
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(std::mem::take(&mut member)),
            _ if depth == 0 => member.push(c),
            _ => {}
        }
    }
    heads.push(member);
    heads.iter().filter_map(|member| words(member).next().map(str::to_owned)).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// All sources of the library, less what is compiled for tests alone.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    collect(&source_dir(), &mut found);
    assert!(found.len() > 50, "the sources were not found");
    found
}

fn collect(directory: &Path, found: &mut Vec<Source>) {
    let entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    let test_modules = test_modules(&entries);
    for path in entries {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if test_modules.contains(&name) {
            continue;
        }
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let below = path.strip_prefix(source_dir()).unwrap();
            let room =
                below.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
            let whole = fs::read_to_string(&path).unwrap();
            let text = without_comments(&whole, false);
            let code = without_comments(&whole, true);
            found.push(Source { path, room, code: without_tests(&code), text: without_tests(&text) });
        }
    }
}

/// Modules that files of this directory declare under a `cfg` with `test` in it.
fn test_modules(files: &[PathBuf]) -> Vec<String> {
    let mut modules = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        let text = fs::read_to_string(file).unwrap();
        let mut for_tests = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[cfg(") {
                for_tests = words(line).any(|word| word == "test");
            } else if let Some(name) = line.trim_start_matches("pub(crate) ").strip_prefix("mod ") {
                if for_tests && name.ends_with(';') {
                    modules.push(name.trim_end_matches(';').to_owned());
                }
                for_tests = false;
            } else if !line.starts_with("#[") {
                for_tests = false;
            }
        }
    }
    modules
}

/// Without what follows `#[cfg(test)]` or the like at the bottom of the file.
fn without_tests(code: &str) -> String {
    let cut = code.match_indices("#[cfg(").find(|(at, _)| {
        let line = code[*at..].lines().next().unwrap_or_default();
        let next = code[*at..].lines().nth(1).unwrap_or_default();
        words(line).any(|word| word == "test") && next.contains("mod ") && next.trim_end().ends_with('{')
    });
    cut.map_or(code, |(at, _)| &code[..at]).to_owned()
}

/// Without comments; without what is in string literals, where asked.
fn without_comments(text: &str, strings_too: bool) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |at| &rest[at..]);
            continue;
        }
        if rest.starts_with("'\"'") {
            rest = &rest[3..];
            continue;
        }
        if rest.starts_with("r#\"") {
            let end = rest[3..].find("\"#").map_or(rest.len(), |at| at + 5);
            if !strings_too {
                out.push_str(&rest[..end]);
            }
            rest = &rest[end..];
            continue;
        }
        if c == '"' {
            let mut escaped = false;
            let end = rest[1..].char_indices().find_map(|(at, c)| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends.then_some(at + 2)
            });
            let end = end.unwrap_or(rest.len());
            out.push_str(if strings_too { "\"\"" } else { &rest[..end] });
            rest = &rest[end..];
            continue;
        }
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// Fails with every file outside `rooms` that breaks the fence.
fn fenced(what: &str, rooms: &[&str], breaks: impl Fn(&Source) -> bool) {
    let broken: Vec<PathBuf> = sources()
        .into_iter()
        .filter(|source| !rooms.contains(&source.room.as_str()) && breaks(source))
        .map(|source| source.path)
        .collect();
    assert!(broken.is_empty(), "{what} outside {rooms:?}: {broken:#?}");
}

#[test]
fn unsafe_stands_where_memory_and_system_calls_are() {
    fenced("unsafe", &UNSAFE, |source| source.uses("unsafe") && !source.path.ends_with("lib.rs"));
}

#[test]
fn orderings_stand_in_the_lock_free_rooms() {
    let orderings = ["Relaxed", "Acquire", "AcqRel", "SeqCst"];
    fenced("a memory ordering", &ORDERINGS, |source| {
        source.code.contains("Ordering::Release") || orderings.iter().any(|word| source.uses(word))
    });
    fenced("std's atomics", &ORDERINGS, |source| {
        source.code.contains("sync::atomic") && !source.code.contains("crate::sync::atomic")
    });
}

#[test]
fn every_unsafe_block_and_every_ordering_says_why() {
    for source in sources() {
        let whole = fs::read_to_string(&source.path).unwrap();
        let says = |word: &str| whole.contains(word);
        assert!(
            !source.uses("AcqRel") || says("// ORDERING:"),
            "{} has orderings without a reason",
            source.path.display()
        );
        assert!(
            !source.code.contains("unsafe {") || says("// SAFETY:"),
            "{} has unsafe without a reason",
            source.path.display()
        );
    }
}

#[test]
fn system_calls_are_made_in_shm_and_sys() {
    // The C face names C's types.
    fenced("nix", &["shm", "sys"], |source| source.uses_crate("nix"));
    fenced("libc", &["shm", "sys", "capi"], |source| source.uses_crate("libc"));
}

#[test]
fn the_runtime_is_known_to_the_edges_and_the_daemon() {
    let allowed = [&EDGES[..], &["daemon"]].concat();
    fenced("tokio", &allowed, |source| source.uses_crate("tokio") && !source.path.ends_with("sys/readiness.rs"));
}

#[test]
fn the_bus_is_known_to_dbus_and_the_client() {
    fenced("zbus", &["dbus", "client"], |source| source.uses_crate("zbus") || source.uses_crate("zbus_polkit"));
}

#[test]
fn an_edge_asks_the_controller_and_nobody_below_it() {
    for source in sources().iter().filter(|source| EDGES.contains(&source.room.as_str())) {
        for room in source.rooms() {
            let below = ["quota", "bitmap", "shm", "policy"].contains(&room.as_str());
            let beside = EDGES.contains(&room.as_str()) && room != source.room;
            assert!(!below && !beside, "{} uses {room}", source.path.display());
        }
    }
}

#[test]
fn a_room_uses_only_rooms_below_it() {
    let rank = |room: &str| ROOMS.iter().position(|name| *name == room);
    for source in sources() {
        if ["lib", "bin"].contains(&source.room.as_str()) {
            continue;
        }
        let own = rank(&source.room).unwrap_or_else(|| panic!("{} is in no room of DESIGN", source.path.display()));
        for room in source.rooms() {
            let Some(other) = rank(&room) else { continue };
            assert!(other <= own, "{} is above {}, which {} is in", room, source.room, source.path.display());
        }
    }
}

#[test]
fn codes_and_bus_names_are_spelled_in_proto_alone() {
    let codes = ["EAGAIN", "EDQUOT", "ENOSPC", "ESTALE", "EMFILE", "EOPNOTSUPP"];
    fenced("an error code of the contract in a string", &["proto"], |source| {
        codes.iter().any(|code| source.text.contains(&format!("\"{code}\"")))
    });
    // zbus takes the names of an interface and of signals as literals in its attributes.
    fenced("a bus name", &["proto"], |source| {
        source.text.lines().any(|line| {
            line.contains("org.ioasid1")
                && !line.trim_start().starts_with("#[")
                && !line.contains("interface(")
                && !line.contains("name = ")
        })
    });
}

#[test]
fn no_room_is_a_heap_of_odds_and_ends() {
    for source in sources() {
        let name = source.path.file_stem().unwrap().to_str().unwrap();
        assert!(
            !["util", "utils", "helpers", "helper", "manager", "misc"].contains(&name),
            "{}",
            source.path.display()
        );
    }
}
