//! Namespaces with a little of everything, from domains so small that two of them often contain the same objects.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use proptest::collection::{btree_map, btree_set};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::name;
use crate::state::{
    Adopt, Bridge, Fdb, FdbKey, Filter, FilterAction, FilterKey, Ipip, Link, LinkKind, Macvlan, MacvlanMode,
    NeighbourKey, Port, PublicKey, Qdisc, QdiscKey, QdiscPlace, Route, RouteKey, RouteKind, RouteScope, Scope, Secret,
    Selects, State, Tbf, TunTap, Veth, Vlan, VlanKey, Vxlan, WireguardDevice, WireguardPeer,
};
use crate::types::{IfIndex, IfName, Mac, Mtu, RouteProtocol, TableId, VlanId, Vni};

/// One device of each kind.
pub const DEVICES: [&str; 8] = ["br0", "ifb0", "ip0", "mac0", "tap0", "veth0", "vx0", "wg0"];
/// The underlay, on which only entries and routes are ever desired.
pub const ETH: &str = "eth0";

fn kind(device: &'static str) -> BoxedStrategy<LinkKind> {
    match device {
        "br0" => any::<bool>()
            .prop_map(|vlan_filtering| LinkKind::Bridge(Bridge { vlan_filtering, ..Bridge::default() }))
            .boxed(),
        "ifb0" => Just(LinkKind::Ifb).boxed(),
        "ip0" => (option::of(1..3_u8), option::weighted(0.2, 1..3_u8))
            .prop_map(|(local, remote)| {
                let at = |n: u8| [192, 0, 2, n].into();
                LinkKind::Ipip(Ipip { local: local.map(at), remote: remote.map(at), ..Ipip::default() })
            })
            .boxed(),
        "mac0" => (any::<bool>(), any::<bool>())
            .prop_map(|(lower, mode)| {
                LinkKind::Macvlan(Macvlan {
                    lower: Some(name(if lower { ETH } else { "eth1" })),
                    bc_queue_len: None,
                    mode: if mode { MacvlanMode::Bridge } else { MacvlanMode::Private },
                })
            })
            .boxed(),
        "tap0" => (any::<bool>(), any::<bool>())
            .prop_map(|(tap, multi_queue)| LinkKind::TunTap(TunTap { tap, multi_queue, ..TunTap::default() }))
            .boxed(),
        "veth0" => Just(LinkKind::Veth(Veth { peer: None })).boxed(),
        "vx0" => vxlan().boxed(),
        _ => Just(LinkKind::Wireguard).boxed(),
    }
}

prop_compose! {
    fn vxlan()(vni in 1..3_u32, lower in option::of(select(&[ETH, "eth1"][..])), local in option::of(select(&["192.0.2.1", "192.0.2.2", "fd99::1"][..])), port in option::weighted(0.3, Just(4789)), learning: bool, gbp in prop::bool::weighted(0.2)) -> LinkKind {
        let local = local.map(|text| text.parse::<IpAddr>().unwrap());
        LinkKind::Vxlan(Vxlan { lower: lower.map(name), local, port, learning, gbp, ..Vxlan::new(Vni::new(vni).unwrap()) })
    }
}

/// A link of the device's kind or, if `odd`, of another one. Another link in place of a bridge is left out: the
/// kernel, not a diff, refuses its ports.
fn link(device: &'static str, odd: bool) -> impl Strategy<Value = Link> {
    let other = Just(LinkKind::Other("dummy".into()));
    let kind = if odd && device != "br0" { prop_oneof![8 => kind(device), 1 => other].boxed() } else { kind(device) };
    let fields = (option::of(1400..1402_u32), option::of(0..2_u8), option::of(select(&["flannel", "old"][..])));
    let flags = (option::of(any::<bool>()), option::of(any::<bool>()), option::weighted(0.3, 9..11_u32));
    (kind, fields, flags, prop::bool::weighted(0.8), any::<bool>()).prop_map(
        move |(kind, (mtu, mac, alias), (promisc, allmulti, queue_len), up, port)| Link {
            up,
            mtu: mtu.map(Mtu),
            mac: mac.map(|n| Mac([2, 0, 0, 0, 0, n])),
            alias: alias.map(str::to_owned),
            master: (port && device == "veth0").then(|| Some(name("br0"))),
            promisc,
            allmulti,
            queue_len,
            ..Link::up(kind)
        },
    )
}

