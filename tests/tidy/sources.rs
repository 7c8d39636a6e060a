//! The repository's files, and Rust code without its comments, texts and unit tests.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One file of the repository.
pub struct File {
    /// From the root, with `/`.
    pub path: String,
    pub text: String,
    /// Of a Rust file: the text with comments, and what is inside quotes, made blank.
    pub code: String,
    /// Bytes of `code` that are compiled for tests only.
    tests: Vec<Range<usize>>,
}

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every text file that git does not ignore, by path.
pub fn files() -> Vec<File> {
    let ignored = fs::read_to_string(root().join(".gitignore")).unwrap();
    let ignored: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('/')).collect();
    let mut files = Vec::new();
    walk(&root(), "", &ignored, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn walk(dir: &Path, prefix: &str, ignored: &[&str], files: &mut Vec<File>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if path == ".git" || ignored.contains(&path.as_str()) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), &format!("{path}/"), ignored, files);
        } else if let Ok(text) = String::from_utf8(fs::read(entry.path()).unwrap()) {
            files.push(File::new(path, text));
        }
    }
}

impl File {
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let code = if path.ends_with(".rs") { code(&text) } else { String::new() };
        Self { tests: unit_tests(&code), path, text, code }
    }

    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The whole file is for tests.
    pub fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap();
        self.path.split('/').any(|part| part == "tests") || name == "tests.rs" || name.ends_with("_tests.rs")
    }

    /// Where `word` stands in the code as a word of its own (it may end in `(` or `::`), as byte offsets. Code for tests
    /// only is left out unless `with_tests`.
    pub fn find(&self, word: &str, with_tests: bool) -> Vec<usize> {
        if self.is_test() && !with_tests {
            return Vec::new();
        }
        let part_of_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let found = self.code.match_indices(word).map(|(at, _)| at);
        found
            .filter(|at| {
                let (before, after) = (&self.code[..*at], &self.code[at + word.len()..]);
                let open_end = word.ends_with(|c: char| !c.is_alphanumeric() && c != '_');
                !part_of_name(before.chars().next_back())
                    && (open_end || !part_of_name(after.chars().next()))
                    && (with_tests || !self.in_unit_tests(*at))
            })
            .collect()
    }

    /// Whether the byte offset `at` is in code for unit tests.
    pub fn in_unit_tests(&self, at: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&at))
    }

    /// `path:line`, as editors take it.
    pub fn place(&self, at: usize) -> String {
        format!("{}:{}", self.path, self.text[..at].matches('\n').count() + 1)
    }
}

/// The same length, with a space for each byte of a comment or of the inside of a text.
pub fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match token(&bytes[at..], at > 0 && is_name(bytes[at - 1])) {
            Some((start, end)) => {
                let inside = (at + start)..(at + end).min(bytes.len());
                code[inside].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
                at + end
            }
            None => at + 1,
        };
        at = end;
    }
    // whole comments and texts were replaced, so no character was cut
    String::from_utf8(code).unwrap()
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The bytes to make blank when a comment or text begins here.
fn token(rest: &[u8], in_name: bool) -> Option<(usize, usize)> {
    match rest {
        [b'/', b'/', ..] => Some((0, find(rest, b"\n", 0))),
        [b'/', b'*', ..] => Some((0, block_comment(rest))),
        [b'"', ..] => Some((1, quoted(rest, b'"'))),
        [b'r', b'"' | b'#', ..] if !in_name => raw(rest, 1),
        [b'b' | b'c', b'r', b'"' | b'#', ..] if !in_name => raw(rest, 2),
        [b'\'', b'\\', ..] => Some((1, quoted(rest, b'\''))),
        [b'\'', ..] => {
            // a character has its closing quote after one character, a lifetime has none
            let len = std::str::from_utf8(&rest[1..rest.len().min(5)])
                .or_else(|e| std::str::from_utf8(&rest[1..1 + e.valid_up_to()]))
                .ok()?
                .chars()
                .next()?
                .len_utf8();
            (rest.get(1 + len) == Some(&b'\'')).then_some((1, 1 + len))
        }
        _ => None,
    }
}

fn find(rest: &[u8], needle: &[u8], from: usize) -> usize {
    rest[from..].windows(needle.len()).position(|w| w == needle).map_or(rest.len(), |at| from + at)
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The offset of the closing quote; the caller's next look begins there, so it is stepped over.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw(rest: &[u8], prefix: usize) -> Option<(usize, usize)> {
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(prefix + hashes) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let start = prefix + hashes + 1;
    Some((start, find(rest, &close, start) + close.len()))
}

/// What follows each `#[cfg(test)]`, to the end of the item.
fn unit_tests(code: &str) -> Vec<Range<usize>> {
    code.match_indices("#[cfg(test)]").map(|(at, _)| at..item_end(code, at)).collect()
}

fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[from..].char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 && matches!(c, '}' | ';') {
            return from + at + 1;
        }
    }
    code.len()
}
