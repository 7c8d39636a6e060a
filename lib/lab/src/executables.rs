//! The programs of a lab: built, found, and installed where a runtime looks for plugins.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Doing, Error};

/// The programs.
#[derive(Debug, Clone)]
pub struct Executables {
    /// The daemon.
    pub flanneld: PathBuf,
    /// The multi-call plugin executable.
    pub plugins: PathBuf,
}

impl Executables {
    /// The programs beside the executable `me`. When cargo runs it (`cargo` is its path), they are built first: cargo
    /// builds only the one that it runs.
    pub fn beside(me: &Path, cargo: Option<&OsStr>) -> Result<Self, Error> {
        let mut dir = me.parent().unwrap_or(Path::new("."));
        // where cargo puts test executables
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
                return Err(Error::Wrong(format!("{path} is not there: `cargo build --workspace` makes it")));
            }
        }
        Ok(found)
    }
}

/// What cargo tells of the package whose program it runs. ring's build script takes another value for a reason to begin
/// anew, so that a test run and the build that it starts would each undo the other's work.
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

/// Builds both programs in the profile whose folder `dir` is.
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
