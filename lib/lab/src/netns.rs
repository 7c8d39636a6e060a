//! Network namespaces under names of their own in the sandbox's private `/run/netns`.

use std::path::{Path, PathBuf};

use kernel::netns::{Netns, pin_current};
use rustix::mount::{UnmountFlags, unmount};
use rustix::thread::UnshareFlags;

use super::{Doing, Error};

/// Where the names are, as `ip netns` has them.
const NAMES: &str = "/run/netns";

/// A named network namespace.
#[derive(Debug)]
pub struct Room {
    path: PathBuf,
    netns: Netns,
}

impl Room {
    /// Makes a namespace called `name` (`ip netns add`).
    pub fn create(name: &str) -> Result<Self, Error> {
        let path = Path::new(NAMES).join(name);
        // a thread that is thrown away, so that the caller's namespace is never another
        std::thread::scope(|scope| {
            scope
                .spawn(|| -> Result<(), Error> {
                    unshare_net().doing(format_args!("make network namespace {name}"))?;
                    pin_current(&path).doing(format_args!("name network namespace {name}"))
                })
                .join()
                .unwrap_or_else(|_| Err(Error::Wrong(format!("make network namespace {name}: the thread panicked"))))
        })?;
        let netns = open(&path)?;
        Ok(Self { path, netns })
    }

    /// Its path: what CNI_NETNS and nsenter take.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// A fresh socket and view of it.
    pub fn kernel(&self) -> Result<kernel::Kernel, Error> {
        kernel::Kernel::open_in(open(&self.path)?).doing(format_args!("open netlink in {}", self.path.display()))
    }

    /// Runs `work` with the thread inside.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> Result<T, Error> {
        self.netns.enter(work).doing(format_args!("enter {}", self.path.display()))
    }

    /// Takes the name away (`ip netns del`); the namespace goes with its last user.
    pub fn remove(self) -> Result<(), Error> {
        remove_name(&self.path)
    }
}

/// Runs `work` inside the namespace at `path`.
pub fn enter_path<T>(path: &Path, work: impl FnOnce() -> T) -> Result<T, Error> {
    open(path)?.enter(work).doing(format_args!("enter {}", path.display()))
}

fn open(path: &Path) -> Result<Netns, Error> {
    Netns::open(&path.to_string_lossy()).doing("open a network namespace")
}

#[expect(deprecated, reason = "unsound for CLONE_FILES only")]
fn unshare_net() -> rustix::io::Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWNET)
}

fn remove_name(path: &Path) -> Result<(), Error> {
    unmount(path, UnmountFlags::DETACH).doing(format_args!("unmount {}", path.display()))?;
    std::fs::remove_file(path).doing(format_args!("remove {}", path.display()))
}