fn links(odd: bool) -> impl Strategy<Value = Vec<(IfName, Link)>> {
    subsequence(&DEVICES[..], 0..=DEVICES.len()).prop_flat_map(move |devices| {
        devices
            .into_iter()
            .map(|device| link(device, odd).prop_map(move |link| (name(device), link)))
            .collect::<Vec<_>>()
    })
}

fn net(n: u8) -> IpNetwork {
    format!("10.5.{n}.0/24").parse().unwrap()
}

/// A route by the device, or by none. `seen`: include the kernel's own and an administrator's.
fn route(seen: bool) -> impl Strategy<Value = (RouteKey, Option<&'static str>, Route)> {
    let dst = select(&["10.5.1.0/24", "10.5.2.0/24", "10.5.0.0/16", "10.6.0.0/24", "0.0.0.0/0", "fd05:0:0:1::/64"][..]);
    let protocols = if seen { vec![2, 3, 4, 70] } else { vec![3, 70] };
    let key = (dst, prop::bool::weighted(0.2), option::weighted(0.2, Just(7)), 0..2_u8);
    let way =
        (option::of(select(&DEVICES[..])), option::of(1..3_u8), any::<bool>(), option::of(0..2_u8), any::<bool>());
    let more = (select(protocols), option::weighted(0.2, 1400..1402_u32), option::weighted(0.2, 1300..1302_u32));
    (key, way, more, option::weighted(0.3, 1..3_u8)).prop_map(|(key, (dev, via, onlink, src, hole), more, scope)| {
        let (dst, other_table, metric, ordinal) = key;
        let table = if other_table { TableId(100) } else { TableId::MAIN };
        let key = RouteKey { table, metric, ordinal, ..RouteKey::main(dst.parse().unwrap()) };
        let (protocol, mtu, advmss) = more;
        let route = Route {
            kind: if hole && dev.is_none() { RouteKind::Blackhole } else { RouteKind::Unicast },
            dev: None,
            via: via.map(|n| [192, 0, 2, n].into()),
            src: src.map(|n| [10, 5, 0, n].into()),
            protocol: RouteProtocol(protocol),
            mtu: mtu.map(Mtu),
            scope,
            onlink,
            advmss,
            further: false,
        };
        (key, dev, route)
    })
}

fn device(seen: bool) -> impl Strategy<Value = WireguardDevice> {
    let peer = (option::of(1..3_u16), option::of(1..3_u8), 0..2_u16).prop_map(move |(port, psk, keepalive)| {
        let port = port.or(seen.then_some(9));
        let endpoint = port.map(|port| ([192, 0, 2, 1], port).into());
        WireguardPeer { endpoint, preshared_key: psk.map(|n| Secret([n; 32])), keepalive, ..WireguardPeer::default() }
    });
    let owners = prop::collection::vec(option::of(0..3_u8), 4);
    (
        btree_map((0..3_u8).prop_map(|n| PublicKey([n; 32])), peer, 0..4),
        owners,
        option::of(1..3_u8),
        option::of(1..3_u16),
    )
        .prop_map(move |(mut peers, owners, key, port)| {
            for (n, owner) in (0..).zip(owners) {
                if let Some(peer) = owner.and_then(|owner| peers.get_mut(&PublicKey([owner; 32]))) {
                    peer.allowed_ips.insert(net(n));
                }
            }
            let private_key = key.or(seen.then_some(1)).map(|n| Secret([n; 32]));
            WireguardDevice { private_key, listen_port: port.or(seen.then_some(1)), peers }
        })
}

