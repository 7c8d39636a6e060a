//! The house rules that a compiler does not hold. A breach is shown as `file:line: what: reason`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use callers::{EXCEPTIONS, unused};
use packages::{Packages, heavy_plugins, permissive};
use rules::{RULES, Rule, breaches};
use sources::{File, files};

#[path = "tidy/callers.rs"]
mod callers;
#[path = "tidy/packages.rs"]
mod packages;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/sources.rs"]
mod sources;

/// Longer than this, and nobody finds anything in a file.
const LONGEST: usize = 600;

/// The document with the code map.
const ARCHITECTURE: &str = "docs/architecture.md";

#[track_caller]
fn none(breaches: Vec<String>) {
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

/// The line of each `part` in a file.
fn lines_with<'a>(file: &'a File, part: &'a str) -> impl Iterator<Item = usize> + 'a {
    file.text.lines().enumerate().filter(move |(_, line)| line.contains(part)).map(|(n, _)| n + 1)
}

#[test]
fn crates_depend_as_designed() {
    none(Packages::read().wrong_arrows());
}

#[test]
fn plugins_are_light() {
    none(heavy_plugins());
}

#[test]
fn packages_are_permissive_and_from_the_registry() {
    none(Packages::read().wrong_origins());
}

#[test]
fn every_dependency_is_used() {
    none(Packages::read().unused(&files()));
}

#[test]
fn every_crate_has_the_lints() {
    none(Packages::read().without_lints(&files()));
    let manifest = files().into_iter().find(|file| file.path == "Cargo.toml").unwrap().text;
    let denied = ["unsafe_code", "unwrap_used", "expect_used", "print_stdout", "print_stderr", "todo", "unimplemented"];
    let more = ["dbg_macro", "allow_attributes_without_reason", "undocumented_unsafe_blocks", "too_many_arguments"];
    let missing = denied.iter().chain(&more).filter(|lint| !manifest.contains(&format!("\n{lint} = \"deny\"\n")));
    none(missing.map(|lint| format!("Cargo.toml:1: {lint} is to be denied")).collect());
    assert!(manifest.contains("\nmissing_docs = \"warn\"\n"), "public items have documentation");
}

#[test]
fn words_stand_where_they_may() {
    let files = files();
    none(RULES.iter().flat_map(|rule| breaches(rule, &files)).collect());
}

#[test]
fn shipped_code_calls_every_public_item() {
    none(unused(&files(), EXCEPTIONS));
}

#[test]
fn overlay_knows_only_the_kernels_vocabulary() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| file.is_rust() && file.path.starts_with("lib/overlay/")) {
        for at in file.find("kernel::", false) {
            let item = &file.code[at + "kernel::".len()..];
            if !["state::", "types::", "survey::"].iter().any(|module| item.starts_with(module)) {
                let item: String = item.chars().take_while(|c| c.is_alphanumeric() || "_:{".contains(*c)).collect();
                wrong.push(format!(
                    "{}: kernel::{item}: overlay is pure: kernel::state, kernel::types and kernel::survey only",
                    file.place(at)
                ));
            }
        }
    }
    none(wrong);
}

#[test]
fn files_are_clean() {
    let mut wrong = Vec::new();
    for file in &files() {
        let path = &file.path;
        if !file.text.ends_with('\n') || file.text.ends_with("\n\n") {
            wrong.push(format!("{path}:{}: a file ends with one newline", file.text.lines().count()));
        }
        for (n, line) in file.text.lines().enumerate() {
            if line != line.trim_end() {
                wrong.push(format!("{path}:{}: blanks at the end of a line", n + 1));
            }
            if line.contains('\t') && file.is_rust() {
                wrong.push(format!("{path}:{}: a tab: rustfmt writes spaces", n + 1));
            }
        }
        let lines = file.text.lines().count();
        if file.is_rust() && lines > LONGEST {
            wrong.push(format!("{path}:{LONGEST}: {lines} lines, and {LONGEST} are too many: split it"));
        }
    }
    none(wrong);
}

#[test]
fn nothing_speaks_of_the_machine_it_was_made_on() {
    // put together, so that this file does not say them
    let words = [["/wo", "rk/"], ["/ro", "ot/"], ["/ho", "me/"], ["index.cra", "tes.io"]];
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| file.path != "LICENSE") {
        for word in words.map(|halves| halves.concat()) {
            let lines =
                lines_with(file, &word).map(|n| format!("{}:{n}: {word:?} says nothing to a reader", file.path));
            wrong.extend(lines);
        }
    }
    none(wrong);
}

#[test]
fn samples_are_loaded_by_a_test() {
    let files = files();
    let tests: Vec<_> = files.iter().filter(|file| file.path.starts_with("tests/conf")).collect();
    let samples = files.iter().filter_map(|file| file.path.strip_prefix("conf/"));
    let forgotten = samples.filter(|path| !tests.iter().any(|test| test.text.contains(&format!("\"{path}\""))));
    none(forgotten.map(|path| format!("conf/{path}:1: tests/conf.rs does not load it")).collect());
}

