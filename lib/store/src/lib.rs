//! Stores for the network's configuration and for the leases of all hosts.
//!
//! A store delivers typed leases as change sets ([`Store::changes`]), and keeps a lease for this host
//! ([`Store::hold`], [`Store::publish`]). It checks leases when it reads them, and refuses anything else with a
//! reason. The store itself keeps no leases: it knows of each only what the choice of a subnet needs.
//!
//! In two kinds of store the hosts compare and write leases themselves ([`CompareStore`]): files on one machine
//! ([`Embedded`]) and [`Etcd`]. A store that assigns the subnets, as Kubernetes does with a node's podCIDR, is
//! another kind of source ([`kubernetes`]): its `hold` reads the assigned subnet or waits for it, and its `publish` is a
//! patch.

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
pub mod kubernetes;
mod pending;
mod snapshot;
pub mod thread;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay::lease::LeaseAttrs;
use overlay::net::ByFamily;
use tokio::time::Instant;

pub use claim::{Claim, Held, HoldError, Published, Trouble, Waiting};
pub use compare::{CompareStore, Raw, Term, Written};
pub use embedded::Embedded;
pub use error::{Ended, StoreError};
pub use etcd::Etcd;
pub use feed::{Changes, Feed, StoreHealth};
pub use kubernetes::Kubernetes;

use claim::Keeper;

/// Which store to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreOptions {
    /// Files in this directory, in etcd's layout.
    Embedded(PathBuf),
    /// An etcd cluster.
    Etcd(Box<etcd::Options>),
    /// The Nodes of a Kubernetes cluster.
    Kubernetes(Box<kubernetes::Options>),
}

/// An open store: its changes, and this host's lease in it.
#[derive(Debug)]
pub struct Store {
    feed: Feed,
    source: Source,
    no_config: String,
}

/// The kinds of source of this host's lease.
#[derive(Debug)]
enum Source {
    Embedded(Keeper<Embedded>),
    Etcd(Keeper<Etcd>),
    Kubernetes(Box<Kubernetes>),
}

/// The path of the configuration in an embedded store below `dir`.
pub fn config_path(dir: &Path, prefix: &str) -> PathBuf {
    embedded_root(dir, prefix).join("config")
}

fn embedded_root(dir: &Path, prefix: &str) -> PathBuf {
    dir.join(prefix.trim_matches('/'))
}

impl Store {
    /// Opens the store that `options` names, with upstream's layout below `prefix`. The host's own lease is renewed
    /// `renew_margin` before its end. Needs a tokio runtime. Never fails: [`StoreHealth`] reports errors, and the
    /// follower retries.
    ///
    /// # Example
    /// The leases of all hosts, as they change:
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use store::{Store, StoreOptions};
    ///
    /// # async fn follow() -> Result<(), store::Ended> {
    /// let options = StoreOptions::Embedded("/var/lib/flannel".into());
    /// let mut store = Store::open(&options, "/coreos.com/network", Duration::from_secs(3600));
    /// loop {
    ///     let changes = store.changes().await?;
    ///     println!("{changes:?}");
    /// }
    /// # }
    /// ```
    pub fn open(options: &StoreOptions, prefix: &str, renew_margin: Duration) -> Self {
        match options {
            StoreOptions::Embedded(dir) => {
                let (store, feed) = Embedded::open(embedded_root(dir, prefix));
                let source = Source::Embedded(Keeper::new(store, feed.shared(), renew_margin));
                let path = config_path(dir, prefix);
                let no_config = format!("flannel config not found in the store: write it to {}", path.display());
                Self { feed, source, no_config }
            }
            StoreOptions::Etcd(options) => {
                let (store, feed) = Etcd::open((**options).clone(), prefix);
                // upstream's words first, for which people search
                let no_config = format!(
                    "flannel config not found in etcd store. Did you create your config using etcdv3 API? (the key is {})",
                    store.config_key()
                );
                let source = Source::Etcd(Keeper::new(store, feed.shared(), renew_margin));
                Self { feed, source, no_config }
            }
            StoreOptions::Kubernetes(options) => {
                let no_config = format!(
                    "failed to read net conf: open {}: no such file or directory (mount the ConfigMap kube-flannel-cfg there)",
                    options.net_config.display()
                );
                let (store, feed) = Kubernetes::open((**options).clone());
                Self { feed, source: Source::Kubernetes(Box::new(store)), no_config }
            }
        }
    }

