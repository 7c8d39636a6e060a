//! The ipip backend: one device for all peers; a route's gateway is the outer destination.

use kernel::state::{Ipip, Link, LinkKind, Route, RouteKey, State};
use kernel::types::{Family, IfName, Mtu, host_net};
use std::net::{IpAddr, Ipv4Addr};

use super::HostInputs;
use super::desired::flannel_route;
use crate::netconf::Backend;
use crate::peers::Half;

/// Upstream's name of the device.
pub const DEVICE: &str = "flannel.ipip";

/// An IPv4 header.
pub(super) fn mtu(inputs: &HostInputs<'_>) -> Mtu {
    Mtu(inputs.underlay.mtu.0.saturating_sub(20))
}

/// This host's device.
pub(super) struct Tunnel {
    dev: IfName,
    local: Ipv4Addr,
    base: IpAddr,
    mark: String,
}

impl Tunnel {
    /// `None` with another backend, or without a lease or an address to send from.
    pub(super) fn new(inputs: &HostInputs<'_>) -> Option<Self> {
        if !matches!(inputs.conf.backend, Backend::Ipip(_)) {
            return None;
        }
        let base = inputs.own.get(Family::V4)?.network();
        let IpAddr::V4(local) = (*inputs.underlay.addresses.get(Family::V4))? else { return None };
        Some(Self { dev: IfName::new(DEVICE).ok()?, local, base, mark: inputs.owner.mark() })
    }

    pub(super) fn write(&self, state: &mut State, mtu: Mtu) {
        let kind = LinkKind::Ipip(Ipip { local: Some(self.local), ..Ipip::default() });
        let link = Link { mtu: Some(mtu), alias: Some(self.mark.clone()), ..Link::up(kind) };
        state.links.insert(self.dev.clone(), link);
        state.address(&self.dev, host_net(self.base), true);
    }

    /// `10.5.53.0/24 via 10.99.0.3 dev flannel.ipip onlink`
    pub(super) fn write_peer(&self, state: &mut State, half: &Half) {
        let route = Route { via: Some(half.public), onlink: true, ..flannel_route(&self.dev) };
        state.routes.insert(RouteKey::main(half.subnet), route);
    }
}
