//! The store's leases, each taken apart once for as long as its value is the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernel::types::Family;

use super::Reason;
use crate::backend::{Data, data_of};
use crate::lease::{AttrsError, KeyError, LeaseAttrs, Subnets, VxlanData};
use crate::net::ByFamily;

/// A lease, taken apart and not judged.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    value: Arc<[u8]>,
    subnets: Result<Subnets, KeyError>,
    attrs: Result<LeaseAttrs, AttrsError>,
    /// What the attributes say of VTEPs, where they say anything.
    vteps: ByFamily<Option<Result<VxlanData, AttrsError>>>,
}

impl Entry {
    fn read(key: &str, value: &Arc<[u8]>) -> Self {
        let attrs = LeaseAttrs::parse(value);
        let mut vteps = ByFamily::default();
        // others' data is not VXLAN's
        let vtep = |attrs: &&LeaseAttrs| matches!(data_of(&attrs.backend_type), Some(Data::Vtep | Data::KeptVtep));
        for attrs in attrs.iter().filter(vtep) {
            for family in Family::ALL {
                *vteps.get_mut(family) = attrs.data(family).map(VxlanData::parse);
            }
        }
        Self { value: value.clone(), subnets: key.parse(), attrs, vteps }
    }

    /// Most are the very same bytes.
    fn holds(&self, value: &Arc<[u8]>) -> bool {
        Arc::ptr_eq(&self.value, value) || self.value == *value
    }

    pub(super) fn subnets(&self) -> Result<Subnets, Reason> {
        Ok(self.subnets.clone()?)
    }

    /// The VTEP of a family; `None` when there is no data of one.
    pub(super) fn vtep(&self, family: Family) -> Option<&Result<VxlanData, AttrsError>> {
        self.vteps.get(family).as_ref()
    }

    pub(super) fn attrs(&self) -> Result<&LeaseAttrs, Reason> {
        self.attrs.as_ref().map_err(|error| error.clone().into())
    }
}

/// All leases of a store, in the order of their keys as they are spelt there.
#[derive(Debug, Clone, Default)]
pub struct Leases {
    /// A store has each key once. A list that somebody wrote may have one twice, and then the two contradict each other.
    entries: Vec<(String, Entry)>,
}

impl Leases {
    /// Takes over what the store says now. What is the same is not read again.
    pub fn update(&mut self, values: &BTreeMap<String, Arc<[u8]>>) {
        let mut old = std::mem::take(&mut self.entries).into_iter().peekable();
        self.entries.reserve(values.len());
        for (key, value) in values {
            while old.next_if(|(before, _)| before < key).is_some() {}
            let same = |(before, entry): &(String, Entry)| before == key && entry.holds(value);
            let entry = old.next_if(same).unwrap_or_else(|| (key.clone(), Entry::read(key, value)));
            self.entries.push(entry);
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
        let mut entries: Vec<_> = leases.into_iter().map(read).collect();
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self { entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_read() {
        let values = |all: &[(&str, &str)]| -> BTreeMap<String, Arc<[u8]>> {
            all.iter().map(|(key, value)| ((*key).to_owned(), Arc::from(value.as_bytes()))).collect()
        };
        let mut leases = Leases::default();
        leases.update(&values(&[("10.5.1.0-24", "{}"), ("10.5.3.0-24", "{}"), ("junk", "x")]));
        let before = leases.entries.clone();
        let now =
            values(&[("10.5.1.0-24", "{}"), ("10.5.2.0-24", "{}"), ("10.5.3.0-24", r#"{"PublicIP":"192.0.2.1"}"#)]);
        leases.update(&now);
        let keys: Vec<&str> = leases.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["10.5.1.0-24", "10.5.2.0-24", "10.5.3.0-24"]);
        assert!(Arc::ptr_eq(&leases.entries[0].1.value, &before[0].1.value), "the first is the one that was read");
        let third = leases.entries[2].1.attrs().unwrap();
        assert_eq!(third.public_ip, "192.0.2.1".parse().ok());
        // those that are gone do not make the rest be read again
        let third = leases.entries[2].1.value.clone();
        leases.update(&values(&[("10.5.3.0-24", r#"{"PublicIP":"192.0.2.1"}"#)]));
        assert_eq!(leases.iter().count(), 1);
        assert!(Arc::ptr_eq(&leases.entries[0].1.value, &third), "it is the one that was read");
        leases.update(&BTreeMap::new());
        assert_eq!(leases.iter().count(), 0);
    }
}