#[test]
fn the_code_map_is_complete() {
    let files = files();
    let document = files.iter().find(|file| file.path == ARCHITECTURE).unwrap();
    let map = document.text.split("## Code map").nth(1).unwrap().split("\n## ").next().unwrap();
    let named: BTreeSet<&str> =
        map.lines().filter_map(|line| line.split(' ').next()).filter(|word| word.ends_with('/')).collect();
    let shipped = files.iter().filter(|file| file.is_rust() && (!file.is_test() || file.path.starts_with("tests/")));
    let folders: BTreeSet<&str> = shipped.map(|file| &file.path[..=file.path.rfind('/').unwrap()]).collect();
    // `src` itself is its crate's line
    let folders: BTreeSet<&str> = folders.into_iter().map(|f| f.strip_suffix("src/").unwrap_or(f)).collect();
    let line = lines_with(document, "## Code map").next().unwrap();
    let missing =
        folders.difference(&named).map(|f| format!("{ARCHITECTURE}:{line}: the code map has no line for {f}"));
    let exists = |folder: &&&str| files.iter().any(|file| file.path.starts_with(**folder));
    let gone = named.iter().filter(|f| !exists(f)).map(|f| format!("{ARCHITECTURE}:{line}: {f} is not there"));
    none(missing.chain(gone).collect());
}

#[test]
fn links_between_documents_lead_somewhere() {
    let files = files();
    let mut wrong = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (n, line) in file.text.lines().enumerate() {
            for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                if !link.contains("://") && !leads_somewhere(&files, file, link) {
                    wrong.push(format!("{}:{}: no document or heading is at {link}", file.path, n + 1));
                }
            }
        }
    }
    none(wrong);
}

/// `link` is `FILE`, `FILE#HEADING` or `#HEADING`, from the folder of `from`; a folder counts as a file.
fn leads_somewhere(files: &[File], from: &File, link: &str) -> bool {
    let (path, heading) = link.split_once('#').map_or((link, None), |(path, heading)| (path, Some(heading)));
    let folder = from.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let path = match path.strip_prefix("../") {
        _ if path.is_empty() => from.path.clone(),
        Some(above) => above.to_owned(),
        None if folder.is_empty() => path.to_owned(),
        None => format!("{folder}/{path}"),
    };
    match heading {
        None => files.iter().any(|file| file.path == path || file.path.starts_with(&format!("{path}/"))),
        Some(heading) => {
            files.iter().any(|file| file.path == path && file.text.lines().any(|line| anchor(line) == heading))
        }
    }
}

/// What GitHub makes of a heading; empty for another line.
fn anchor(line: &str) -> String {
    let heading = line.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim().to_lowercase());
    let kept =
        heading.unwrap_or_default().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
    kept.replace(' ', "-")
}

#[test]
fn the_rules_find_what_they_are_for() {
    let rule = Rule { words: &["thread::sleep", "unsafe"], only_in: &[("a/", "x")], in_tests: false, reason: "r" };
    let text = "// unsafe\nlet a = \"unsafe\"; let b = r#\"unsafe \"\"#; let c = '\"';\n/* unsafe /* */ */ let not_unsafe = 'a';\n\
                fn f<'a>() { std::thread::sleep(x) }\n#[cfg(test)]\nmod tests { unsafe {} }\nunsafe fn g() {}\n";
    let found =
        breaches(&rule, &[File::new("b/c.rs", text), File::new("a/d.rs", "unsafe"), File::new("b/tests.rs", "unsafe")]);
    let places: Vec<&str> = found.iter().map(|said| said.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["b/c.rs:4", "b/c.rs:7"]);
    assert_eq!(found[1], "b/c.rs:7: unsafe: r; allowed only in a/ (x)");
    assert_eq!(breaches(&rule, &[]).len(), 1, "a permission that nothing uses");
}

#[test]
fn an_item_that_only_tests_name_is_found() {
    let library = "pub struct Used;\npub struct Lonely;\nimpl Lonely {\n    pub fn called() {}\n    pub fn dead() {}\n}\n\
                   pub use x::dead;\n#[cfg(test)]\nmod tests { fn f(a: Lonely) { dead() } }\n";
    let files = [
        File::new("lib/a/src/lib.rs", library),
        File::new("tests/t1/x.rs", "fn f() { a::dead() }"),
        File::new("flanneld/src/x.rs", "use a::{Used, Lonely};\nfn f(used: Used) { called() }"),
        File::new("lib/lab/src/lib.rs", "pub fn for_tests() {}"),
    ];
    let found = unused(&files, &[]);
    let places: Vec<&str> = found.iter().map(|said| said.split(": only").next().unwrap()).collect();
    assert_eq!(places, ["lib/a/src/lib.rs:2: Lonely", "lib/a/src/lib.rs:5: dead"]);
    assert_eq!(unused(&files, &[("dead", "r"), ("Lonely", "r")]), Vec::<String>::new());
    assert_eq!(
        unused(&files, &[("dead", "r"), ("Lonely", "r"), ("called", "r")]).len(),
        1,
        "an exception without need"
    );
}

#[test]
fn licences_are_read_as_spdx_does() {
    for good in ["MIT OR Apache-2.0", "MIT/Apache-2.0", "(MIT OR GPL-3.0) AND Unicode-3.0", "ISC"] {
        assert!(permissive(good), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "", "MPL-2.0"] {
        assert!(!permissive(bad), "{bad}");
    }
}
