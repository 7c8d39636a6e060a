//! Queries of a book.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kernel::types::Family;

use super::alone::Alone;
use super::{Book, Peer, Reason, Rejected, Shared, Standing};
use crate::lease::{LeaseType, StoredLease, Subnets};

impl Book {
    /// The lease with these subnets, accepted or not; it may be this host's own.
    pub fn lease(&self, subnets: &Subnets) -> Option<&StoredLease> {
        Some(&self.leases.get(subnets)?.lease)
    }

    /// All leases in the order of their keys, accepted or not.
    pub fn leases(&self) -> impl Iterator<Item = &StoredLease> {
        self.leases.values().map(|peer| &peer.lease)
    }

    /// The peer with these subnets, if it is accepted.
    pub fn peer(&self, subnets: &Subnets) -> Option<&Peer> {
        self.leases.get(subnets).filter(|peer| peer.is_followed())
    }

    /// The leases that are accepted in at least one family, in the order of their keys.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> + Clone {
        self.leases.values().filter(|peer| peer.is_followed())
    }

    /// The number of accepted leases.
    pub fn len(&self) -> usize {
        self.counts.values().sum()
    }

    /// Whether no lease is accepted.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The number of accepted leases of each `BackendType`. Types without any are absent.
    pub fn counts(&self) -> &BTreeMap<LeaseType, usize> {
        &self.counts
    }

    /// What is not accepted, and why: first leases, then other entries, each in the order of their keys.
    pub fn rejected(&self) -> impl Iterator<Item = Rejected> {
        let refused = self.refused.iter().map(|(text, refusal)| Rejected {
            key: text.clone(),
            family: None,
            reason: refusal.clone().into(),
        });
        let leases = self.rejected.iter().filter_map(|key| self.leases.get(key));
        leases.flat_map(|peer| self.reasons(peer)).chain(refused)
    }

    /// The entries that are not leases, as changes.
    #[cfg(test)]
    pub(crate) fn refused(&self) -> Vec<(String, Option<crate::lease::Refusal>)> {
        self.refused.iter().map(|(text, refusal)| (text.clone(), Some(refusal.clone()))).collect()
    }

    /// The peers that publish `public`.
    pub fn publishing(&self, public: IpAddr) -> impl Iterator<Item = &Peer> {
        let peers = self.addresses.publishing(public, public).filter_map(|key| self.peer(&key));
        peers.filter(move |peer| peer.half(public.into()).is_some_and(|half| half.public == public))
    }

    /// Peers that publish the same address, like hosts behind one NAT. They are accepted.
    pub fn shared(&self) -> impl Iterator<Item = Shared> {
        self.addresses.crowded().flat_map(move |public| {
            let followed = move |key: &Subnets| {
                let half = self.leases.get(key).and_then(|peer| peer.half(public.into()));
                half.is_some_and(|half| half.public == public)
            };
            let mut there = self.addresses.publishing(public, public).filter(followed);
            let with = there.next();
            there.filter_map(move |key| Some(Shared { key, with: with?, public }))
        })
    }

    fn reasons(&self, peer: &Peer) -> Vec<Rejected> {
        let Some(rules) = &self.rules else { return Vec::new() };
        let rejected = |family, reason| Rejected { key: peer.lease.subnets.to_string(), family, reason };
        let alone = Alone { rules, own: &self.own, lease: &peer.lease };
        if let Err(reason) = alone.whole() {
            return vec![rejected(None, reason)];
        }
        let of_family = |family| Some(rejected(Some(family), self.reason(peer, alone, family)?));
        Family::ALL.into_iter().filter_map(of_family).collect()
    }

    /// Why a half is not accepted. It is computed anew, because few are rejected, and the reason may change while the
    /// rejection stays.
    fn reason(&self, peer: &Peer, alone: Alone<'_>, family: Family) -> Option<Reason> {
        let subnet = peer.lease.subnets.get(family)?;
        match peer.standing.get(family) {
            Standing::Absent | Standing::Good { .. } => None,
            Standing::Refused => alone.half(family).err(),
            Standing::Mac => {
                let mac = peer.lease.attrs.vtep(family)?.vtep_mac;
                Some(Reason::SameMac { mac, winner: self.owner_of_mac(&peer.lease, family)? })
            }
            Standing::Key => {
                let key = peer.lease.attrs.wireguard(family)?.public_key;
                Some(Reason::SameKey { key, winner: self.owner_of_key(&peer.lease, family)? })
            }
            Standing::Overlaps => {
                let rank = self.rank(&peer.lease, family)?;
                Some(Reason::Overlaps { subnet, winner: self.holder_before(subnet, rank)? })
            }
            Standing::Loops => {
                let address = peer.lease.attrs.public(family)?;
                Some(Reason::AddressInSubnet { address, subnet: self.spans.given_around(address)?.0 })
            }
        }
    }
}
