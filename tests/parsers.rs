//! Runs every target of tests/fuzz for a few seconds on a stable toolchain, with random bytes and with mutated valid
//! inputs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tests::targets::{TARGETS, Target};

/// Inputs per target: all of them take some seconds.
const CASES: u32 = 300;

/// One change of an input.
#[derive(Debug, Clone)]
enum Change {
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Cut(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
}

impl Change {
    fn apply(&self, input: &mut Vec<u8>) {
        let (Self::Flip(at, _) | Self::Insert(at, _) | Self::Cut(at, _) | Self::Repeat(at, _)) = self;
        let at = at.index(input.len() + 1);
        match self {
            Self::Flip(_, mask) => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= mask),
            Self::Insert(_, bytes) => drop(input.splice(at..at, bytes.iter().copied())),
            Self::Cut(_, length) => drop(input.drain(at..input.len().min(at + length))),
            Self::Repeat(_, length) => {
                let piece = input[at..input.len().min(at + length)].to_vec();
                drop(input.splice(at..at, piece));
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    // Bytes that have a meaning for one of the parsers.
    let words = prop::sample::select(vec![
        "0", "-1", "\"", "{", "}", "[", ",", ":", "/", "&", ";", "=", "\n", "null", "::", "255",
    ]);
    prop_oneof![
        3 => (at(), 1_u8..).prop_map(|(at, mask)| Change::Flip(at, mask)),
        2 => (at(), words).prop_map(|(at, word)| Change::Insert(at, word.as_bytes().to_vec())),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..5)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (at(), 1_usize..20).prop_map(|(at, length)| Change::Cut(at, length)),
        1 => (at(), 1_usize..60).prop_map(|(at, length)| Change::Repeat(at, length)),
    ]
}

fn input(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let mutated =
        (prop::sample::select(seeds), prop::collection::vec(change(), 0..6)).prop_map(|(mut input, changes)| {
            changes.iter().for_each(|change| change.apply(&mut input));
            input
        });
    prop_oneof![6 => mutated, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

fn feed(target: &Target) {
    let seeds = (target.seeds)();
    seeds.iter().for_each(|seed| (target.run)(seed));
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&input(seeds), |bytes| {
        (target.run)(&bytes);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{}: {error}", target.name));
}

#[test]
fn no_parser_is_harmed() {
    TARGETS.iter().for_each(feed);
}

/// Every target must be run.
#[test]
fn every_target_is_a_fuzz_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len());
    let files = fs::read_dir(folder.join("fuzz_targets")).unwrap();
    let files: BTreeSet<String> =
        files.map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(files, names);
    for name in &names {
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n")), "{name}");
        let text = fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(text.contains(&format!("run(\"{name}\", data)")), "{name}");
    }
}
