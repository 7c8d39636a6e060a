//! Keeps of each lease only what this host's own lease needs: enough to choose a subnet, and to notice that another
//! host wrote this host's lease. Only the consumer has the leases themselves.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::hash::{DefaultHasher, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr};

use overlay::allocate::Stored;
use overlay::lease::{StoredLease, Subnets};

/// A hash that tells whether two values of one key are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64);

impl Mark {
    /// The mark of a value.
    pub(crate) fn of(value: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(value);
        Self(hasher.finish())
    }

    /// The hash as a number.
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

/// A lease as it was read from the store.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub(crate) lease: StoredLease,
    /// The mark of the value's bytes.
    pub(crate) mark: Mark,
    /// A number that changes when the end of the lease changes: etcd's lease ID, or the mark of a `ttl` file. `None`
    /// for a reservation, which has no end.
    pub(crate) term: Option<u64>,
}

/// The index entry of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    public_ip: Option<Ipv4Addr>,
    public_ipv6: Option<Ipv6Addr>,
    pub(crate) mark: Mark,
    pub(crate) term: Option<u64>,
}

/// What the replacement of an entry means for the consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The lease is new.
    New,
    /// The lease has another value.
    Value,
    /// The value is the same: the lease was renewed, or became a reservation.
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

    /// Removes a lease. Returns whether it existed.
    pub(crate) fn remove(&mut self, subnets: &Subnets) -> bool {
        self.0.remove(subnets).is_some()
    }

    pub(crate) fn get(&self, subnets: &Subnets) -> Option<&Entry> {
        self.0.get(subnets)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The leases in the form that the choice of a subnet takes.
    pub(crate) fn stored(&self) -> impl Iterator<Item = Stored> + Clone {
        let stored = |(subnets, entry): (&Subnets, &Entry)| Stored {
            subnets: *subnets,
            public_ip: entry.public_ip,
            public_ipv6: entry.public_ipv6,
        };
        self.0.iter().map(stored)
    }
}