/// What a link of either of two has: a discipline at its root, one at ingress, and filters there.
type Queues = Vec<(&'static str, Option<Qdisc>, Option<(Qdisc, BTreeMap<u16, Filter>)>)>;

/// `seen`: include what another program sets.
fn queues(seen: bool) -> impl Strategy<Value = Queues> {
    let tbf = (1..3_u64, 1..3_u32).prop_map(|(rate, limit)| Qdisc::Tbf(Tbf { rate, burst: 9, limit })).boxed();
    let other = Just(Qdisc::Other("fq".into())).boxed();
    let root = if seen { prop_oneof![3 => tbf, 1 => other].boxed() } else { tbf };
    let ingress = if seen { select(vec![Qdisc::Ingress, Qdisc::Clsact]).boxed() } else { Just(Qdisc::Ingress).boxed() };
    let filters = btree_map(1..4_u16, filter(seen), 0..3);
    let one = (select(&["veth0", ETH][..]), option::of(root), option::of((ingress, filters)));
    prop::collection::vec(one, 0..3)
}

fn filter(seen: bool) -> impl Strategy<Value = Filter> {
    let to = |to: &str| FilterAction::Redirect(Some(name(to)));
    let mut actions = vec![to("ifb0"), FilterAction::Pass];
    if seen {
        actions.extend([to("eth1"), FilterAction::Redirect(None), FilterAction::Other]);
    }
    let selects = select(vec![Selects::All, Selects::To(net(1)), Selects::To("fd05::/48".parse().unwrap())]);
    (selects, select(actions)).prop_map(|(selects, action)| Filter { selects, action })
}

fn add_queues(state: &mut State, queues: Queues) {
    for (dev, root, ingress) in queues {
        let key = |place| QdiscKey { dev: name(dev), place };
        state.qdiscs.extend(root.map(|root| (key(QdiscPlace::Root), root)));
        let Some((ingress, filters)) = ingress else { continue };
        state.qdiscs.insert(key(QdiscPlace::Ingress), ingress);
        for (prio, filter) in filters {
            let there = match &filter.action {
                FilterAction::Redirect(Some(to)) => state.links.contains_key(to),
                // another's that lets all pass, and one of ours, differ in what they select
                FilterAction::Pass => filter.selects != Selects::All,
                _ => true,
            };
            if there {
                state.filters.insert(FilterKey { dev: name(dev), prio }, filter);
            }
        }
    }
}

type Entries = Vec<(&'static str, u8, u8)>;

/// Objects on links: `(device, one number, another)`.
fn entries(devices: &'static [&'static str]) -> impl Strategy<Value = Entries> {
    prop::collection::vec((select(devices), 0..3_u8, 0..2_u8), 0..6)
}

const ADDRESSES: [&str; 4] = ["10.5.1.1/24", "fd05::1/64", "fe80::1/64", "10.5.1.1/32"];

/// Destinations of frames: as desired, or as another program sets them (`seen`).
fn ways(seen: bool) -> [Fdb; 2] {
    let to = |last| Fdb::from(IpAddr::from([192, 0, 2, last]));
    if seen {
        [
            Fdb { port: Some(9999), vni: Vni::new(7).ok(), via: Some(IfIndex(3)), ..to(0) },
            Fdb { nexthop: Some(5), ..to(0) },
        ]
    } else {
        [to(0), to(1)]
    }
}

/// A desired or an observed host (`seen`). Objects exist only on existing links.
pub fn host(seen: bool) -> impl Strategy<Value = State> {
    let hanging =
        (entries(&DEVICES), entries(&["vx0", ETH]), entries(&["vx0", ETH]), entries(&["veth0"]), entries(&DEVICES));
    let routes = (prop::collection::vec(route(seen), 0..8), queues(seen));
    (links(seen), hanging, routes, device(seen), any::<(bool, bool, bool)>()).prop_map(
        move |(
            links,
            (addresses, neighbours, fdb, vlans, sysctls),
            (routes, queues),
            tunnel,
            (hairpin, isolated, forward),
        )| {
            let mut state = State { links: links.into_iter().collect(), ..State::default() };
            if !state.links.contains_key(&name("br0")) {
                state.links.values_mut().for_each(|link| link.master = None);
            }
            let up: Vec<IfName> = state.links.iter().filter(|(_, l)| l.up).map(|(n, _)| n.clone()).collect();
            if seen {
                for device in [ETH, "eth1"] {
                    state.links.insert(name(device), Link::up(LinkKind::Other(String::new())));
                }
            }
            let there = |dev: &str| dev == ETH || up.iter().any(|up| up.as_str() == dev);
            for (dev, n, _) in addresses.into_iter().filter(|(dev, ..)| there(dev)) {
                state.address(&name(dev), ADDRESSES[usize::from(n)].parse().unwrap(), false);
            }
            for (dev, n, mac) in neighbours.into_iter().filter(|(dev, ..)| there(dev)) {
                let key = NeighbourKey { dev: name(dev), addr: net(n).ip() };
                state.neighbours.insert(key, Mac([2, 0, 0, 0, 1, mac]));
            }
            for (dev, n, dst) in fdb.into_iter().filter(|(dev, ..)| there(dev)) {
                let key = FdbKey { dev: name(dev), mac: Mac([2, 0, 0, 0, 2, n]) };
                state.fdb.insert(key, ways(seen)[usize::from(dst)]);
            }
            for (dev, n, pvid) in vlans.into_iter().filter(|(dev, ..)| there(dev)) {
                let key = VlanKey { dev: name(dev), id: VlanId::new(u16::from(n) + 1).unwrap() };
                state.vlans.insert(key, Vlan { pvid: pvid == 1, untagged: false });
            }
            for (dev, n, value) in sysctls.into_iter().filter(|(dev, ..)| there(dev)) {
                state.conf(["ipv4", "ipv6"][usize::from(n % 2)], &name(dev), "accept_ra", &value.to_string());
            }
            state.sysctls.insert("net/ipv4/ip_forward".into(), u8::from(forward).to_string());
            add_queues(&mut state, queues.into_iter().filter(|(dev, ..)| there(dev)).collect());
            if state.links.get(&name("veth0")).is_some_and(|veth| veth.master.is_some()) {
                state.ports.insert(name("veth0"), Port { hairpin, isolated, passing: None });
            }
            if state.links.get(&name("wg0")).is_some_and(|link| link.kind == LinkKind::Wireguard) {
                state.wireguard.insert(name("wg0"), tunnel);
            }
            for (key, dev, route) in routes {
                let dev = dev.filter(|dev| there(dev)).map(name);
                let dev = dev.or((route.via.is_some() && route.scope.is_some()).then(|| name(ETH)));
                state.routes.insert(key, Route { dev, ..route });
            }
            state
        },
    )
}

fn some(devices: &'static [&'static str]) -> impl Strategy<Value = Vec<IfName>> {
    subsequence(devices, 0..=devices.len()).prop_map(|some| some.into_iter().map(name).collect())
}

