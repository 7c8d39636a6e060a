use std::net::IpAddr;

use gojson::Json;
use kernel::diff::diff;
use kernel::message::address::SeenAddress;
use kernel::message::link::SeenLink;
use kernel::state::{Address, AddressKey, Link, LinkKind, Route, RouteKey, State};
use kernel::survey::Survey;
use kernel::types::{IfIndex, IfName, Mtu, RouteProtocol, Vni};

use super::super::host::{Daemon, DataPath};
use super::plan::{Obstacle, Plan, mark, plan, removal};
use super::{Network, guard, mac};

const VXLAN: &str = r#"{"network":"10.244.0.0/16","subnet":"10.244.1.0/24",
    "peers":[{"subnet":"10.244.1.0/24","publicIP":"192.0.2.1"},{"subnet":"10.244.2.0/24","publicIP":"192.0.2.2"},
             {"subnet":"10.244.3.0/24","publicIP":"198.51.100.3","vtepMAC":"0e:00:00:00:00:03"}]}"#;

fn read(path: DataPath, text: &str) -> Result<Network, Vec<String>> {
    Network::read(path, &Json::parse(text.as_bytes()).unwrap())
}

#[track_caller]
fn mistakes(path: DataPath, text: &str) -> Vec<String> {
    read(path, text).expect_err("mistakes")
}

fn name(name: &str) -> IfName {
    IfName::new(name).unwrap()
}

fn link(index: u32, dev: &str) -> SeenLink {
    let mut link = Link::up(LinkKind::Other(String::new()));
    link.mtu = Some(Mtu(1500));
    let (master, lower, port) = (None, None, None);
    SeenLink {
        index: IfIndex(index),
        name: name(dev),
        link,
        master,
        lower,
        lower_elsewhere: None,
        port,
        running: true,
        operstate: "Up".into(),
        queue: String::new(),
        ipv6: None,
    }
}

fn address(dev: &str, net: &str) -> SeenAddress {
    SeenAddress {
        key: AddressKey { dev: name(dev), net: net.parse().unwrap() },
        address: Address::default(),
        tentative: false,
        dad_failed: false,
        permanent: true,
        secondary: false,
        deprecated: false,
        global: true,
    }
}

fn route(dst: &str, dev: &str, via: Option<&str>, protocol: RouteProtocol) -> (RouteKey, Route) {
    let via = via.map(|via| via.parse().unwrap());
    (RouteKey::main(dst.parse().unwrap()), Route { via, protocol, ..Route::by(&name(dev)) })
}

fn survey() -> Survey {
    let kernel = RouteProtocol::KERNEL;
    Survey {
        links: vec![link(2, "eth0"), link(3, "eth1")],
        addresses: vec![
            address("eth0", "192.0.2.1/24"),
            address("eth1", "203.0.113.1/24"),
            address("eth0", "2001:db8::1/64"),
        ],
        routes: vec![
            route("0.0.0.0/0", "eth0", Some("192.0.2.254"), RouteProtocol::BOOT),
            route("192.0.2.0/24", "eth0", None, kernel),
            route("203.0.113.0/24", "eth1", None, kernel),
            route("2001:db8::/64", "eth0", None, kernel),
        ],
    }
}

/// The steps on a host that has none of it.
fn steps(plan: &Plan) -> Vec<String> {
    diff(&plan.desired, &State::default(), &plan.scope).steps.iter().map(ToString::to_string).collect()
}

fn planned(path: DataPath, text: &str) -> Plan {
    plan(&read(path, text).unwrap(), "net", &survey(), &[]).unwrap()
}

#[test]
fn a_mac_is_what_the_documented_command_prints() {
    let derived = |vni, addr: &str| mac::derived(Vni::new(vni).unwrap(), addr.parse::<IpAddr>().unwrap()).to_string();
    // printf '1 192.0.2.1' | sha256sum | sed -E 's/(..)(..)(..)(..)(..).*/0e:\1:\2:\3:\4:\5/'
    assert_eq!(derived(1, "192.0.2.1"), "0e:cf:b2:bb:8b:98");
    assert_eq!(derived(42, "FD00:0::1"), "0e:88:a9:fc:4b:fb");
}

