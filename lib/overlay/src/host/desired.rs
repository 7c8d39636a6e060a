//! From the inputs to the desired state: one loop over the families, in it one over the peers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::state::{FdbKey, Link, LinkKind, NeighbourKey, Route, RouteKey, Scope, State, TunTap, Vxlan};
use kernel::types::{Family, IfName, Mac, Mtu, RouteProtocol, Vni, host_net};

use super::{Desired, HostInputs, PeerPath, ipip, wanted_vtep, wireguard};
use crate::net::{ByFamily, number};
use crate::netconf::{Backend, VxlanConf, vxlan_device};
use crate::peers::{Half, Peer};
use crate::reach::{Mode, Reach, Tunnel, Why, decide, vxlan};

/// What VXLAN adds to a packet, in bytes: outer IP, UDP, VXLAN and inner Ethernet headers, 20 or 40 + 8 + 8 + 14
/// (VXLAN_HEADROOM and VXLAN6_HEADROOM, include/net/vxlan.h).
fn headroom(family: Family) -> u32 {
    match family {
        Family::V4 => 50,
        Family::V6 => 70,
    }
}

/// What the kernel of this host must look like.
///
/// vxlan: a device per family (`flannel.1`, `flannel-v6.1`) with the first address of the subnet, and per peer
/// a neighbour, an FDB entry and a route:
/// ```text
/// 10.5.53.0 dev flannel.1 lladdr 4a:ed:0f:9b:24:90 PERMANENT
/// 4a:ed:0f:9b:24:90 dev flannel.1 dst 10.99.0.3 self permanent
/// 10.5.53.0/24 via 10.5.53.0 dev flannel.1 onlink
/// ```
/// Peers that are reached directly have only a route: `10.5.53.0/24 via 10.99.0.3 dev eth0`. ipip: one device, and per
/// peer a route by its address; wireguard: a device or two with peers, and a route for the network; extension and alloc:
/// nothing.
pub fn desired(inputs: &HostInputs<'_>) -> Desired {
    let vxlan = wanted_vtep(inputs.conf, inputs.keep_vtep, inputs.peers, inputs.complete);
    let mut state = State::default();
    let mut own = Devices { ipip: ipip::Tunnel::new(inputs), ..Devices::default() };
    for family in Family::ALL {
        let vtep = vxlan.and_then(|conf| Vtep::new(inputs, conf, family));
        if let Some(vtep) = &vtep {
            vtep.write(&mut state);
        }
        *own.vteps.get_mut(family) = vtep;
    }
    if let Backend::Udp(_) = inputs.conf.backend {
        write_tun(&mut state, inputs);
    }
    if let Some(ipip) = &own.ipip {
        ipip.write(&mut state, ipip::mtu(inputs));
    }
    if let Backend::Wireguard(conf) = &inputs.conf.backend {
        wireguard::write(&mut state, inputs, conf);
    }
    let mut paths = Vec::new();
    for peer in inputs.peers {
        for half in inputs.conf.families().filter_map(|(family, _)| peer.half(family)) {
            match (&inputs.conf.backend, Mode::of(&inputs.conf.backend)) {
                (_, Some(mode)) => paths.push(write_peer(&mut state, inputs, mode, &own, peer, half)),
                (Backend::Extension(_), None) => paths.push(by_commands(peer, half)),
                (_, None) => {}
            }
        }
    }
    if inputs.peers.len() > MANY {
        spread(&mut state);
    }
    let scope = scope(inputs, vxlan, &state);
    Desired { scope, paths, mtu: pod_mtu(inputs), state }
}

/// One number for both families, as upstream has it: what fits into VXLAN over IPv4. Over IPv6 the 20 bytes less are the
/// device's MTU, and the host tells the pods by ICMPv6.
fn pod_mtu(inputs: &HostInputs<'_>) -> Mtu {
    match &inputs.conf.backend {
        Backend::Vxlan(conf) => device_mtu(inputs, *conf, Family::V4),
        Backend::Udp(_) => udp_mtu(inputs),
        Backend::Ipip(_) => ipip::mtu(inputs),
        Backend::Wireguard(conf) => wireguard::mtu(inputs, conf),
        _ => inputs.underlay.mtu,
    }
}

/// The kernel refuses more than the underlay link leaves.
fn device_mtu(inputs: &HostInputs<'_>, conf: VxlanConf, family: Family) -> Mtu {
    let outer = conf.mtu.map_or(inputs.underlay.mtu, |mtu| mtu.min(inputs.underlay.mtu));
    Mtu(outer.0.saturating_sub(headroom(family)))
}

/// The udp backend's device, upstream's first `flannel%d`.
pub const UDP_DEVICE: &str = "flannel0";

/// An IPv4 and a UDP header.
fn udp_mtu(inputs: &HostInputs<'_>) -> Mtu {
    Mtu(inputs.underlay.mtu.0.saturating_sub(28))
}

