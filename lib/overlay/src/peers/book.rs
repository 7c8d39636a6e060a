//! All leases of a store with a verdict on each, and the changes since the last verdicts.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use kernel::state::PublicKey;
use kernel::types::{Family, Mac};

use super::alone::{Claimed, Rules};
use super::claims::{Claims, Rank};
use super::index::{Addresses, Spans};
use super::{Own, Peer};
use crate::lease::{LeaseChanges, LeaseType, Refusal, StoredLease, Subnets};
use crate::net::ByFamily;

/// All leases of a store, with the decision which of them to accept.
///
/// [`Self::apply`] adds changes, [`Self::judge`] updates the verdicts; the other functions return the result of the
/// last call of `judge`. A change costs only what depends on it. The verdicts equal those of a new book with the same
/// leases.
///
/// ```
/// use overlay::lease::{LeaseChanges, StoredLease};
/// use overlay::netconf::NetConf;
/// use overlay::peers::{Book, Own};
///
/// let conf = NetConf::parse(br#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#)?.conf;
/// let lease = StoredLease::read("10.5.53.0-24", br#"{"PublicIP":"192.0.2.1","BackendType":"host-gw"}"#, 1)?;
/// let mut book = Book::default();
/// book.apply(LeaseChanges { put: vec![lease], ..LeaseChanges::default() });
/// book.judge(&conf, &Own::default());
/// assert_eq!(book.peers().count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Book {
    pub(super) leases: BTreeMap<Subnets, Peer>,
    pub(super) refused: BTreeMap<String, Refusal>,
    pub(super) addresses: Addresses,
    pub(super) spans: Spans,
    pub(super) macs: Claims<(Family, Mac)>,
    pub(super) keys: Claims<PublicKey>,
    /// Leases that are not accepted in full.
    pub(super) rejected: BTreeSet<Subnets>,
    /// The number of accepted leases of each type.
    pub(super) counts: BTreeMap<LeaseType, usize>,
    /// The rules of the current verdicts; `None`: everything must be judged.
    pub(super) rules: Option<Rules>,
    pub(super) own: Own,
    pub(super) pending: Pending,
}

/// The input of the next judgement.
#[derive(Debug, Clone, Default)]
pub(super) struct Pending {
    /// Leases that are new or changed.
    pub(super) dirty: BTreeSet<Subnets>,
    /// Accepted leases that have changed or are gone, as they were before.
    pub(super) touched: BTreeMap<Subnets, Peer>,
    /// Whether the entries that are not leases, or the refused leases, have changed.
    pub(super) refused: bool,
    /// Subnets whose holder is gone.
    pub(super) freed: BTreeSet<IpNetwork>,
}

impl Book {
    /// Adds the changes of the store.
    pub fn apply(&mut self, changes: LeaseChanges) {
        let LeaseChanges { snapshot, put, gone, refused } = changes;
        if snapshot {
            self.refused.clear();
        }
        self.pending.refused |= snapshot || !refused.is_empty();
        for (text, refusal) in refused {
            match refusal {
                Some(refusal) => drop(self.refused.insert(text, refusal)),
                None => drop(self.refused.remove(&text)),
            }
        }
        if snapshot && self.leases.is_empty() {
            return self.fill(put);
        }
        if snapshot {
            let stay: BTreeSet<Subnets> = put.iter().map(|lease| lease.subnets).collect();
            let gone: Vec<Subnets> = self.leases.keys().filter(|key| !stay.contains(key)).copied().collect();
            gone.iter().for_each(|key| self.remove(key));
        }
        gone.iter().for_each(|key| self.remove(key));
        put.into_iter().for_each(|lease| self.put(lease));
    }

    /// Adds the first leases. A map that is built at once takes half the memory of one that grows.
    fn fill(&mut self, put: Vec<StoredLease>) {
        let new = |lease: StoredLease| (lease.subnets, Peer { lease, standing: ByFamily::default() });
        self.leases = put.into_iter().map(new).collect();
        self.addresses = Addresses::of(self.leases.values().map(|peer| &peer.lease));
        self.rules = None;
    }

    fn put(&mut self, lease: StoredLease) {
        let key = lease.subnets;
        if let Some(before) = self.leases.get(&key) {
            if before.lease == lease {
                return;
            }
            if before.lease.created != lease.created {
                // Its place in the order of claims changes.
                self.remove(&key);
            } else {
                self.forget(&key);
            }
        }
        self.addresses.insert(&lease);
        self.leases.insert(key, Peer { lease, standing: ByFamily::default() });
        self.pending.dirty.insert(key);
    }

