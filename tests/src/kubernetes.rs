//! The programs of a real Kubernetes cluster, which `tests/kubernetes/build` makes.

use std::path::PathBuf;

/// The programs that a cluster needs.
pub const PROGRAMS: [&str; 4] = ["kube-apiserver", "kube-controller-manager", "kubelet", "kube-proxy"];

/// A program in the folder `kubernetes` of the target folder.
pub fn program(name: &str) -> Option<PathBuf> {
    let me = std::env::current_exe().ok()?;
    me.ancestors().map(|dir| dir.join("kubernetes").join(name)).find(|path| path.is_file())
}

/// Why no cluster can run here; `None` if one can.
pub fn absent() -> Option<String> {
    let missing = PROGRAMS.iter().find(|name| program(name).is_none())?;
    Some(format!("needs {missing}, which tests/kubernetes/build makes"))
}
