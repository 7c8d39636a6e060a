//! Examples: which fields of each kind of link can change in place; and the command of each step.

use std::net::IpAddr;

use crate::diff::*;
use crate::state::{
    Address, AddressKey, Bridge, Fdb, FdbKey, Filter, FilterAction, Ipip, Link, Macvlan, MacvlanMode, NeighbourKey,
    Port, PublicKey, Qdisc, QdiscPlace, Route, RouteKey, RouteKind, Selects, Tbf, TunTap, Veth, Vlan, VlanKey, Vxlan,
    WireguardPeerChange,
};
use crate::types::{IfIndex, Mac, Mtu, RouteProtocol, TableId, VlanId, Vni};

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

/// The steps from a link `have` to a link `want`, as commands.
fn steps(want: LinkKind, have: LinkKind) -> Vec<String> {
    let with = |kind| State { links: [(name("dev"), Link::up(kind))].into(), ..State::default() };
    let scope = Scope { links: vec![name("dev")], ..Scope::default() };
    diff(&with(want), &with(have), &scope).steps.iter().map(brief).collect()
}

/// The command without the parameters of the link's kind.
fn brief(step: &Step) -> String {
    let text = step
        .to_string()
        .replace("ip tuntap add dev dev mode", "ip link add dev type tun")
        .replace("ip link add link eth1 name dev", "ip link add dev");
    match text.split_once(" type ") {
        Some((before, kind)) => format!("{before} type {}", kind.split(' ').next().unwrap_or_default()),
        None => text,
    }
}

fn in_place(kind: &str) -> Vec<String> {
    vec![format!("ip link set dev type {kind}")]
}

fn anew(kind: &str) -> Vec<String> {
    vec!["ip link del dev".into(), format!("ip link add dev type {kind}"), "ip link set dev up".into()]
}

fn vxlan(change: impl Fn(&mut Vxlan)) -> LinkKind {
    let mut vxlan =
        Vxlan { lower: Some(name("eth0")), local: "192.0.2.1".parse().ok(), ..Vxlan::new(Vni::new(1).unwrap()) };
    change(&mut vxlan);
    LinkKind::Vxlan(vxlan)
}

#[test]
fn a_vxlan_device_moves_with_the_underlay_and_is_made_anew_for_the_rest() {
    let have = || vxlan(|_| {});
    assert_eq!(steps(vxlan(|_| {}), have()), Vec::<String>::new());
    assert_eq!(steps(vxlan(|v| v.lower = Some(name("eth1"))), have()), in_place("vxlan"));
    assert_eq!(steps(vxlan(|v| v.local = "192.0.2.2".parse().ok()), have()), in_place("vxlan"));
    assert_eq!(steps(vxlan(|v| v.learning = true), have()), in_place("vxlan"));
    assert_eq!(steps(vxlan(|v| (v.lower, v.local) = (None, None)), have()), Vec::<String>::new(), "left to the kernel");
    // The kernel does not change these (vxlan_nl2conf, drivers/net/vxlan/vxlan_core.c).
    assert_eq!(steps(vxlan(|v| v.vni = Vni::new(2).unwrap()), have()), anew("vxlan"));
    assert_eq!(steps(vxlan(|v| v.port = Some(4789)), have()), anew("vxlan"));
    assert_eq!(steps(vxlan(|v| v.gbp = true), have()), anew("vxlan"));
    assert_eq!(steps(vxlan(|v| v.local = "fd99::1".parse().ok()), have()), anew("vxlan"), "another family");
}

#[test]
fn an_ipip_device_for_all_has_no_remote() {
    let ipip = |local: &str, remote: &str| {
        LinkKind::Ipip(Ipip { local: local.parse().ok(), remote: remote.parse().ok(), ..Ipip::default() })
    };
    assert_eq!(steps(ipip("192.0.2.2", ""), ipip("192.0.2.1", "")), in_place("ipip"));
    assert_eq!(steps(ipip("", ""), ipip("192.0.2.1", "")), Vec::<String>::new(), "left to the kernel");
    assert_eq!(steps(ipip("192.0.2.1", ""), ipip("192.0.2.1", "192.0.2.9")), anew("ipip"));
}