    fn remove(&mut self, key: &Subnets) {
        self.forget(key);
        if self.leases.remove(key).is_none() {
            return;
        }
        self.pending.dirty.remove(key);
        self.pending.refused |= self.rejected.remove(key);
        for subnet in key.iter() {
            self.spans.forget_refused(subnet, *key);
            if self.spans.is_held(subnet, key) {
                self.spans.take_back(subnet);
                self.pending.freed.insert(subnet);
            }
        }
    }

    /// Withdraws what depends on the lease's value; the lease keeps its subnets.
    fn forget(&mut self, key: &Subnets) {
        let Some(peer) = self.leases.get_mut(key) else { return };
        let before = peer.clone();
        peer.standing = ByFamily::default();
        let peer = peer.clone();
        self.addresses.remove(&peer.lease);
        for family in Family::ALL {
            self.release(&peer.lease, family);
        }
        if before.is_followed() {
            self.pending.touched.entry(*key).or_insert(before);
            self.count(peer.lease.attrs.backend_type, false);
        }
    }

    /// Withdraws what a half claims besides its subnet.
    pub(super) fn release(&mut self, lease: &StoredLease, family: Family) {
        let Some(rank) = self.rank(lease, family) else { return };
        let Claimed { mac, key } = claimable(lease, family);
        mac.into_iter().for_each(|mac| self.macs.remove((family, mac), rank, family));
        key.into_iter().for_each(|key| self.keys.remove(key, rank, family));
    }

    pub(super) fn count(&mut self, kind: LeaseType, one_more: bool) {
        let count = self.counts.entry(kind).or_default();
        *count = if one_more { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.counts.remove(&kind);
        }
    }

    /// The place of a half in the order of claims; `None` without rules to judge it by, or without a subnet.
    pub(super) fn rank(&self, lease: &StoredLease, family: Family) -> Option<Rank> {
        rank(self.rules.as_ref()?, lease, family)
    }

    /// The owner of the VTEP's MAC address, if it is a lease with another public address. Two leases behind one
    /// address belong to one host that left a lease behind, and their entries do not conflict.
    pub(super) fn owner_of_mac(&self, lease: &StoredLease, family: Family) -> Option<Subnets> {
        let mac = lease.attrs.vtep(family)?.vtep_mac;
        self.other_host(self.macs.owner((family, mac))?.rank.subnets, lease, family)
    }

    /// The owner of the WireGuard key, if it is a lease with another public address.
    pub(super) fn owner_of_key(&self, lease: &StoredLease, family: Family) -> Option<Subnets> {
        let key = lease.attrs.wireguard(family)?.public_key;
        self.other_host(self.keys.owner(key)?.rank.subnets, lease, family)
    }

    fn other_host(&self, owner: Subnets, lease: &StoredLease, family: Family) -> Option<Subnets> {
        let theirs = self.leases.get(&owner)?.lease.attrs.public(family);
        (owner != lease.subnets && theirs != lease.attrs.public(family)).then_some(owner)
    }

    /// The holder of a part of `subnet` that comes before `rank`.
    pub(super) fn holder_before(&self, subnet: IpNetwork, rank: Rank) -> Option<Subnets> {
        let holders = self.spans.given_over(subnet);
        holders.map(|(_, holder)| holder).find(|holder| self.rank_of(holder, subnet.into()).is_some_and(|r| r < rank))
    }

    pub(super) fn rank_of(&self, key: &Subnets, family: Family) -> Option<Rank> {
        self.rank(&self.leases.get(key)?.lease, family)
    }
}

pub(super) fn rank(rules: &Rules, lease: &StoredLease, family: Family) -> Option<Rank> {
    let irregular = !rules.is_regular(lease.subnets.get(family)?);
    Some(Rank { irregular, created: lease.created, subnets: lease.subnets })
}

/// What a half may claim, not yet checked.
fn claimable(lease: &StoredLease, family: Family) -> Claimed {
    let mac = lease.attrs.vtep(family).map(|vtep| vtep.vtep_mac);
    Claimed { mac, key: lease.attrs.wireguard(family).map(|data| data.public_key) }
}