/// Any part of it may be ours.
pub fn scope() -> impl Strategy<Value = Scope> {
    let links = prop_oneof![1 => some(&DEVICES), 1 => Just(DEVICES.map(name).to_vec())];
    let protocol = option::weighted(0.7, Just(RouteProtocol::FLANNEL));
    let adopt = btree_set(select(&["10.5.0.0/16", "fd05::/56"][..]), 0..=2);
    let routes = (protocol, adopt, option::weighted(0.3, Just(name("vx0")))).prop_map(|(protocol, adopt, dev)| {
        let nets = adopt.into_iter().map(|net| net.parse().unwrap()).collect();
        // Half of them.
        let leased = ("10.5.1.0/24".parse().unwrap(), [192, 0, 2, 1].into());
        RouteScope {
            protocol,
            adopt: Adopt { within: nets, gateways: Arc::new([leased].into()) },
            dev,
            ..RouteScope::default()
        }
    });
    let rest = (some(&["vx0", ETH]), some(&["wg0"]), some(&["veth0"]), some(&["veth0", ETH]));
    (links, some(&["br0", "vx0", ETH]), rest, option::weighted(0.8, routes), prop::bool::weighted(0.2)).prop_map(
        |(links, addresses, (neighbours, wireguard, vlans, queues), routes, keep)| Scope {
            links,
            addresses,
            neighbours,
            wireguard,
            vlans,
            queues,
            routes,
            keep,
            ..Scope::default()
        },
    )
}
