//! Where the network's configuration and all hosts' leases are kept.
//!
//! A store is level triggered: [`View`] is all that it says now, and a change of it is only a reason to look again.

pub mod backoff;
pub mod clock;
mod embedded;
pub mod etcd;
pub mod files;
mod halves;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch as level;

pub use embedded::Embedded;
pub use etcd::Etcd;

use crate::clock::Moment;
use crate::files::FileError;

/// All that a store says at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Which store this is, for people: `embedded /var/lib/flannel/network`, `etcd http://192.0.2.1:2379`.
    pub name: Arc<str>,
    /// The network's configuration, as JSON; `None` when there is none.
    pub config: Option<Arc<[u8]>>,
    /// Every lease's key and value, unchecked.
    pub leases: Arc<BTreeMap<String, Arc<[u8]>>>,
    /// When leases end; `None` when it is not known, as of etcd's but this host's own. A lease that is not in here is a
    /// reservation and does not end.
    pub expires: Arc<BTreeMap<String, Option<Moment>>>,
    /// What else lies among the leases, and why it is none: nobody's to delete.
    pub ignored: Arc<BTreeMap<String, String>>,
    /// `leases` is everything there is. While it is not, nobody may conclude that a lease is gone.
    pub complete: bool,
    /// Why the store cannot be read, when it cannot.
    pub error: Option<Arc<str>>,
    /// Since when changes of the store are not seen; `None` while they are.
    pub stale_since: Option<SystemTime>,
}

impl View {
    /// The same but for the times of expiry: a renewal is no news; that a lease has become a reservation is.
    fn says_the_same(&self, other: &Self) -> bool {
        self.expires.keys().eq(other.expires.keys()) && *self == Self { expires: self.expires.clone(), ..other.clone() }
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
    /// A call to etcd.
    #[error("store: {0}")]
    Etcd(#[from] etcd::EtcdError),
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

/// Which store to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreOptions {
    /// Files in this directory.
    Embedded(PathBuf),
    /// An etcd cluster.
    Etcd(Box<etcd::Options>),
}

/// The store that the daemon was given.
#[derive(Debug)]
pub enum Store {
    /// Files of this machine.
    Embedded(Embedded),
    /// An etcd cluster.
    Etcd(Etcd),
}

/// Where the embedded store below `dir` has its configuration.
pub fn config_path(dir: &Path, prefix: &str) -> PathBuf {
    dir.join(prefix.trim_matches('/')).join("config")
}

impl Store {
    /// Opens the store that the flags name. Needs a tokio runtime. Never fails: what is wrong is in the view, and tried
    /// again.
    pub fn open(options: &StoreOptions, prefix: &str) -> Self {
        match options {
            StoreOptions::Embedded(dir) => Self::embedded(dir, prefix),
            StoreOptions::Etcd(options) => Self::Etcd(Etcd::open((**options).clone(), prefix)),
        }
    }

    /// The addresses of the hosts that hold the leases, as far as the endpoints name them; none of an embedded store.
    pub fn addresses(&self) -> Vec<IpAddr> {
        match self {
            Self::Embedded(_) => Vec::new(),
            Self::Etcd(store) => store.addresses(),
        }
    }

    /// What to say when there is no network configuration.
    pub fn no_config(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "flannel config not found in the store: write it to <store-dir>/<etcd-prefix>/config",
            // upstream's words, for which people search
            Self::Etcd(_) => "flannel config not found in etcd store. Did you create your config using etcdv3 API?",
        }
    }

    /// The embedded store below `dir`, with etcd's layout below `prefix`. Never fails: what is wrong is in the view, and
    /// tried again.
    pub fn embedded(dir: &Path, prefix: &str) -> Self {
        Self::Embedded(Embedded::open(dir.join(prefix.trim_matches('/'))))
    }

    /// What the store says, now and later.
    pub fn view(&self) -> level::Receiver<View> {
        match self {
            Self::Embedded(store) => store.view(),
            Self::Etcd(store) => store.view(),
        }
    }

    /// Writes a lease that nobody holds. `ttl` of `None` makes a reservation.
    pub async fn create(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<Outcome, StoreError> {
        match self {
            Self::Embedded(store) => store.create(key, value, ttl).await,
            Self::Etcd(store) => store.create(key, value, ttl).await,
        }
    }

    /// Replaces `old` by `new` (they may be equal) and lets it end after `ttl`; `None` makes it a reservation.
    pub async fn renew(&self, key: &str, old: &[u8], new: &[u8], ttl: Option<Duration>) -> Result<Outcome, StoreError> {
        match self {
            Self::Embedded(store) => store.renew(key, old, new, ttl).await,
            Self::Etcd(store) => store.renew(key, old, new, ttl).await,
        }
    }

    /// Removes the lease if it is still `old`.
    pub async fn delete(&self, key: &str, old: &[u8]) -> Result<Outcome, StoreError> {
        match self {
            Self::Embedded(store) => store.delete(key, old).await,
            Self::Etcd(store) => store.delete(key, old).await,
        }
    }
}
