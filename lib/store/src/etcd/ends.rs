//! The etcd leases that this process created; it ends those that no key is attached to.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The etcd leases of this process.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// For each lease, whether it is unknown if a key is attached to it.
    granted: Mutex<BTreeMap<i64, bool>>,
}

impl Ends {
    /// Records a new lease.
    pub(super) fn granted(&self, id: i64) {
        self.lock().insert(id, false);
    }

    /// Records that no key is attached to the lease any more. Returns whether to revoke it.
    pub(super) fn released(&self, id: i64) -> bool {
        self.lock().remove(&id).is_some()
    }

    /// Records a failed write, which may or may not have attached a key.
    pub(super) fn doubt(&self, id: i64) {
        self.set_doubt(id, true);
    }

    /// Records that a key is attached after all.
    pub(super) fn attached(&self, id: i64) {
        self.set_doubt(id, false);
    }

    fn set_doubt(&self, id: i64, doubt: bool) {
        if let Some(doubtful) = self.lock().get_mut(&id) {
            *doubtful = doubt;
        }
    }

    pub(super) fn doubtful(&self) -> Vec<i64> {
        self.lock().iter().filter(|(_, doubtful)| **doubtful).map(|(id, _)| *id).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, bool>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
