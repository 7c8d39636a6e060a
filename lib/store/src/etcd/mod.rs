//! etcd, version 3: upstream's keys and values, so that hosts with Go flannel and with this one share a cluster.

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
use std::time::SystemTime;

use tokio::sync::watch as level;
use tokio::task::AbortHandle;

pub use client::Client;
pub use error::{EtcdError, LinkError, WatchEnd};
pub use options::{Address, Asked, DEFAULT_ENDPOINTS, Login, Options, Secret, Timing, TlsFiles};

use super::{StoreError, View};
use crate::embedded::is_key;
use ends::Ends;
use follow::Follower;
use keys::Keys;
use working::Working;

/// Handle of an etcd store. Following it ends with the handle.
#[derive(Debug)]
pub struct Etcd {
    client: Arc<Client>,
    keys: Keys,
    ends: Arc<Ends>,
    view: level::Receiver<View>,
    follower: AbortHandle,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Etcd {
    /// Follows what is below `prefix`. Needs a tokio runtime.
    pub fn open(options: Options, prefix: &str) -> Self {
        let client = Arc::new(Client::new(options));
        let (keys, ends) = (Keys::new(prefix), Arc::new(Ends::default()));
        let name = format!("etcd {}", client.endpoints()).into();
        let (sender, view) = level::channel(View { name, stale_since: Some(SystemTime::now()), ..View::default() });
        let follower = Follower {
            client: client.clone(),
            keys: keys.clone(),
            ends: ends.clone(),
            view: sender,
            working: Working::new(keys.clone()),
            lost: None,
        };
        let follower = tokio::spawn(follower.run()).abort_handle();
        Self { client, keys, ends, view, follower }
    }

    pub(super) fn view(&self) -> level::Receiver<View> {
        self.view.clone()
    }

    /// The addresses of the hosts that hold the leases, as far as the endpoints name them.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.client.addresses()
    }

    fn key(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        if is_key(name) { Ok(self.keys.lease(name)) } else { Err(StoreError::Key(name.to_owned())) }
    }
}
