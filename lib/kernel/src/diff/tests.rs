//! A model of the kernel that takes steps, and properties of a diff.

mod examples;
mod properties;

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use proptest::prelude::*;

use super::*;
use crate::state::{
    Address, AddressKey, Adopt, Bridge, FdbKey, Ipip, Link, NeighbourKey, Port, PublicKey, Route, RouteKey, RouteScope,
    Secret, Vxlan, WireguardDevice, WireguardPeer, WireguardPeerChange,
};
use crate::types::{Mac, Mtu, RouteProtocol, Vni};

pub(crate) fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

/// The objects on a link keep belonging to it.
pub(crate) fn rename(state: &mut State, from: &IfName, to: &IfName) {
    assert!(!state.links.contains_key(to), "{to}: File exists");
    let link = state.links.remove(from).expect("a link to rename");
    state.links.insert(to.clone(), link);
    let other = |dev: &IfName| if dev == from { to.clone() } else { dev.clone() };
    state.addresses =
        state.addresses.iter().map(|(k, v)| (AddressKey { dev: other(&k.dev), ..k.clone() }, v.clone())).collect();
    state.neighbours =
        state.neighbours.iter().map(|(k, v)| (NeighbourKey { dev: other(&k.dev), ..k.clone() }, *v)).collect();
    state.fdb = state.fdb.iter().map(|(k, v)| (FdbKey { dev: other(&k.dev), ..k.clone() }, *v)).collect();
    state.wireguard = std::mem::take(&mut state.wireguard).into_iter().map(|(k, v)| (other(&k), v)).collect();
    state.ports = std::mem::take(&mut state.ports).into_iter().map(|(k, v)| (other(&k), v)).collect();
    state.vlans = std::mem::take(&mut state.vlans)
        .into_iter()
        .map(|(k, v)| (crate::state::VlanKey { dev: other(&k.dev), ..k }, v))
        .collect();
    for route in state.routes.values_mut() {
        route.dev = route.dev.as_ref().map(other);
    }
    for link in state.links.values_mut() {
        link.master = link.master.as_ref().map(|master| master.as_ref().map(other));
    }
    let (was, is) = (format!("/conf/{from}/"), format!("/conf/{to}/"));
    state.sysctls = state.sysctls.iter().map(|(path, value)| (path.replace(&was, &is), value.clone())).collect();
}

