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
    #[error("it has no subnet of a family that this host's configuration turns on")]
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
    /// Another lease has it, or a part of it, and comes first.
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
    #[error("its WireGuard key {0} is this host's own")]
    OwnKey(PublicKey),
    /// A lease of another address has the key: the one whose host sends with it, or while that is not known the first.
    #[error("its WireGuard key {key} is that of the lease {winner}, which is its host's or comes first")]
    SameKey {
        /// What it publishes
        key: PublicKey,
        /// The key of the lease that keeps it
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
    /// A lease of another address has the MAC, and comes first.
    #[error("its VTEP's MAC address {mac} is that of the lease {winner}, which comes first")]
    SameMac {
        /// What it publishes
        mac: Mac,
        /// The key of the lease that keeps it
        winner: Subnets,
    },
}

impl Reason {
    /// What an operator does about it. "There" is the host that the lease is of.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Refused(Refusal::Key(_) | Refusal::NotCanonical { .. } | Refusal::TooLarge | Refusal::NotAFile) => {
                "delete it from the store: flanneld does not write such entries"
            }
            Self::Refused(Refusal::Value(_)) | Self::NoVtep | Self::NoKey | Self::Wireguard(_) | Self::Vtep(_) => {
                "restart flanneld there, so that it is written again, or delete it when that host is gone"
            }
            Self::Extension(_) => "restart flanneld there: the data is what PreStartupCommand prints",
            Self::FamilyOff => "restart flanneld there, so that it follows the configuration",
            Self::HostBits(_) | Self::OutsideNetwork { .. } | Self::WholeNetwork(_) => {
                "all hosts of a store have one Network: restart flanneld there, or delete the lease when that host is gone"
            }
            Self::OverlapsOwn { .. } => {
                "two hosts cannot have one subnet: delete the lease that is not in use, and restart flanneld on its host"
            }
            Self::ContainsOwn { .. } | Self::ContainsHost { .. } => {
                "a route to it would cut this host off: choose a Network, or SubnetMin and SubnetMax, without that address"
            }
            Self::Overlaps { .. } => {
                "SubnetLen comes first, then the older lease, then the smaller key: delete the one that is not in use"
            }
            Self::NoAddress => "the underlay link there needs an address of this family",
            Self::Address { .. } | Self::EdgeOfUnderlay { .. } | Self::AddressInSubnet { .. } => {
                "start flanneld there with --public-ip or --iface, so that it publishes an address of its underlay"
            }
            Self::OwnAddress(_) => {
                "a lease that this host had before ends by itself; another host needs another --public-ip"
            }
            Self::OwnKey(_) | Self::SameKey { .. } => {
                "a copied key file? delete it on one of the two hosts, and restart flanneld there"
            }
            Self::MacNotUnicast(_) | Self::OwnMac(_) | Self::SameMac { .. } => {
                "a copied host? delete the lease and the VXLAN device there, and restart flanneld there"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_is_said_behind_the_reason() {
        let reason = Reason::WholeNetwork("10.5.0.0/16".parse().unwrap());
        let rejected =
            super::super::Rejected { key: "10.5.0.0-16".into(), family: Some(kernel::types::Family::V4), reason };
        assert_eq!(
            rejected.explained(),
            "IPv4: its subnet 10.5.0.0/16 is the whole network (all hosts of a store have one Network: restart flanneld \
             there, or delete the lease when that host is gone)"
        );
    }
}