/// udp's TUN, by which the whole network is reached: `10.5.0.0/16 dev flannel0`. It is IPv4's alone.
fn write_tun(state: &mut State, inputs: &HostInputs<'_>) {
    let conf = inputs.conf.family(Family::V4).zip(inputs.own.get(Family::V4)).zip(IfName::new(UDP_DEVICE).ok());
    let Some(((conf, own), dev)) = conf else { return };
    let link = Link {
        mtu: Some(udp_mtu(inputs)),
        alias: Some(inputs.owner.mark()),
        ..Link::up(LinkKind::TunTap(TunTap { multi_queue: true, ..TunTap::default() }))
    };
    state.links.insert(dev.clone(), link);
    state.address(&dev, host_net(own.network()), true);
    state.routes.insert(RouteKey::main(conf.network), flannel_route(&dev));
}

/// This host's ends of tunnels.
#[derive(Default)]
struct Devices {
    vteps: ByFamily<Option<Vtep>>,
    ipip: Option<ipip::Tunnel>,
}

/// This host's VTEP of one family.
struct Vtep {
    dev: IfName,
    vni: Vni,
    link: Link,
    base: IpAddr,
}

impl Vtep {
    /// `None` when the family is off, has no lease or has no address to send from.
    fn new(inputs: &HostInputs<'_>, conf: VxlanConf, family: Family) -> Option<Self> {
        inputs.conf.family(family)?;
        let base = inputs.own.get(family)?.network();
        let local = (*inputs.underlay.addresses.get(family))?;
        let dev = vxlan_device(family, conf.vni).ok()?;
        let kind = LinkKind::Vxlan(Vxlan {
            lower: Some(inputs.underlay.dev.clone()),
            local: Some(local),
            port: conf.port,
            learning: conf.learning,
            gbp: conf.gbp,
            ..Vxlan::new(conf.vni)
        });
        let link = Link {
            mtu: Some(device_mtu(inputs, conf, family)),
            mac: *inputs.vtep_macs.get(family),
            alias: Some(inputs.owner.mark()),
            // it carries nothing as a port of a bridge or a VRF, and no link-layer header without ARP
            master: Some(None),
            arp: Some(true),
            multicast: Some(true),
            protodown: Some(false),
            ..Link::up(kind)
        };
        Some(Self { dev, vni: conf.vni, link, base })
    }

    fn write(&self, state: &mut State) {
        state.links.insert(self.dev.clone(), self.link.clone());
        // one address and no prefix: the kernel adds no route for it
        state.address(&self.dev, host_net(self.base), true);
        state.conf("ipv6", &self.dev, "accept_ra", "0");
    }

    /// Neighbour, FDB entry and route of a peer behind the VTEP with this MAC.
    fn write_peer(&self, state: &mut State, half: &Half, mac: Mac) {
        let addr = half.subnet.network();
        state.neighbours.insert(NeighbourKey { dev: self.dev.clone(), addr }, mac);
        state.fdb.insert(FdbKey { dev: self.dev.clone(), mac }, half.public.into());
        let route = Route { via: Some(addr), onlink: true, ..flannel_route(&self.dev) };
        state.routes.insert(RouteKey::main(half.subnet), route);
        if addr.is_ipv6() {
            // the kernel refuses an onlink gateway that the table reaches by another link, as it does while the subnet's
            // direct route is still there (ip6_route_check_nh_onlink, net/ipv6/route.c)
            state.routes.insert(RouteKey::main(host_net(addr)), flannel_route(&self.dev));
        }
    }
}

/// With more peers than this, [`spread`] pays.
const MANY: usize = 1024;

/// `site` in rt_scopes: it and what is narrower is the operator's to choose (`enum rt_scope_t`, linux/rtnetlink.h).
const SITE: u128 = 200;

/// Gives IPv4's routes by a gateway different scopes. The kernel keeps such routes in a hash table by link, protocol,
/// scope, preferred source and metric, but not by gateway (`fib_info_hash_bucket`, net/ipv4/fib_semantics.c): with a
/// gateway per peer all of them are in one bucket, which is searched for every new one. 10,000 routes take 1.3 s of the
/// kernel's time so, and 0.14 s with scopes. A scope below `link` (253) changes nothing in how packets are routed.
fn spread(state: &mut State) {
    for (key, route) in &mut state.routes {
        if let (IpNetwork::V4(dst), Some(_)) = (key.dst, route.via) {
            // neighbours in the network differ most in the last bits that they have
            let number = number(dst.network().into()) >> 32_u32.saturating_sub(dst.prefix().into());
            route.scope = u8::try_from(number % SITE).ok().filter(|scope| *scope != 0);
        }
    }
}

pub(super) fn flannel_route(dev: &IfName) -> Route {
    Route { protocol: RouteProtocol::FLANNEL, ..Route::by(dev) }
}