/// The effect of a step on the kernel.
pub(crate) fn take(state: &mut State, step: &Step) {
    match step.clone() {
        Step::CreateLink(name, link) => {
            assert!(state.links.insert(name, Link { up: false, alias: None, promisc: None, ..link }).is_none());
        }
        Step::RenameLink(from, to) => rename(state, &from, &to),
        Step::ChangeLink(name, change) => {
            let link = state.links.get_mut(&name).expect("a link to change");
            link.up = change.up.unwrap_or(link.up);
            link.mtu = change.mtu.or(link.mtu);
            link.mac = change.mac.or(link.mac);
            link.master = change.master.or(link.master.take());
            link.alias = change.alias.or(link.alias.take());
            link.promisc = change.promisc.or(link.promisc);
            link.allmulti = change.allmulti.or(link.allmulti);
            link.queue_len = change.queue_len.or(link.queue_len);
            link.arp = change.arp.or(link.arp);
            link.multicast = change.multicast.or(link.multicast);
            link.protodown = change.protodown.or(link.protodown);
            link.kind = change.kind.unwrap_or(link.kind.clone());
        }
        Step::SetPort(name, port) => drop(state.ports.insert(name, port)),
        Step::AddVlan(key, vlan) => drop(state.vlans.insert(key, vlan)),
        Step::DeleteVlan(key) => drop(state.vlans.remove(&key)),
        Step::Nft(..) => unreachable!("diff/nft/tests.rs has its own model"),
        Step::WriteSysctl(path, value) => drop(state.sysctls.insert(path, value)),
        Step::SetWireguard(name, key, port) => {
            let device = state.wireguard.entry(name).or_default();
            device.private_key = key.or(device.private_key);
            device.listen_port = port.or(device.listen_port);
        }
        Step::PutWireguardPeer(name, key, change) => put_peer(state.wireguard.entry(name).or_default(), key, change),
        Step::DeleteWireguardPeer(name, key) => {
            assert!(state.wireguard.get_mut(&name).is_some_and(|device| device.peers.remove(&key).is_some()));
        }
        Step::AddAddress(key, address) => {
            assert!(state.links.contains_key(&key.dev), "an address needs its link");
            state.addresses.insert(key, address);
        }
        Step::AddQdisc(key, qdisc) | Step::ChangeQdisc(key, qdisc) => drop(state.qdiscs.insert(key, qdisc)),
        Step::AddFilter(key, filter) => drop(state.filters.insert(key, filter)),
        Step::DeleteQdisc(key) => drop(state.qdiscs.remove(&key)),
        Step::DeleteFilter(key) => drop(state.filters.remove(&key)),
        Step::PutNeighbour(key, mac) => drop(state.neighbours.insert(key, mac)),
        Step::PutFdb(key, entry) => drop(state.fdb.insert(key, entry)),
        Step::PutRoute(key, route) | Step::CreateRoute(key, route) | Step::AddRoute(key, route) => {
            if let Some(dev) = &route.dev {
                assert!(state.links.get(dev).is_some_and(|link| link.up), "a route needs its link up");
            }
            state.routes.insert(key, route);
        }
        Step::DeleteRoute(key, _) => assert!(state.routes.remove(&key).is_some()),
        Step::DeleteNeighbour(key) => assert!(state.neighbours.remove(&key).is_some()),
        Step::DeleteFdb(key) => assert!(state.fdb.remove(&key).is_some()),
        Step::DeleteAddress(key) => assert!(state.addresses.remove(&key).is_some()),
        Step::DeleteLink(name) => {
            assert!(state.links.remove(&name).is_some());
            state.addresses.retain(|key, _| key.dev != name);
            state.neighbours.retain(|key, _| key.dev != name);
            state.fdb.retain(|key, _| key.dev != name);
            state.routes.retain(|_, route| route.dev.as_ref() != Some(&name));
            state.ports.remove(&name);
            state.wireguard.remove(&name);
        }
    }
}

/// A prefix belongs to one peer.
fn put_peer(device: &mut WireguardDevice, key: PublicKey, change: WireguardPeerChange) {
    device.peers.values_mut().for_each(|peer| peer.allowed_ips.retain(|net| !change.allowed_ips.contains(net)));
    let peer = device.peers.entry(key).or_default();
    peer.endpoint = change.endpoint.or(peer.endpoint);
    peer.preshared_key = change.preshared_key.unwrap_or(peer.preshared_key);
    peer.keepalive = change.keepalive.unwrap_or(peer.keepalive);
    if change.replace {
        peer.allowed_ips.clear();
    }
    peer.allowed_ips.extend(change.allowed_ips);
}

const DEVICES: [&str; 2] = ["flannel.1", "flannel.2"];

fn vxlan(vni: u32, port: Option<u16>, learning: bool) -> LinkKind {
    LinkKind::Vxlan(Vxlan { port, learning, ..Vxlan::new(Vni::new(vni).unwrap()) })
}

prop_compose! {
    fn link()(vni in 1..3u32, port in prop::option::of(Just(4789)), learning: bool, mtu in prop::option::of(1400..1403u32), up in prop::bool::weighted(0.8)) -> Link {
        Link { mtu: mtu.map(Mtu), up, alias: Some("flannel".into()), ..Link::up(vxlan(vni, port, learning)) }
    }
}

