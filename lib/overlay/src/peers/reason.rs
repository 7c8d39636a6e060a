//! Why a lease is not accepted.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::state::PublicKey;
use kernel::types::Mac;

use super::Service;
use crate::lease::{AttrsError, NodeError, Refusal, Subnets};

/// Why a lease, or one family of it, is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The entry is not a lease.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The lease has only subnets of families that are disabled here.
    #[error("it has no subnet of a family that this host's configuration enables")]
    FamilyOff,
    /// The subnet has bits beyond its length.
    #[error("its subnet {0} has bits beyond its prefix length")]
    HostBits(IpNetwork),
    /// The subnet is outside the network.
    #[error("its subnet {subnet} is not inside the network {network}")]
    OutsideNetwork {
        /// The claimed subnet.
        subnet: IpNetwork,
        /// The network.
        network: IpNetwork,
    },
    /// The subnet leaves nothing for other hosts.
    #[error("its subnet {0} is the whole network")]
    WholeNetwork(IpNetwork),
    /// The subnet overlaps this host's.
    #[error("its subnet {subnet} overlaps this host's own {own}")]
    OverlapsOwn {
        /// The claimed subnet.
        subnet: IpNetwork,
        /// This host's subnet.
        own: IpNetwork,
    },
    /// The subnet contains an address of this host.
    #[error("its subnet {subnet} contains this host's address {address}")]
    ContainsOwn {
        /// The claimed subnet.
        subnet: IpNetwork,
        /// This host's address.
        address: IpAddr,
    },
    /// The subnet contains the address of a host that this one needs.
    #[error("its subnet {subnet} contains {address}, this host's {service}")]
    ContainsHost {
        /// The claimed subnet.
        subnet: IpNetwork,
        /// The address of that host.
        address: IpAddr,
        /// What this host needs it for.
        service: Service,
    },
    /// Another lease has the subnet or a part of it, and comes first.
    #[error("its subnet {subnet} overlaps that of the lease {winner}, which comes first")]
    Overlaps {
        /// The claimed subnet.
        subnet: IpNetwork,
        /// The key of the lease that keeps it
        winner: Subnets,
    },
    /// The lease has no address to send to.
    #[error("it publishes no address of this family")]
    NoAddress,
    /// No single host can have the address.
    #[error("its address {address} is {what}")]
    Address {
        /// The published address.
        address: IpAddr,
        /// The kind of the address.
        what: &'static str,
    },
    /// No host can have this address of the underlay.
    #[error("its address {address} is the {what} of the underlay's {prefix}")]
    EdgeOfUnderlay {
        /// The published address.
        address: IpAddr,
        /// The underlay's prefix
        prefix: IpNetwork,
        /// The kind of the address.
        what: &'static str,
    },
    /// The address belongs to this host.
    #[error("its address {0} is this host's own")]
    OwnAddress(IpAddr),
    /// Packets to the address would go to pods.
    #[error("its address {address} is inside the leased subnet {subnet}")]
    AddressInSubnet {
        /// The published address.
        address: IpAddr,
        /// Its own subnet, this host's, or another peer's
        subnet: IpNetwork,
    },
    /// The type is vxlan, but the lease has no data.
    #[error("its type is vxlan, but it publishes no VTEP for this family")]
    NoVtep,
    /// The type is wireguard, but the lease has no data.
    #[error("its type is wireguard, but it publishes no key for this family")]
    NoKey,
    /// The data cannot be parsed.
    #[error("its WireGuard data cannot be read: {0}")]
    Wireguard(#[source] AttrsError),
    /// The key belongs to this host.
    #[error("its WireGuard key {0} is this host's own")]
    OwnKey(PublicKey),
    /// A lease with another address has the key: the one whose host sends with the key, or while that is unknown the
    /// first one.
    #[error("its WireGuard key {key} belongs to the lease {winner}, whose host uses it or which comes first")]
    SameKey {
        /// The published key.
        key: PublicKey,
        /// The key of the lease that keeps it
        winner: Subnets,
    },
    /// The extension backend's data cannot be parsed.
    #[error("its extension data cannot be read: {0}")]
    Extension(#[source] AttrsError),
    /// The data cannot be parsed.
    #[error("its VTEP cannot be read: {0}")]
    Vtep(#[source] AttrsError),
    /// The MAC address is a group address or zero.
    #[error("its VTEP's MAC address {0} is not one that a single device can have")]
    MacNotUnicast(Mac),
    /// The MAC address belongs to this host.
    #[error("its VTEP's MAC address {0} is this host's own")]
    OwnMac(Mac),
    /// A lease with another address has the MAC address, and comes first.
    #[error("its VTEP's MAC address {mac} belongs to the lease {winner}, which comes first")]
    SameMac {
        /// The published MAC address.
        mac: Mac,
        /// The key of the lease that keeps it
        winner: Subnets,
    },
}

impl Reason {
    /// What the operator can do. "There" means the host of the lease.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Refused(Refusal::Key(_) | Refusal::NotCanonical { .. } | Refusal::TooLarge | Refusal::NotAFile) => {
                "delete it from the store; flanneld does not write such entries"
            }
            Self::Refused(Refusal::Value(_)) | Self::NoVtep | Self::NoKey | Self::Wireguard(_) | Self::Vtep(_) => {
                "restart flanneld there to write it again, or delete it if that host is gone"
            }
            Self::Refused(Refusal::Node(NodeError::Unassigned | NodeError::Cidr(_) | NodeError::Several(_))) => {
                "the controller manager assigns podCIDRs (--allocate-node-cidrs, --cluster-cidr): see the Node's events"
            }
            Self::Refused(Refusal::Node(NodeError::Held { .. })) => {
                "two Nodes cannot share a podCIDR: delete the Node that is not in use, so that it registers again"
            }
            Self::Refused(Refusal::Node(_)) => "restart flanneld there to write its annotations again",
            Self::Extension(_) => "restart flanneld there; the data is the output of PreStartupCommand",
            Self::FamilyOff => "restart flanneld there, so that it follows the configuration",
            Self::HostBits(_) | Self::OutsideNetwork { .. } | Self::WholeNetwork(_) => {
                "all hosts of a store share one Network: restart flanneld there, or delete the lease if that host is gone"
            }
            Self::OverlapsOwn { .. } => {
                "two hosts cannot share a subnet: delete the lease that is not in use, and restart flanneld on its host"
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
            Self::OwnAddress(_) => "a former lease of this host expires; another host needs a different --public-ip",
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
            "IPv4: its subnet 10.5.0.0/16 is the whole network (all hosts of a store share one Network: restart flanneld \
             there, or delete the lease if that host is gone)"
        );
    }
}
