mod files;
mod follow;
mod processes;

use std::collections::BTreeMap;
use std::path::Path;

use overlay::allocate::Stored;
use overlay::lease::StoredLease;

use super::layout::Layout;
use super::ttl::{Ends, Now, Ttl};
use super::*;
use crate::clock::Moment;
use crate::snapshot::Snapshot;
use crate::{Changes, StoreHealth};

const DAY: Option<Duration> = Some(Duration::from_secs(86_400));
const KEY: &str = "10.5.1.0-24";

fn key(text: &str) -> Subnets {
    text.parse().unwrap()
}

fn value(n: usize) -> Vec<u8> {
    format!(r#"{{"PublicIP":"192.0.2.{n}","PublicIPv6":null}}"#).into_bytes()
}

/// Everything that a store has published so far.
struct Seen {
    feed: Feed,
    leases: BTreeMap<String, StoredLease>,
    refused: BTreeMap<String, String>,
    config: Option<Arc<[u8]>>,
    health: StoreHealth,
    snapshots: usize,
}

impl Seen {
    fn new(feed: Feed) -> Self {
        let health = feed.health();
        Self { feed, health, leases: BTreeMap::new(), refused: BTreeMap::new(), config: None, snapshots: 0 }
    }

    async fn more(&mut self) {
        let Changes { leases, config, health } = self.feed.changes().await.unwrap();
        if leases.snapshot {
            self.leases.clear();
            self.snapshots += 1;
        }
        for lease in leases.put {
            self.leases.insert(lease.subnets.to_string(), lease);
        }
        for gone in leases.gone {
            self.leases.remove(&gone.to_string());
        }
        for (key, refusal) in leases.refused {
            match refusal {
                Some(refusal) => drop(self.refused.insert(key, refusal.to_string())),
                None => drop(self.refused.remove(&key)),
            }
        }
        self.config = config.unwrap_or(self.config.take());
        self.health = health;
    }

    fn has(&self, key: &str, n: usize) -> bool {
        let address = format!("192.0.2.{n}").parse().ok();
        self.leases.get(key).is_some_and(|lease| Stored::from(lease).public_ip == address)
    }

    /// Waits until what the store has published satisfies `wanted`.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let limit = Duration::from_secs(20);
        let found = tokio::time::timeout(limit, async {
            while !wanted(self) {
                self.more().await;
            }
        });
        if found.await.is_err() {
            panic!("{what}: not within {limit:?}; last seen {:?} {:?}", self.leases.keys(), self.health);
        }
    }
}

fn open(dir: &Path) -> (Embedded, Seen) {
    let (store, feed) = Embedded::open(dir.to_owned());
    (store, Seen::new(feed))
}

fn read(layout: &Layout) -> Snapshot {
    layout.read_all().unwrap().entries
}

/// The leases that end, for a daemon that starts now.
fn ends(layout: &Layout, now: &Now) -> Ends {
    let mut ends = Ends::default();
    layout.read_all().unwrap().ends.into_iter().for_each(|(key, ttl)| ends.set(key, ttl, now));
    ends
}

fn keys(leases: &[(Subnets, Ttl)]) -> Vec<String> {
    leases.iter().map(|(key, _)| key.to_string()).collect()
}

/// The names of all leases that end.
fn ending(layout: &Layout) -> Vec<String> {
    keys(&ends(layout, &layout.now()).over(Moment::since_boot(Duration::MAX)))
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}
