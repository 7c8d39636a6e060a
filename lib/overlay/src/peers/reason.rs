//! Why a lease is not followed.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::state::PublicKey;
use kernel::types::Mac;

use super::Service;
use crate::lease::{AttrsError, Refusal, Subnets};

/// Why a lease, or one family of it, is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It is no lease.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It has only subnets of families that are off here.
    #[error("it has no subnet of a family that is on in this host's configuration")]
    FamilyOff,
    /// The subnet has bits beyond its length.
    #[error("its subnet {0} has bits beyond its prefix length")]
    HostBits(IpNetwork),
    /// The subnet is elsewhere.
    #[error("its subnet {subnet} is not inside the network {network}")]
    OutsideNetwork {
        /// What it claims
        subnet: IpNetwork,
        /// What there is to claim
        network: IpNetwork,
    },
    /// The subnet leaves nothing for others.
    #[error("its subnet {0} is the whole network")]
    WholeNetwork(IpNetwork),
    /// The subnet is, or has a part of, this host's.
    #[error("its subnet {subnet} overlaps this host's own {own}")]
    OverlapsOwn {
        /// What it claims
        subnet: IpNetwork,
        /// What is ours
        own: IpNetwork,
    },
    /// The subnet has an address that this host has.
    #[error("its subnet {subnet} contains this host's address {address}")]
    ContainsOwn {
        /// What it claims
        subnet: IpNetwork,
        /// What is ours
        address: IpAddr,
    },
    /// The subnet has an address that this host needs.
    #[error("its subnet {subnet} contains {address}, this host's {service}")]
    ContainsHost {
        /// What it claims
        subnet: IpNetwork,
        /// Which address of it is another's
        address: IpAddr,
        /// What that address is for this host
        service: Service,
    },
    /// Another lease has it. That one has the configured length and this one not, or else the smaller key.
    #[error("its subnet {subnet} overlaps that of the lease {winner}, which comes first")]
    Overlaps {
        /// What it claims
        subnet: IpNetwork,
        /// The key of the lease that keeps it
        winner: Subnets,
    },
    /// There is no address to send to.
    #[error("it publishes no address of this family")]
    NoAddress,
    /// The address is not one that a single host can have.
    #[error("its address {address} is {what}")]
    Address {
        /// What it publishes
        address: IpAddr,
        /// What that is
        what: &'static str,
    },
    /// The address is one of the underlay that no host can have.
    #[error("its address {address} is the {what} of the underlay's {prefix}")]
    EdgeOfUnderlay {
        /// What it publishes
        address: IpAddr,
        /// The underlay's prefix
        prefix: IpNetwork,
        /// What the address is there
        what: &'static str,
    },
    /// The address is this host's.
    #[error("its address {0} is this host's own")]
    OwnAddress(IpAddr),
    /// Packets to the address would be sent to pods.
    #[error("its address {address} is inside the leased subnet {subnet}")]
    AddressInSubnet {
        /// What it publishes
        address: IpAddr,
        /// Its own subnet, this host's, or another peer's
        subnet: IpNetwork,
    },
    /// The type is vxlan, and there is no data.
    #[error("its type is vxlan, but it publishes no VTEP for this family")]
    NoVtep,
    /// The type is wireguard, and there is no data.
    #[error("its type is wireguard, but it publishes no key for this family")]
    NoKey,
    /// The data cannot be read.
    #[error("its WireGuard data cannot be read: {0}")]
    Wireguard(#[source] AttrsError),
    /// The key is this host's.
    #[error("its WireGuard key {0} is this host's own (a copied key file? delete one, and restart flanneld there)")]
    OwnKey(PublicKey),
    /// A lease of another address has the key. It is the one whose host speaks with it; while that is not known, the one
    /// with the configured length, or else the smaller key in the store.
    #[error("its WireGuard key {key} is that of the lease {winner}, which is its host's or comes first")]
    SameKey {
        /// What it publishes
        key: PublicKey,
        /// The store's key of the lease that keeps it
        winner: Subnets,
    },
    /// The extension backend's data cannot be read.
    #[error("its extension data cannot be read: {0}")]
    Extension(#[source] AttrsError),
    /// The data cannot be read.
    #[error("its VTEP cannot be read: {0}")]
    Vtep(#[source] AttrsError),
    /// The MAC is a group's or zero.
    #[error("its VTEP's MAC address {0} is not one that a single device can have")]
    MacNotUnicast(Mac),
    /// The MAC is this host's.
    #[error("its VTEP's MAC address {0} is this host's own")]
    OwnMac(Mac),
    /// A lease of another address has the MAC. That one has the configured length and this one not, or else the
    /// smaller key.
    #[error("its VTEP's MAC address {mac} is that of the lease {winner}, which comes first")]
    SameMac {
        /// What it publishes
        mac: Mac,
        /// The key of the lease that keeps it
        winner: Subnets,
    },
}
