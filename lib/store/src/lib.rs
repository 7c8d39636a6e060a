//! Where the network's configuration and all hosts' leases are kept.
//!
//! A store hands out typed leases as change sets ([`Store::changes`]), and sees to it that this host has a lease of its own
//! ([`Store::hold`], [`Store::publish`]). The leases are checked when they are read: what is not a lease is refused with a
//! reason. The store itself keeps no lease: of each it knows only what the choice of a subnet needs.
//!
//! Two kinds of store are compared and written by the hosts themselves ([`CompareStore`]): files of one machine
//! ([`Embedded`]) and [`Etcd`]. A store that gives each host its subnet, as Kubernetes does with a node's podCIDR, is
//! another kind of source: there `hold` reads what is given or waits for it, and `publish` is a patch.

pub mod backoff;
mod claim;
pub mod clock;
mod compare;
mod embedded;
mod error;
pub mod etcd;
mod feed;
pub mod files;
mod halves;
mod index;
mod pending;
mod snapshot;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay::lease::LeaseAttrs;
use tokio::time::Instant;

pub use claim::{Claim, Held, HoldError, Published, Trouble, Waiting};
pub use compare::{CompareStore, Raw, Term, Written};
pub use embedded::Embedded;
pub use error::{Ended, StoreError};
pub use etcd::Etcd;
pub use feed::{Changes, Feed, StoreHealth};

use claim::Keeper;

/// Which store to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreOptions {
    /// Files in this directory, with etcd's layout below it.
    Embedded(PathBuf),
    /// An etcd cluster.
    Etcd(Box<etcd::Options>),
}

/// A store, open: its changes, and this host's lease in it.
#[derive(Debug)]
pub struct Store {
    feed: Feed,
    source: Source,
}

/// Where this host's lease comes from.
#[derive(Debug)]
enum Source {
    Embedded(Keeper<Embedded>),
    Etcd(Keeper<Etcd>),
}

/// Does the same with the keeper of each kind of source.
macro_rules! with_keeper {
    ($source:expr, $keeper:ident => $work:expr) => {
        match $source {
            Source::Embedded($keeper) => $work,
            Source::Etcd($keeper) => $work,
        }
    };
}

/// Where the embedded store below `dir` has its configuration.
pub fn config_path(dir: &Path, prefix: &str) -> PathBuf {
    embedded_root(dir, prefix).join("config")
}

fn embedded_root(dir: &Path, prefix: &str) -> PathBuf {
    dir.join(prefix.trim_matches('/'))
}

impl Store {
    /// Opens the store that `options` name, with upstream's layout below `prefix`. `renew_margin` is how long before its
    /// end this host's lease is renewed. Needs a tokio runtime. Never fails: what is wrong is in [`StoreHealth`], and is
    /// tried again.
    pub fn open(options: &StoreOptions, prefix: &str, renew_margin: Duration) -> Self {
        match options {
            StoreOptions::Embedded(dir) => {
                let (store, feed) = Embedded::open(embedded_root(dir, prefix));
                let source = Source::Embedded(Keeper::new(store, feed.shared(), renew_margin));
                Self { feed, source }
            }
            StoreOptions::Etcd(options) => {
                let (store, feed) = Etcd::open((**options).clone(), prefix);
                let source = Source::Etcd(Keeper::new(store, feed.shared(), renew_margin));
                Self { feed, source }
            }
        }
    }

    /// What to say when there is no network configuration.
    pub fn no_config(&self) -> &'static str {
        match &self.source {
            Source::Embedded(_) => {
                "flannel config not found in the store: write it to <store-dir>/<etcd-prefix>/config"
            }
            // upstream's words, for which people search
            Source::Etcd(_) => "flannel config not found in etcd store. Did you create your config using etcdv3 API?",
        }
    }

    /// Waits for the next change set. The first one is a snapshot, or says why there is none yet. May be cancelled at any
    /// time. Change sets that are not taken are merged.
    ///
    /// # Errors
    /// The task that follows the store has ended or panicked.
    pub async fn changes(&mut self) -> Result<Changes, Ended> {
        self.feed.changes().await
    }

    /// How the store is now.
    pub fn health(&self) -> StoreHealth {
        self.feed.health()
    }

    /// Sees to it that this host has a lease that the claim's configuration allows: adopts it, takes a free one, takes it
    /// again, or renews it when it is time to. Looks only at this host's lease unless a subnet must be chosen.
    ///
    /// After [`HoldError::Retry`] and [`HoldError::Wait`] the host still has the lease that [`Self::held`] says.
    ///
    /// # Errors
    /// There is no lease yet, or it cannot be renewed now; see [`HoldError`].
    pub async fn hold(&mut self, claim: &Claim<'_>) -> Result<Held, HoldError> {
        with_keeper!(&mut self.source, keeper => keeper.hold(claim).await)
    }

    /// The lease that this host has.
    pub fn held(&self) -> Option<Held> {
        with_keeper!(&self.source, keeper => keeper.held(Instant::now()))
    }

    /// What this host's lease says, as it was written last.
    pub fn published(&self) -> Option<LeaseAttrs> {
        with_keeper!(&self.source, keeper => keeper.published())
    }

    /// Publishes `attrs` in this host's lease, if they are not there yet: the kernel must be ready for what the peers do
    /// with them.
    ///
    /// # Errors
    /// The store fails, or somebody else wrote this host's lease.
    pub async fn publish(&mut self, attrs: &LeaseAttrs) -> Result<Published, StoreError> {
        with_keeper!(&mut self.source, keeper => keeper.publish(attrs).await)
    }

    /// The addresses at which this host reaches the store, as far as they are known: a lease whose subnet holds one of them
    /// would cut the host off. Empty for files.
    pub fn addresses(&self) -> Vec<IpAddr> {
        match &self.source {
            Source::Embedded(_) => Vec::new(),
            Source::Etcd(keeper) => keeper.store().addresses(),
        }
    }
}
