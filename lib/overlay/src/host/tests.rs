use proptest::prelude::*;

use super::*;
use crate::lease::LeaseAttrs;
use crate::ownership::NOBODY;
use crate::peers::{self, Own};
use crate::reach::Tunnel;
use kernel::state::{Adopt, LinkKind, Route};
use kernel::types::{RouteProtocol, Vni};

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

fn build<'a>(conf: &'a NetConf, peers: &'a [Peer], underlay: &'a Underlay) -> HostInputs<'a> {
    HostInputs {
        conf,
        own: "10.5.97.0-24&fd05:0:0:4d::-64".parse().unwrap(),
        vtep_macs: ByFamily { v4: "02:00:00:00:00:01".parse().ok(), v6: "02:00:00:00:00:02".parse().ok() },
        wireguard_keys: None,
        peers,
        underlay,
        keep_vtep: None,
        owner: &NOBODY,
        known_devices: &[],
        complete: true,
    }
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

const DEVICES: [&str; 6] = [
    "flannel-v6.1 mtu 1430 02:00:00:00:00:02 vxlan id 1 local fd99::2 dev eth0 nolearning alias flannel",
    "flannel.1 mtu 1450 02:00:00:00:00:01 vxlan id 1 local 10.99.0.2 dev eth0 nolearning alias flannel",
    "fd05:0:0:4d::/128 dev flannel-v6.1",
    "10.5.97.0/32 dev flannel.1",
    "net/ipv6/conf/flannel-v6.1/accept_ra=0",
    "net/ipv6/conf/flannel.1/accept_ra=0",
];

