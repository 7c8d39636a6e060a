//! The input of a plan.

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

/// The input of a plan. Data behind an [`Arc`] is unchanged as long as the pointer is.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The current time.
    pub now: Instant,
    /// The network.
    pub conf: &'a Arc<NetConf>,
    /// The parts of this host's kernel that a plan depends on.
    pub survey: &'a Arc<Survey>,
    /// Whether all leases are known. Until then nothing is deleted.
    pub complete: bool,
    /// What belongs to this host.
    pub own: Own<'a>,
    /// The addresses from which the holders of WireGuard keys have sent recently.
    pub endpoints: &'a Endpoints,
    /// Hosts that this one cannot work without, besides those in the survey: the store's.
    pub services: &'a [(IpAddr, Service)],
    /// The networks that other flannelds on this host say they serve; `None`: this daemon has announced its network,
    /// and was not refused.
    pub served: Option<&'a [IpNetwork]>,
    /// The operator's options.
    pub options: &'a Options,
}

/// What belongs to this host. The default is nothing.
#[derive(Debug, Clone, Default)]
pub struct Own<'a> {
    /// Its lease; `None` before the first one.
    pub subnets: Option<Subnets>,
    /// The lease as other hosts see it.
    pub published: Option<&'a LeaseAttrs>,
    /// The subnets of the last run.
    pub previous: Subnets,
    /// The networks of the last run.
    pub former: &'a [IpNetwork],
    /// Its WireGuard keys, once a backend has needed them.
    pub keys: Option<WireguardKeys>,
    /// The output of the extension backend's first command.
    pub printed: Option<&'a str>,
    /// Any bytes, for the MAC address of a VTEP that has none yet.
    pub random: ByFamily<[u8; 6]>,
}

/// The operator's options, and the kernel's abilities.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How the underlay is chosen.
    pub select: Select,
    /// Whether to drop packets to addresses in this host's subnet that no pod has.
    pub blackhole: bool,
    /// Which packet rules are written.
    pub rules: rules::Options,
    /// Whether the kernel can rename a link that is up.
    pub can_rename: bool,
}
