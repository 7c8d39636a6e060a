//! The embedded store: files that several daemons on one machine share.

mod desk;
mod follow;
mod layout;
mod lock;
#[cfg(test)]
mod tests;
mod ttl;
mod watch;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use overlay::lease::Subnets;

use desk::Desk;
use follow::Follower;
use layout::Layout;

use crate::compare::{CompareStore, Raw, Written};
use crate::error::StoreError;
use crate::feed::Feed;

/// The writing end of an embedded store.
#[derive(Debug, Clone)]
pub struct Embedded {
    desk: Desk,
}

impl Embedded {
    /// Opens or creates the store in `root`, and follows it. Needs a tokio runtime. Never fails: the feed's health
    /// reports errors, and the follower retries.
    pub fn open(root: PathBuf) -> (Self, Feed) {
        let name: Arc<str> = format!("embedded {}", root.display()).into();
        let layout = Arc::new(Layout::new(root));
        // Reads and writes do not wait for each other.
        let reader = Desk::new(layout.clone());
        let feed = Feed::start(name.clone(), |feed| Follower::new(name, reader, feed).run());
        (Self { desk: Desk::new(layout) }, feed)
    }
}

impl CompareStore for Embedded {
    async fn read(&self, key: Subnets) -> Result<Option<Raw>, StoreError> {
        self.desk.run(move |layout| layout.get(key)).await
    }

    async fn create(&self, key: Subnets, value: &[u8], ttl: Option<Duration>) -> Result<Written, StoreError> {
        let value = value.to_vec();
        self.desk.run(move |layout| layout.create(key, &value, ttl)).await
    }

    async fn renew(&self, key: Subnets, old: &[u8], new: &[u8], ttl: Option<Duration>) -> Result<Written, StoreError> {
        let (old, new) = (old.to_vec(), new.to_vec());
        self.desk.run(move |layout| layout.renew(key, &old, &new, ttl)).await
    }

    async fn delete(&self, key: Subnets, old: &[u8]) -> Result<Written, StoreError> {
        let old = old.to_vec();
        self.desk.run(move |layout| layout.delete(key, &old)).await
    }
}
