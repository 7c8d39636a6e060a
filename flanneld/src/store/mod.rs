//! Where the network's configuration and all hosts' leases are kept.
//!
//! A store is level triggered: [`View`] is all that it says now, and a change of it is only a reason to look again.

mod embedded;
mod files;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch as level;

pub use embedded::Embedded;

use crate::files::FileError;

/// All that a store says at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The network's configuration, as JSON; `None` when there is none.
    pub config: Option<Arc<[u8]>>,
    /// Every lease's key and value, unchecked.
    pub leases: Arc<BTreeMap<String, Arc<[u8]>>>,
    /// When leases end. A lease that is not in here is a reservation and does not end.
    pub expires: Arc<BTreeMap<String, SystemTime>>,
    /// What else lies among the leases, and why it is none: nobody's to delete.
    pub ignored: Arc<BTreeMap<String, String>>,
    /// `leases` is everything there is. While it is not, nobody may conclude that a lease is gone.
    pub complete: bool,
    /// Why the store cannot be read, when it cannot.
    pub error: Option<Arc<str>>,
}

impl View {
    /// The same but for the times of expiry: a renewal is no news.
    fn says_the_same(&self, other: &Self) -> bool {
        *self == Self { expires: self.expires.clone(), ..other.clone() }
    }
}

/// What became of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// The store holds something else under that key (or nothing, where something was expected): look again.
    Conflict,
}

/// A store that did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of the embedded store.
    #[error("store: {0}")]
    File(#[from] FileError),
    /// The key is no name for a lease, so nothing was written.
    #[error("store: {0:?} is not a lease's key")]
    Key(String),
    /// Changes cannot be noticed.
    #[error("store: cannot watch {path}: {source}")]
    Watch {
        /// The directory.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The program is stopping.
    #[error("store: stopped")]
    Stopped,
}

/// The store that the daemon was given.
#[derive(Debug)]
pub enum Store {
    /// Files of this machine.
    Embedded(Embedded),
}

/// Where the embedded store below `dir` has its configuration.
pub fn config_path(dir: &Path, prefix: &str) -> PathBuf {
    dir.join(prefix.trim_matches('/')).join("config")
}

impl Store {
    /// The embedded store below `dir`, with etcd's layout below `prefix`. Never fails: what is wrong is in the view, and
    /// tried again.
    pub fn embedded(dir: &Path, prefix: &str) -> Self {
        Self::Embedded(Embedded::open(dir.join(prefix.trim_matches('/'))))
    }

    /// What the store says, now and later.
    pub fn view(&self) -> level::Receiver<View> {
        match self {
            Self::Embedded(store) => store.view(),
        }
    }

    /// Writes a lease that nobody holds. `ttl` of `None` makes a reservation.
    pub async fn create(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<Outcome, StoreError> {
        match self {
            Self::Embedded(store) => store.create(key, value, ttl).await,
        }
    }

    /// Replaces `old` by `new` (they may be equal) and lets it end after `ttl`; `None` makes it a reservation.
    pub async fn renew(&self, key: &str, old: &[u8], new: &[u8], ttl: Option<Duration>) -> Result<Outcome, StoreError> {
        match self {
            Self::Embedded(store) => store.renew(key, old, new, ttl).await,
        }
    }

    /// Removes the lease if it is still `old`.
    pub async fn delete(&self, key: &str, old: &[u8]) -> Result<Outcome, StoreError> {
        match self {
            Self::Embedded(store) => store.delete(key, old).await,
        }
    }
}

#[cfg(test)]
mod tests;
