//! The needs of tests: what the machine must have.

use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// A need that a machine may not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The user is root.
    Root,
    /// A program on the usual paths, such as `nft`.
    Program(&'static str),
    /// /dev/net/tun, and permission to open it.
    Tun,
    /// Control groups that can be made: for container runtimes.
    ControlGroups,
    /// helm, and the schemas of Kubernetes.
    Helm,
    /// The programs of a Kubernetes cluster.
    Kubernetes,
    /// A file or directory, such as the reference plugins in `/usr/lib/cni`.
    File(&'static str),
    /// [`newest_plugins`].
    NewestPlugins,
}

/// The newest reference plugins that Debian has: in the folder `newest` of the target folder, where tests/run puts them.
pub fn newest_plugins() -> Option<PathBuf> {
    let me = std::env::current_exe().ok()?;
    me.ancestors().map(|dir| dir.join("newest/usr/lib/cni")).find(|dir| dir.is_dir())
}

const PATHS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

impl Need {
    /// Why the need is not met; `None` if it is.
    pub fn absent(self) -> Option<String> {
        match self {
            Self::Root if geteuid().is_root() => None,
            Self::Root => Some("needs root".into()),
            Self::Program(name) if PATHS.iter().any(|dir| Path::new(dir).join(name).exists()) => None,
            Self::Program(name) => Some(format!("needs the program {name}")),
            Self::Tun => kernel::tuntap::unavailable().map(|why| format!("needs TUN devices: {why}")),
            Self::ControlGroups => groups(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()),
            Self::Helm => crate::tools::absent(),
            Self::Kubernetes => crate::kubernetes::absent(),
            Self::File(path) if Path::new(path).exists() => None,
            Self::File(path) => Some(format!("needs {path}")),
            Self::NewestPlugins if newest_plugins().is_some() => None,
            Self::NewestPlugins => Some("needs the newest reference plugins, which tests/run fetches".into()),
        }
    }
}

/// Why no control group can be made with these mounts (proc_pid_mountinfo(5)).
fn groups(mounts: &str) -> Option<String> {
    let of_groups = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    let is_read_only = |line: &str| line.split(' ').nth(5).is_some_and(|options| options.split(',').any(|o| o == "ro"));
    let found: Vec<&str> = mounts.lines().filter(of_groups).collect();
    if found.is_empty() {
        return Some("needs control groups".into());
    }
    found.into_iter().any(is_read_only).then(|| "needs control groups that are not read-only".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_must_be_writable() {
        let line = |options: &str| format!("36 25 0:31 / /sys/fs/cgroup/pids {options} - cgroup cgroup rw,pids\n");
        assert_eq!(groups(&line("rw,relatime")), None);
        assert!(groups(&line("ro,nosuid")).unwrap().contains("read-only"));
        assert_eq!(groups("25 1 0:1 / / rw - overlay overlay rw\n").unwrap(), "needs control groups");
    }

    #[test]
    fn absent_things_are_named() {
        assert_eq!(Need::Program("sh").absent(), None);
        assert_eq!(Need::File("/proc").absent(), None);
        assert_eq!(Need::Program("no-such-thing").absent().unwrap(), "needs the program no-such-thing");
        assert_eq!(Need::File("/no/such").absent().unwrap(), "needs /no/such");
    }
}
