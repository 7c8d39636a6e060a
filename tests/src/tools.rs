//! helm, kubectl and the validator of Kubernetes' published schemas, which `tests/kubernetes/tools` brings.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Their folder, in the target folder.
const FOLDER: &str = "kubernetes-tools";

/// Why they are not here; `None` if they are.
pub fn absent() -> Option<String> {
    folder().err().map(|error| format!("needs helm, which tests/kubernetes/tools brings: {error}"))
}

fn folder() -> io::Result<PathBuf> {
    let me = std::env::current_exe()?;
    let found = me.ancestors().map(|dir| dir.join(FOLDER)).find(|dir| dir.join("helm").is_file());
    found.ok_or_else(|| io::Error::other("no folder kubernetes-tools in the target folder"))
}

/// Runs helm.
///
/// # Errors
/// It cannot be run.
pub fn helm(arguments: &[&str]) -> io::Result<Output> {
    Command::new(folder()?.join("helm")).args(arguments).output()
}

/// Checks objects against the schemas of a version of Kubernetes, which allow no other fields. `None` if they are valid.
///
/// # Errors
/// The validator cannot be run.
pub fn mistakes(version: &str, file: &std::path::Path) -> io::Result<Option<String>> {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", folder()?.join("python"));
    python.args(["-m", "kubernetes_validate", "--strict", "-k", version]).arg(file);
    let output = python.output()?;
    let text = || String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ok((!output.status.success()).then(text))
}
