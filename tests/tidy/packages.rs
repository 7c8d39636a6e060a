//! What `cargo` knows of the packages.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::sources::{File, root};

/// The arrows between the workspace's crates: from, and to what.
const ARROWS: &[(&str, &[&str])] = &[
    ("attachment", &["gojson", "kernel"]),
    ("cni", &["gojson"]),
    ("gojson", &[]),
    ("kernel", &[]),
    ("overlay", &["gojson", "kernel"]),
    ("store", &["overlay"]),
    ("plugins", &["attachment", "cni", "gojson", "kernel", "overlay"]),
    ("lab", &["cni", "kernel", "overlay"]),
    ("flanneld", &["attachment", "gojson", "kernel", "overlay", "store", LAB_OF_TESTS]),
    ("flannelctl", &["cni", "kernel", "lab", "overlay", "store"]),
    ("floor", &[]),
    (
        "tests",
        &["attachment", "cni", "flanneld", "flannelctl", "gojson", "kernel", "lab", "overlay", "plugins", "store"],
    ),
];

/// A crate's own tests wait for conditions as the tests of many hosts do.
const LAB_OF_TESTS: &str = "lab";

/// What a plugin, which starts in a tenth of a millisecond, has no use for.
const NOT_IN_PLUGINS: &[&str] = &["tokio", "rtnetlink", "tracing", "clap", "tonic", "rustls", "ring"];

/// One of these has to be among a package's choices, for each part of its licence. The same list is in deny.toml.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "0BSD",
    "CC0-1.0",
];

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Every package of the build on this machine.
pub struct Packages(Vec<Package>);

struct Package {
    name: String,
    licence: String,
    source: Option<String>,
    /// Its folder from the root, with `/` at the end; of the workspace's own.
    folder: Option<String>,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    dev: bool,
    requirement: String,
    path: bool,
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(args).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "cargo {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Packages {
    pub fn read() -> Self {
        let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let metadata = cargo(&["metadata", "--format-version=1", "--locked", "--filter-platform", &platform]);
        let metadata: Value = serde_json::from_str(&metadata).unwrap();
        let packages = metadata["packages"].as_array().unwrap();
        Self(packages.iter().map(Package::read).collect())
    }

    fn own(&self) -> impl Iterator<Item = (&Package, &str)> {
        self.0.iter().filter_map(|package| Some((package, package.folder.as_deref()?)))
    }

    /// Arrows that are none of the design's, and crates that it does not know.
    pub fn wrong_arrows(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let names: BTreeSet<&str> = self.own().map(|(package, _)| package.name.as_str()).collect();
        for (package, folder) in self.own() {
            let Some((_, to)) = ARROWS.iter().find(|(from, _)| *from == package.name) else {
                wrong.push(format!("{folder}Cargo.toml:1: no arrows are known for {}", package.name));
                continue;
            };
            let ours = package.dependencies.iter().filter(|d| names.contains(d.name.as_str()));
            wrong.extend(ours.filter(|d| !to.contains(&d.name.as_str())).map(|d| {
                format!("{folder}Cargo.toml:1: {} must not depend on {} (only on {to:?})", package.name, d.name)
            }));
        }
        wrong
    }

    /// Licences that are not permissive, and packages from elsewhere.
    pub fn wrong_origins(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for package in &self.0 {
            if !permissive(&package.licence) {
                wrong.push(format!("Cargo.lock:1: {}: licence {:?} is not on the list", package.name, package.licence));
            }
            match &package.source {
                Some(source) if source != REGISTRY => {
                    wrong.push(format!("Cargo.lock:1: {}: comes from {source}, not from crates.io", package.name));
                }
                None if package.folder.is_none() => {
                    wrong.push(format!("Cargo.lock:1: {}: a path outside this repository", package.name));
                }
                _ => {}
            }
            let any =
                package.dependencies.iter().filter(|d| package.folder.is_some() && d.requirement == "*" && !d.path);
            wrong.extend(any.map(|d| format!("Cargo.toml:1: {}: {} has no version", package.name, d.name)));
        }
        wrong
    }