#[test]
fn vxlan_is_what_flanneld_makes_with_marks_of_its_own() {
    let plan = planned(DataPath::Vxlan, VXLAN);
    assert_eq!(
        steps(&plan),
        [
            "ip link add flannel.1 mtu 1450 address 0e:cf:b2:bb:8b:98 arp on multicast on type vxlan id 1 dev eth0 \
             local 192.0.2.1 dstport 8472 nolearning udpcsum",
            "ip link set flannel.1 alias \"flannel-cni/net\"",
            "sysctl -w net/ipv6/conf/flannel.1/accept_ra=0",
            "ip addr add 10.244.1.0/32 dev flannel.1",
            "ip link set flannel.1 up",
            "ip neigh replace 10.244.2.0 lladdr 0e:98:cd:a6:c7:f8 dev flannel.1 nud permanent",
            "ip neigh replace 10.244.3.0 lladdr 0e:00:00:00:00:03 dev flannel.1 nud permanent",
            "bridge fdb replace 0e:00:00:00:00:03 dev flannel.1 dst 198.51.100.3 self permanent",
            "bridge fdb replace 0e:98:cd:a6:c7:f8 dev flannel.1 dst 192.0.2.2 self permanent",
            "ip route prepend 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink proto 71",
            "ip route prepend 10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink proto 71",
        ]
    );
    let device = &plan.desired.links[&name("flannel.1")];
    assert_eq!((device.mtu, device.mac), (Some(Mtu(1450)), Some("0e:cf:b2:bb:8b:98".parse().unwrap())));
    assert_eq!(
        plan.env.to_string(),
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
    );
    assert_eq!(plan.limits, Vec::<String>::new());
}

#[test]
fn the_other_paths_are_chosen_as_flanneld_chooses_them() {
    let routes = |plan: &Plan| steps(plan).into_iter().filter(|step| step.contains("ip route")).collect::<Vec<_>>();
    let direct = planned(DataPath::DirectRouting, VXLAN);
    assert_eq!(
        routes(&direct),
        [
            "ip route prepend 10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink proto 71",
            "ip route prepend 10.244.2.0/24 via 192.0.2.2 dev eth0 proto 71",
        ]
    );
    let host_gw = planned(DataPath::HostGw, VXLAN);
    assert_eq!(steps(&host_gw), ["ip route prepend 10.244.2.0/24 via 192.0.2.2 dev eth0 proto 71"]);
    assert_eq!(host_gw.env.mtu, Mtu(1500));
    assert_eq!(
        host_gw.limits,
        [
            "the peer 10.244.3.0-24 cannot be reached: host-gw needs every peer on this host's own segment; vxlan and direct-routing do not"
        ]
    );
}

#[test]
fn keys_are_read_in_any_case_and_in_both_families() {
    let text = r#"{"ipv6network":"fd10::/48","IPv6Subnet":"fd10:0:0:1::/64","Network":"10.244.0.0/16","SUBNET":"10.244.1.0/24",
        "peers":[{"subnet":"10.244.2.0/24","PublicIP":"192.0.2.2","ipv6Subnet":"fd10:0:0:2::/64","publicIPv6":"2001:db8::2",
                  "vtepMACv6":"0e:00:00:00:00:62"}],
        "VNI":7,"Port":4789,"MTU":1400,"GBP":true,"Learning":true,"iface":"192.0.2.1","vtepMAC":"0e:00:00:00:00:01","publicIP":"198.18.0.1"}"#;
    let plan = planned(DataPath::Vxlan, text);
    let v4 = &plan.desired.links[&name("flannel.7")];
    let LinkKind::Vxlan(vxlan) = &v4.kind else { panic!("{v4:?}") };
    assert_eq!((vxlan.port, vxlan.gbp, vxlan.learning, v4.mtu), (Some(4789), true, true, Some(Mtu(1350))));
    assert_eq!(v4.mac.unwrap().to_string(), "0e:00:00:00:00:01");
    assert_eq!(vxlan.local, Some("192.0.2.1".parse().unwrap()), "behind NAT it sends from its own");
    let v6 = &plan.desired.links[&name("flannel-v6.7")];
    assert_eq!(
        (v6.mtu, v6.mac),
        (Some(Mtu(1330)), Some(mac::derived(Vni::new(7).unwrap(), "2001:db8::1".parse().unwrap())))
    );
    let all = steps(&plan).join("\n");
    assert!(
        all.contains("bridge fdb replace 0e:00:00:00:00:62 dev flannel-v6.7 dst 2001:db8::2 self permanent"),
        "{all}"
    );
    assert!(all.contains("ip route add fd10:0:0:2::/64 via fd10:0:0:2:: dev flannel-v6.7 onlink proto 71"), "{all}");
}

