//! What a plan is made from.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnetwork::IpNetwork;

use super::Endpoints;
use crate::backend::WireguardKeys;
use crate::lease::{LeaseAttrs, Subnets};
use crate::net::ByFamily;
use crate::netconf::NetConf;
use crate::peers::Service;
use crate::rules;
use crate::underlay::{Select, Survey};

/// What is known when a plan is made. What is behind an [`Arc`] is the same for as long as the pointer is.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The time.
    pub now: Instant,
    /// The network.
    pub conf: &'a Arc<NetConf>,
    /// This host's kernel, as far as planning depends on it.
    pub survey: &'a Arc<Survey>,
    /// All leases are known. While they are not, nothing is deleted.
    pub complete: bool,
    /// What is this host's own.
    pub own: Own<'a>,
    /// From where the holders of WireGuard keys have sent lately.
    pub endpoints: &'a Endpoints,
    /// Hosts without which this one does not work, beside those that the survey names: the store's.
    pub services: &'a [(IpAddr, Service)],
    /// The networks that other flannelds say they serve on this host; `None`: this one has said what it serves, and was not
    /// refused.
    pub served: Option<&'a [IpNetwork]>,
    /// What the operator has asked for.
    pub options: &'a Options,
}

/// What is this host's own.
#[derive(Debug, Clone, Default)]
pub struct Own<'a> {
    /// Its lease; `None` while there is none.
    pub subnets: Option<Subnets>,
    /// The lease as the other hosts see it.
    pub published: Option<&'a LeaseAttrs>,
    /// The subnets of the last run.
    pub previous: Subnets,
    /// The networks of the last run.
    pub former: &'a [IpNetwork],
    /// Its WireGuard keys, once a backend has needed them.
    pub keys: Option<WireguardKeys>,
    /// What the extension backend's first command has printed.
    pub printed: Option<&'a str>,
    /// Any bytes, for the MAC address of a VTEP that has none yet.
    pub random: ByFamily<[u8; 6]>,
}

/// What the operator has asked for, and what the kernel can do.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How the underlay is chosen.
    pub select: Select,
    /// Packets to addresses of this host's subnet that no pod has are dropped here.
    pub blackhole: bool,
    /// Which packet rules are written.
    pub rules: rules::Options,
    /// The kernel gives a link that is up another name.
    pub can_rename: bool,
}