#[test]
fn a_macvlan_device_keeps_its_parent_for_life() {
    let macvlan = |lower: &str, mode| LinkKind::Macvlan(Macvlan { lower: Some(name(lower)), mode, bc_queue_len: None });
    let have = || macvlan("eth0", MacvlanMode::Bridge);
    assert_eq!(steps(have(), have()), Vec::<String>::new());
    assert_eq!(steps(macvlan("eth1", MacvlanMode::Bridge), have()), anew("macvlan"));
    assert_eq!(steps(macvlan("eth0", MacvlanMode::Vepa), have()), in_place("macvlan"));
}

#[test]
fn a_tun_device_keeps_its_flags_for_life() {
    let tun = |tap, multi_queue| LinkKind::TunTap(TunTap { tap, multi_queue, ..TunTap::default() });
    assert_eq!(steps(tun(false, true), tun(false, true)), Vec::<String>::new());
    assert_eq!(steps(tun(true, true), tun(false, true)), anew("tun"));
    assert_eq!(steps(tun(false, false), tun(false, true)), anew("tun"));
}

#[test]
fn a_bridge_learns_to_filter_vlans_and_keeps_it() {
    let bridge = |vlan_filtering| LinkKind::Bridge(Bridge { vlan_filtering, ..Bridge::default() });
    assert_eq!(steps(bridge(true), bridge(false)), in_place("bridge"));
    assert_eq!(steps(bridge(false), bridge(true)), Vec::<String>::new());
}

#[test]
fn links_come_after_those_that_they_are_made_on() {
    let mut desired = State::default();
    let kind = LinkKind::Macvlan(Macvlan { lower: Some(name("zero")), mode: MacvlanMode::Bridge, bc_queue_len: None });
    desired.links.insert(name("above"), Link::up(kind));
    let veth = LinkKind::Veth(Veth { peer: None });
    desired.links.insert(name("port"), Link { master: Some(Some(name("switch"))), ..Link::up(veth) });
    for bridge in ["switch", "zero"] {
        desired.links.insert(name(bridge), Link::up(LinkKind::Bridge(Bridge::default())));
    }
    let steps = diff(&desired, &State::default(), &Scope::default()).steps;
    let made =
        steps.iter().filter_map(|step| if let Step::CreateLink(name, _) = step { Some(name.as_str()) } else { None });
    assert_eq!(made.collect::<Vec<_>>(), ["switch", "zero", "above", "port"]);
}

/// A route may leave its link to the kernel. If its current link is deleted, it must be added again by another.
#[test]
fn a_route_does_not_go_with_a_link_that_nobody_wants() {
    let by =
        |dev: Option<&str>| Route { dev: dev.map(name), via: Some([192, 0, 2, 1].into()), ..Route::by(&name("old")) };
    let key = RouteKey::main("10.5.1.0/24".parse().unwrap());
    let desired = State { routes: [(key.clone(), by(None))].into(), ..State::default() };
    let observed = State {
        links: [(name("old"), Link::up(LinkKind::Wireguard))].into(),
        routes: [(key.clone(), by(Some("old")))].into(),
        ..State::default()
    };
    let ours = Scope { links: vec![name("old")], ..Scope::default() };
    let put = Step::PutRoute(key, by(None));
    assert_eq!(diff(&desired, &observed, &ours).steps, [put, Step::DeleteLink(name("old"))]);
    for stays in [Scope { keep: true, ..ours }, Scope::default()] {
        assert_eq!(diff(&desired, &observed, &stays).steps, [], "the link stays, and the route with it");
    }
}

#[test]
fn a_vlan_of_a_port_goes_only_when_the_view_is_complete_and_the_port_stays() {
    let vlan = VlanKey { dev: name("port"), id: VlanId::new(5).unwrap() };
    let port =
        State { links: [(name("port"), Link::up(LinkKind::Veth(Veth { peer: None })))].into(), ..State::default() };
    let observed = State { vlans: [(vlan.clone(), Vlan::default())].into(), ..port.clone() };
    let scope = Scope { vlans: vec![name("port")], links: vec![name("port")], ..Scope::default() };
    let steps = |desired: &State, scope: &Scope| diff(desired, &observed, scope).steps;
    assert_eq!(steps(&port, &scope), [Step::DeleteVlan(vlan.clone())]);
    assert_eq!(steps(&port, &Scope { keep: true, ..scope.clone() }), []);
    assert_eq!(steps(&State::default(), &scope), [Step::DeleteLink(name("port"))], "it goes with its port");
    let others = Scope { links: vec![], ..scope };
    assert_eq!(steps(&State::default(), &others), [Step::DeleteVlan(vlan)], "the port is another's");
}

