//! The ipip backend: one device for all peers; the gateway of a route is the outer destination. IPv4 only.

use std::net::{IpAddr, Ipv4Addr};

use gojson::Reader;
use kernel::state::{Ipip, Link, LinkKind, Route, RouteKey, State};
use kernel::types::{Family, IfName, Mtu, host_net};

use super::{Backend, Conf, Data, Devices, End, Host, Kind, Mistake, Role};
use crate::peers::{Half, Peer};
use crate::reach::{Mode, Names, Tunnel, Why};
use crate::render::flannel_route;

/// The ipip backend.
pub static KIND: Kind = Kind {
    name: "ipip",
    lease_type: "ipip",
    data: Data::KeptVtep,
    v4_only: true,
    tunnel: Some(TUNNEL),
    read,
    left: |name, link| {
        let ours = name.as_str() == DEVICE && matches!(link.kind, LinkKind::Ipip(_));
        ours.then(|| Backend::Ipip(IpipConf::default()))
    },
};

/// IP in IP, by the kernel.
pub const TUNNEL: Tunnel = Tunnel::new(&Names { name: "ipip", title: "IPIP", direct_routing: true });

/// Upstream's name of the device.
pub const DEVICE: &str = "flannel.ipip";

/// The ipip backend's keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IpipConf {
    /// `DirectRouting`, default false: plain routes to the hosts on the same segment.
    pub direct_routing: bool,
}

fn read(reader: &mut Reader<'_>, _ipv6: bool, _mistakes: &mut Vec<Mistake>) -> Backend {
    Backend::Ipip(IpipConf { direct_routing: reader.take("DirectRouting").unwrap_or_default() })
}

/// IPIP adds one IPv4 header.
fn mtu(underlay: Mtu) -> Mtu {
    Mtu(underlay.0.saturating_sub(20))
}

impl Conf for IpipConf {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn mode(&self) -> Option<Mode> {
        Some(if self.direct_routing { Mode::WherePossible } else { Mode::Never })
    }

    fn pod_mtu(&self, underlay: Mtu) -> Mtu {
        mtu(underlay)
    }

    fn names(&self, _role: Role) -> Vec<IfName> {
        IfName::new(DEVICE).into_iter().collect()
    }

    fn end(&self, host: &Host, _role: Role) -> Option<Box<dyn End>> {
        let base = host.own.get(Family::V4)?.network();
        let IpAddr::V4(local) = (*host.underlay.addresses.get(Family::V4))? else { return None };
        Some(Box::new(Device {
            dev: IfName::new(DEVICE).ok()?,
            local,
            base,
            mtu: mtu(host.underlay.mtu),
            mark: host.mark(),
        }))
    }

    fn devices(&self) -> Option<Devices> {
        Some(Devices { kind: KIND.name, name: 0, fixed: 0 })
    }
}

#[derive(Debug)]
struct Device {
    dev: IfName,
    local: Ipv4Addr,
    base: IpAddr,
    mtu: Mtu,
    mark: String,
}

impl End for Device {
    fn write(&self, state: &mut State) {
        let kind = LinkKind::Ipip(Ipip { local: Some(self.local), ..Ipip::default() });
        let link = Link { mtu: Some(self.mtu), alias: Some(self.mark.clone()), ..Link::up(kind) };
        state.links.insert(self.dev.clone(), link);
        state.address(&self.dev, host_net(self.base), true);
    }

    fn tunnel(&self) -> Tunnel {
        TUNNEL
    }

    fn reaches(&self, peer: &Peer, _half: &Half) -> Result<(), Why> {
        if peer.backend_type() == KIND.lease_type { Ok(()) } else { Err(Why::NotIn(TUNNEL)) }
    }

    /// Writes `10.5.53.0/24 via 10.99.0.3 dev flannel.ipip onlink`.
    fn write_peer(&self, _peer: &Peer, half: &Half, state: &mut State) {
        let route = Route { via: Some(half.public), onlink: true, ..flannel_route(&self.dev) };
        state.routes.insert(RouteKey::main(half.subnet), route);
    }
}
