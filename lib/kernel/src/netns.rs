//! Network namespaces: opens, compares and enters them. A scope ensures that the thread always returns.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FsWord, Mode, OFlags, fstat, fstatfs, stat};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::netlink::{Errno, KernelError};

/// The file system type of namespace files (linux/magic.h).
const NSFS_MAGIC: FsWord = 0x6e73_6673;
const PROC_SUPER_MAGIC: FsWord = 0x9fa0;

/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// Why a path is not a usable network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path does not exist, so the namespace is gone.
    #[error("failed to open netns {path:?}: no such file or directory")]
    Absent {
        /// The path as given.
        path: String,
    },
    /// The file is not a namespace.
    #[error("unknown FS magic on {path:?}: {magic:x}")]
    Foreign {
        /// The path as given.
        path: String,
        /// The file system's type (`statfs.f_type`).
        magic: u64,
    },
    /// It is the namespace of this process.
    #[error("netns {path:?} is the one that this process is in")]
    Own {
        /// The path as given.
        path: String,
    },
    /// The namespace cannot be opened or entered.
    #[error("failed to open netns {path:?}: {errno}")]
    Refused {
        /// The path as given.
        path: String,
        /// The operating system's error.
        errno: Errno,
    },
}

impl NetnsError {
    /// Whether the namespace does not exist (any more).
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }

    /// Whether the path leads to no network namespace except perhaps this process's own. False if that is unknown: no
    /// permission, or too many open files.
    pub fn leads_to_none(&self) -> bool {
        match self {
            Self::Absent { .. } | Self::Foreign { .. } | Self::Own { .. } => true,
            Self::Refused { errno, .. } => {
                matches!(errno.0, libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG | libc::ENXIO | libc::EINVAL)
            }
        }
    }
}

/// An open network namespace. It exists at least as long as this value.
#[derive(Debug)]
pub struct Netns {
    file: Arc<File>,
}

impl Netns {
    /// Opens `path`, which must be a namespace file (bind-mounted nsfs or below /proc).
    pub fn open(path: &str) -> Result<Self, NetnsError> {
        let netns = Self::open_any(path)?;
        netns.check_kind(path)?;
        Ok(netns)
    }

    /// As [`Netns::open`], but refuses the namespace of the thread. The decision is about the opened file, because the
    /// path may lead elsewhere a moment later.
    pub fn open_other(path: &str) -> Result<Self, NetnsError> {
        let netns = Self::open_any(path)?;
        let refused =
            |e: rustix::io::Errno| NetnsError::Refused { path: path.to_owned(), errno: Errno(e.raw_os_error()) };
        let (own, other) = (stat(OWN).map_err(refused)?, fstat(&netns.file).map_err(refused)?);
        if (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino) {
            return Err(NetnsError::Own { path: path.to_owned() });
        }
        // all namespace files are on one file system
        if own.st_dev != other.st_dev {
            netns.check_kind(path)?;
        }
        Ok(netns)
    }

    /// Opens any file without waiting for the writer of a FIFO.
    fn open_any(path: &str) -> Result<Self, NetnsError> {
        let own = || path.to_owned();
        // musl's open, which std calls, sets close-on-exec with a second call
        let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        let file = opened.map_err(|e| match e {
            rustix::io::Errno::NOENT => NetnsError::Absent { path: own() },
            _ => NetnsError::Refused { path: own(), errno: Errno(e.raw_os_error()) },
        })?;
        Ok(Self { file: Arc::new(file.into()) })
    }

    fn check_kind(&self, path: &str) -> Result<(), NetnsError> {
        let own = || path.to_owned();
        let found = fstatfs(&self.file);
        match found.map_err(|e| NetnsError::Refused { path: own(), errno: Errno(e.raw_os_error()) })?.f_type {
            NSFS_MAGIC | PROC_SUPER_MAGIC => Ok(()),
            magic => Err(NetnsError::Foreign { path: own(), magic: magic as u64 }),
        }
    }

    /// The namespace of the thread.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open_any(OWN)
    }

    /// Wraps an open namespace file, which others may also use.
    pub fn of(file: Arc<File>) -> Self {
        Self { file }
    }

    /// The open file.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Device and inode: equal for equal namespaces.
    pub fn id(&self) -> Result<(u64, u64), KernelError> {
        let stat = fstat(&self.file).map_err(|e| KernelError::new("identify a netns", Errno(e.raw_os_error())))?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// Runs `work` with the thread inside this namespace and then moves the thread back, even if `work` panics. If
    /// moving back fails, the process ends: it could do damage in the wrong namespace.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> Result<T, KernelError> {
        struct Back(Netns);
        impl Drop for Back {
            fn drop(&mut self) {
                if set(&self.0.file).is_err() {
                    std::process::abort();
                }
            }
        }
        let here = Self::current().map_err(|e| match e {
            NetnsError::Refused { errno, .. } => KernelError::new("open the current netns", errno),
            _ => KernelError::new("open the current netns", Errno(libc::ENOENT)),
        })?;
        set(&self.file).map_err(|e| KernelError::new("enter a netns", Errno(e.raw_os_error())))?;
        let _back = Back(here);
        Ok(work())
    }

    /// Moves the thread into this namespace permanently.
    pub fn settle(&self) -> Result<(), KernelError> {
        set(&self.file).map_err(|e| KernelError::new("enter a netns", Errno(e.raw_os_error())))
    }
}

fn set(file: &File) -> rustix::io::Result<()> {
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The inode of the thread's network namespace; 0 if it cannot be read.
pub fn own_inode() -> u64 {
    stat(OWN).map(|own| own.st_ino).unwrap_or_default()
}

/// Bind-mounts the thread's network namespace on `path`, as `ip netns attach` does.
pub fn pin_current(path: &Path) -> io::Result<()> {
    File::create(path)?;
    rustix::mount::mount_bind("/proc/thread-self/ns/net", path)?;
    Ok(())
}
