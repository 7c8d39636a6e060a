//! What belongs to this host, or is needed by it, and so cannot be claimed by another host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use kernel::state::PublicKey;
use kernel::types::{Family, Mac};

use crate::lease::{StoredAttrs, Subnets};
use crate::net::{address, bounds};

/// What belongs to this host, or is needed by it. [`super::Book::judge`] compares it with the value of its last call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Own {
    /// This host's lease. The lease with this key is skipped.
    pub subnets: Subnets,
    /// All addresses of this host, published or not. There may be thousands, for example where a proxy binds every
    /// service's address (kube-ipvs0).
    pub addresses: Arc<BTreeSet<IpAddr>>,
    /// The MAC addresses of its VTEPs.
    pub macs: Vec<Mac>,
    /// Its WireGuard key.
    pub key: Option<PublicKey>,
    /// The addresses from which the holder of each key's private half has sent recently. Nobody else can do that.
    pub endpoints: BTreeMap<PublicKey, Vec<IpAddr>>,
    /// Hosts that this one cannot work without. A route to a peer's subnet that contains one would cut it off.
    pub hosts: Vec<(IpAddr, Service)>,
    /// The prefixes of the underlay link. No host can have their first and last addresses.
    pub underlay: Vec<IpNetwork>,
}

/// What this host needs another host for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The next hop of a route.
    Gateway,
    /// It keeps the leases.
    Store,
    /// It resolves names.
    Dns,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gateway => "gateway",
            Self::Store => "store",
            Self::Dns => "DNS server",
        })
    }
}

/// The difference between two [`Own`]s, as far as the verdict on some leases depends on it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OwnChanges {
    /// Leases whose subnet contains one of these are concerned.
    pub(super) inside: BTreeSet<IpAddr>,
    /// Leases that publish one of these are concerned.
    pub(super) published: BTreeSet<IpAddr>,
    /// Leases with one of these are concerned.
    pub(super) keys: BTreeSet<PublicKey>,
}

impl Own {
    /// The first of this host's addresses in `subnet`.
    pub(super) fn address_in(&self, subnet: IpNetwork) -> Option<IpAddr> {
        let (family, (first, last)) = (Family::from(subnet), bounds(subnet));
        self.addresses.range(address(family, first)..=address(family, last)).next().copied()
    }

    /// A host in `subnet` that this one needs.
    pub(super) fn host_in(&self, subnet: IpNetwork) -> Option<(IpAddr, Service)> {
        self.hosts.iter().find(|(address, _)| subnet.contains(*address)).copied()
    }

    /// The underlay prefix whose first or last address is `address`, and the name of that address.
    pub(super) fn edge_of_underlay(&self, address: IpAddr) -> Option<(IpNetwork, &'static str)> {
        self.underlay.iter().find_map(|prefix| {
            let of_prefix = |(edge, what)| (edge == address).then_some((*prefix, what));
            edges(*prefix).into_iter().find_map(of_prefix)
        })
    }

    /// Whether the host with these attributes has sent with `key` recently.
    pub(super) fn proves(&self, key: &PublicKey, attrs: &StoredAttrs) -> bool {
        let from = self.endpoints.get(key).map(Vec::as_slice).unwrap_or_default();
        Family::ALL.into_iter().filter_map(|family| attrs.public(family)).any(|public| from.contains(&public))
    }

    /// The changes since `before`; `None` when they may concern every lease.
    pub(super) fn changes_since(&self, before: &Self) -> Option<OwnChanges> {
        if (self.subnets, &self.macs, self.key) != (before.subnets, &before.macs, before.key) {
            return None;
        }
        let mut changes = OwnChanges::default();
        if !Arc::ptr_eq(&self.addresses, &before.addresses) {
            changes.inside.extend(self.addresses.symmetric_difference(&before.addresses));
            changes.published.extend(&changes.inside);
        }
        changes.inside.extend(differing(&self.hosts, &before.hosts).map(|(address, _)| address));
        let prefixes = differing(&self.underlay, &before.underlay);
        changes.published.extend(prefixes.flat_map(edges).map(|(edge, _)| edge));
        let known = self.endpoints.keys().chain(before.endpoints.keys());
        changes.keys.extend(known.filter(|key| self.endpoints.get(*key) != before.endpoints.get(*key)));
        Some(changes)
    }
}

/// The elements of only one of the two. Both are short.
fn differing<'a, T: PartialEq + Copy>(a: &'a [T], b: &'a [T]) -> impl Iterator<Item = T> {
    let only = |a: &'a [T], b: &'a [T]| a.iter().filter(|item| !b.contains(item)).copied();
    only(a, b).chain(only(b, a))
}

/// The addresses of a prefix that no single host has: the network address and the broadcast address (RFC 919 §7), for
/// IPv6 the anycast address of its routers (RFC 4291 §2.6.1). A prefix of two addresses has none (RFC 3021, RFC
/// 6164).
fn edges(prefix: IpNetwork) -> Vec<(IpAddr, &'static str)> {
    let (family, (first, last)) = (Family::from(prefix), bounds(prefix));
    match family {
        _ if prefix.prefix() + 1 >= family.bits() => Vec::new(),
        Family::V4 => {
            vec![(address(family, first), "network address"), (address(family, last), "broadcast address")]
        }
        Family::V6 => vec![(address(family, first), "routers' anycast address")],
    }
}
