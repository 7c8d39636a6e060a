use kernel::message::{Names, address, link, neighbour, route};
use kernel::state::{Address, Link, LinkKind, Route, RouteKey};
use kernel::types::Mac;

use super::*;

const FLANNEL: IfIndex = IfIndex(7);
const ETH0: IfIndex = IfIndex(2);
const POD: IfIndex = IfIndex(9);

struct Links;

impl Names for Links {
    fn name(&self, _: u32) -> Option<IfName> {
        None
    }
    fn index(&self, name: &IfName) -> Option<IfIndex> {
        match name.as_str() {
            "flannel.1" => Some(FLANNEL),
            "eth0" => Some(ETH0),
            _ => Some(POD),
        }
    }
}

fn interest() -> Interest {
    Interest {
        names: ["flannel.1", "eth0"].into_iter().map(|n| IfName::new(n).unwrap()).collect(),
        ours: [FLANNEL].into(),
        underlay: Some(ETH0),
        networks: vec!["10.5.0.0/16".parse().unwrap()],
    }
}

fn route_to(dst: &str, dev: &str, protocol: RouteProtocol) -> Message {
    let by = Route { protocol, ..Route::by(&IfName::new(dev).unwrap()) };
    route::put(&RouteKey::main(dst.parse().unwrap()), &by, &Links).unwrap()
}

fn new_link(name: &str) -> Message {
    let name = IfName::new(name).unwrap();
    link::create(&name, &Link::up(LinkKind::Bridge { vlan_filtering: false }), &Links).unwrap()
}

/// The kernel's announcement of a change to a link.
fn changed_link(index: IfIndex) -> Message {
    match link::move_to(index, 3) {
        Message::SetLink(inner) => Message::NewLink(inner),
        other => other,
    }
}

#[test]
fn ours_wakes_and_pods_do_not() {
    let mac = Mac::local([1; 6]);
    let net: IpNetwork = "10.5.1.0/32".parse().unwrap();
    let (boot, kernel) = (RouteProtocol::BOOT, RouteProtocol::KERNEL);
    let mut learned = neighbour::put_neighbour(FLANNEL, "10.5.2.0".parse().unwrap(), mac);
    if let Message::NewNeighbour(inner) = &mut learned {
        inner.header.state = NeighbourState::Reachable;
    }
    for (message, wakes, what) in [
        (new_link("flannel.1"), true, "our link comes"),
        (new_link("veth01234567"), false, "a pod's link comes"),
        (changed_link(FLANNEL), true, "our link changes"),
        (changed_link(ETH0), true, "the underlay changes"),
        (changed_link(POD), false, "a pod's link changes"),
        (address::delete(FLANNEL, net), true, "our address goes"),
        (address::add(ETH0, net, &Address::default()), true, "the underlay gets an address"),
        (address::add(POD, net, &Address::default()), false, "a pod's link gets an address"),
        (route_to("10.5.2.0/24", "flannel.1", RouteProtocol::FLANNEL), true, "our route"),
        (route_to("10.5.2.0/24", "veth0", boot), true, "somebody's route in our network"),
        (route_to("10.5.1.0/24", "cni0", kernel), false, "the bridge's own route"),
        (route_to("10.9.0.0/16", "cni0", boot), false, "a route that is nobody of ours"),
        (route_to("0.0.0.0/0", "wlan0", boot), true, "a default route"),
        (neighbour::put_neighbour(FLANNEL, "10.5.2.0".parse().unwrap(), mac), true, "our neighbour"),
        (neighbour::delete_neighbour(FLANNEL, "10.5.2.0".parse().unwrap()), true, "our neighbour goes"),
        (learned, false, "a neighbour that the kernel found itself"),
        (neighbour::put_fdb(FLANNEL, mac, "192.0.2.1".parse().unwrap()), true, "our forwarding entry"),
        (neighbour::delete_fdb(FLANNEL, mac, "192.0.2.1".parse().unwrap()), true, "our forwarding entry goes"),
        (neighbour::put_neighbour(ETH0, "192.0.2.1".parse().unwrap(), mac), false, "ARP on the underlay"),
        (neighbour::put_fdb(POD, mac, "192.0.2.1".parse().unwrap()), false, "the bridge learns"),
    ] {
        assert_eq!(interest().concerns(&message), wakes, "{what}");
    }
}

#[test]
fn without_an_underlay_everything_may_be_it() {
    let none = Interest { underlay: None, ..interest() };
    assert!(none.concerns(&new_link("eth5")));
    assert!(none.concerns(&address::add(POD, "192.0.2.9/24".parse().unwrap(), &Address::default())));
}