/// A host: some of our devices, peers on them, routes by them, and always objects that are not ours.
pub(crate) fn state(foreign: bool) -> impl Strategy<Value = State> {
    let devices = prop::collection::btree_map(prop::sample::select(&DEVICES[..]).prop_map(name), link(), 0..3);
    let peers = prop::collection::vec((0..2usize, 0..6u8, 0..4u8, any::<bool>()), 0..8);
    (devices, peers).prop_map(move |(links, peers)| {
        let mut state = State { links, ..State::default() };
        for (device, subnet, mac, direct) in peers {
            let dev = name(DEVICES[device]);
            if !state.links.get(&dev).is_some_and(|link| link.up) {
                continue;
            }
            let net: IpNetwork = format!("10.5.{subnet}.0/24").parse().unwrap();
            let underlay: IpAddr = [192, 0, 2, mac].into();
            let mac = Mac([2, 0, 0, 0, 0, mac]);
            state.address(&dev, "10.5.99.0/32".parse().unwrap(), false);
            state.neighbours.insert(NeighbourKey { dev: dev.clone(), addr: net.ip() }, mac);
            state.fdb.insert(FdbKey { dev: dev.clone(), mac }, underlay.into());
            let via = Some(if direct { underlay } else { net.ip() });
            let route = Route { via, onlink: true, protocol: RouteProtocol::FLANNEL, ..Route::by(&dev) };
            state.routes.insert(RouteKey::main(net), route);
        }
        if foreign {
            state.links.insert(name("eth0"), Link::up(LinkKind::Other(String::new())));
            state.address(&name("eth0"), "192.0.2.1/24".parse().unwrap(), false);
            let route = Route { via: Some([192, 0, 2, 254].into()), ..Route::by(&name("eth0")) };
            state.routes.insert(RouteKey::main("0.0.0.0/0".parse().unwrap()), route.clone());
            state.routes.insert(RouteKey::main("10.6.0.0/16".parse().unwrap()), route);
        }
        state
    })
}

pub(crate) fn scope() -> Scope {
    let devices: Vec<_> = DEVICES.iter().map(|d| name(d)).collect();
    Scope {
        links: devices.clone(),
        addresses: devices.clone(),
        neighbours: devices,
        routes: Some(RouteScope {
            protocol: Some(RouteProtocol::FLANNEL),
            within: vec!["10.5.0.0/16".parse().unwrap()],
            adopt: Adopt { within: vec!["10.5.0.0/16".parse().unwrap()], ..Adopt::default() },
            ..RouteScope::default()
        }),
        ..Scope::default()
    }
}

fn foreign(state: &State) -> (bool, usize, usize) {
    let eth0 = name("eth0");
    (
        state.links.contains_key(&eth0),
        state.addresses.keys().filter(|key| key.dev == eth0).count(),
        state.routes.values().filter(|route| route.dev.as_ref() == Some(&eth0)).count(),
    )
}

proptest! {
    #[test]
    fn steps_lead_to_what_is_wanted(desired in state(false), observed in state(true)) {
        let plan = diff(&desired, &observed, &scope());
        let mut model = observed.clone();
        plan.steps.iter().for_each(|step| take(&mut model, step));
        prop_assert!(diff(&desired, &model, &scope()).is_empty(), "{plan:#?}");
        prop_assert_eq!(foreign(&model), foreign(&observed));
        for key in desired.routes.keys() {
            prop_assert!(model.routes.contains_key(key));
        }
        let ours = |route: &&Route| route.protocol == RouteProtocol::FLANNEL;
        prop_assert_eq!(model.routes.values().filter(ours).count(), desired.routes.len());
    }

    #[test]
    fn an_incomplete_view_deletes_nothing_but_what_it_remakes(desired in state(false), observed in state(true)) {
        let plan = diff(&desired, &observed, &Scope { keep: true, ..scope() });
        for step in plan.steps.iter().filter(|step| step.is_delete()) {
            let Step::DeleteLink(name) = step else { panic!("{step}") };
            let made_again = |s: &Step| matches!(s, Step::CreateLink(n, _) if n == name);
            prop_assert!(plan.steps.iter().any(made_again));
        }
    }

    #[test]
    fn a_route_is_never_away_when_its_device_stays(desired in state(false), observed in state(true)) {
        let plan = diff(&desired, &observed, &scope());
        let remade = |dev: &IfName| plan.steps.contains(&Step::DeleteLink(dev.clone()));
        let mut model = observed.clone();
        let kept: Vec<_> = desired.routes.iter()
            .filter(|(key, _)| observed.routes.get(*key).is_some_and(|r| r.dev.as_ref().is_none_or(|d| !remade(d))))
            .map(|(key, _)| key)
            .collect();
        for step in &plan.steps {
            take(&mut model, step);
            for key in &kept {
                prop_assert!(model.routes.contains_key(key), "{key:?} was away after {step}");
            }
        }
    }
}

