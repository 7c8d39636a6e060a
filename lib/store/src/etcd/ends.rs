//! When the etcd leases end that this process made or renewed. Of all others nobody needs to know.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::working::KnownEnds;
use crate::clock::Moment;

/// The etcd leases of this process.
#[derive(Debug, Default)]
pub(super) struct Ends {
    held: Mutex<BTreeMap<i64, Held>>,
    news: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    end: Moment,
    /// By this process, which therefore ends it, too.
    granted: bool,
    /// Whether a key is attached to it is not known.
    doubtful: bool,
}

impl Ends {
    /// A lease was made.
    pub(super) fn granted(&self, id: i64, end: Moment) {
        self.lock().insert(id, Held { end, granted: true, doubtful: false });
        self.news.notify_one();
    }

    /// A lease was renewed.
    pub(super) fn renewed(&self, id: i64, end: Moment) {
        self.lock().entry(id).or_insert(Held { end, granted: false, doubtful: false }).end = end;
        self.news.notify_one();
    }

    /// No key is attached to it any more; true when it is to be revoked.
    pub(super) fn released(&self, id: i64) -> bool {
        self.lock().remove(&id).is_some_and(|held| held.granted)
    }

    /// A write failed: it may have been done, or not.
    pub(super) fn doubt(&self, id: i64) {
        if let Some(held) = self.lock().get_mut(&id) {
            held.doubtful = true;
        }
    }

    /// It is known again what is attached.
    pub(super) fn trust(&self, id: i64) {
        if let Some(held) = self.lock().get_mut(&id) {
            held.doubtful = false;
        }
    }

    pub(super) fn doubtful(&self) -> Vec<i64> {
        self.lock().iter().filter(|(_, held)| held.doubtful).map(|(id, _)| *id).collect()
    }

    pub(super) fn known(&self) -> KnownEnds {
        self.lock().iter().map(|(id, held)| (*id, held.end)).collect()
    }

    /// Waits until there is news.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
