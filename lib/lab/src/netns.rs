//! Named network namespaces in the sandbox's private `/run/netns`.

use std::path::{Path, PathBuf};

use kernel::netns::{Netns, pin_current};
use rustix::mount::{UnmountFlags, unmount};
use rustix::thread::UnshareFlags;

use super::{Doing, Error};

/// The folder of the names, as `ip netns` uses it.
const NAMES: &str = "/run/netns";

/// A named network namespace.
#[derive(Debug)]
pub struct Room {
    path: PathBuf,
    netns: Netns,
}

impl Room {
    /// Creates a namespace called `name` (`ip netns add`).
    ///
    /// # Example
    /// ```no_run
    /// use lab::netns::Room;
    ///
    /// lab::sandbox::enter()?;
    /// let pod = Room::create("pod")?;
    /// assert_eq!(pod.kernel()?.links()?.len(), 1, "lo");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn create(name: &str) -> Result<Self, Error> {
        let path = Path::new(NAMES).join(name);
        // in a thread of its own, so that the caller's thread stays in its namespace
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

    /// The namespace's path, for CNI_NETNS and nsenter.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Opens new netlink sockets in the namespace.
    pub fn kernel(&self) -> Result<kernel::Kernel, Error> {
        kernel::Kernel::open_in(open(&self.path)?).doing(format_args!("open netlink in {}", self.path.display()))
    }

    /// Runs `work` with this thread inside the namespace.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> Result<T, Error> {
        self.netns.enter(work).doing(format_args!("enter {}", self.path.display()))
    }

    /// Removes the name (`ip netns del`). The namespace ends with its last user.
    pub fn remove(self) -> Result<(), Error> {
        remove_name(&self.path)
    }
}

/// Runs `work` with this thread inside the namespace at `path`.
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
