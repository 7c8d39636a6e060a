//! Our plugins as they are released: static, for musl. The program that they are compared with is built the same way.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::{Doing, Error};

/// What the executable is built for.
const TARGET: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-musl" } else { "x86_64-unknown-linux-musl" };

/// The profile of the plugins in the workspace's Cargo.toml.
const PROFILE: &str = "plugins";

/// The release executable `program` of `package`, with a description. `cargo` builds it; without cargo it must exist.
/// `target` is cargo's folder.
pub fn release(
    target: &Path,
    cargo: Option<&OsStr>,
    (package, program): (&str, &str),
) -> Result<(PathBuf, String), Error> {
    let musl = has_target();
    let mut path = target.to_owned();
    path.extend(musl.then_some(TARGET));
    path.extend([PROFILE, program]);
    if let Some(cargo) = cargo {
        build(cargo, target, package, musl)?;
    }
    if !path.is_file() {
        let wanted = if musl { format!(" --target {TARGET}") } else { String::new() };
        let path = path.display();
        return Err(Error::Wrong(format!(
            "{path} is not there: `cargo build --profile {PROFILE} --package {package}{wanted}` makes it"
        )));
    }
    let word = if musl {
        "static (musl)".to_owned()
    } else {
        format!("NOT the released one: linked to glibc, for want of `rustup target add {TARGET}`")
    };
    Ok((path, word))
}

fn has_target() -> bool {
    let output = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    output.is_ok_and(|o| o.status.success() && Path::new(String::from_utf8_lossy(&o.stdout).trim()).is_dir())
}

fn build(cargo: &OsStr, target: &Path, package: &str, musl: bool) -> Result<(), Error> {
    let mut command = Command::new(cargo);
    command.args(["build", "--profile", PROFILE, "--package", package, "--target-dir"]).arg(target);
    if musl {
        command.args(["--target", TARGET]);
    }
    let status = command.status().doing("run cargo build")?;
    if status.success() { Ok(()) } else { Err(Error::Wrong(format!("cargo build --profile {PROFILE}: {status}"))) }
}
