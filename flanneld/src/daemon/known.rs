//! What the store says besides leases.

use std::sync::Arc;

use store::StoreHealth;

/// The network's configuration, and how the store is.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) health: StoreHealth,
    pub(super) config: Option<Arc<[u8]>>,
}

impl Known {
    pub(super) fn new(health: StoreHealth) -> Self {
        Self { health, config: None }
    }

    /// True once the store was read, or could not be.
    pub(super) fn is_read(&self) -> bool {
        self.health.complete || self.health.error.is_some()
    }
}