    /// Dependencies that are declared and that no code names, and those that only tests name.
    pub fn unused(&self, files: &[File]) -> Vec<String> {
        let mut unused = Vec::new();
        for (package, folder) in self.own() {
            let code: Vec<&File> = files.iter().filter(|f| f.is_rust() && f.path.starts_with(folder)).collect();
            for dependency in &package.dependencies {
                let named = |with_tests| code.iter().any(|file| names(file, &dependency.name, with_tests));
                if !named(true) {
                    unused.push(format!("{folder}Cargo.toml:1: {} is not used", dependency.name));
                } else if !dependency.dev && !folder.starts_with("tests/") && !named(false) {
                    unused.push(format!("{folder}Cargo.toml:1: {} is only used in tests", dependency.name));
                }
            }
        }
        unused.extend(self.unused_in_workspace(files));
        unused
    }

    fn unused_in_workspace(&self, files: &[File]) -> Vec<String> {
        let manifest = files.iter().find(|file| file.path == "Cargo.toml").unwrap();
        let section = manifest.text.split("[workspace.dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
        let declared = section.lines().filter_map(|line| Some(line.split_once(" =")?.0));
        let used: BTreeSet<&str> =
            self.own().flat_map(|(package, _)| package.dependencies.iter().map(|d| d.name.as_str())).collect();
        let idle = declared.filter(|name| !name.starts_with('#') && !used.contains(name));
        idle.map(|name| format!("Cargo.toml:1: {name} is declared for the workspace and no crate takes it")).collect()
    }

    /// Crates without the workspace's lints.
    pub fn without_lints(&self, files: &[File]) -> Vec<String> {
        let manifests: BTreeMap<&str, &str> = files.iter().map(|f| (f.path.as_str(), f.text.as_str())).collect();
        let own = self.own().map(|(_, folder)| format!("{folder}Cargo.toml"));
        let plain = own.filter(|path| !manifests[path.as_str()].contains("[lints]\nworkspace = true\n"));
        plain.map(|path| format!("{path}:1: takes [lints] from the workspace, as every crate does")).collect()
    }
}

/// `name::`, `use name;`, `use name as …`: what compiles only with the dependency.
fn names(file: &File, package: &str, with_tests: bool) -> bool {
    let name = package.replace('-', "_");
    [format!("{name}::"), format!("use {name};"), format!("use {name} as")]
        .iter()
        .any(|word| !file.find(word, with_tests).is_empty())
}

impl Package {
    fn read(value: &Value) -> Self {
        let manifest = text(&value["manifest_path"]);
        let own = manifest.strip_prefix(root().to_str().unwrap()).filter(|_| value["source"].is_null());
        Self {
            name: text(&value["name"]),
            licence: text(&value["license"]),
            source: value["source"].as_str().map(str::to_owned),
            folder: own.map(|path| path.trim_start_matches('/').trim_end_matches("Cargo.toml").to_owned()),
            dependencies: value["dependencies"].as_array().unwrap().iter().map(Dependency::read).collect(),
        }
    }
}

impl Dependency {
    fn read(value: &Value) -> Self {
        Self {
            name: text(if value["rename"].is_null() { &value["name"] } else { &value["rename"] }),
            dev: value["kind"] == "dev",
            requirement: text(&value["req"]),
            path: value["path"].is_string(),
        }
    }
}

/// An SPDX expression (or the old `MIT/Apache-2.0`) that leaves a choice on the list.
pub fn permissive(expression: &str) -> bool {
    let all = expression.replace(['(', ')'], " ");
    let parts = all.split(" AND ");
    parts
        .into_iter()
        .all(|part| part.split(" OR ").flat_map(|p| p.split('/')).any(|one| LICENCES.contains(&one.trim())))
}

/// What a plugin must not be linked with, in what it would be.
pub fn heavy_plugins() -> Vec<String> {
    // not `cargo metadata`: it adds up the features that flanneld asks for
    let tree = cargo(&["tree", "--locked", "--package", "plugins", "--edges", "normal", "--prefix", "none"]);
    let linked: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(linked.contains("serde"), "not a tree: {tree}");
    let heavy = NOT_IN_PLUGINS.iter().filter(|name| linked.contains(*name));
    heavy
        .map(|name| format!("plugins/Cargo.toml:1: {name} would be linked: `cargo tree -p plugins -i {name}`"))
        .collect()
}
