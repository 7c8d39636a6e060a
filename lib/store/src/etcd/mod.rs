//! etcd version 3, with upstream's keys and values, so that hosts with Go flannel and hosts with this one share a
//! cluster.

mod client;
mod ends;
mod error;
mod follow;
mod keys;
mod link;
mod options;
pub mod pb;
mod working;
mod write;

use std::net::IpAddr;
use std::sync::Arc;

pub use client::Client;
pub use error::{EtcdError, LinkError, WatchEnd};
pub use options::{Address, Asked, DEFAULT_ENDPOINTS, Login, Options, Secret, Timing, TlsFiles};

use crate::feed::Feed;
use ends::Ends;
use follow::Follower;
use keys::Keys;

/// The writing end of an etcd store.
#[derive(Debug, Clone)]
pub struct Etcd {
    client: Arc<Client>,
    keys: Keys,
    ends: Arc<Ends>,
}

impl Etcd {
    /// Opens and follows everything below `prefix`. Needs a tokio runtime. Never fails: the feed's health reports
    /// errors, and the follower retries.
    pub fn open(options: Options, prefix: &str) -> (Self, Feed) {
        let client = Arc::new(Client::new(options));
        let keys = Keys::new(prefix);
        let name = format!("etcd {}", client.endpoints()).into();
        let feed = Feed::start(name, |feed| Follower::new(client.clone(), keys.clone(), feed).run());
        (Self { client, keys, ends: Arc::default() }, feed)
    }

    /// The key of the network's configuration.
    pub fn config_key(&self) -> String {
        self.keys.config()
    }

    /// The addresses of all members, as they were resolved last.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.client.addresses()
    }
}