#[test]
fn a_link_in_the_way_is_named_by_the_kernels_word() {
    let said = |found: &str| {
        let wanted = LinkKind::Wireguard;
        Conflict::Link { name: name("flannel-wg"), wanted, found: LinkKind::Other(found.into()) }.to_string()
    };
    assert!(said("dummy").starts_with("flannel-wg is a link of kind dummy, not wireguard: "));
    assert!(said("").starts_with("flannel-wg is a link of kind device, "), "hardware has no word");
}

#[test]
fn a_plan_is_empty_when_nothing_is_to_do_and_nothing_in_the_way() {
    let step = Step::DeleteLink(name("dev"));
    let conflict = Conflict::Link { name: name("dev"), wanted: LinkKind::Wireguard, found: LinkKind::Loopback };
    assert!(Plan::default().is_empty());
    assert!(!Plan { steps: vec![step], ..Plan::default() }.is_empty());
    assert!(!Plan { conflicts: vec![conflict], ..Plan::default() }.is_empty());
}

/// Every step, with its object in the metrics, whether it removes something, and its command.
fn all_steps() -> Vec<(Step, &'static str, bool, &'static str)> {
    let dev = || name("dev");
    let address = |net: &str| AddressKey { dev: dev(), net: net.parse().unwrap() };
    let nodad = Address { nodad: true, ..Address::default() };
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let vlan = VlanKey { dev: dev(), id: VlanId::new(5).unwrap() };
    let near = NeighbourKey { dev: dev(), addr: [10, 5, 1, 0].into() };
    let fdb = FdbKey { dev: dev(), mac };
    let at = IpAddr::from([192, 0, 2, 1]);
    let elsewhere = Fdb { port: Some(9999), vni: Some(Vni::new(7).unwrap()), via: Some(IfIndex(3)), ..Fdb::from(at) };
    let key = RouteKey::main("10.5.1.0/24".parse().unwrap());
    let full_key = RouteKey { table: TableId(100), metric: Some(7), ..key.clone() };
    let full = Route {
        via: Some(at),
        onlink: true,
        src: Some([10, 5, 2, 1].into()),
        protocol: RouteProtocol::FLANNEL,
        mtu: Some(Mtu(1400)),
        advmss: Some(1360),
        ..Route::by(&dev())
    };
    let hole = Route { kind: RouteKind::Blackhole, dev: None, ..Route::by(&dev()) };
    let peer = PublicKey([0; 32]);
    let [root, ingress] = [QdiscPlace::Root, QdiscPlace::Ingress].map(|place| QdiscKey { dev: dev(), place });
    let tbf = Qdisc::Tbf(Tbf { rate: 125_000, burst: 25_000, limit: 28_125 });
    let filter = FilterKey { dev: dev(), prio: 1 };
    let filtered = |selects, action| Filter { selects, action };
    let to = |net: &str| Selects::To(net.parse().unwrap());
    vec![
        (Step::CreateLink(dev(), Link::up(LinkKind::Wireguard)), "link", false, "ip link add dev type wireguard"),
        (Step::ChangeLink(dev(), LinkChange::up()), "link", false, "ip link set dev up"),
        (Step::DeleteLink(dev()), "link", true, "ip link del dev"),
        (
            Step::SetPort(dev(), Port { hairpin: true, ..Port::default() }),
            "port",
            false,
            "bridge link set dev dev hairpin on isolated off",
        ),
        (
            Step::AddVlan(vlan.clone(), Vlan { pvid: true, untagged: true }),
            "vlan",
            false,
            "bridge vlan add dev dev vid 5 pvid untagged",
        ),
        (Step::DeleteVlan(vlan), "vlan", true, "bridge vlan del dev dev vid 5"),
        (
            Step::WriteSysctl("net/ipv4/ip_forward".into(), "1".into()),
            "sysctl",
            false,
            "sysctl -w net.ipv4.ip_forward=1",
        ),
        (Step::SetWireguard(dev(), None, Some(51820)), "wireguard", false, "wg set dev listen-port 51820"),
        (
            Step::PutWireguardPeer(
                dev(),
                peer,
                WireguardPeerChange { replace: true, ..WireguardPeerChange::default() },
            ),
            "wireguard-peer",
            false,
            "wg set dev peer AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= allowed-ips ",
        ),
        (
            Step::DeleteWireguardPeer(dev(), peer),
            "wireguard-peer",
            true,
            "wg set dev peer AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= remove",
        ),
        // Duplicate address detection exists only for IPv6.
        (Step::AddAddress(address("10.5.1.1/24"), nodad.clone()), "address", false, "ip addr add 10.5.1.1/24 dev dev"),
        (Step::AddAddress(address("fd05::1/64"), nodad), "address", false, "ip addr add fd05::1/64 dev dev nodad"),
        (
            Step::AddAddress(address("10.5.1.1/24"), Address { noprefixroute: true, ..Address::default() }),
            "address",
            false,
            "ip addr add 10.5.1.1/24 dev dev noprefixroute",
        ),
        (
            Step::AddAddress(address("fd05::1/64"), Address::default()),
            "address",
            false,
            "ip addr add fd05::1/64 dev dev",
        ),
        (Step::DeleteAddress(address("fd05::1/64")), "address", true, "ip addr del fd05::1/64 dev dev"),
        (
            Step::PutNeighbour(near.clone(), mac),
            "neighbour",
            false,
            "ip neigh replace 10.5.1.0 lladdr 02:00:00:00:00:01 dev dev nud permanent",
        ),
        (Step::DeleteNeighbour(near), "neighbour", true, "ip neigh del 10.5.1.0 dev dev"),
        (
            Step::PutFdb(fdb.clone(), at.into()),
            "fdb",
            false,
            "bridge fdb replace 02:00:00:00:00:01 dev dev dst 192.0.2.1 self permanent",
        ),
        (
            Step::PutFdb(fdb.clone(), elsewhere),
            "fdb",
            false,
            "bridge fdb replace 02:00:00:00:00:01 dev dev dst 192.0.2.1 port 9999 vni 7 via if3 self permanent",
        ),
        (Step::DeleteFdb(fdb), "fdb", true, "bridge fdb del 02:00:00:00:00:01 dev dev self"),
        (
            Step::PutRoute(full_key, full),
            "route",
            false,
            "ip route replace 10.5.1.0/24 via 192.0.2.1 dev dev onlink src 10.5.2.1 metric 7 table 100 proto 70 mtu 1400 advmss 1360",
        ),
        (
            Step::AddQdisc(root.clone(), tbf.clone()),
            "qdisc",
            false,
            "tc qdisc add dev dev root handle 1: tbf rate 125000bps burst 25000 limit 28125",
        ),
        (
            Step::ChangeQdisc(root.clone(), tbf),
            "qdisc",
            false,
            "tc qdisc change dev dev root handle 1: tbf rate 125000bps burst 25000 limit 28125",
        ),
        (Step::DeleteQdisc(root), "qdisc", true, "tc qdisc del dev dev root"),
        (Step::AddQdisc(ingress.clone(), Qdisc::Ingress), "qdisc", false, "tc qdisc add dev dev ingress"),
        (Step::DeleteQdisc(ingress), "qdisc", true, "tc qdisc del dev dev ingress"),
        (
            Step::AddFilter(filter.clone(), filtered(Selects::All, FilterAction::Redirect(Some(name("ifb0"))))),
            "filter",
            false,
            "tc filter add dev dev ingress prio 1 protocol all u32 match u32 0 0 action mirred egress redirect dev ifb0",
        ),
        (
            Step::AddFilter(filter.clone(), filtered(to("10.5.1.0/24"), FilterAction::Pass)),
            "filter",
            false,
            "tc filter add dev dev ingress prio 1 protocol ip u32 match ip dst 10.5.1.0/24 flowid 1:1",
        ),
        (
            Step::AddFilter(filter.clone(), filtered(to("fd05::/64"), FilterAction::Pass)),
            "filter",
            false,
            "tc filter add dev dev ingress prio 1 protocol ipv6 u32 match ip6 dst fd05::/64 flowid 1:1",
        ),
        (Step::DeleteFilter(filter), "filter", true, "tc filter del dev dev ingress prio 1"),
        (Step::DeleteRoute(key, hole), "route", true, "ip route del blackhole 10.5.1.0/24"),
    ]
}

