//! Finds the leases that a prefix or an address concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::types::Family;

use crate::lease::{StoredLease, Subnets};
use crate::net::{address, bounds, overlap, prefix};

/// A key that sorts after every key of a lease.
fn last_key() -> Subnets {
    let end = |family: Family| prefix(address(family, u128::MAX), family.bits());
    Family::ALL.into_iter().filter_map(end).collect()
}

/// All leases by their public addresses.
#[derive(Debug, Clone, Default)]
pub(super) struct Addresses {
    all: BTreeSet<(IpAddr, Subnets)>,
    /// The addresses that more than one lease publishes.
    crowded: BTreeSet<IpAddr>,
}

fn published(lease: &StoredLease) -> impl Iterator<Item = (IpAddr, Subnets)> {
    let publics = lease.subnets.iter().filter_map(|subnet| lease.attrs.public(subnet.into()));
    publics.map(|public| (public, lease.subnets))
}

impl Addresses {
    /// The addresses of all these leases.
    pub(super) fn of<'a>(leases: impl Iterator<Item = &'a StoredLease>) -> Self {
        let all: BTreeSet<(IpAddr, Subnets)> = leases.flat_map(published).collect();
        let next = all.iter().skip(1);
        let crowded = all.iter().zip(next).filter(|((a, _), (b, _))| a == b).map(|((a, _), _)| *a);
        Self { crowded: crowded.collect(), all }
    }

    pub(super) fn insert(&mut self, lease: &StoredLease) {
        for (address, key) in published(lease) {
            self.all.insert((address, key));
            self.count(address);
        }
    }

    pub(super) fn remove(&mut self, lease: &StoredLease) {
        for (address, key) in published(lease) {
            self.all.remove(&(address, key));
            self.count(address);
        }
    }

    fn count(&mut self, address: IpAddr) {
        if self.publishing(address, address).nth(1).is_some() {
            self.crowded.insert(address);
        } else {
            self.crowded.remove(&address);
        }
    }

    /// The leases that publish an address between `first` and `last`, which are of one family.
    pub(super) fn publishing(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = Subnets> {
        self.all.range((first, Subnets::default())..=(last, last_key())).map(|(_, key)| *key)
    }

    /// The addresses that more than one lease publishes.
    pub(super) fn crowded(&self) -> impl Iterator<Item = IpAddr> {
        self.crowded.iter().copied()
    }
}

/// All judged leases by their subnets. Subnets with host bits are not included: they are refused in any case.
#[derive(Debug, Clone, Default)]
pub(super) struct Spans {
    /// The subnets that were given, with their holders. They do not overlap.
    given: BTreeMap<IpNetwork, Subnets>,
    /// The subnets that were refused; usually there are none.
    refused: BTreeSet<(IpNetwork, Subnets)>,
}

impl Spans {
    pub(super) fn give(&mut self, subnet: IpNetwork, holder: Subnets) {
        self.given.insert(subnet, holder);
        self.refused.remove(&(subnet, holder));
    }

    pub(super) fn take_back(&mut self, subnet: IpNetwork) {
        self.given.remove(&subnet);
    }

    pub(super) fn refuse(&mut self, subnet: IpNetwork, key: Subnets) {
        if subnet.ip() == subnet.network() {
            self.refused.insert((subnet, key));
        }
    }

    pub(super) fn forget_refused(&mut self, subnet: IpNetwork, key: Subnets) {
        self.refused.remove(&(subnet, key));
    }

    pub(super) fn is_held(&self, subnet: IpNetwork, by: &Subnets) -> bool {
        self.given.get(&subnet) == Some(by)
    }

    /// Releases the spare memory of maps that grew entry by entry.
    pub(super) fn pack(&mut self) {
        self.given = std::mem::take(&mut self.given).into_iter().collect();
    }

    /// The given subnets that overlap `subnet`, in address order, with their holders.
    pub(super) fn given_over(&self, subnet: IpNetwork) -> impl Iterator<Item = (IpNetwork, Subnets)> {
        let (family, (first, last)) = (Family::from(subnet), bounds(subnet));
        let end = |number, len| IpNetwork::new(address(family, number), len).ok();
        let ends = end(first, 0).zip(end(last, family.bits()));
        // A wider subnet starts before this one, and no other subnet can start in between.
        let before = ends.and_then(|(low, _)| self.given.range(..low).next_back());
        let before = before.filter(|(net, _)| overlap(**net, subnet));
        let inside = ends.map(|(low, high)| self.given.range(low..=high));
        before.into_iter().chain(inside.into_iter().flatten()).map(|(net, holder)| (*net, *holder))
    }

    /// The given subnet that contains `address`, with its holder.
    pub(super) fn given_around(&self, address: IpAddr) -> Option<(IpNetwork, Subnets)> {
        let (net, holder) = self.given.range(..=IpNetwork::from(address)).next_back()?;
        net.contains(address).then_some((*net, *holder))
    }

    /// The leases that were refused a subnet that overlaps `subnet` and is longer than `network`.
    pub(super) fn refused_over(&self, subnet: IpNetwork, network: IpNetwork) -> Vec<Subnets> {
        if self.refused.is_empty() {
            return Vec::new();
        }
        let (family, (_, last)) = (Family::from(subnet), bounds(subnet));
        let wider = (network.prefix()..subnet.prefix()).skip(1).filter_map(|len| prefix(subnet.network(), len));
        let around = wider.flat_map(|outer| self.refused_between(outer, outer));
        let inside = IpNetwork::new(address(family, last), family.bits()).ok();
        around.chain(inside.into_iter().flat_map(|end| self.refused_between(subnet, end))).collect()
    }

    fn refused_between(&self, low: IpNetwork, high: IpNetwork) -> impl Iterator<Item = Subnets> {
        self.refused.range((low, Subnets::default())..=(high, last_key())).map(|(_, key)| *key)
    }

    /// All leases that claim a subnet that contains `address` and is longer than `network`.
    pub(super) fn around(&self, address: IpAddr, network: IpNetwork) -> Vec<Subnets> {
        let mut all = self.refused_over(address.into(), network);
        all.extend(self.given_around(address).map(|(_, holder)| holder));
        all
    }
}
