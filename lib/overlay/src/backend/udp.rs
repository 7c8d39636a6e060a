//! The udp backend: a TUN device leads to the whole network, and a program sends its packets as datagrams. IPv4 only.

use ipnetwork::IpNetwork;
use kernel::state::{Link, LinkKind, RouteKey, State, TunTap};
use kernel::types::{Family, IfName, Mtu, host_net};

use super::{Backend, Companion, Conf, Data, Devices, End, Host, Kind, Role, keys};
use crate::peers::{Half, Peer};
use crate::reach::{Mode, Names, Tunnel, Why};
use crate::render::flannel_route;

/// The udp backend.
pub static KIND: Kind = Kind {
    name: "udp",
    lease_type: "",
    data: Data::KeptVtep,
    v4_only: true,
    tunnel: Some(TUNNEL),
    read: |reader, _, mistakes| {
        let default = UdpConf::default();
        Backend::Udp(UdpConf { port: keys::port(reader, "Backend.Port", mistakes).unwrap_or(default.port) })
    },
    left: |name, link| {
        let ours = name.as_str() == DEVICE && matches!(link.kind, LinkKind::TunTap(_));
        // The device does not tell which port its program used.
        ours.then(|| Backend::Udp(UdpConf::default()))
    },
};

/// Datagrams, by a program.
pub const TUNNEL: Tunnel = Tunnel::new(&Names { name: "udp", title: "UDP", direct_routing: false });

/// The TUN device, upstream's first `flannel%d`.
pub const DEVICE: &str = "flannel0";

/// The metric of the network's route. The device outlives its daemon, and Go flanneld makes another one: its route, which has
/// metric 0, stands beside this one and is preferred (`ip route show`).
const METRIC: u32 = 1;

/// The udp backend's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpConf {
    /// `Port`, default 8285: the port that this host listens on and sends to. All hosts must agree.
    pub port: u16,
}

impl Default for UdpConf {
    fn default() -> Self {
        Self { port: 8285 }
    }
}

/// The tunnel adds an IPv4 header and a UDP header.
fn mtu(underlay: Mtu) -> Mtu {
    Mtu(underlay.0.saturating_sub(28))
}

impl Conf for UdpConf {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn mode(&self) -> Option<Mode> {
        Some(Mode::Never)
    }

    fn pod_mtu(&self, underlay: Mtu) -> Mtu {
        mtu(underlay)
    }

    fn names(&self, _role: Role) -> Vec<IfName> {
        IfName::new(DEVICE).into_iter().collect()
    }

    /// A device that is only kept stays unchanged, except for the network's route.
    fn stays_as_it_is(&self) -> bool {
        true
    }

    fn end(&self, host: &Host, role: Role) -> Option<Box<dyn End>> {
        let network = host.networks.v4?;
        let own = host.own.get(Family::V4)?;
        Some(Box::new(Tun {
            dev: IfName::new(DEVICE).ok()?,
            current: role == Role::Current,
            network,
            own,
            mtu: mtu(host.underlay.mtu),
            mark: host.mark(),
        }))
    }

    fn devices(&self) -> Option<Devices> {
        Some(Devices { kind: KIND.name, name: 0, fixed: 0 })
    }

    fn companion(&self) -> Option<Companion> {
        Some(Companion::DataPath(*self))
    }
}

/// Routes `10.5.0.0/16 dev flannel0 metric 1`, or `10.5.53.0/24 dev flannel0` for each host that still runs udp.
#[derive(Debug)]
struct Tun {
    dev: IfName,
    /// Whether udp is the current backend.
    current: bool,
    network: IpNetwork,
    own: IpNetwork,
    mtu: Mtu,
    mark: String,
}

impl End for Tun {
    fn write(&self, state: &mut State) {
        if !self.current {
            return;
        }
        let kind = LinkKind::TunTap(TunTap { multi_queue: true, ..TunTap::default() });
        let link = Link { mtu: Some(self.mtu), alias: Some(self.mark.clone()), ..Link::up(kind) };
        state.links.insert(self.dev.clone(), link);
        state.address(&self.dev, host_net(self.own.network()), true);
        let route = RouteKey { metric: Some(METRIC), ..RouteKey::main(self.network) };
        state.routes.insert(route, flannel_route(&self.dev));
    }

    fn tunnel(&self) -> Tunnel {
        TUNNEL
    }

    /// A lease of the udp backend has no type.
    fn reaches(&self, peer: &Peer, _half: &Half) -> Result<(), Why> {
        if peer.backend_type() == KIND.lease_type { Ok(()) } else { Err(Why::NotIn(TUNNEL)) }
    }

    /// Go's udp ignores the type of a lease and sends to every host. A host with another type is changing to udp or
    /// away from it.
    fn last_resort(&self, _peer: &Peer, _half: &Half, on_link: bool) -> Option<Why> {
        (!on_link).then_some(Why::ByMode(TUNNEL))
    }

    /// If the network has its one route, no other route is needed.
    fn write_peer(&self, _peer: &Peer, half: &Half, state: &mut State) {
        if !self.current {
            state.routes.insert(RouteKey::main(half.subnet), flannel_route(&self.dev));
        }
    }
}