#[test]
fn every_mistake_is_told_at_once() {
    let said = mistakes(
        DataPath::HostGw,
        r#"{"network":"10.244.0.0/16","subnet":"10.244.1.7/24","vni":1,"mtu":9000,"iface":7,"publicIP":"2001:db8::1",
            "peers":[{"subnet":"10.244.2.0/24"},{"publicIP":"192.0.2.3","mac":"x"},5,{"ipv6Subnet":"fd10::/64","publicIPv6":"::2"}]}"#,
    );
    assert_eq!(
        said,
        [
            "subnet 10.244.1.7/24 has bits beyond its prefix length: write 10.244.1.0/24",
            "vni is for VXLAN, and host-gw has none: remove it, or use the type vxlan",
            "mtu is for VXLAN: host-gw uses the underlay's MTU, and delegate.mtu sets a smaller one for pods",
            "publicIP must be an IPv4 address, not \"2001:db8::1\"",
            "iface must be a string, not 7",
            "peers[0].publicIP is missing: it is the address of the host with subnet",
            "peers[1].subnet is missing: it is the subnet behind publicIP",
            "peers[1].mac is not a known key; known keys are subnet, publicIP, vtepMAC, ipv6Subnet, publicIPv6, vtepMACv6",
            "peers[2] must be an object like {\"subnet\": \"10.244.2.0/24\", \"publicIP\": \"192.0.2.2\"}, not 5",
            "peers[3].ipv6Subnet has no use: this host has no ipv6Network and ipv6Subnet",
        ]
    );
}

