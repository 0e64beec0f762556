//! What the documents show: commands as a person types them, and what they answer.
//!
//! A command stands behind a prompt, `# ` of root or `$ ` of anybody, in a fenced block of the README or in a literal
//! display of a manual page; lines that follow without a prompt are what it prints.

use std::fs;
use std::path::Path;

/// One command.
#[derive(Debug)]
pub struct Shown {
    /// It takes root.
    pub as_root: bool,
    /// What is typed; a here-document and lines that go on after a backslash are in it.
    pub typed: String,
    /// What is shown as its output.
    pub output: Vec<String>,
}

impl Shown {
    /// Its first line, without a comment.
    pub fn name(&self) -> &str {
        let line = self.typed.lines().next().unwrap_or_default();
        line.split("  #").next().unwrap_or_default().trim_end()
    }

    fn goes_on(&self) -> bool {
        let ends_with = |line: &str| self.typed.lines().skip(1).any(|typed| typed == line);
        let here = self.typed.split_once("<<'").and_then(|(_, rest)| rest.split_once('\''));
        self.typed.ends_with('\\') || here.is_some_and(|(end, _)| !ends_with(end))
    }
}

/// Commands that are typed one after the other.
#[derive(Debug)]
pub struct Block {
    /// The file it stands in, below the source.
    pub document: String,
    /// The commands.
    pub commands: Vec<Shown>,
}

impl Block {
    fn parse(document: &str, text: &str) -> Option<Self> {
        let mut commands: Vec<Shown> = Vec::new();
        for line in text.lines() {
            let prompt = line.split_at_checked(2).filter(|(prompt, _)| ["# ", "$ "].contains(prompt));
            match (commands.last_mut(), prompt) {
                (Some(last), _) if last.goes_on() => last.typed = format!("{}\n{line}", last.typed),
                (_, Some((prompt, typed))) => {
                    commands.push(Shown { as_root: prompt == "# ", typed: typed.to_owned(), output: Vec::new() });
                }
                (Some(last), None) => last.output.push(line.to_owned()),
                (None, None) => return None,
            }
        }
        (!commands.is_empty()).then(|| Self { document: document.to_owned(), commands })
    }
}

/// The text of a file of the source.
pub fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The fenced blocks of a Markdown file in one language.
pub fn fenced(name: &str, language: &str) -> Vec<String> {
    let (text, fence) = (document(name), format!("\n```{language}\n"));
    let opened = text.split(fence.as_str()).skip(1);
    opened.map(|rest| rest.split("\n```").next().unwrap_or_default().to_owned()).collect()
}

/// The literal displays of a manual page, and its lines of literal text that stand together, escapes resolved.
pub fn displays(name: &str) -> Vec<String> {
    let (mut displays, mut literal, mut together) = (Vec::new(), false, false);
    for line in document(name).lines() {
        let plain = || line.replace("\\e", "\\").replace("\\(dq", "\"").replace("\\&", "");
        match (line, line.strip_prefix(".Dl ")) {
            (".Ed", _) => literal = false,
            (begin, _) if begin.starts_with(".Bd -literal") => {
                literal = true;
                displays.push(String::new());
            }
            (_, Some(_)) if together => displays.last_mut().unwrap().push_str(&plain()[".Dl ".len()..]),
            (_, Some(_)) => displays.push(plain()[".Dl ".len()..].to_owned()),
            _ if literal => displays.last_mut().unwrap().push_str(&plain()),
            _ => {}
        }
        together = line.starts_with(".Dl ");
        if literal && !line.starts_with(".Bd") || together {
            displays.last_mut().unwrap().push('\n');
        }
    }
    displays
}

/// All documents that show commands.
pub fn documents() -> Vec<String> {
    let pages = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/man")).unwrap();
    let mut names: Vec<String> =
        pages.map(|page| format!("packaging/man/{}", page.unwrap().file_name().to_str().unwrap())).collect();
    names.push("README.md".to_owned());
    names.sort();
    names
}

/// The blocks of commands in a document.
pub fn blocks(name: &str) -> Vec<Block> {
    let texts = if name.ends_with(".md") { fenced(name, "console") } else { displays(name) };
    texts.iter().filter_map(|text| Block::parse(name, text)).collect()
}

/// The block of the README whose first command begins so.
pub fn readme_block(beginning: &str) -> Block {
    let found = blocks("README.md").into_iter().find(|block| block.commands[0].typed.starts_with(beginning));
    found.unwrap_or_else(|| panic!("no block of the README begins with {beginning:?}"))
}
