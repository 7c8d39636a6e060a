//! Collects what changed since the consumer took the last change set. Pure.
//!
//! However long the consumer waits, this holds each key once, and no key that appeared and disappeared in the
//! meantime. So it is never larger than what the consumer and the store hold together.

use std::collections::BTreeMap;
use std::sync::Arc;

use overlay::lease::{LeaseChanges, Refusal, StoredLease, Subnets};

use crate::index::{Change, Index};
use crate::snapshot::{CONFIG, Event, Snapshot, canonical};

/// The change of one lease.
#[derive(Debug)]
enum Lease {
    /// The lease exists. `known`: the consumer has it, or an earlier value of it.
    Put { lease: StoredLease, known: bool },
    /// The lease is gone, and the consumer still has it.
    Gone,
}

/// The parts of the store's contents that are kept, and the changes that the consumer has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    index: Index,
    refused: BTreeMap<String, Refusal>,
    /// `None` before the first reading.
    config: Option<Option<Arc<[u8]>>>,
    snapshot: Option<Vec<StoredLease>>,
    leases: BTreeMap<Subnets, Lease>,
    refusals: BTreeMap<String, Option<Refusal>>,
    config_changed: bool,
}

/// A change of the configuration: `Some` when it has changed.
pub(crate) type ConfigChange = Option<Option<Arc<[u8]>>>;

impl Pending {
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// Whether nothing has changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.snapshot.is_none() && self.leases.is_empty() && self.refusals.is_empty() && !self.config_changed
    }

    /// Replaces all contents by `snapshot`.
    pub(crate) fn replace(&mut self, snapshot: Snapshot) {
        let Snapshot { leases, index, refused, config } = snapshot;
        let before = std::mem::replace(&mut self.refused, refused);
        for key in before.into_keys().filter(|key| !self.refused.contains_key(key)) {
            self.refusals.insert(key, None);
        }
        self.refusals.extend(self.refused.iter().map(|(key, refusal)| (key.clone(), Some(refusal.clone()))));
        self.index = index;
        self.leases.clear();
        self.snapshot = Some(leases);
        self.configure(config);
    }

    /// Applies one change.
    pub(crate) fn apply(&mut self, event: Event) {
        match event {
            Event::Put(found) => {
                self.unrefuse(&found.lease.subnets);
                let change = self.index.put(&found);
                if change != Change::Nothing {
                    self.put(found.lease, change == Change::Value);
                }
            }
            Event::Gone(key) => self.gone(&key),
            Event::Refused(key, refusal) => self.refuse(key, refusal),
            Event::Config(config) => {
                self.accept(CONFIG);
                self.configure(config);
            }
        }
    }

    fn put(&mut self, lease: StoredLease, was_there: bool) {
        let known = match self.leases.get(&lease.subnets) {
            Some(Lease::Gone) => true,
            Some(Lease::Put { known, .. }) => *known,
            None => was_there,
        };
        self.leases.insert(lease.subnets, Lease::Put { lease, known });
    }

    fn remove(&mut self, subnets: Subnets) {
        if !self.index.remove(&subnets) {
            return;
        }
        match self.leases.get(&subnets) {
            Some(Lease::Put { known: false, .. }) => drop(self.leases.remove(&subnets)),
            _ => drop(self.leases.insert(subnets, Lease::Gone)),
        }
    }

    fn gone(&mut self, key: &str) {
        self.accept(key);
        if key == CONFIG {
            self.configure(None);
        } else if let Some(subnets) = canonical(key) {
            self.remove(subnets);
        }
    }

    fn refuse(&mut self, key: String, refusal: Refusal) {
        if key == CONFIG {
            self.configure(None);
        } else if let Some(subnets) = canonical(&key) {
            self.remove(subnets);
        }
        if self.refused.get(&key) != Some(&refusal) {
            self.refused.insert(key.clone(), refusal.clone());
            self.refusals.insert(key, Some(refusal));
        }
    }

    fn unrefuse(&mut self, subnets: &Subnets) {
        // There is seldom a refused entry, and making the key allocates.
        if !self.refused.is_empty() {
            self.accept(&subnets.to_string());
        }
    }

    /// Removes the refused entry under this key, if there is one.
    fn accept(&mut self, key: &str) {
        if self.refused.remove(key).is_some() {
            self.refusals.insert(key.to_owned(), None);
        }
    }

    fn configure(&mut self, config: Option<Arc<[u8]>>) {
        self.config_changed |= self.config.as_ref() != Some(&config);
        self.config = Some(config);
    }

    /// Takes all changes.
    pub(crate) fn take(&mut self) -> (LeaseChanges, ConfigChange) {
        let changed = std::mem::take(&mut self.leases);
        let mut changes = LeaseChanges { snapshot: self.snapshot.is_some(), ..LeaseChanges::default() };
        changes.put = self.snapshot.take().unwrap_or_default();
        if !changed.is_empty() {
            changes.put.retain(|lease| !changed.contains_key(&lease.subnets));
        }
        for (subnets, change) in changed {
            match change {
                Lease::Put { lease, .. } => changes.put.push(lease),
                Lease::Gone if changes.snapshot => {}
                Lease::Gone => changes.gone.push(subnets),
            }
        }
        changes.refused = std::mem::take(&mut self.refusals).into_iter().collect();
        let config = std::mem::take(&mut self.config_changed).then(|| self.config.clone().flatten());
        (changes, config)
    }
}

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
