//! Which of the other hosts' leases are believed.
//!
//! A lease is hostile until checked: whoever can write to the store can claim any subnet, name any address and any MAC.
//! A believed lease claims a part of the network that nobody else has, and an address that packets can be sent to. Each
//! family of a lease is judged by itself.

mod check;
#[cfg(test)]
mod hostile_tests;
mod leases;
mod reason;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::state::PublicKey;
use kernel::types::{Family, Mac};

pub use check::{check, judge, shape};
pub use leases::Leases;
pub use reason::Reason;

use crate::lease::{Subnets, VxlanData, WireguardData};
use crate::net::ByFamily;

/// What is this host's own and nobody else's.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// The lease. Its key among the leases is passed over.
    pub subnets: Subnets,
    /// All addresses of this host, published or not.
    pub addresses: Vec<IpAddr>,
    /// The MAC addresses of its VTEPs.
    pub macs: Vec<Mac>,
    /// Its WireGuard key.
    pub key: Option<PublicKey>,
    /// From which addresses somebody spoke of late who has the private half of a key. Nobody else can.
    pub heard: BTreeMap<PublicKey, Vec<IpAddr>>,
}

/// The verdict on all leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    /// Those that are believed, in one family at least, in the order of their keys.
    pub good: Vec<Peer>,
    /// What is not believed, in the order of the keys.
    pub rejected: Vec<Rejected>,
    /// Peers that publish the same address, as hosts behind one NAT do. They are believed.
    pub shared: Vec<Shared>,
}

/// Another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its key, as it is spelt in the store.
    pub key: String,
    /// `BackendType`, as published.
    pub backend_type: String,
    /// What is believed, per family.
    pub halves: ByFamily<Option<Half>>,
    /// Where this host, too, runs extension: what the peer's first command printed. For commands of this host's, and nothing else.
    pub extension: Option<String>,
}

impl Peer {
    /// What is believed of a family.
    pub fn half(&self, family: Family) -> Option<&Half> {
        self.halves.get(family).as_ref()
    }
}

/// One family of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Half {
    /// Where its pods are; host bits zero.
    pub subnet: IpNetwork,
    /// Its underlay address.
    pub public: IpAddr,
    /// Its VTEP; always present when its backend is vxlan.
    pub vtep: Option<VxlanData>,
    /// Its key and port; always present when its backend and this host's are wireguard, and never otherwise.
    pub wireguard: Option<WireguardData>,
}

/// A lease, or one family of it, that is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its key, as it is spelt in the store.
    pub key: String,
    /// The family; `None` for all of the lease.
    pub family: Option<Family>,
    /// Why
    pub reason: Reason,
}

/// Two peers with one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// The key of one.
    pub key: String,
    /// The key of the first that has the address.
    pub with: String,
    /// The address.
    pub public: IpAddr,
}
