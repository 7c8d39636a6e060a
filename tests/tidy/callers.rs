//! Public items of `lib/` that only tests name: the program does not need them, or tests prove what it does not do.

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::File;

/// Items that may have no caller, each group with the reason.
pub const EXCEPTIONS: &[(&str, &str)] = &[
    ("delete_where is_answered", "portmap's stale connections"),
    (
        "add_rule destroy_rule destroy_table destroy_set destroy_elements flush_table flush_set",
        "all of nft's operations",
    ),
    (
        "read_datagram read_queues write_queues recode_index has_chain",
        "fuzz targets read what a socket or a disk holds",
    ),
    ("Listener", "tests read the announcements that flanneld reads with tokio"),
    ("as_array is_done", "tests read documents, and write to stores as other programs do"),
];

/// The crate that exists for the demo and for tests.
const LAB: &str = "lib/lab/";

/// The words that introduce an item, with the words before the item's name.
const ITEMS: [&str; 10] = [
    "pub fn",
    "pub const fn",
    "pub async fn",
    "pub unsafe fn",
    "pub struct",
    "pub enum",
    "pub trait",
    "pub type",
    "pub const",
    "pub static",
];

/// `file:line: name: …` for each public item of `lib/` that neither shipped code nor `exceptions` name, and for each
/// exception without need.
pub fn unused(files: &[File], exceptions: &[(&str, &str)]) -> Vec<String> {
    let shipped: Vec<&File> = files.iter().filter(|file| file.is_rust() && !file.is_test()).collect();
    let mut named: BTreeMap<&str, usize> = BTreeMap::new();
    shipped.iter().flat_map(|file| uses(file)).for_each(|name| *named.entry(name).or_default() += 1);
    let libraries = shipped.iter().filter(|file| file.path.starts_with("lib/") && !file.path.starts_with(LAB));
    let lonely: Vec<(&str, String)> = libraries
        .flat_map(|file| items(file).into_iter().map(|(name, at)| (name, file.place(at))))
        .filter(|(name, _)| !named.contains_key(name))
        .collect();
    let allowed: BTreeSet<&str> = exceptions.iter().flat_map(|(names, _)| names.split(' ')).collect();
    let found: BTreeSet<&str> = lonely.iter().map(|(name, _)| *name).collect();
    let wrong = lonely.iter().filter(|(name, _)| !allowed.contains(name)).map(|(name, place)| {
        format!("{place}: {name}: only tests call it: remove it, or make it pub(crate) or cfg(test)")
    });
    let stale = allowed.difference(&found).map(|name| {
        format!("tests/tidy/callers.rs:1: {name}: shipped code calls it, or it does not exist: remove the exception")
    });
    wrong.chain(stale).collect()
}

/// The name and the place of each public item outside unit tests.
fn items(file: &File) -> Vec<(&str, usize)> {
    let introduced = ITEMS.iter().flat_map(|words| file.find(words, false).into_iter().map(|at| at + words.len()));
    let mut items: Vec<(&str, usize)> = introduced
        .filter_map(|at| {
            let rest = &file.code[at..];
            let start = at + rest.len() - rest.trim_start().len();
            Some((word(&file.code[start..])?, start))
        })
        .filter(|(name, _)| !["fn", "mut", "_"].contains(name))
        .collect();
    items.sort_by_key(|(_, at)| *at);
    items
}

fn word(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The names in shipped code, without definitions, imports, re-exports and the heads of `impl` blocks.
fn uses(file: &File) -> BTreeSet<&str> {
    let defined: BTreeSet<usize> = items(file).into_iter().map(|(_, at)| at).collect();
    let mut names = BTreeSet::new();
    let mut at = 0;
    let mut skip_to = 0;
    while let Some(start) = file.code[at..].find(|c: char| c.is_alphabetic() || c == '_').map(|n| at + n) {
        let name = word(&file.code[start..]).unwrap_or_default();
        at = start + name.len().max(1);
        let until = |end: &str| file.code[start..].find(end).map_or(file.code.len(), |n| start + n);
        match name {
            "use" => skip_to = skip_to.max(until(";")),
            // the bounds of an `impl` block are uses, and its head is none
            "impl" if file.code[..start].trim_end_matches(' ').ends_with(['\n', '}']) => {
                let bounds = if file.code[at..].starts_with('<') { &file.code[at..until(">")] } else { "" };
                names.extend(words(bounds));
                skip_to = skip_to.max(until("{"));
            }
            _ if start >= skip_to && !defined.contains(&start) && !file.in_unit_tests(start) => {
                names.insert(name);
            }
            _ => {}
        }
    }
    names
}
