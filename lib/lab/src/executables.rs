//! The programs of a lab: builds and finds them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Doing, Error};

/// The paths of the programs.
#[derive(Debug, Clone)]
pub struct Executables {
    /// The daemon.
    pub flanneld: PathBuf,
    /// The multi-call plugin executable.
    pub plugins: PathBuf,
}

impl Executables {
    /// Finds the programs beside the executable `me`. If `cargo` is set (the path of the cargo that runs `me`), it
    /// builds them first, because cargo builds only the program that it runs.
    pub fn beside(me: &Path, cargo: Option<&OsStr>) -> Result<Self, Error> {
        let mut dir = me.parent().unwrap_or(Path::new("."));
        // cargo puts test executables into this folder
        if dir.file_name() == Some(OsStr::new("deps")) {
            dir = dir.parent().unwrap_or(dir);
        }
        if let Some(cargo) = cargo {
            build(cargo, dir)?;
        }
        let found = Self { flanneld: dir.join("flanneld"), plugins: dir.join("cni-plugins") };
        for path in [&found.flanneld, &found.plugins] {
            if !path.is_file() {
                let path = path.display();
                return Err(Error::Wrong(format!("{path} does not exist: run `cargo build --workspace`")));
            }
        }
        Ok(found)
    }
}

/// Variables that cargo sets for the package whose program it runs. They are removed for the build: ring's build script
/// starts anew when one of them changes, so a test run and this build would undo each other's work.
const OF_THE_CALLER: [&str; 9] = [
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_MANIFEST_LINKS",
    "CARGO_PKG_NAME",
    "CARGO_PKG_VERSION_MAJOR",
    "CARGO_PKG_VERSION_MINOR",
    "CARGO_PKG_VERSION_PATCH",
    "CARGO_PKG_VERSION_PRE",
    "OUT_DIR",
];

/// Builds both programs in the profile whose folder is `dir`.
fn build(cargo: &OsStr, dir: &Path) -> Result<(), Error> {
    let profile = match dir.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(folder) => folder,
    };
    let args = ["build", "--package", "flanneld", "--package", "plugins", "--bins", "--profile", profile];
    let mut command = Command::new(cargo);
    for name in OF_THE_CALLER {
        command.env_remove(name);
    }
    let status = command.args(args).status().doing("run cargo build")?;
    if status.success() { Ok(()) } else { Err(Error::Wrong(format!("cargo build --profile {profile}: {status}"))) }
}
