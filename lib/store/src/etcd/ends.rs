//! The etcd leases that this process made: it ends those that nothing is attached to.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The etcd leases of this process.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Each with whether it is unknown if a key is attached to it.
    granted: Mutex<BTreeMap<i64, bool>>,
}

impl Ends {
    /// A lease was made.
    pub(super) fn granted(&self, id: i64) {
        self.lock().insert(id, false);
    }

    /// No key is attached to it any more; true when it is to be revoked.
    pub(super) fn released(&self, id: i64) -> bool {
        self.lock().remove(&id).is_some()
    }

    /// A write failed: it may have been done, or not.
    pub(super) fn doubt(&self, id: i64) {
        self.set_doubt(id, true);
    }

    /// It is known again that a key is attached.
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