#[test]
fn every_step_has_its_object_and_its_command() {
    for (step, object, delete, command) in all_steps() {
        assert_eq!((step.to_string().as_str(), step.object(), step.is_delete()), (command, object, delete));
    }
}

#[test]
fn a_links_change_is_said_whole() {
    let change = LinkChange {
        mtu: Some(Mtu(1400)),
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        master: Some(None),
        alias: Some("flannel".into()),
        promisc: Some(false),
        allmulti: Some(true),
        queue_len: Some(500),
        up: Some(false),
        ..LinkChange::default()
    };
    let text = Step::ChangeLink(name("dev"), change).to_string();
    assert_eq!(
        text,
        "ip link set dev mtu 1400 address 02:00:00:00:00:01 nomaster alias \"flannel\" promisc off allmulticast on txqueuelen 500 down"
    );
}

/// A host that starts to forward must first have `accept_ra` 2, or it forgets its routers.
#[test]
fn forwarding_begins_when_all_else_is_set() {
    let mut desired = State::default();
    for (path, value) in [("net/ipv6/conf/all/forwarding", "1"), ("net/ipv6/conf/eth0/accept_ra", "2")] {
        desired.sysctls.insert(path.into(), value.into());
    }
    let text: Vec<_> =
        diff(&desired, &State::default(), &Scope::default()).steps.iter().map(ToString::to_string).collect();
    assert_eq!(text, ["sysctl -w net.ipv6.conf.eth0.accept_ra=2", "sysctl -w net.ipv6.conf.all.forwarding=1"]);
}