#[test]
fn neighbour_comes_before_fdb_before_route() {
    let mut desired = State::default();
    let dev = name("flannel.1");
    desired.links.insert(dev.clone(), Link::up(vxlan(1, None, false)));
    desired.conf("ipv6", &dev, "accept_ra", "0");
    desired.address(&dev, "10.5.1.0/32".parse().unwrap(), false);
    let net: IpNetwork = "10.5.2.0/24".parse().unwrap();
    let mac = Mac([2, 0, 0, 0, 0, 2]);
    desired.neighbours.insert(NeighbourKey { dev: dev.clone(), addr: net.ip() }, mac);
    desired.fdb.insert(FdbKey { dev: dev.clone(), mac }, IpAddr::from([192, 0, 2, 2]).into());
    let route = Route { via: Some(net.ip()), onlink: true, protocol: RouteProtocol::FLANNEL, ..Route::by(&dev) };
    desired.routes.insert(RouteKey::main(net), route);
    let plan = diff(&desired, &State::default(), &scope());
    let text: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "ip link add flannel.1 type vxlan id 1 dstport 8472 nolearning udpcsum",
            "sysctl -w net/ipv6/conf/flannel.1/accept_ra=0",
            "ip addr add 10.5.1.0/32 dev flannel.1",
            "ip link set flannel.1 up",
            "ip neigh replace 10.5.2.0 lladdr 02:00:00:00:00:02 dev flannel.1 nud permanent",
            "bridge fdb replace 02:00:00:00:00:02 dev flannel.1 dst 192.0.2.2 self permanent",
            "ip route prepend 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink proto 70",
        ]
    );
}

#[test]
fn a_link_of_another_kind_is_left_alone_with_all_that_was_to_hang_on_it() {
    let dev = name("flannel.1");
    let mut desired = State::default();
    desired.links.insert(dev.clone(), Link::up(vxlan(1, None, false)));
    desired.address(&dev, "10.5.1.0/32".parse().unwrap(), false);
    desired.ports.insert(dev.clone(), Port::default());
    let mut observed = State::default();
    observed.links.insert(dev.clone(), Link::up(LinkKind::Bridge(Bridge::default())));
    let plan = diff(&desired, &observed, &scope());
    assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    let message = plan.conflicts[0].to_string();
    assert!(message.contains("flannel.1 is a link of kind bridge, not vxlan"), "{message}");
}

#[test]
fn a_go_flannels_routes_are_taken_over_and_its_stale_ones_removed() {
    let dev = name("flannel.1");
    let link = Link::up(vxlan(1, None, false));
    let route = |protocol| Route { via: Some([10, 5, 2, 0].into()), onlink: true, protocol, ..Route::by(&dev) };
    let key = |net: &str| RouteKey::main(net.parse().unwrap());
    let mut desired = State::default();
    desired.links.insert(dev.clone(), link.clone());
    desired.routes.insert(key("10.5.2.0/24"), route(RouteProtocol::FLANNEL));
    let mut observed = State::default();
    observed.links.insert(dev.clone(), link);
    observed.routes.insert(key("10.5.2.0/24"), route(RouteProtocol::BOOT));
    observed.routes.insert(key("10.5.3.0/24"), route(RouteProtocol::BOOT));
    // the operator's own route, and that of the whole network, stay
    observed.routes.insert(key("10.6.0.0/24"), route(RouteProtocol::BOOT));
    observed.routes.insert(key("10.5.0.0/16"), route(RouteProtocol::BOOT));
    observed.routes.insert(key("10.5.4.0/24"), route(RouteProtocol(4)));
    let steps = diff(&desired, &observed, &scope()).steps;
    assert_eq!(
        steps,
        [
            Step::PutRoute(key("10.5.2.0/24"), route(RouteProtocol::FLANNEL)),
            Step::DeleteRoute(key("10.5.3.0/24"), route(RouteProtocol::BOOT)),
        ]
    );
}

#[test]
fn link_local_addresses_are_the_kernels() {
    let dev = name("flannel.1");
    let mut both = State::default();
    both.links.insert(dev.clone(), Link::up(vxlan(1, None, false)));
    let mut observed = both.clone();
    for net in ["fe80::1/64", "10.5.1.0/32"] {
        observed.addresses.insert(AddressKey { dev: dev.clone(), net: net.parse().unwrap() }, Address::default());
    }
    let steps = diff(&both, &observed, &scope()).steps;
    let gone = AddressKey { dev, net: "10.5.1.0/32".parse().unwrap() };
    assert_eq!(steps, [Step::DeleteAddress(gone)]);
}

