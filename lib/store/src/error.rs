//! What goes wrong in a store.

use std::io;
use std::path::PathBuf;

use overlay::lease::Subnets;

use crate::etcd::EtcdError;
use crate::files::FileError;

/// A store that did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of the embedded store.
    #[error("store: {0}")]
    File(#[from] FileError),
    /// A call to etcd.
    #[error("store: {0}")]
    Etcd(#[from] EtcdError),
    /// A system call on the embedded store's files does not return, as on a disk or a network file system that hangs.
    #[error("store: {} does not answer: is its disk slow, or its file system gone? (this is tried again)", .0.display())]
    Slow(PathBuf),
    /// Changes of the embedded store's files cannot be noticed.
    #[error("store: cannot watch {}: {source}", path.display())]
    Watch {
        /// The directory.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// This host's lease has another value than the one that this host wrote last.
    #[error("store: {0}: somebody else wrote this host's lease")]
    Contested(Subnets),
    /// The program is stopping.
    #[error("store: stopped")]
    Stopped,
}

/// The task that follows a store has ended or panicked: nothing that is read from here on is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the task that follows the store has ended")]
pub struct Ended;
