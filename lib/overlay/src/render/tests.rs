use proptest::prelude::*;

use std::net::IpAddr;

use kernel::state::{Adopt, LinkKind};
use kernel::types::{Mac, Vni};

use super::*;
use crate::backend::vxlan::VxlanConf;
use crate::backend::{Identity, udp, vxlan};
use crate::keep::publish;
use crate::lease::{LeaseAttrs, Subnets, VxlanData};
use crate::netconf::NetConf;
use crate::ownership::NOBODY;
use crate::peers::{self, Own};
use crate::underlay::Underlay;

const DUAL: &str = r#""Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/56""#;

fn conf(backend: &str) -> NetConf {
    NetConf::parse(format!(r#"{{{DUAL},"Backend":{backend}}}"#).as_bytes()).unwrap().conf
}

fn underlay() -> Underlay {
    Underlay {
        dev: IfName::new("eth0").unwrap(),
        mtu: Mtu(1500),
        addresses: ByFamily { v4: "10.99.0.2".parse().ok(), v6: "fd99::2".parse().ok() },
        connected: vec!["10.99.0.0/24".parse().unwrap(), "fd99::/64".parse().unwrap()],
    }
}

fn peers(conf: &NetConf, leases: &[(&str, &str)]) -> Vec<Peer> {
    let peers = peers::check(conf, &Own::default(), leases.iter().copied());
    assert_eq!(peers.rejected, []);
    peers.good
}

/// On the same segment.
const NEAR: (&str, &str) = (
    "10.5.53.0-24&fd05:0:0:65::-64",
    r#"{"PublicIP":"10.99.0.3","PublicIPv6":"fd99::3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"4a:ed:0f:9b:24:90"},"BackendV6Data":{"VNI":1,"VtepMAC":"12:a5:0d:d7:d9:76"}}"#,
);
/// Behind a router.
const FAR: (&str, &str) = (
    "10.5.54.0-24",
    r#"{"PublicIP":"10.98.0.4","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"4a:ed:0f:9b:24:91"}}"#,
);
/// On the same segment, already host-gw.
const PLAIN: (&str, &str) = ("10.5.55.0-24", r#"{"PublicIP":"10.99.0.5","PublicIPv6":null,"BackendType":"host-gw"}"#);

fn macs() -> ByFamily<Option<Mac>> {
    ByFamily { v4: "02:00:00:00:00:01".parse().ok(), v6: "02:00:00:00:00:02".parse().ok() }
}

fn host(conf: &NetConf, underlay: &Underlay) -> Host {
    Host {
        networks: conf.network_by_family(),
        own: "10.5.97.0-24&fd05:0:0:4d::-64".parse().unwrap(),
        identity: Identity { vtep_macs: macs(), ..Identity::default() },
        underlay: underlay.clone(),
    }
}

const ALL: Ours<'_> = Ours { devices: &[], owner: &NOBODY, complete: true };

/// A fresh host.
fn desired(conf: &NetConf, peers: &[Peer]) -> Desired {
    desired_with(conf, peers, &[], ALL)
}

fn desired_with(conf: &NetConf, peers: &[Peer], kept: &[Kept], ours: Ours<'_>) -> Desired {
    Renderer::new(&host(conf, &underlay()), &conf.backend, kept).desired(peers, ours)
}

/// The devices of a configuration before.
fn kept(backend: Backend) -> Kept {
    Kept { backend, leads: false }
}

fn kept_vxlan() -> [Kept; 1] {
    [kept(Backend::Vxlan(VxlanConf::default()))]
}

/// The objects as `ip` and `bridge` show them, in the order links, addresses, sysctls, neighbours, FDB, routes.
fn lines(state: &State) -> Vec<String> {
    let links = state.links.iter().map(|(name, link)| {
        let LinkKind::Vxlan(v) = &link.kind else { panic!("{name} is no vxlan") };
        let port = v.port.map_or_else(String::new, |port| format!(" dstport {port}"));
        let flags = match (v.learning, v.gbp) {
            (false, false) => " nolearning",
            (true, true) => " gbp",
            _ => " odd",
        };
        format!(
            "{name} mtu {} {} vxlan id {} local {} dev {}{port}{flags} alias {}",
            link.mtu.unwrap(),
            link.mac.unwrap(),
            v.vni,
            v.local.unwrap(),
            v.lower.as_ref().unwrap(),
            link.alias.as_deref().unwrap()
        )
    });
    let addresses = state.addresses.iter().map(|(key, how)| {
        assert!(how.nodad && how.broadcast.is_none(), "{key:?}");
        format!("{} dev {}", key.net, key.dev)
    });
    let sysctls = state.sysctls.iter().map(|(key, value)| format!("{key}={value}"));
    let neighbours =
        state.neighbours.iter().map(|(key, mac)| format!("{} dev {} lladdr {mac} PERMANENT", key.addr, key.dev));
    let fdb = state.fdb.iter().map(|(key, entry)| format!("{} dev {}{entry} self permanent", key.mac, key.dev));
    let routes = state.routes.iter().map(|(key, route)| {
        let Route { dev, via, onlink, protocol, src, mtu, scope, .. } = route;
        assert_eq!((*protocol, *src, *mtu, *scope), (RouteProtocol::FLANNEL, None, None, None));
        assert_eq!((key.metric, key.table.0), (None, 254));
        let onlink = if *onlink { " onlink" } else { "" };
        let via = via.map(|via| format!(" via {via}")).unwrap_or_default();
        format!("{}{via} dev {}{onlink}", key.dst, dev.as_ref().unwrap())
    });
    links.chain(addresses).chain(sysctls).chain(neighbours).chain(fdb).chain(routes).collect()
}

fn paths(desired: &Desired) -> Vec<String> {
    desired.paths.iter().map(|p| format!("{} {:?} {}: {}", p.peer, p.family, p.reach, p.reason)).collect()
}

const DEVICES: [&str; 7] = [
    "flannel-v6.1 mtu 1430 02:00:00:00:00:02 vxlan id 1 local fd99::2 dev eth0 nolearning alias flannel 10.5.0.0/16 fd05::/56",
    "flannel.1 mtu 1450 02:00:00:00:00:01 vxlan id 1 local 10.99.0.2 dev eth0 nolearning alias flannel 10.5.0.0/16 fd05::/56",
    "fd05:0:0:4d::/128 dev flannel-v6.1",
    "10.5.97.0/32 dev flannel.1",
    "net/ipv6/conf/flannel-v6.1/accept_ra=0",
    "net/ipv6/conf/flannel-v6.1/disable_ipv6=0",
    "net/ipv6/conf/flannel.1/accept_ra=0",
];

#[test]
fn vxlan_is_upstreams_objects() {
    let conf = conf(r#"{"Type":"vxlan"}"#);
    let desired = desired(&conf, &peers(&conf, &[NEAR, FAR]));
    let mut wanted = DEVICES.to_vec();
    wanted.extend([
        "fd05:0:0:65:: dev flannel-v6.1 lladdr 12:a5:0d:d7:d9:76 PERMANENT",
        "10.5.53.0 dev flannel.1 lladdr 4a:ed:0f:9b:24:90 PERMANENT",
        "10.5.54.0 dev flannel.1 lladdr 4a:ed:0f:9b:24:91 PERMANENT",
        "12:a5:0d:d7:d9:76 dev flannel-v6.1 dst fd99::3 self permanent",
        "4a:ed:0f:9b:24:90 dev flannel.1 dst 10.99.0.3 self permanent",
        "4a:ed:0f:9b:24:91 dev flannel.1 dst 10.98.0.4 self permanent",
        "10.5.53.0/24 via 10.5.53.0 dev flannel.1 onlink",
        "10.5.54.0/24 via 10.5.54.0 dev flannel.1 onlink",
        "fd05:0:0:65::/64 via fd05:0:0:65:: dev flannel-v6.1 onlink",
        "fd05:0:0:65::/128 dev flannel-v6.1",
    ]);
    assert_eq!(lines(&desired.state), wanted);
    assert_eq!(desired.mtu, Mtu(1450));
    assert_eq!(
        paths(&desired),
        [
            "10.5.53.0-24&fd05:0:0:65::-64 V4 vxlan: the backend is vxlan without DirectRouting",
            "10.5.53.0-24&fd05:0:0:65::-64 V6 vxlan: the backend is vxlan without DirectRouting",
            "10.5.54.0-24 V4 vxlan: the backend is vxlan without DirectRouting",
        ]
    );
    let scope = desired.scope;
    let devices = [IfName::new("flannel-v6.1").unwrap(), IfName::new("flannel.1").unwrap()];
    assert_eq!(
        (&scope.links[..], &scope.addresses[..], &scope.neighbours[..]),
        (&devices[..], &devices[..], &devices[..])
    );
    assert_eq!(scope.read_links, [underlay().dev]);
    let routes = scope.routes.unwrap();
    assert_eq!((routes.protocol, routes.dev), (Some(RouteProtocol::FLANNEL), None));
    let settings = ["flannel-v6.1/accept_ra", "flannel-v6.1/disable_ipv6", "flannel.1/accept_ra"];
    assert_eq!(scope.sysctls, settings.map(|name| format!("net/ipv6/conf/{name}")));
    assert!(!scope.keep);
}

#[test]
fn direct_routing_changes_routes_and_never_the_device() {
    let (never, where_possible) = (conf(r#"{"Type":"vxlan"}"#), conf(r#"{"Type":"vxlan","DirectRouting":true}"#));
    let peers = peers(&never, &[NEAR, FAR]);
    let (before, after) = (desired(&never, &peers), desired(&where_possible, &peers));
    assert_eq!((&before.state.links, &before.state.addresses), (&after.state.links, &after.state.addresses));
    assert_eq!((&before.state.sysctls, &before.scope, before.mtu), (&after.state.sysctls, &after.scope, after.mtu));
    assert_eq!(
        lines(&after.state)[7..],
        [
            "10.5.54.0 dev flannel.1 lladdr 4a:ed:0f:9b:24:91 PERMANENT",
            "4a:ed:0f:9b:24:91 dev flannel.1 dst 10.98.0.4 self permanent",
            "10.5.53.0/24 via 10.99.0.3 dev eth0",
            "10.5.54.0/24 via 10.5.54.0 dev flannel.1 onlink",
            "fd05:0:0:65::/64 via fd99::3 dev eth0",
        ]
    );
    assert_eq!(
        paths(&after)[1..],
        ["10.5.53.0-24&fd05:0:0:65::-64 V6 direct: on the same segment", "10.5.54.0-24 V4 vxlan: a router is between",]
    );
}

#[test]
fn host_gw_is_routes_and_keeps_the_vtep_while_it_may_be_sent_to() {
    let conf = conf(r#"{"Type":"host-gw"}"#);
    let mixed = peers(&conf, &[NEAR, FAR, PLAIN]);
    let left = [IfName::new("flannel.1").unwrap(), IfName::new("flannel-v6.1").unwrap()];
    let during = desired_with(&conf, &mixed, &kept_vxlan(), Ours { devices: &left, owner: &NOBODY, complete: true });
    assert_eq!(lines(&during.state)[..7], DEVICES);
    assert_eq!(
        lines(&during.state)[9..],
        [
            "10.5.53.0/24 via 10.99.0.3 dev eth0",
            "10.5.54.0/24 via 10.5.54.0 dev flannel.1 onlink",
            "10.5.55.0/24 via 10.99.0.5 dev eth0",
            "fd05:0:0:65::/64 via fd99::3 dev eth0",
        ]
    );
    assert_eq!(during.mtu, Mtu(1500));
    assert_eq!(
        paths(&during)[2..3],
        ["10.5.54.0-24 V4 vxlan: the configuration is changing, and the previous vxlan device still reaches the peer"]
    );
    // everybody has changed: the devices go
    let plain = peers(&conf, &[PLAIN]);
    let after = desired_with(&conf, &plain, &[], Ours { devices: &left, owner: &NOBODY, complete: true });
    assert_eq!(lines(&after.state), ["10.5.55.0/24 via 10.99.0.5 dev eth0"]);
    assert_eq!(after.scope.links.len(), 2);
    assert!(
        desired_with(&conf, &plain, &kept_vxlan(), Ours { devices: &left, owner: &NOBODY, complete: false }).scope.keep
    );
    // a fresh host-gw host has no VTEP, and cannot reach what is behind a router
    let fresh = desired(&conf, &mixed);
    assert!(fresh.state.links.is_empty() && fresh.scope.links.is_empty());
    assert_eq!(paths(&fresh)[2], "10.5.54.0-24 V4 unreachable: this host has no VTEP");
    assert_eq!(fresh.state.routes.len(), 3);
}

#[test]
fn a_vxlan_host_reaches_peers_that_have_changed_already() {
    let conf = conf(r#"{"Type":"vxlan"}"#);
    let desired = desired(&conf, &peers(&conf, &[PLAIN]));
    assert_eq!(lines(&desired.state)[7..], ["10.5.55.0/24 via 10.99.0.5 dev eth0"]);
    assert_eq!(paths(&desired), ["10.5.55.0-24 V4 direct: the peer has no VTEP"]);
}

#[test]
fn alloc_leaves_the_routes_to_others() {
    let conf = conf(r#"{"Type":"alloc"}"#);
    let desired = desired(&conf, &peers(&conf, &[NEAR, FAR]));
    assert_eq!((desired.state, desired.paths.len(), desired.mtu), (State::default(), 0, Mtu(1500)));
    assert_eq!(desired.scope.routes.unwrap().adopt, Adopt::default());
}

#[test]
fn the_options_of_vxlan_reach_the_device() {
    let conf = conf(r#"{"Type":"vxlan","VNI":7,"Port":4789,"MTU":1400,"GBP":true,"Learning":true}"#);
    let mut underlay = underlay();
    let old = [IfName::new("flannel.1").unwrap()];
    let desired = desired_with(&conf, &[], &[], Ours { devices: &old, owner: &NOBODY, complete: true });
    assert_eq!(
        lines(&desired.state)[..2],
        [
            "flannel-v6.7 mtu 1330 02:00:00:00:00:02 vxlan id 7 local fd99::2 dev eth0 dstport 4789 gbp alias flannel 10.5.0.0/16 fd05::/56",
            "flannel.7 mtu 1350 02:00:00:00:00:01 vxlan id 7 local 10.99.0.2 dev eth0 dstport 4789 gbp alias flannel 10.5.0.0/16 fd05::/56",
        ]
    );
    assert_eq!(desired.mtu, Mtu(1350));
    let links: Vec<&str> = desired.scope.links.iter().map(IfName::as_str).collect();
    assert_eq!(links, ["flannel-v6.7", "flannel.1", "flannel.7"], "the left-over device is in scope and not wanted");
    // more than the underlay carries is not asked of the kernel, and a family without an address has no device
    underlay.mtu = Mtu(1300);
    underlay.addresses.v6 = None;
    let small = Renderer::new(&host(&conf, &underlay), &conf.backend, &[]).desired(&[], ALL);
    assert_eq!((small.state.links.len(), small.mtu), (1, Mtu(1250)));
}

#[test]
fn what_is_published_is_upstreams() {
    let public = underlay().addresses;
    let vtep_macs = ByFamily { v4: "4a:ed:0f:9b:24:90".parse().ok(), v6: "12:a5:0d:d7:d9:76".parse().ok() };
    let identity = Identity { vtep_macs, ..Identity::default() };
    let offered = [Backend::Vxlan(VxlanConf::default())];
    let both = publish(&conf(r#"{"Type":"vxlan"}"#).backend, &offered, public, &identity);
    let data = r#""BackendData":{"VNI":1,"VtepMAC":"4a:ed:0f:9b:24:90"}"#;
    assert_eq!(
        both.to_json(),
        format!(
            r#"{{"PublicIP":"10.99.0.2","PublicIPv6":"fd99::2","BackendType":"vxlan",{data},"BackendV6Data":{{"VNI":1,"VtepMAC":"12:a5:0d:d7:d9:76"}}}}"#
        )
    );
    let v4 = ByFamily { v6: None, ..public };
    let host_gw = |offered| publish(&Backend::HostGw, offered, v4, &identity).to_json();
    let plain = r#"{"PublicIP":"10.99.0.2","PublicIPv6":null"#;
    assert_eq!(host_gw(&[]), format!(r#"{plain},"BackendType":"host-gw"}}"#));
    assert_eq!(host_gw(&offered), format!(r#"{plain},"BackendType":"host-gw",{data}}}"#));
    let udp = Backend::Udp(udp::UdpConf::default());
    assert_eq!(publish(&udp, &offered, v4, &identity).to_json(), format!("{plain},{data}}}"));
    assert_eq!(publish(&Backend::Alloc, &offered, v4, &identity).to_json(), format!("{plain}}}"));
}

/// Through a router there is no other way than a tunnel.
#[test]
fn routed_hosts_that_disagree_about_the_backend_reach_each_other() {
    let vxlan = |options: &str| conf(&format!(r#"{{"Type":"vxlan"{options}}}"#));
    let (old, plain) = (vxlan(""), conf(r#"{"Type":"host-gw"}"#));
    let identity =
        Identity { vtep_macs: ByFamily { v4: "4a:ed:0f:9b:24:91".parse().ok(), v6: None }, ..Identity::default() };
    let far = ByFamily { v4: "10.98.0.4".parse().ok(), v6: None };
    let left = [old.backend.clone()];
    for new in [plain.clone(), vxlan(r#","VNI":7"#), vxlan(r#","VNI":7,"Port":4789"#), vxlan(r#","Port":4789"#)] {
        // who has changed keeps the device, and offers it
        let published = |theirs: &NetConf| {
            let offered: &[Backend] = if *theirs == old { &[] } else { &left };
            publish(&theirs.backend, offered, far, &identity).to_json()
        };
        for (ours, theirs) in [(&old, &new), (&new, &old)] {
            let peers = peers(ours, &[("10.5.54.0-24", &published(theirs))]);
            let keeps = if *ours == old { vec![] } else { vec![Kept { backend: old.backend.clone(), leads: true }] };
            let desired = desired_with(ours, &peers, &keeps, ALL);
            assert_eq!(desired.paths[0].reach, Reach::Through(vxlan::TUNNEL), "{ours:?} {theirs:?}");
            // by the device that both have: the one before the change
            let (_, route) =
                desired.state.routes.iter().find(|(key, _)| key.dst.to_string() == "10.5.54.0/24").unwrap();
            let LinkKind::Vxlan(device) = &desired.state.links[route.dev.as_ref().unwrap()].kind else { panic!() };
            assert_eq!((device.vni.get(), device.port), (1, None), "{ours:?} {theirs:?}");
        }
    }
    // once both have changed, the configuration rules: host-gw does not cross routers
    let peers = peers(&plain, &[("10.5.54.0-24", &publish(&plain.backend, &left, far, &identity).to_json())]);
    assert_eq!(desired(&plain, &peers).paths[0].reach, Reach::Unreachable(Why::NoOwnVtep));
}

#[test]
fn devices_of_one_name_stay_under_another() {
    let conf = conf(r#"{"Type":"vxlan","Port":4789}"#);
    let peers = peers(&conf, &[FAR]);
    let devices = |leads| {
        let kept = [Kept { backend: Backend::Vxlan(VxlanConf::default()), leads }];
        let desired = desired_with(&conf, &peers, &kept, ALL);
        let links = desired.state.links.iter().map(|(name, link)| {
            let LinkKind::Vxlan(vxlan) = &link.kind else { panic!("{name}") };
            (name.to_string(), vxlan.port, link.was.as_ref().map(ToString::to_string))
        });
        let dev = desired.state.routes[&RouteKey::main("10.5.54.0/24".parse().unwrap())].dev.clone().unwrap();
        (links.collect::<Vec<_>>(), dev.to_string())
    };
    let link = |name: &str, port, was: &str| (name.to_owned(), port, Some(was.to_owned()));
    let links = vec![
        link("fl6-8472.1", None, "flannel-v6.1"),
        link("fl8472.1", None, "flannel.1"),
        link("flannel-v6.1", Some(4789), "fl6-4789.1"),
        link("flannel.1", Some(4789), "fl4789.1"),
    ];
    assert_eq!(devices(true), (links.clone(), "fl8472.1".to_owned()));
    assert_eq!(devices(false), (links, "flannel.1".to_owned()));
}

proptest! {
    #[test]
    fn the_routes_are_exactly_the_peers_that_are_reached(
        hosts in proptest::collection::btree_map(0_u8..96, (0_u8..4, any::<bool>(), 1_u32..3, any::<bool>()), 0..20),
        backend in 0..3_usize, keep: bool, complete: bool,
    ) {
        let conf = conf([r#"{"Type":"vxlan"}"#, r#"{"Type":"vxlan","DirectRouting":true}"#, r#"{"Type":"host-gw"}"#][backend]);
        let leases: Vec<(String, String)> = hosts.iter().map(|(n, (segment, vxlan, vni, six))| {
            let attrs = LeaseAttrs {
                public_ip: format!("10.{}.0.{}", 97 + segment, n + 100).parse().ok(),
                public_ipv6: format!("fd{}::{n:x}a", 97 + segment).parse().ok(),
                backend_type: if *vxlan { "vxlan" } else { "host-gw" }.into(),
                ..LeaseAttrs::default()
            };
            let data = VxlanData { vni: Vni::new(*vni).ok(), vtep_mac: Mac([2, 1, 0, 0, 0, *n]) }.to_json();
            let (v4, v6) = if *vxlan { (Some(data.clone()), Some(data)) } else { (None, None) };
            let attrs = LeaseAttrs { backend_data: v4, backend_v6_data: v6, ..attrs };
            let six = if *six { format!("&fd05:0:0:{n:x}::-64") } else { String::new() };
            let key: Subnets = format!("10.5.{n}.0-24{six}").parse().unwrap();
            (key.to_string(), attrs.to_json())
        }).collect();
        let peers = peers::check(&conf, &Own::default(), leases).good;
        prop_assert_eq!(peers.len(), hosts.len());
        let keeps = if keep && backend == 2 { kept_vxlan().to_vec() } else { vec![] };
        let Desired { state, paths, scope, .. } = desired_with(&conf, &peers, &keeps, Ours { devices: &[], owner: &NOBODY, complete });
        let reached = |peer: &Peer, family| paths.iter().any(|p| p.peer == peer.key() && p.family == family && !matches!(p.reach, Reach::Unreachable(_)));
        let wanted: Vec<IpNetwork> = Family::ALL.into_iter().flat_map(|family| {
            peers.iter().filter(move |peer| reached(peer, family)).filter_map(move |peer| Some(peer.half(family)?.subnet))
        }).collect();
        let (gateways, subnets): (Vec<_>, Vec<_>) = state.routes.iter().partition(|(_, route)| route.via.is_none());
        let routes: std::collections::BTreeSet<IpNetwork> = subnets.iter().map(|(key, _)| key.dst).collect();
        prop_assert_eq!(routes, wanted.into_iter().collect());
        let halves = peers.iter().flat_map(|peer| Family::ALL.into_iter().filter_map(|family| peer.half(family))).count();
        prop_assert_eq!(paths.len(), halves, "a path for everybody");
        // whatever a route, neighbour or entry needs is there too, and all of it is in scope
        let tunnelled = state.routes.values().filter(|route| route.onlink).count();
        prop_assert_eq!((state.neighbours.len(), state.fdb.len()), (tunnelled, tunnelled));
        // an IPv6 gateway has a route of its own
        let own_route = |addr: &IpAddr| gateways.iter().any(|(key, _)| key.dst == IpNetwork::from(*addr));
        prop_assert!(state.neighbours.keys().all(|key| key.addr.is_ipv4() || own_route(&key.addr)));
        prop_assert!(gateways.len() <= tunnelled);
        prop_assert!(state.neighbours.keys().all(|key| state.links.contains_key(&key.dev)));
        prop_assert!(state.links.keys().all(|dev| scope.links.contains(dev)));
        prop_assert_eq!(scope.keep, !complete);
    }
}

#[test]
fn udp_has_a_tun_and_one_route_for_the_network() {
    let text = br#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}"#;
    let conf = NetConf::parse(text).unwrap().conf;
    let leases = [
        ("10.5.2.0-24", r#"{"PublicIP":"10.99.0.3","PublicIPv6":null}"#),
        ("10.5.3.0-24", r#"{"PublicIP":"10.99.0.4","PublicIPv6":null,"BackendType":"host-gw"}"#),
        ("10.5.4.0-24", r#"{"PublicIP":"10.98.0.5","PublicIPv6":null,"BackendType":"host-gw"}"#),
    ];
    let subnets = "10.5.1.0-24".parse().unwrap();
    let own = Own { subnets, ..Own::default() };
    let peers = peers::check(&conf, &own, leases);
    let host = Host { own: subnets, ..host(&conf, &underlay()) };
    let wanted = Renderer::new(&host, &conf.backend, &[]).desired(&peers.good, ALL);
    let ways: Vec<String> = wanted.paths.iter().map(|path| format!("{} {}", path.peer, path.reach)).collect();
    assert_eq!(ways, ["10.5.2.0-24 udp", "10.5.3.0-24 direct", "10.5.4.0-24 udp"]);
    assert_eq!(wanted.mtu, Mtu(1472));
    let kind = LinkKind::TunTap(kernel::state::TunTap { multi_queue: true, ..Default::default() });
    assert_eq!(wanted.state.links[&IfName::new(udp::DEVICE).unwrap()].kind, kind, "a queue per thread");
    let steps: Vec<String> = kernel::diff::diff(&wanted.state, &State::default(), &wanted.scope)
        .steps
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        steps,
        [
            "ip tuntap add dev flannel0 mode tun multi_queue",
            "ip link set flannel0 mtu 1472 alias \"flannel 10.5.0.0/16\"",
            "ip addr add 10.5.1.0/32 dev flannel0",
            "ip link set flannel0 up",
            "ip route prepend 10.5.0.0/16 dev flannel0 metric 1 proto 70",
            "ip route prepend 10.5.3.0/24 via 10.99.0.4 dev eth0 proto 70",
        ]
    );
}

#[test]
fn a_tun_that_stays_is_left_as_it_is() {
    let tun = [IfName::new(udp::DEVICE).unwrap()];
    let conf = conf(r#"{"Type":"vxlan"}"#);
    for (keeps, deleted) in [(vec![kept(Backend::Udp(udp::UdpConf::default()))], false), (vec![], true)] {
        let wanted = desired_with(&conf, &[], &keeps, Ours { devices: &tun, owner: &NOBODY, complete: true });
        assert!(!wanted.state.links.contains_key(&tun[0]));
        assert_eq!(wanted.scope.links.contains(&tun[0]), deleted);
    }
}

#[test]
fn with_many_peers_routes_are_spread_over_scopes() {
    let conf = NetConf::parse(br#"{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan"}}"#).unwrap().conf;
    let lease = |n: u32| {
        let base = std::net::Ipv4Addr::from((10 << 24) | ((n + 512) << 8));
        let public = std::net::Ipv4Addr::from((172 << 24) | (16 << 16) | (n + 1));
        let [_, b, c, d] = n.to_be_bytes();
        let mac = format!("02:00:00:{b:02x}:{c:02x}:{d:02x}");
        let data =
            format!(r#"{{"PublicIP":"{public}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#);
        (format!("{base}-24"), data)
    };
    let scopes = |count: u32| -> Vec<Option<u8>> {
        let peers = peers::check(&conf, &Own::default(), (0..count).map(lease)).good;
        let underlay = Underlay { connected: Vec::new(), ..underlay() };
        let host = Host { own: "10.1.1.0-24".parse().unwrap(), ..host(&conf, &underlay) };
        let state = Renderer::new(&host, &conf.backend, &[]).desired(&peers, ALL).state;
        assert_eq!(state.routes.len(), count as usize);
        state.routes.values().map(|route| route.scope).collect()
    };
    assert!(scopes(1024).iter().all(Option::is_none), "as upstream's");
    assert!(scopes(1025).iter().any(Option::is_some));
    let many = scopes(2000);
    let most = many.iter().map(|scope| many.iter().filter(|other| *other == scope).count()).max();
    assert_eq!(most, Some(10));
    assert!(many.iter().flatten().all(|scope| *scope < 200));
}
