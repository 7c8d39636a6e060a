//! The needs of tests: what the machine must have.

use std::path::Path;

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
    /// A file or directory, such as the reference plugins in `/usr/lib/cni`.
    File(&'static str),
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
            Self::File(path) if Path::new(path).exists() => None,
            Self::File(path) => Some(format!("needs {path}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_things_are_named() {
        assert_eq!(Need::Program("sh").absent(), None);
        assert_eq!(Need::File("/proc").absent(), None);
        assert_eq!(Need::Program("no-such-thing").absent().unwrap(), "needs the program no-such-thing");
        assert_eq!(Need::File("/no/such").absent().unwrap(), "needs /no/such");
    }
}
