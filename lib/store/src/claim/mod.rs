//! Takes, keeps, renews and publishes this host's own lease.
//!
//! Upstream exits with success when its lease is gone, and depends on a supervisor that restarts it regardless. Here
//! the host takes a lost lease again. Only when another host holds the subnet by then does the daemon stop, with an
//! error.

mod decide;
mod keeper;
#[cfg(test)]
mod tests;

use ipnetwork::IpNetwork;
use overlay::allocate::OutOfSubnets;
use overlay::lease::{LeaseAttrs, NodeError, Subnets};
use overlay::netconf::NetConf;
use tokio::time::Instant;

pub(crate) use keeper::Keeper;

use crate::clock::Moment;
use crate::error::StoreError;

/// What a host needs to know to get a lease of its own.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The network.
    pub conf: &'a NetConf,
    /// What this host publishes. The addresses in it identify this host's leases.
    pub attrs: &'a LeaseAttrs,
    /// The subnets of the last run (`subnet_env::Previous`): pods may still have addresses in them. The default is
    /// none.
    pub previous: Subnets,
    /// True after the first complete reconciliation: from then on a failure is retried.
    pub started: bool,
    /// The current time.
    pub now: Instant,
    /// Any number, different at each call.
    pub random: u64,
    /// Prefixes of this host's other networks, to be avoided for a new lease.
    pub avoid: &'a [IpNetwork],
}

/// A lease that this host holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// The leased subnets, which are the lease's key.
    pub subnets: Subnets,
    /// The lease has no end, and none is set.
    pub reservation: bool,
    /// When the lease ends unless it is renewed; `None` for a reservation, and while the end is unknown.
    pub expires: Option<Moment>,
    /// The subnets that this call replaced by others: the host's pods must be recreated.
    pub moved_from: Option<Subnets>,
    /// Call again at this time at the latest, because the lease may need a renewal.
    pub look_again: Option<Instant>,
    /// A message for the operator, present as long as its cause lasts.
    pub note: Option<String>,
}

/// Why a host has no lease, or cannot keep its lease.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Nothing can be done until the store changes.
    #[error(transparent)]
    Wait(#[from] Waiting),
    /// Try again, after a back-off. The host keeps a lease that it already has.
    #[error(transparent)]
    Retry(#[from] Trouble),
    /// Another host now holds the subnet of this host's pods; the daemon must not go on using it.
    #[error("another host now holds the lease {0}")]
    Lost(Subnets),
    /// No subnet is free, at the start.
    #[error(transparent)]
    OutOfSubnets(OutOfSubnets),
}

/// What a claim waits for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Waiting {
    /// Not all leases are known, so no subnet can be chosen.
    #[error("the store cannot be read")]
    Unread,
    /// Kubernetes: this host's Node does not exist.
    #[error("the node {name:?} does not exist: does the kubelet register it by this name? (NODE_NAME)")]
    NoNode {
        /// The name of the Node.
        name: String,
    },
    /// Kubernetes: this host's Node has no usable podCIDR. The first words are upstream's.
    #[error(
        "node {name:?} pod cidr not assigned: {error} (kube-controller-manager needs --allocate-node-cidrs and --cluster-cidr)"
    )]
    Node {
        /// The name of the Node.
        name: String,
        /// The reason.
        error: NodeError,
    },
    /// Kubernetes: this host's Node has no podCIDR for one of the configured networks.
    #[error(
        "node {name:?} pod cidr not assigned for {network} (kube-controller-manager needs a --cluster-cidr of each family)"
    )]
    NoPodCidr {
        /// The name of the Node.
        name: String,
        /// The configured network of that family.
        network: IpNetwork,
    },
    /// Kubernetes: the podCIDR is not part of the network. Upstream's words.
    #[error("subnet {network:?} specified in the flannel net config doesn't contain {subnet:?} PodCIDR of the {name:?} node (the controller manager's --cluster-cidr and net-conf.json must be the same network)", network = network.to_string(), subnet = subnet.to_string())]
    Outside {
        /// The name of the Node.
        name: String,
        /// Its podCIDR.
        subnet: IpNetwork,
        /// The configured network.
        network: IpNetwork,
    },
}

/// Why a claim failed this time.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The store changed in the meantime.
    #[error("another host wrote this lease first")]
    Raced,
    /// The store refused, or did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No subnet is free; one may become free later.
    #[error(transparent)]
    Full(OutOfSubnets),
}

/// The result of publishing a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The store already has this value, or this host has no lease.
    Unchanged,
    /// The value was written.
    Written,
    /// Another host writes the same lease again and again, so this host waits: call again at this time.
    After(Instant),
}
