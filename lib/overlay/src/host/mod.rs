//! What the kernel of a host must look like for its peers to be reached.
//!
//! The result is the whole of it, from the whole of what is known; what has changed since is found by comparing it with
//! the kernel (`kernel::state`).

mod desired;
pub mod ipip;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tunnel_tests;
pub mod wireguard;

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::state::{Scope, State};
use kernel::types::{Family, IfName, Mac, Mtu};

pub use desired::{UDP_DEVICE, desired};
pub use wireguard::WireguardKeys;

use crate::lease::{LeaseAttrs, Subnets, VxlanData};
use crate::net::ByFamily;
use crate::netconf::{Backend, NetConf, VxlanConf};
use crate::ownership::Owner;
use crate::peers::Peer;
use crate::reach::{Reach, Why};

/// What the desired state is made from.
#[derive(Debug, Clone)]
pub struct HostInputs<'a> {
    /// The network.
    pub conf: &'a NetConf,
    /// This host's lease.
    pub own: Subnets,
    /// The MAC addresses that this host's VTEPs have published; `None` takes what the kernel gives.
    pub vtep_macs: ByFamily<Option<Mac>>,
    /// This host's WireGuard keys; needed by that backend.
    pub wireguard_keys: Option<WireguardKeys>,
    /// The leases that are believed.
    pub peers: &'a [Peer],
    /// The way out of this host.
    pub underlay: &'a Underlay,
    /// The vxlan configuration of the backend before, if it was vxlan: its devices stay while they may be sent to.
    pub keep_vtep: Option<VxlanConf>,
    /// Which devices and routes of this host are ours.
    pub owner: &'a Owner,
    /// The tunnel devices of this host that are ours. Those that are not wanted are deleted.
    pub known_devices: &'a [IfName],
    /// `peers` are all there are. If not, nothing is deleted.
    pub complete: bool,
}

/// The VTEPs to have: those of the backend, or without the vxlan backend those of the backend before (`keep`), while
/// a peer's lease says that it may still send to them, or may be unknown to us.
pub fn wanted_vtep(conf: &NetConf, keep: Option<VxlanConf>, peers: &[Peer], complete: bool) -> Option<VxlanConf> {
    match conf.backend {
        Backend::Vxlan(vxlan) => Some(vxlan),
        _ => keep.filter(|_| !complete || peers.iter().any(|peer| peer.backend_type == "vxlan")),
    }
}

/// What this host publishes: its addresses in the families that are on, and the VTEPs of `vxlan` ([`wanted_vtep`]) that
/// have a MAC address.
///
/// A host-gw host publishes the VTEP that it keeps, so that hosts behind a router which still run vxlan reach it. Go
/// flannel does not look at a host-gw lease's data.
pub fn publish(
    conf: &NetConf,
    vxlan: Option<VxlanConf>,
    public: ByFamily<Option<IpAddr>>,
    vtep_macs: ByFamily<Option<Mac>>,
) -> LeaseAttrs {
    let vxlan = vxlan.filter(|_| conf.backend != Backend::Alloc);
    let mut attrs = LeaseAttrs { backend_type: conf.backend.lease_type().to_owned(), ..LeaseAttrs::default() };
    for (family, _) in conf.families() {
        match *public.get(family) {
            Some(IpAddr::V4(addr)) => attrs.public_ip = Some(addr),
            Some(IpAddr::V6(addr)) => attrs.public_ipv6 = Some(addr),
            None => {}
        }
        if let (Some(vxlan), Some(vtep_mac)) = (vxlan, *vtep_macs.get(family)) {
            attrs.set_data(family, VxlanData { vni: Some(vxlan.vni), vtep_mac }.to_json());
        }
    }
    attrs
}

/// The link by which this host reaches the others.
#[derive(Debug, Clone)]
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

/// What is wanted of the kernel, and what comes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The objects.
    pub state: State,
    /// Which of the kernel's objects are to be compared with them.
    pub scope: Scope,
    /// How each family of each peer is reached, in the order of `peers`. None for alloc, which moves no packets.
    pub paths: Vec<PeerPath>,
    /// FLANNEL_MTU: what a pod's interface may carry.
    pub mtu: Mtu,
}

/// How one family of a peer is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPath {
    /// The peer's key.
    pub peer: String,
    /// The family.
    pub family: Family,
    /// The way.
    pub reach: Reach,
    /// Why this way.
    pub reason: Why,
}
