//! What is kept of all leases for the sake of this host's own: enough to choose a subnet, and to see that somebody wrote
//! this host's lease. The leases themselves are with the consumer only.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::hash::{DefaultHasher, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr};

use overlay::allocate::Stored;
use overlay::lease::{StoredLease, Subnets};

/// A number by which two values of one key are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64);

impl Mark {
    /// The mark of a value.
    pub(crate) fn of(value: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(value);
        Self(hasher.finish())
    }

    /// As a number.
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

/// A lease as it was read from the store.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub(crate) lease: StoredLease,
    /// Of the value's bytes.
    pub(crate) mark: Mark,
    /// What ends the lease, as a number that changes when that changes: etcd's lease, or the mark of a file. `None`: it is
    /// a reservation and does not end.
    pub(crate) term: Option<u64>,
}

/// What is kept of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    public_ip: Option<Ipv4Addr>,
    public_ipv6: Option<Ipv6Addr>,
    pub(crate) mark: Mark,
    pub(crate) term: Option<u64>,
}

/// What an entry's replacement means for the consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// There was no such lease.
    New,
    /// Its value is another.
    Value,
    /// Its value is the same: it was renewed, or has become a reservation.
    Nothing,
}

/// All leases of a store, by their keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index(BTreeMap<Subnets, Entry>);

impl Index {
    pub(crate) fn put(&mut self, found: &Found) -> Change {
        let Found { lease, mark, term } = found;
        let Stored { public_ip, public_ipv6, .. } = Stored::from(lease);
        let entry = Entry { public_ip, public_ipv6, mark: *mark, term: *term };
        match self.0.entry(lease.subnets) {
            Slot::Vacant(slot) => {
                slot.insert(entry);
                Change::New
            }
            Slot::Occupied(mut slot) => {
                let before = slot.insert(entry);
                if before.mark == entry.mark { Change::Nothing } else { Change::Value }
            }
        }
    }

    /// True when there was such a lease.
    pub(crate) fn remove(&mut self, subnets: &Subnets) -> bool {
        self.0.remove(subnets).is_some()
    }

    pub(crate) fn get(&self, subnets: &Subnets) -> Option<&Entry> {
        self.0.get(subnets)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// As the choice of a subnet takes them.
    pub(crate) fn stored(&self) -> impl Iterator<Item = Stored> + Clone {
        let stored = |(subnets, entry): (&Subnets, &Entry)| Stored {
            subnets: *subnets,
            public_ip: entry.public_ip,
            public_ipv6: entry.public_ipv6,
        };
        self.0.iter().map(stored)
    }
}
