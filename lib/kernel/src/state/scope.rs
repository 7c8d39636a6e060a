//! Which observed objects are ours.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::NftScope;
use crate::nft::TableKey;
use crate::types::{IfName, RouteProtocol, TableId};

/// What an observation reads, and what a diff may delete. Objects outside the scope are never touched, even if
/// desired. The default is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Links that are ours to create and delete.
    pub links: Vec<IfName>,
    /// Links that belong to somebody else although they have a name of ours, each with a description of its owner.
    /// They are left alone, with everything that would belong to them.
    pub others: BTreeMap<IfName, String>,
    /// Links that are read but never created, changed or deleted (an underlay, another plugin's bridge).
    pub read_links: Vec<IfName>,
    /// Links on which all addresses are ours, except IPv6 link-local ones.
    pub addresses: Vec<IfName>,
    /// Links on which all permanent neighbours and own forwarding entries are ours.
    pub neighbours: Vec<IfName>,
    /// WireGuard devices on which all peers are ours.
    pub wireguard: Vec<IfName>,
    /// Bridge ports on which all VLANs are ours.
    pub vlans: Vec<IfName>,
    /// Links on which root disciplines that limit a rate are ours, and filters that send packets to links of ours.
    pub queues: Vec<IfName>,
    /// Routes.
    pub routes: Option<RouteScope>,
    /// Links whose addresses must have their routes in the local table.
    pub local: Vec<IfName>,
    /// Sysctls to read, as paths below `/proc/sys`. Never deleted.
    pub sysctls: Vec<String>,
    /// Tables of nf_tables that are ours, or that we share with others.
    pub nft: BTreeMap<TableKey, NftScope>,
    /// Whether routes are added before those of others to the same destination (`ip route prepend`), without
    /// replacing any.
    pub beside: bool,
    /// Whether nothing may be deleted, because the desired state comes from incomplete data.
    pub keep: bool,
}

/// Which routes are ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteScope {
    /// The routing table.
    pub table: TableId,
    /// All routes of this protocol are ours …
    pub protocol: Option<RouteProtocol>,
    /// … if their destination is inside one of these, or they use a link of ours. Empty: any destination.
    pub within: Vec<IpNetwork>,
    /// … and so are routes that a Go flanneld, or a plugin without a daemon, left.
    pub adopt: Adopt,
    /// All routes by this link are ours, except the kernel's: a pod's own interface.
    pub dev: Option<IfName>,
}

impl Default for RouteScope {
    /// No routes, in the main table.
    fn default() -> Self {
        Self { table: TableId::MAIN, protocol: None, within: Vec::new(), adopt: Adopt::default(), dev: None }
    }
}

/// Which routes of the protocols boot and [`RouteProtocol::FLANNEL_CNI`] are taken over. Other programs use boot,
/// too, so the protocol alone is not enough.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adopt {
    /// Routes to a part of one of these networks by a link of ours ([`Scope::links`]).
    pub within: Vec<IpNetwork>,
    /// Routes whose destination and gateway are a pair of this: the subnet of a lease and its public address.
    pub gateways: Arc<BTreeMap<IpNetwork, IpAddr>>,
}