    /// What to say when there is no network configuration: where it must be.
    pub fn no_config(&self) -> &str {
        &self.no_config
    }

    /// Waits for the next change set. The first one is a snapshot, or says why none exists yet. Cancel-safe. Change
    /// sets that are not taken are merged.
    ///
    /// # Errors
    /// The task that follows the store has ended or panicked.
    pub async fn changes(&mut self) -> Result<Changes, Ended> {
        self.feed.changes().await
    }

    /// The store's current health.
    pub fn health(&self) -> StoreHealth {
        self.feed.health()
    }

    /// Makes sure that this host has a lease that fits the claim's configuration: adopts one, takes a free one, takes
    /// a lost one again, or renews the lease when it is due. Reads only this host's lease unless it must choose a
    /// subnet.
    ///
    /// After [`HoldError::Retry`] and [`HoldError::Wait`] the host still has the lease that [`Self::held`] returns.
    ///
    /// # Errors
    /// No lease exists yet, or it cannot be renewed now; see [`HoldError`].
    pub async fn hold(&mut self, claim: &Claim<'_>) -> Result<Held, HoldError> {
        match &mut self.source {
            Source::Embedded(keeper) => keeper.hold(claim).await,
            Source::Etcd(keeper) => keeper.hold(claim).await,
            Source::Kubernetes(store) => store.keeper().hold(claim),
        }
    }

    /// This host's lease; `None` before the first one.
    pub fn held(&self) -> Option<Held> {
        match &self.source {
            Source::Embedded(keeper) => keeper.held(Instant::now()),
            Source::Etcd(keeper) => keeper.held(Instant::now()),
            Source::Kubernetes(store) => store.held(),
        }
    }

    /// The attributes in this host's lease, as last written.
    pub fn published(&self) -> Option<LeaseAttrs> {
        match &self.source {
            Source::Embedded(keeper) => keeper.published(),
            Source::Etcd(keeper) => keeper.published(),
            Source::Kubernetes(store) => store.published(),
        }
    }

    /// Publishes `attrs` in this host's lease, unless it has them already. The kernel must be ready for what the
    /// peers then send.
    ///
    /// # Errors
    /// The store fails, or another host wrote this host's lease.
    pub async fn publish(&mut self, attrs: &LeaseAttrs) -> Result<Published, StoreError> {
        match &mut self.source {
            Source::Embedded(keeper) => keeper.publish(attrs).await,
            Source::Etcd(keeper) => keeper.publish(attrs).await,
            Source::Kubernetes(store) => store.keeper().publish(attrs).await,
        }
    }

    /// The known addresses of the store: a peer's lease that contains one of them would cut this host off. Empty for
    /// files.
    pub fn addresses(&self) -> Vec<IpAddr> {
        match &self.source {
            Source::Embedded(_) => Vec::new(),
            Source::Etcd(keeper) => keeper.store().addresses(),
            Source::Kubernetes(store) => store.addresses(),
        }
    }

    /// The addresses that the operator sets in the store for this host's underlay, instead of `--public-ip` and
    /// `--public-ipv6`: annotations of its Node. No other store has them.
    ///
    /// # Errors
    /// One of them is not an address.
    pub fn own_addresses(&self) -> Result<ByFamily<Option<IpAddr>>, StoreError> {
        match &self.source {
            Source::Embedded(_) | Source::Etcd(_) => Ok(ByFamily::default()),
            Source::Kubernetes(store) => Ok(store.own_addresses()?),
        }
    }

    /// Reports whether pods of this host can reach others: the Node's condition NetworkUnavailable follows it. Other
    /// stores have nothing of the kind.
    pub fn network_is(&self, up: bool) {
        if let Source::Kubernetes(store) = &self.source {
            store.network_is(up);
        }
    }
}
