//! Decides which of the other hosts' leases this host accepts.
//!
//! A lease is hostile until it is checked: whoever can write to the store can claim any subnet, and name any address
//! and any MAC address. An accepted lease claims a part of the network that no other lease has, and an address that
//! packets can be sent to. Each family of a lease is judged by itself.

mod alone;
mod book;
mod claims;
#[cfg(test)]
mod hostile_tests;
mod hosts;
mod index;
mod judge;
mod own;
mod query;
mod questions;
mod reason;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod warm_tests;

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::types::Family;

pub use alone::shape;
pub use book::Book;
pub use hosts::{dns_servers, gateway, gateways};
pub use judge::Touched;
pub use own::{Own, Service};
pub use reason::Reason;

use crate::lease::{LeaseChanges, LeaseType, StoredLease, Subnets, VxlanData, WireguardData};
use crate::net::ByFamily;
use crate::netconf::NetConf;

/// Another host's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    lease: StoredLease,
    standing: ByFamily<Standing>,
}

/// The standing of one half of a lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Standing {
    /// The half does not exist, or belongs to this host.
    #[default]
    Absent,
    /// It is invalid by itself, or claims something of this host.
    Refused,
    /// Another lease owns its VTEP's MAC address.
    Mac,
    /// Another lease owns its WireGuard key.
    Key,
    /// Another lease owns a part of its subnet.
    Overlaps,
    /// It owns its subnet, but its address is inside a leased subnet.
    Loops,
    /// It is accepted, with its VTEP and its key if they count.
    Good { vtep: bool, key: bool },
}

impl Peer {
    /// Its subnets: the key of its lease.
    pub fn subnets(&self) -> Subnets {
        self.lease.subnets
    }

    /// Its key as text.
    pub fn key(&self) -> String {
        self.lease.subnets.to_string()
    }

    /// `BackendType`, as published.
    pub fn backend_type(&self) -> LeaseType {
        self.lease.attrs.backend_type
    }

    /// The accepted contents of a family; `None` when the family is not accepted.
    pub fn half(&self, family: Family) -> Option<Half> {
        let Standing::Good { vtep, key } = *self.standing.get(family) else { return None };
        let attrs = &self.lease.attrs;
        Some(Half {
            subnet: self.lease.subnets.get(family)?,
            public: attrs.public(family)?,
            vtep: attrs.vtep(family).filter(|_| vtep),
            wireguard: attrs.wireguard(family).filter(|_| key),
        })
    }

    /// The output of the peer's first command, if it runs the extension backend. Only commands of this host may use
    /// it.
    pub fn extension(&self) -> Option<&str> {
        self.lease.attrs.extension()
    }

    fn is_followed(&self) -> bool {
        judge::is_followed(self.standing)
    }

    fn is_rejected(&self) -> bool {
        let fine = |standing: &Standing| matches!(standing, Standing::Absent | Standing::Good { .. });
        !Family::ALL.into_iter().all(|family| fine(self.standing.get(family)))
    }
}

/// One family of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Half {
    /// The subnet of its pods, without host bits.
    pub subnet: IpNetwork,
    /// Its underlay address.
    pub public: IpAddr,
    /// Its VTEP; always present if its backend is vxlan.
    pub vtep: Option<VxlanData>,
    /// Its key and port; present exactly if its backend and this host's are wireguard.
    pub wireguard: Option<WireguardData>,
}

/// A lease, or one family of it, that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its key, as spelled in the store.
    pub key: String,
    /// The family; `None` for the whole lease.
    pub family: Option<Family>,
    /// The rule that it violates.
    pub reason: Reason,
}

impl Rejected {
    /// The family, the reason and the remedy, for the operator of the store.
    pub fn explained(&self) -> String {
        let family = match self.family {
            Some(Family::V4) => "IPv4: ",
            Some(Family::V6) => "IPv6: ",
            None => "",
        };
        format!("{family}{} ({})", self.reason, self.reason.remedy())
    }
}

/// Two peers with the same address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// One of the two.
    pub key: Subnets,
    /// The first peer with the address.
    pub with: Subnets,
    /// The address.
    pub public: IpAddr,
}

/// The verdicts on all leases, for a caller that judges them once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    /// [`Book::peers`]
    pub good: Vec<Peer>,
    /// [`Book::rejected`]
    pub rejected: Vec<Rejected>,
    /// [`Book::shared`]
    pub shared: Vec<Shared>,
}

impl From<&Book> for Peers {
    fn from(book: &Book) -> Self {
        Self {
            good: book.peers().cloned().collect(),
            rejected: book.rejected().collect(),
            shared: book.shared().collect(),
        }
    }
}

/// Judges keys and values once, all of the same age. Of a repeated key the last value counts.
pub fn check<K, V>(conf: &NetConf, own: &Own, leases: impl IntoIterator<Item = (K, V)>) -> Peers
where
    K: AsRef<str>,
    V: AsRef<[u8]>,
{
    let mut changes = LeaseChanges { snapshot: true, ..LeaseChanges::default() };
    for (key, value) in leases {
        match StoredLease::read(key.as_ref(), value.as_ref(), 0) {
            Ok(lease) => changes.put.push(lease),
            Err(refusal) => changes.refused.push((key.as_ref().to_owned(), Some(refusal))),
        }
    }
    once(conf, own, changes)
}

/// Judges leases once.
pub fn judge(conf: &NetConf, own: &Own, leases: impl IntoIterator<Item = StoredLease>) -> Peers {
    let put = leases.into_iter().collect();
    once(conf, own, LeaseChanges { snapshot: true, put, ..LeaseChanges::default() })
}

fn once(conf: &NetConf, own: &Own, leases: LeaseChanges) -> Peers {
    let mut book = Book::default();
    book.apply(leases);
    book.judge(conf, own);
    Peers::from(&book)
}
