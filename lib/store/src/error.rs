//! Errors of a store.

use std::io;
use std::path::PathBuf;

use overlay::lease::{NodeError, Subnets};

use crate::etcd::EtcdError;
use crate::files::FileError;
use crate::kubernetes::KubeError;
use crate::thread::ThreadError;

/// Why a store did not do what it was asked to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation of the embedded store failed.
    #[error("store: {0}")]
    File(#[from] FileError),
    /// A call to etcd failed.
    #[error("store: {0}")]
    Etcd(#[from] EtcdError),
    /// A call to the API server of Kubernetes failed.
    #[error("store: {0}")]
    Kube(#[from] KubeError),
    /// An annotation of this host's Node cannot be used.
    #[error("store: this host's node: {0}")]
    Node(#[from] NodeError),
    /// A system call on the embedded store's files does not return, for example because a disk or a network file
    /// system hangs.
    #[error("store: {} does not answer: is its disk slow, or its file system gone? (retrying)", .0.display())]
    Slow(PathBuf),
    /// The embedded store cannot watch its files for changes.
    #[error("store: cannot watch {}: {source}", path.display())]
    Watch {
        /// The directory.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// This host's lease has a value that this host did not write.
    #[error("store: {0}: another host wrote this host's lease")]
    Contested(Subnets),
    /// Work on the embedded store's files has no thread.
    #[error("store: {0}")]
    Thread(#[from] ThreadError),
    /// The program is stopping.
    #[error("store: stopped")]
    Stopped,
}

/// The task that follows a store has ended or panicked, so no further changes arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the task that follows the store has ended")]
pub struct Ended;
