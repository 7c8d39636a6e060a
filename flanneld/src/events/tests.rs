use kernel::diff::LinkChange;
use kernel::message::{Names, address, link, neighbour, route};
use kernel::state::{Address, Bridge, FdbKey, Link, LinkKind, NeighbourKey, Route, RouteKey};
use kernel::types::Mac;
use std::net::IpAddr;

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
        wanted: Arc::default(),
        links: [(7, "flannel.1"), (2, "eth0")].map(|(index, name)| (index, IfName::new(name).unwrap())).into(),
    }
}

fn route_to(dst: &str, dev: &str, protocol: RouteProtocol) -> Message {
    let by = Route { protocol, ..Route::by(&IfName::new(dev).unwrap()) };
    route::put(&RouteKey::main(dst.parse().unwrap()), &by, &Links).unwrap()
}

fn new_link(name: &str) -> Message {
    let name = IfName::new(name).unwrap();
    link::create(&name, &Link::up(LinkKind::Bridge(Bridge { vlan_filtering: false })), &Links).unwrap()
}

/// The kernel's announcement of a change to a link.
fn changed_link(name: &str) -> Message {
    link::change(&IfName::new(name).unwrap(), &LinkChange::up(), &Links).unwrap()
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
        (changed_link("flannel.1"), true, "our link changes"),
        (changed_link("eth0"), true, "the underlay changes"),
        (changed_link("veth1"), false, "a pod's link changes"),
        (address::delete(FLANNEL, net), true, "our address goes"),
        (address::add(ETH0, net, &Address::default()), true, "the underlay gets an address"),
        (address::add(POD, net, &Address::default()), false, "a pod's link gets an address"),
        (route_to("10.5.2.0/24", "flannel.1", RouteProtocol::FLANNEL), true, "our route"),
        (route_to("10.5.2.0/24", "veth0", boot), true, "somebody's route in our network"),
        (route_to("10.5.1.0/24", "cni0", kernel), false, "the bridge's own route"),
        (route_to("10.9.0.0/16", "cni0", boot), false, "a route that is nobody of ours"),
        (route_to("0.0.0.0/0", "wlan0", boot), true, "a default route"),
        (gone(route_to("0.0.0.0/0", "wlan0", boot)), true, "a default route goes"),
        (gone(route_to("192.0.2.0/24", "eth0", kernel)), true, "the underlay's segment goes"),
        (gone(route_to("10.5.2.0/24", "veth0", boot)), false, "a route goes in our network that nobody wants"),
        (gone(route_to("10.9.0.0/16", "cni0", boot)), false, "a route goes that is nobody of ours"),
        (neighbour::put_neighbour(FLANNEL, "10.5.2.0".parse().unwrap(), mac), true, "our neighbour"),
        (
            neighbour::delete_neighbour(FLANNEL, "10.5.2.0".parse().unwrap()),
            false,
            "a neighbour goes that nobody wants",
        ),
        (learned, false, "a neighbour that the kernel found itself"),
        (neighbour::put_fdb(FLANNEL, mac, "192.0.2.1".parse().unwrap()), true, "our forwarding entry"),
        (neighbour::delete_fdb(FLANNEL, mac, "192.0.2.1".parse().unwrap()), false, "an entry goes that nobody wants"),
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

/// The announcement that the object of `message` is gone.
fn gone(message: Message) -> Message {
    match message {
        Message::NewRoute(inner) => Message::DelRoute(inner),
        Message::NewNeighbour(inner) => Message::DelNeighbour(inner),
        other => other,
    }
}

#[test]
fn what_is_as_wanted_is_no_news() {
    let (dev, mac, addr) = (IfName::new("flannel.1").unwrap(), Mac::local([1; 6]), "10.5.2.0".parse().unwrap());
    let dst: IpAddr = "192.0.2.2".parse().unwrap();
    let by = Route { protocol: RouteProtocol::FLANNEL, ..Route::by(&dev) };
    let key = RouteKey::main("10.5.2.0/24".parse().unwrap());
    let mut wanted = State::default();
    wanted.routes.insert(key.clone(), by.clone());
    wanted.neighbours.insert(NeighbourKey { dev: dev.clone(), addr }, mac);
    wanted.fdb.insert(FdbKey { dev, mac }, dst);
    let interest = Interest { wanted: Arc::new(wanted), ..interest() };
    let put = |route: &Route| route::put(&key, route, &Links).unwrap();
    let neighbour = |mac| neighbour::put_neighbour(FLANNEL, addr, mac);
    let fdb = |dst: IpAddr| neighbour::put_fdb(FLANNEL, mac, dst);
    let other = Route { via: "10.5.2.0".parse().ok(), onlink: true, ..by.clone() };
    for (ours, somebodys) in [
        (put(&by), put(&other)),
        (neighbour(mac), neighbour(Mac::local([2; 6]))),
        (fdb(dst), fdb("192.0.2.3".parse().unwrap())),
    ] {
        assert!(!interest.concerns(&ours), "{ours:?}");
        assert!(interest.concerns(&somebodys), "{somebodys:?}");
        assert!(interest.concerns(&gone(ours.clone())), "{ours:?} is gone");
        assert!(!Interest { wanted: Arc::default(), ..interest.clone() }.concerns(&gone(ours)), "and not wanted");
    }
}