#[test]
fn a_wrong_number_is_shown_as_one() {
    let said = mistakes(
        DataPath::Vxlan,
        r#"{"network":"10.244.0.0/16","subnet":"10.244.1.0/24","mtu":1500.0,"port":-1,"vni":"1","VNI":2,"peers":[]}"#,
    );
    let wanted = "must be a whole number that is not negative, not";
    assert_eq!(said, [format!("vni {wanted} \"1\""), format!("port {wanted} -1"), format!("mtu {wanted} 1500.0")]);
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(
        mistakes(DataPath::Vxlan, r#"{"subnet":"10.244.1.0/24"}"#),
        [
            "network is missing: this configuration carries a network, so it needs network and subnet, or ipv6Network and ipv6Subnet",
            "peers is missing: it lists the other hosts, and is [] when there are none yet",
        ]
    );
    assert_eq!(
        mistakes(DataPath::Vxlan, r#"{"network":"10.244.0.0/16","ipv6Subnet":"fd10::/64","peers":{}}"#),
        [
            "subnet is missing: this host's part of network",
            "ipv6Network is missing: what ipv6Subnet is a part of",
            "peers must be a list of hosts, not {}",
        ]
    );
}

#[test]
fn peers_are_held_to_what_leases_are() {
    let with = |peers: &str| {
        let text = format!(
            r#"{{"network":"10.244.0.0/16","subnet":"10.244.1.0/24","publicIP":"192.0.2.1","peers":[{peers}]}}"#
        );
        mistakes(DataPath::Vxlan, &text)
    };
    let peer = |subnet: &str, public: &str| format!(r#"{{"subnet":"{subnet}","publicIP":"{public}"}}"#);
    for (peers, wanted) in [
        (
            peer("10.245.2.0/24", "192.0.2.2"),
            "peers[0]: its subnet 10.245.2.0/24 is not inside the network 10.244.0.0/16",
        ),
        (peer("10.244.0.0/16", "192.0.2.2"), "peers[0]: its subnet 10.244.0.0/16 is the whole network"),
        (
            peer("10.244.1.128/25", "192.0.2.2"),
            "peers[0]: its subnet 10.244.1.128/25 overlaps this host's own 10.244.1.0/24",
        ),
        (peer("10.244.2.0/24", "192.0.2.1"), "peers[0]: its address 192.0.2.1 is this host's own"),
        (peer("10.244.2.0/24", "127.0.0.1"), "peers[0]: its address 127.0.0.1 is a loopback address"),
        (peer("10.244.2.0/31", "192.0.2.2"), "peers[0].subnet 10.244.2.0/31 has no room for pods: the longest is /30"),
        (
            peer("10.244.1.0/24", "192.0.2.9"),
            "peers[0].publicIP 192.0.2.9 is not this host's, which is 192.0.2.1, but the subnet is this host's own: two hosts cannot share a subnet",
        ),
        (
            [peer("10.244.2.0/24", "192.0.2.2"), peer("10.244.2.0/24", "192.0.2.3")].join(","),
            "peers[1]: its subnet 10.244.2.0/24 overlaps that of the peer 10.244.2.0-24, which comes first",
        ),
        (
            r#"{"subnet":"10.244.1.0/24","publicIP":"192.0.2.1","vtepMAC":"0e:00:00:00:00:09"}"#.to_owned(),
            "peers[0].vtepMAC 0e:00:00:00:00:09 is this host's, which has 0e:cf:b2:bb:8b:98",
        ),
        (
            r#"{"subnet":"10.244.2.0/24","publicIP":"192.0.2.2","vtepMAC":"01:00:00:00:00:09"}"#.to_owned(),
            "peers[0].vtepMAC must be the MAC address of one device, like 0e:12:34:56:78:9a, not \"01:00:00:00:00:09\"",
        ),
    ] {
        assert_eq!(with(&peers), [wanted]);
    }
    // Facts that only the host itself knows.
    let text = r#"{"network":"10.244.0.0/16","subnet":"10.244.1.0/24","peers":[{"subnet":"10.244.2.0/24","publicIP":"203.0.113.1"}]}"#;
    let network = read(DataPath::HostGw, text).unwrap();
    let wrong = Obstacle::Mistakes(vec!["peers[0]: its address 203.0.113.1 is this host's own".to_owned()]);
    assert_eq!(plan(&network, "net", &survey(), &[]), Err(wrong));
    for (subnet, public, wanted) in [
        (
            "10.244.2.0/24",
            "192.0.2.255",
            "peers[0]: its address 192.0.2.255 is the broadcast address of the underlay's 192.0.2.0/24",
        ),
        (
            "10.244.2.0/24",
            "192.0.2.0",
            "peers[0]: its address 192.0.2.0 is the network address of the underlay's 192.0.2.0/24",
        ),
        ("10.244.3.0/24", "192.0.2.3", "peers[0]: its subnet 10.244.3.0/24 contains 10.244.3.254, this host's gateway"),
    ] {
        let text =
            format!(r#"{{"network":"10.244.0.0/16","subnet":"10.244.1.0/24","peers":[{}]}}"#, peer(subnet, public));
        let network = read(DataPath::HostGw, &text).unwrap();
        let mut survey = survey();
        survey.routes[0].1.via = "10.244.3.254".parse().ok();
        assert_eq!(plan(&network, "net", &survey, &[]), Err(Obstacle::Mistakes(vec![wanted.to_owned()])));
    }
}

#[test]
fn an_underlay_that_is_not_there_is_named() {
    let with = |rest: &str, survey: &Survey| {
        let text = format!(r#"{{"network":"10.244.0.0/16","subnet":"10.244.1.0/24","peers":[]{rest}}}"#);
        match plan(&read(DataPath::HostGw, &text).unwrap(), "net", survey, &[]) {
            Err(Obstacle::Underlay(what)) => what,
            other => panic!("{other:?}"),
        }
    };
    let mut down = survey();
    down.links[0].link.up = false;
    assert_eq!(with("", &down), "eth0 is down (ip link set eth0 up)");
    down.routes.remove(0);
    assert_eq!(with("", &down), "this host has no default route to find its interface by: add one, or set \"iface\"");
    assert_eq!(
        with(r#","iface":"eth9""#, &down),
        "iface eth9 is neither an interface of this host nor an address of one; the interfaces are eth0, eth1"
    );
    let mut bare = survey();
    bare.addresses.clear();
    assert_eq!(with("", &bare), "eth0 has no usable IPv4 address; set another interface as \"iface\"");
}

#[test]
fn what_is_anothers_is_refused() {
    let wanted = planned(DataPath::Vxlan, VXLAN);
    let said = |survey: &Survey, daemon: Option<&Daemon>| guard::obstacles("net", &wanted, survey, daemon);
    assert_eq!(said(&survey(), None), Vec::<String>::new());

    let with_device = |alias: Option<String>| {
        let mut device = link(9, "flannel.1");
        device.link.alias = alias;
        let mut there = survey();
        there.links.push(device);
        there
    };
    assert_eq!(said(&with_device(Some(mark("net"))), None), Vec::<String>::new());
    for (alias, wanted) in [
        (Some("flannel".to_owned()), "flannel.1 is a flanneld's device"),
        (Some(mark("other")), "flannel.1 is the device of the network other"),
        (None, "flannel.1 is there and not made by this plugin"),
    ] {
        let said = said(&with_device(alias), None);
        assert!(said.len() == 1 && said[0].starts_with(wanted), "{said:?}");
    }

    let with_route = |dst: &str, protocol: RouteProtocol| {
        let mut there = survey();
        there.routes.push(route(dst, "eth0", Some("192.0.2.77"), protocol));
        said(&there, None)
    };
    assert_eq!(with_route("10.244.2.0/24", RouteProtocol::FLANNEL_CNI), Vec::<String>::new());
    assert_eq!(with_route("10.244.99.0/24", RouteProtocol::BOOT), Vec::<String>::new());
    assert!(with_route("10.244.99.0/24", RouteProtocol::FLANNEL)[0].contains("is a flanneld's"));
    assert!(with_route("10.244.2.0/24", RouteProtocol::BOOT)[0].contains("is there already (proto 3)"));

    let daemon =
        |network: &[&str]| Daemon { pid: 7, network: network.iter().map(|net| net.parse().unwrap()).collect() };
    assert_eq!(said(&survey(), Some(&daemon(&["10.5.0.0/16"]))), Vec::<String>::new());
    assert!(said(&survey(), Some(&daemon(&["10.0.0.0/8"])))[0].contains("has the network 10.0.0.0/8"));
    assert!(said(&survey(), Some(&daemon(&[])))[0].contains("has not said its network yet"));
}

#[test]
fn only_what_is_this_networks_is_taken_away() {
    let mut there = survey();
    for (index, (dev, alias)) in [("flannel.9", Some(mark("net"))), ("flannel-v6.1", None)].into_iter().enumerate() {
        let mut device = link(10 + index as u32, dev);
        device.link.kind = planned(DataPath::Vxlan, VXLAN).desired.links[&name("flannel.1")].kind.clone();
        device.link.alias = alias;
        there.links.push(device);
    }
    let network = read(DataPath::Vxlan, VXLAN).unwrap();
    let mut wanted = plan(&network, "net", &there, &[]).unwrap();
    wanted.narrow("net", &there);
    assert_eq!(wanted.scope.links, [name("flannel.1"), name("flannel.9")]);

    let mut observed = State::default();
    let cni = RouteProtocol::FLANNEL_CNI;
    observed.routes.extend([
        route("10.244.9.0/24", "eth0", Some("192.0.2.9"), cni),
        route("10.99.9.0/24", "eth0", Some("192.0.2.9"), cni),
        route("10.98.9.0/24", "flannel.9", None, cni),
    ]);
    let (nothing, scope) = removal("net", &there, network.conf.networks());
    let steps: Vec<String> = diff(&nothing, &observed, &scope).steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        steps,
        [
            "ip route del 10.98.9.0/24 dev flannel.9 proto 71",
            "ip route del 10.244.9.0/24 via 192.0.2.9 dev eth0 proto 71"
        ]
    );
}