fn write_peer(
    state: &mut State,
    inputs: &HostInputs<'_>,
    mode: Mode,
    own: &Devices,
    peer: &Peer,
    half: &Half,
) -> PeerPath {
    let underlay = inputs.underlay;
    let on_link = underlay.connected.iter().any(|net| net.contains(half.public));
    let vtep = own.vteps.get(half.subnet.into());
    let in_vxlan = vxlan(half.vtep, vtep.as_ref().map(|vtep| vtep.vni));
    let mut endpoint = None;
    let tunnel = match &inputs.conf.backend {
        // a lease of udp has no type, and Go's udp does not look at it: it sends to every host. One that has another type
        // is on its way to udp or from it, and there is a better way to it until it is there
        Backend::Udp(_) if peer.backend_type.is_empty() => Ok(Tunnel::Udp),
        Backend::Udp(_) => in_vxlan.or_else(|why| if on_link { Err(why) } else { Ok(Tunnel::Udp) }),
        Backend::Ipip(_) if peer.backend_type == "ipip" && own.ipip.is_some() => Ok(Tunnel::Ipip),
        Backend::Ipip(_) => in_vxlan.map_err(|_| Why::NotIn(Tunnel::Ipip)),
        Backend::Wireguard(conf) => wireguard::endpoint(inputs, conf, peer, half).map(|at| {
            endpoint = Some((conf, at));
            Tunnel::Wireguard
        }),
        _ => in_vxlan,
    };
    let (reach, reason) = decide(mode, on_link, tunnel);
    match (reach, vtep, half.vtep) {
        (Reach::Through(Tunnel::Vxlan), Some(vtep), Some(theirs)) => vtep.write_peer(state, half, theirs.vtep_mac),
        (Reach::Direct, ..) => {
            let route = Route { via: Some(half.public), ..flannel_route(&underlay.dev) };
            state.routes.insert(RouteKey::main(half.subnet), route);
        }
        (Reach::Through(Tunnel::Ipip), ..) => {
            own.ipip.iter().for_each(|ipip| ipip.write_peer(state, half));
        }
        (Reach::Through(Tunnel::Wireguard), ..) => {
            endpoint.into_iter().for_each(|(conf, at)| wireguard::write_peer(state, conf, half, at));
        }
        _ => {}
    }
    PeerPath { peer: peer.key.clone(), family: half.subnet.into(), reach, reason }
}

/// The operator's commands are told of peers that run them, too; routes are theirs.
fn by_commands(peer: &Peer, half: &Half) -> PeerPath {
    let (reach, reason) = match peer.backend_type.as_str() {
        "extension" => (Reach::Through(Tunnel::Extension), Why::ByMode(Tunnel::Extension)),
        _ => (Reach::Unreachable(Why::NotIn(Tunnel::Extension)), Why::NotIn(Tunnel::Extension)),
    };
    PeerPath { peer: peer.key.clone(), family: half.subnet.into(), reach, reason }
}

/// A tunnel of the backend before, to which peers may still send: it stays as it is, but for its routes.
fn may_be_sent_to(inputs: &HostInputs<'_>, device: &IfName) -> bool {
    let (backend, lease_type) = match device.as_str() {
        ipip::DEVICE => ("ipip", "ipip"),
        // alloc's leases have no type either: there the one is not told from the other
        UDP_DEVICE if inputs.conf.backend != Backend::Alloc => ("udp", ""),
        name if wireguard::DEVICES.contains(&name) => ("wireguard", "wireguard"),
        _ => return false,
    };
    backend != inputs.conf.backend.name()
        && (!inputs.complete || inputs.peers.iter().any(|peer| peer.backend_type == lease_type))
}

/// Our routes by their protocol, and what a Go flanneld left; our devices by their names and by their mark.
fn scope(inputs: &HostInputs<'_>, vxlan: Option<VxlanConf>, state: &State) -> Scope {
    let named = vxlan.into_iter().flat_map(|conf| Family::ALL.map(|family| vxlan_device(family, conf.vni).ok()));
    let made = state.links.keys().cloned();
    let known = inputs.known_devices.iter().filter(|device| !may_be_sent_to(inputs, device)).cloned();
    let devices: BTreeSet<IfName> = named.flatten().chain(made).chain(known).collect();
    let others = inputs.owner.others();
    let devices: Vec<IfName> = devices.into_iter().filter(|device| !others.contains_key(device)).collect();
    // with alloc and extension somebody else routes inside the network, and may well use protocol boot
    let adopts = Mode::of(&inputs.conf.backend).is_some();
    Scope {
        links: devices.clone(),
        read_links: vec![inputs.underlay.dev.clone()],
        addresses: devices.clone(),
        neighbours: devices,
        routes: Some(inputs.owner.routes(adopts, inputs.peers)),
        others,
        wireguard: state.wireguard.keys().cloned().collect(),
        sysctls: state.sysctls.keys().cloned().collect(),
        keep: !inputs.complete,
        ..Scope::default()
    }
}