/// IPv6 looks an onlink gateway up in the table, so the gateway's own route must exist before the route by it.
#[test]
fn a_gateways_own_route_comes_before_the_route_by_it() {
    let dev = IfName::new("flannel-v6.1").unwrap();
    let gateway: std::net::IpAddr = "fd05:0:0:65::".parse().unwrap();
    let own = RouteKey::main(IpNetwork::from(gateway));
    let subnet = RouteKey::main("fd05:0:0:65::/64".parse().unwrap());
    let mut desired = State::default();
    desired.routes.insert(own.clone(), Route::by(&dev));
    desired.routes.insert(subnet.clone(), Route { via: Some(gateway), onlink: true, ..Route::by(&dev) });
    let steps = diff(&desired, &State::default(), &Scope::default()).steps;
    let order: Vec<_> =
        steps.iter().filter_map(|s| if let Step::PutRoute(key, _) = s { Some(key) } else { None }).collect();
    assert_eq!(order, [&own, &subnet]);
}

fn tunnel() -> IfName {
    name("flannel-wg")
}

prop_compose! {
    fn peer()(port in 1..3u16, psk in prop::option::of(1..3u8), keepalive in 0..2u16, follow: bool) -> WireguardPeer {
        let endpoint = (!follow).then(|| ([192, 0, 2, 1], port).into());
        let preshared_key = psk.map(|n| Secret([n; 32]));
        WireguardPeer { endpoint, preshared_key, keepalive, ..WireguardPeer::default() }
    }
}

/// A WireGuard device with peers that share eight subnets, each belonging to one peer at most.
fn wireguard(observed: bool) -> impl Strategy<Value = State> {
    let owners = prop::collection::vec(prop::option::of(0..4u8), 8);
    let peers = prop::collection::btree_map((0..4u8).prop_map(|n| PublicKey([n; 32])), peer(), 0..4);
    (owners, peers, 1..3u8, 1..3u16).prop_map(move |(owners, peers, key, port)| {
        let mut device = WireguardDevice { private_key: Some(Secret([key; 32])), listen_port: Some(port), peers };
        for (n, owner) in owners.into_iter().enumerate() {
            if let Some(peer) = owner.and_then(|owner| device.peers.get_mut(&PublicKey([owner; 32]))) {
                peer.allowed_ips.insert(format!("10.5.{n}.0/24").parse().unwrap());
            }
        }
        if observed {
            device
                .peers
                .values_mut()
                .for_each(|peer| peer.endpoint = peer.endpoint.or(Some(([192, 0, 2, 9], 9).into())));
        }
        let mut state = State::default();
        state.links.insert(tunnel(), Link::up(LinkKind::Wireguard));
        state.wireguard.insert(tunnel(), device);
        state
    })
}

fn tunnels() -> Scope {
    Scope { links: vec![tunnel()], wireguard: vec![tunnel()], ..Scope::default() }
}

proptest! {
    #[test]
    fn peers_become_what_is_wanted(desired in wireguard(false), observed in wireguard(true), keep: bool) {
        let scope = Scope { keep, ..tunnels() };
        let plan = diff(&desired, &observed, &scope);
        prop_assert!(!plan.steps.iter().any(|step| keep && step.is_delete()));
        let mut model = observed.clone();
        plan.steps.iter().for_each(|step| take(&mut model, step));
        let again = diff(&desired, &model, &scope);
        prop_assert!(again.is_empty(), "{again:#?}");
    }
}