#[test]
fn vxlan_is_upstreams_objects() {
    let conf = conf(r#"{"Type":"vxlan"}"#);
    let (peers, underlay) = (peers(&conf, &[NEAR, FAR]), underlay());
    let desired = desired(&build(&conf, &peers, &underlay));
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
    assert_eq!(scope.read_links, [underlay.dev]);
    let routes = scope.routes.unwrap();
    assert_eq!((routes.protocol, routes.dev), (Some(RouteProtocol::FLANNEL), None));
    assert_eq!(scope.sysctls, ["net/ipv6/conf/flannel-v6.1/accept_ra", "net/ipv6/conf/flannel.1/accept_ra"]);
    assert!(!scope.keep);
}

#[test]
fn direct_routing_changes_routes_and_never_the_device() {
    let (never, where_possible) = (conf(r#"{"Type":"vxlan"}"#), conf(r#"{"Type":"vxlan","DirectRouting":true}"#));
    let (peers, underlay) = (peers(&never, &[NEAR, FAR]), underlay());
    let before = desired(&build(&never, &peers, &underlay));
    let after = desired(&build(&where_possible, &peers, &underlay));
    assert_eq!((&before.state.links, &before.state.addresses), (&after.state.links, &after.state.addresses));
    assert_eq!((&before.state.sysctls, &before.scope, before.mtu), (&after.state.sysctls, &after.scope, after.mtu));
    assert_eq!(
        lines(&after.state)[6..],
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
    let underlay = underlay();
    let mixed = peers(&conf, &[NEAR, FAR, PLAIN]);
    let left = [IfName::new("flannel.1").unwrap(), IfName::new("flannel-v6.1").unwrap()];
    let changed =
        HostInputs { keep_vtep: Some(VxlanConf::default()), known_devices: &left, ..build(&conf, &mixed, &underlay) };
    let during = desired(&changed);
    assert_eq!(lines(&during.state)[..6], DEVICES);
    assert_eq!(
        lines(&during.state)[8..],
        [
            "10.5.53.0/24 via 10.99.0.3 dev eth0",
            "10.5.54.0/24 via 10.5.54.0 dev flannel.1 onlink",
            "10.5.55.0/24 via 10.99.0.5 dev eth0",
            "fd05:0:0:65::/64 via fd99::3 dev eth0",
        ]
    );
    assert_eq!(during.mtu, Mtu(1500));
    // everybody has changed: the devices go
    let plain = peers(&conf, &[PLAIN]);
    let after = desired(&HostInputs { peers: &plain, ..changed.clone() });
    assert_eq!(lines(&after.state), ["10.5.55.0/24 via 10.99.0.5 dev eth0"]);
    assert_eq!(after.scope.links.len(), 2);
    // unless that is not certain
    let unsure = desired(&HostInputs { peers: &plain, complete: false, ..changed });
    assert_eq!(lines(&unsure.state)[..6], DEVICES);
    assert!(unsure.scope.keep);
    // a fresh host-gw host has no VTEP, and cannot reach what is behind a router
    let fresh = desired(&build(&conf, &mixed, &underlay));
    assert!(fresh.state.links.is_empty() && fresh.scope.links.is_empty());
    assert_eq!(paths(&fresh)[2], "10.5.54.0-24 V4 unreachable: this host has no VTEP");
    assert_eq!(fresh.state.routes.len(), 3);
}

#[test]
fn a_vxlan_host_reaches_peers_that_have_changed_already() {
    let conf = conf(r#"{"Type":"vxlan"}"#);
    let (peers, underlay) = (peers(&conf, &[PLAIN]), underlay());
    let desired = desired(&build(&conf, &peers, &underlay));
    assert_eq!(lines(&desired.state)[6..], ["10.5.55.0/24 via 10.99.0.5 dev eth0"]);
    assert_eq!(paths(&desired), ["10.5.55.0-24 V4 direct: the peer has no VTEP"]);
}

#[test]
fn alloc_leaves_the_routes_to_others() {
    let conf = conf(r#"{"Type":"alloc"}"#);
    let (peers, underlay) = (peers(&conf, &[NEAR, FAR]), underlay());
    let desired = desired(&build(&conf, &peers, &underlay));
    assert_eq!((desired.state, desired.paths.len(), desired.mtu), (State::default(), 0, Mtu(1500)));
    assert_eq!(desired.scope.routes.unwrap().adopt, Adopt::default());
}

#[test]
fn the_options_of_vxlan_reach_the_device() {
    let conf = conf(r#"{"Type":"vxlan","VNI":7,"Port":4789,"MTU":1400,"GBP":true,"Learning":true}"#);
    let mut underlay = underlay();
    let old = [IfName::new("flannel.1").unwrap()];
    let desired = desired(&HostInputs { known_devices: &old, ..build(&conf, &[], &underlay) });
    assert_eq!(
        lines(&desired.state)[..2],
        [
            "flannel-v6.7 mtu 1330 02:00:00:00:00:02 vxlan id 7 local fd99::2 dev eth0 dstport 4789 gbp alias flannel",
            "flannel.7 mtu 1350 02:00:00:00:00:01 vxlan id 7 local 10.99.0.2 dev eth0 dstport 4789 gbp alias flannel",
        ]
    );
    assert_eq!(desired.mtu, Mtu(1350));
    let links: Vec<&str> = desired.scope.links.iter().map(IfName::as_str).collect();
    assert_eq!(links, ["flannel-v6.7", "flannel.1", "flannel.7"], "the left-over device is in scope and not wanted");
    // more than the underlay carries is not asked of the kernel, and a family without an address has no device
    underlay.mtu = Mtu(1300);
    underlay.addresses.v6 = None;
    let small = super::desired(&build(&conf, &[], &underlay));
    assert_eq!((small.state.links.len(), small.mtu), (1, Mtu(1250)));
}

#[test]
fn what_is_published_is_upstreams() {
    let public = underlay().addresses;
    let macs = ByFamily { v4: "4a:ed:0f:9b:24:90".parse().ok(), v6: "12:a5:0d:d7:d9:76".parse().ok() };
    let vxlan = Some(VxlanConf::default());
    let both = publish(&conf(r#"{"Type":"vxlan"}"#), vxlan, public, macs);
    assert_eq!(
        both.to_json(),
        r#"{"PublicIP":"10.99.0.2","PublicIPv6":"fd99::2","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"4a:ed:0f:9b:24:90"},"BackendV6Data":{"VNI":1,"VtepMAC":"12:a5:0d:d7:d9:76"}}"#
    );
    let host_gw = publish(&conf(r#"{"Type":"host-gw"}"#), None, ByFamily { v6: None, ..public }, macs);
    assert_eq!(host_gw.to_json(), r#"{"PublicIP":"10.99.0.2","PublicIPv6":null,"BackendType":"host-gw"}"#);
    let v4 = NetConf::parse(br#"{"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}"#).unwrap().conf;
    assert_eq!(publish(&v4, vxlan, public, macs).to_json(), r#"{"PublicIP":"10.99.0.2","PublicIPv6":null}"#);
}

#[test]
fn routed_hosts_that_disagree_about_the_backend_reach_each_other() {
    let (old, new) = (conf(r#"{"Type":"vxlan"}"#), conf(r#"{"Type":"host-gw"}"#));
    let underlay = underlay();
    let far = ByFamily { v4: "10.98.0.4".parse().ok(), v6: None };
    let macs = ByFamily { v4: "4a:ed:0f:9b:24:91".parse().ok(), v6: None };
    let keep = Some(VxlanConf::default());
    for (ours, theirs) in [(&old, &new), (&new, &old), (&new, &new)] {
        let published = publish(theirs, keep, far, macs).to_json();
        let peers = peers(ours, &[("10.5.54.0-24", &published)]);
        let path = |complete| {
            let inputs = HostInputs { keep_vtep: keep, complete, ..build(ours, &peers, &underlay) };
            desired(&inputs).paths[0].reach
        };
        assert_eq!(path(false), Reach::Through(Tunnel::Vxlan), "{published}");
        // once both have changed, the configuration rules: host-gw does not cross routers
        let both_new = std::ptr::eq(ours, theirs);
        assert_eq!(
            path(true),
            if both_new { Reach::Unreachable(Why::NoOwnVtep) } else { Reach::Through(Tunnel::Vxlan) }
        );
    }
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
            (format!("10.5.{n}.0-24{six}"), attrs.to_json())
        }).collect();
        let peers = peers::check(&conf, &Own::default(), leases).good;
        prop_assert_eq!(peers.len(), hosts.len());
        let underlay = underlay();
        let inputs = HostInputs { keep_vtep: keep.then(VxlanConf::default), complete, ..build(&conf, &peers, &underlay) };
        let Desired { state, paths, scope, .. } = desired(&inputs);
        let reached = |peer: &Peer, family| paths.iter().any(|p| p.peer == peer.key && p.family == family && !matches!(p.reach, Reach::Unreachable(_)));
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
    let underlay = Underlay {
        dev: IfName::new("eth0").unwrap(),
        mtu: Mtu(1500),
        addresses: ByFamily { v4: Some("10.99.0.2".parse().unwrap()), v6: None },
        connected: vec!["10.99.0.0/24".parse().unwrap()],
    };
    let wanted = desired(&HostInputs {
        conf: &conf,
        own: subnets,
        vtep_macs: ByFamily::default(),
        wireguard_keys: None,
        peers: &peers.good,
        underlay: &underlay,
        keep_vtep: None,
        owner: &NOBODY,
        known_devices: &[],
        complete: true,
    });
    let ways: Vec<String> = wanted.paths.iter().map(|path| format!("{} {}", path.peer, path.reach)).collect();
    assert_eq!(ways, ["10.5.2.0-24 udp", "10.5.3.0-24 direct", "10.5.4.0-24 udp"]);
    assert_eq!(wanted.mtu, Mtu(1472));
    let kind = LinkKind::TunTap(kernel::state::TunTap { multi_queue: true, ..Default::default() });
    assert_eq!(wanted.state.links[&IfName::new(UDP_DEVICE).unwrap()].kind, kind, "a queue per thread");
    let steps: Vec<String> = kernel::diff::diff(&wanted.state, &State::default(), &wanted.scope)
        .steps
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        steps,
        [
            "ip tuntap add dev flannel0 mode tun multi_queue",
            "ip link set flannel0 mtu 1472 alias \"flannel\"",
            "ip addr add 10.5.1.0/32 dev flannel0",
            "ip link set flannel0 up",
            "ip route prepend 10.5.0.0/16 dev flannel0 proto 70",
            "ip route prepend 10.5.3.0/24 via 10.99.0.4 dev eth0 proto 70",
        ]
    );
}

#[test]
fn a_tun_stays_while_it_may_be_sent_to() {
    let tun = [IfName::new(UDP_DEVICE).unwrap()];
    let plain = ("10.5.54.0-24", r#"{"PublicIP":"10.98.0.4","PublicIPv6":null}"#);
    for (backend, lease, complete, deleted) in [
        ("vxlan", plain, true, false),
        ("vxlan", FAR, true, true),
        ("vxlan", FAR, false, false),
        ("host-gw", plain, true, false),
        ("alloc", plain, true, true),
    ] {
        let conf = conf(&format!(r#"{{"Type":"{backend}"}}"#));
        let peers = peers(&conf, &[lease]);
        let underlay = underlay();
        let wanted = desired(&HostInputs { known_devices: &tun, complete, ..build(&conf, &peers, &underlay) });
        assert!(!wanted.state.links.contains_key(&tun[0]));
        assert_eq!(wanted.scope.links.contains(&tun[0]), deleted, "{backend} {complete}");
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
        let underlay = Underlay {
            dev: IfName::new("eth0").unwrap(),
            mtu: Mtu(1500),
            addresses: ByFamily { v4: Some("192.0.2.1".parse().unwrap()), v6: None },
            connected: Vec::new(),
        };
        let inputs = HostInputs {
            conf: &conf,
            own: "10.1.1.0-24".parse().unwrap(),
            vtep_macs: ByFamily::default(),
            wireguard_keys: None,
            peers: &peers,
            underlay: &underlay,
            keep_vtep: None,
            owner: &NOBODY,
            known_devices: &[],
            complete: true,
        };
        let state = desired(&inputs).state;
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
