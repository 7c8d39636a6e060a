//! The way out of a host.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::types::{IfName, Mtu};

use crate::net::ByFamily;

/// The link by which this host reaches the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// The link.
    pub dev: IfName,
    /// What it carries.
    pub mtu: Mtu,
    /// Its address per family; it need not be the published one (NAT).
    pub addresses: ByFamily<Option<IpAddr>>,
    /// The prefixes that the link reaches without a gateway.
    pub connected: Vec<IpNetwork>,
}