/// A host is identified by its subnets: a new key takes them over at once, and the old key is removed.
#[test]
fn a_peer_with_a_new_key_replaces_the_old_one() {
    let with = |key: u8| {
        let peer = WireguardPeer {
            endpoint: Some(([192, 0, 2, 1], 51820).into()),
            allowed_ips: ["10.5.1.0/24".parse().unwrap()].into(),
            ..WireguardPeer::default()
        };
        let device = WireguardDevice { peers: [(PublicKey([key; 32]), peer)].into(), ..WireguardDevice::default() };
        let mut state = State::default();
        state.links.insert(tunnel(), Link::up(LinkKind::Wireguard));
        state.wireguard.insert(tunnel(), device);
        state
    };
    let texts: Vec<String> = diff(&with(2), &with(1), &tunnels()).steps.iter().map(ToString::to_string).collect();
    let (one, two) = (PublicKey([1; 32]), PublicKey([2; 32]));
    assert_eq!(
        texts,
        [
            format!("wg set flannel-wg peer {two} endpoint 192.0.2.1:51820 allowed-ips +10.5.1.0/24"),
            format!("wg set flannel-wg peer {one} remove"),
        ]
    );
}

#[test]
fn a_new_device_starts_a_handshake_with_each_peer() {
    for keepalive in [0, 25] {
        let peer =
            WireguardPeer { endpoint: Some(([192, 0, 2, 1], 51820).into()), keepalive, ..WireguardPeer::default() };
        let mut desired = State::default();
        desired.links.insert(tunnel(), Link::up(LinkKind::Wireguard));
        let device = WireguardDevice { peers: [(PublicKey([1; 32]), peer)].into(), ..WireguardDevice::default() };
        desired.wireguard.insert(tunnel(), device);
        let texts: Vec<String> =
            diff(&desired, &State::default(), &tunnels()).steps.iter().map(ToString::to_string).collect();
        let up = texts.iter().position(|text| text == "ip link set flannel-wg up").unwrap();
        let set = |seconds| format!("wg set flannel-wg peer {} persistent-keepalive {seconds}", PublicKey([1; 32]));
        let last = if keepalive == 0 { [set(1), set(0)] } else { [set(0), set(25)] };
        assert_eq!(texts[up + 1..], last, "once the device is up");
        assert_eq!(diff(&desired, &desired, &tunnels()).steps, [], "and never again");
    }
}

#[test]
fn secrets_are_in_no_step() {
    let mut desired = State::default();
    let peer = WireguardPeer { preshared_key: Some(Secret([66; 32])), keepalive: 25, ..WireguardPeer::default() };
    let device = WireguardDevice {
        private_key: Some(Secret([65; 32])),
        listen_port: Some(51820),
        peers: [(PublicKey([1; 32]), peer)].into(),
    };
    desired.links.insert(tunnel(), Link::up(LinkKind::Wireguard));
    desired.wireguard.insert(tunnel(), device);
    let plan = diff(&desired, &State::default(), &tunnels());
    let texts: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "ip link add flannel-wg type wireguard".to_owned(),
            "wg set flannel-wg private-key (secret) listen-port 51820".to_owned(),
            format!("wg set flannel-wg peer {} persistent-keepalive 25 preshared-key (secret)", PublicKey([1; 32])),
            "ip link set flannel-wg up".to_owned(),
        ]
    );
    let shown = format!("{plan:?}");
    assert!(!shown.contains("65, 65") && !shown.contains("66, 66"), "{shown}");
}

#[test]
fn an_ipip_device_moves_with_the_underlay() {
    let with = |local: &str, remote: Option<&str>| {
        let ipip = Ipip { local: local.parse().ok(), remote: remote.and_then(|r| r.parse().ok()), ..Ipip::default() };
        let mut state = State::default();
        state.links.insert(name("flannel.ipip"), Link::up(LinkKind::Ipip(ipip)));
        state
    };
    let scope = Scope { links: vec![name("flannel.ipip")], ..Scope::default() };
    let steps = |observed: &State| {
        let plan = diff(&with("192.0.2.1", None), observed, &scope);
        plan.steps.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(steps(&with("192.0.2.1", None)), Vec::<String>::new());
    assert_eq!(
        steps(&with("192.0.2.9", None)),
        ["ip link set flannel.ipip type ipip local 192.0.2.1 remote any ttl inherit nopmtudisc"]
    );
    let remade = [
        "ip link del flannel.ipip",
        "ip link add flannel.ipip type ipip local 192.0.2.1 remote any ttl inherit nopmtudisc",
        "ip link set flannel.ipip up",
    ];
    assert_eq!(steps(&with("192.0.2.1", Some("192.0.2.2"))), remade);
}
