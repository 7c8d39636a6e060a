//! Which observed objects are ours.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::NftScope;
use crate::nft::TableKey;
use crate::types::{IfName, RouteProtocol, TableId};

/// What an observation reads and a diff may delete. An object outside the scope is never touched, whoever wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Links whose existence is ours to decide.
    pub links: Vec<IfName>,
    /// Links under names that may be wanted that belong to somebody else, each with the owner in words. Nothing is done to
    /// them, nor to what was to hang on them.
    pub others: BTreeMap<IfName, String>,
    /// Links that are read but never created, changed or deleted (an underlay, another plugin's bridge).
    pub read_links: Vec<IfName>,
    /// Links whose addresses are all ours. IPv6 link-local addresses never are.
    pub addresses: Vec<IfName>,
    /// Links whose permanent neighbours and own forwarding entries are all ours.
    pub neighbours: Vec<IfName>,
    /// WireGuard devices whose peers are all ours.
    pub wireguard: Vec<IfName>,
    /// Bridge ports whose VLANs are all ours.
    pub vlans: Vec<IfName>,
    /// Routes.
    pub routes: Option<RouteScope>,
    /// Sysctls to read, as paths below `/proc/sys`. Never deleted.
    pub sysctls: Vec<String>,
    /// Tables of nf_tables that are ours, or that we use beside others.
    pub nft: BTreeMap<TableKey, NftScope>,
    /// Routes are added beside those of others to the same destination, before them (`ip route prepend`), and replace none.
    pub beside: bool,
    /// Nothing is deleted: the view that the desired side was made from is not complete.
    pub keep: bool,
}

/// Which routes are ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteScope {
    /// The table they are in.
    pub table: TableId,
    /// All routes of this protocol are ours …
    pub protocol: Option<RouteProtocol>,
    /// … to a destination inside one of these, or by one of our links. Empty: to any.
    pub within: Vec<IpNetwork>,
    /// … and so are routes that a Go flanneld left, or a plugin without a daemon.
    pub adopt: Adopt,
    /// All routes by this link are ours, whoever installed them but the kernel: a pod's own interface.
    pub dev: Option<IfName>,
}

impl Default for RouteScope {
    /// None of the main table.
    fn default() -> Self {
        Self { table: TableId::MAIN, protocol: None, within: Vec::new(), adopt: Adopt::default(), dev: None }
    }
}

/// Which routes of the protocols boot and [`RouteProtocol::FLANNEL_CNI`] are taken over. Any other program may use boot, so that the
/// protocol alone says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adopt {
    /// Those to a part of one of these networks that leave by a link of ours ([`Scope::links`]).
    pub within: Vec<IpNetwork>,
    /// Those whose destination and gateway are a pair of this: the subnet of a lease and its public address.
    pub gateways: Arc<BTreeMap<IpNetwork, IpAddr>>,
}