/// A VXLAN device with this port, which may exist under another name.
fn of_port(port: u16, was: Option<&str>) -> Link {
    Link { was: was.map(name), ..Link::up(vxlan(|v| v.port = Some(port))) }
}

#[test]
fn a_link_that_is_there_under_another_name_gets_its_own() {
    let scope = Scope {
        links: ["a", "b"].map(name).to_vec(),
        addresses: ["a", "b"].map(name).to_vec(),
        neighbours: ["a", "b"].map(name).to_vec(),
        ..Scope::default()
    };
    let net = "10.5.1.0/32".parse().unwrap();
    let with = |links: &[(&str, Link)]| {
        let mut state = State::default();
        for (dev, link) in links {
            state.links.insert(name(dev), link.clone());
            state.address(&name(dev), net, false);
        }
        state
    };
    let commands = |desired: &State, observed: &State| -> Vec<String> {
        diff(desired, observed, &scope).steps.iter().map(brief).collect()
    };
    // The port changes: the previous device stays under another name, with its address.
    let before = with(&[("a", of_port(1, Some("b")))]);
    let during = with(&[("a", of_port(2, Some("b"))), ("b", of_port(1, Some("a")))]);
    let seen = |state: &State| {
        let mut seen = state.clone();
        seen.links.values_mut().for_each(|link| link.was = None);
        seen
    };
    assert_eq!(
        commands(&during, &seen(&before)),
        ["ip link set a name b", "ip link add a type vxlan", "ip addr add 10.5.1.0/32 dev a", "ip link set a up"]
    );
    assert_eq!(commands(&during, &seen(&during)), Vec::<String>::new());
    // The port changes back: one device waits for the other's name.
    let third = |port: u16, was: &str| of_port(port, Some(was));
    let back = with(&[("a", third(1, "b")), ("c", third(2, "a"))]);
    let scope = Scope { links: ["a", "b", "c"].map(name).to_vec(), ..scope.clone() };
    let steps: Vec<String> = diff(&back, &seen(&during), &scope).steps.iter().map(brief).collect();
    assert_eq!(steps, ["ip link set a name c", "ip link set b name a"]);
    // A link that is not ours keeps its name.
    let foreign = Scope { links: vec![name("a")], ..scope };
    let steps = diff(&back, &seen(&with(&[("b", of_port(1, None))])), &foreign).steps;
    assert!(!steps.iter().any(|step| matches!(step, Step::RenameLink(..))), "{steps:?}");
}
