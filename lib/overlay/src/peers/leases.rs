//! The store's leases, each taken apart once for as long as its value is the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Reason;
use crate::lease::{AttrsError, KeyError, LeaseAttrs, Subnets};

/// A lease, taken apart and not judged.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    value: Arc<[u8]>,
    subnets: Result<Subnets, KeyError>,
    attrs: Result<LeaseAttrs, AttrsError>,
}

impl Entry {
    fn read(key: &str, value: &Arc<[u8]>) -> Self {
        Self { value: value.clone(), subnets: key.parse(), attrs: LeaseAttrs::parse(value) }
    }

    pub(super) fn subnets(&self) -> Result<Subnets, Reason> {
        Ok(self.subnets.clone()?)
    }

    pub(super) fn attrs(&self) -> Result<&LeaseAttrs, Reason> {
        self.attrs.as_ref().map_err(|error| error.clone().into())
    }
}

/// All leases of a store, by their keys as they are spelt there.
#[derive(Debug, Clone, Default)]
pub struct Leases {
    entries: BTreeMap<String, Entry>,
}

impl Leases {
    /// Takes over what the store says now. What is the same is not read again.
    pub fn update(&mut self, values: &BTreeMap<String, Arc<[u8]>>) {
        if values.len() < self.entries.len() || self.entries.keys().any(|key| !values.contains_key(key)) {
            self.entries.retain(|key, _| values.contains_key(key));
        }
        for (key, value) in values {
            match self.entries.get_mut(key) {
                // most are the very same bytes
                Some(entry) if Arc::ptr_eq(&entry.value, value) => {}
                Some(entry) if entry.value == *value => entry.value = value.clone(),
                Some(entry) => *entry = Entry::read(key, value),
                None => drop(self.entries.insert(key.clone(), Entry::read(key, value))),
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(key, entry)| (key.as_str(), entry))
    }
}

impl<K: AsRef<str>, V: AsRef<[u8]>> FromIterator<(K, V)> for Leases {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(leases: T) -> Self {
        let read = |(key, value): (K, V)| {
            let (key, value) = (key.as_ref(), Arc::from(value.as_ref()));
            (key.to_owned(), Entry::read(key, &value))
        };
        Self { entries: leases.into_iter().map(read).collect() }
    }
}
