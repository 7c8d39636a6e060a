//! What the store has told so far.

use std::collections::BTreeMap;
use std::sync::Arc;

use overlay::lease::{LeaseAttrs, Subnets};
use store::{Changes, StoreHealth};

/// The store's contents, and how it is.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) health: StoreHealth,
    pub(super) config: Option<Arc<[u8]>>,
    /// Each lease's key and value.
    pub(super) leases: BTreeMap<String, Arc<[u8]>>,
    /// What else lies among the leases, and why it is none: nobody's to delete.
    pub(super) refused: Arc<BTreeMap<String, String>>,
}

impl Known {
    pub(super) fn new(health: StoreHealth) -> Self {
        Self { health, config: None, leases: BTreeMap::new(), refused: Arc::default() }
    }

    /// True once the store was read, or could not be.
    pub(super) fn is_read(&self) -> bool {
        self.health.complete || self.health.error.is_some()
    }

    pub(super) fn take(&mut self, changes: Changes) {
        let Changes { leases, config, health } = changes;
        self.health = health;
        if let Some(config) = config {
            self.config = config;
        }
        if leases.snapshot {
            self.leases.clear();
        }
        let put =
            leases.put.into_iter().map(|lease| (lease.subnets.to_string(), lease.attrs.to_json().into_bytes().into()));
        self.leases.extend(put);
        leases.gone.iter().for_each(|gone| drop(self.leases.remove(&gone.to_string())));
        if !leases.refused.is_empty() {
            let refused = Arc::make_mut(&mut self.refused);
            for (key, refusal) in leases.refused {
                match refusal {
                    Some(refusal) => drop(refused.insert(key, refusal.to_string())),
                    None => drop(refused.remove(&key)),
                }
            }
        }
    }

    /// What the lease of these subnets publishes.
    pub(super) fn attrs(&self, subnets: &Subnets) -> Option<LeaseAttrs> {
        LeaseAttrs::parse(self.leases.get(&subnets.to_string())?).ok()
    }
}
