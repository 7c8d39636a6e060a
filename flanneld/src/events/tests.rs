use std::net::IpAddr;
use std::ops::{Deref, DerefMut};

use ipnetwork::IpNetwork;
use kernel::message::{Names, address, link, neighbour, route};
use kernel::state::{Address, Adopt, Fdb, FdbKey, Link, LinkKind, NeighbourKey, Route, RouteKey, RouteScope};
use kernel::types::{IfIndex, IfName, Mac, Mtu, RouteProtocol};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::neighbour::NeighbourState;

use super::facts::{Chosen, Named};
use super::*;
use overlay::underlay::Survey;

const FLANNEL: IfIndex = IfIndex(7);
const ETH0: IfIndex = IfIndex(2);
const POD: IfIndex = IfIndex(9);
const BGP: RouteProtocol = RouteProtocol(186);

struct Links;

impl Names for Links {
    fn name(&self, index: u32) -> Option<IfName> {
        IfName::new(match IfIndex(index) {
            FLANNEL => "flannel.1",
            ETH0 => "eth0",
            _ => "veth0",
        })
        .ok()
    }

    fn index(&self, name: &IfName) -> Option<IfIndex> {
        match name.as_str() {
            "flannel.1" => Some(FLANNEL),
            "eth0" => Some(ETH0),
            _ => Some(POD),
        }
    }
}

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn mac() -> Mac {
    Mac::local([1; 6])
}

fn ours() -> Link {
    Link {
        mtu: Some(Mtu(1450)),
        alias: Some("flannel".into()),
        ..Link::up(LinkKind::Bridge(kernel::state::Bridge::default()))
    }
}

/// The kernel's announcement of a link.
fn announced(index: IfIndex, called: &str, link: &Link) -> Message {
    let Some(Message::NewLink(mut message)) = link::create(&name(called), link, &Links) else { panic!() };
    message.header.index = index.0;
    if link.up {
        message.header.flags |= netlink_packet_route::link::LinkFlags::Up;
    }
    message.attributes.extend(link.alias.clone().map(netlink_packet_route::link::LinkAttribute::IfAlias));
    Message::NewLink(message)
}

fn eth0(mtu: u32) -> Message {
    announced(ETH0, "eth0", &Link { mtu: Some(Mtu(mtu)), ..Link::up(LinkKind::Other("dummy".into())) })
}

fn seen(message: &Message) -> SeenLink {
    link::decode(message).unwrap()
}

fn route_to(dst: &str, dev: &str, protocol: RouteProtocol) -> Message {
    let by = Route { protocol, ..Route::by(&name(dev)) };
    route::put(&RouteKey::main(dst.parse().unwrap()), &by, &Links).unwrap()
}

fn via(dst: &str, gateway: &str, protocol: RouteProtocol) -> Message {
    let by = Route { protocol, via: gateway.parse().ok(), ..Route::by(&name("eth0")) };
    route::put(&RouteKey::main(dst.parse().unwrap()), &by, &Links).unwrap()
}

fn gone(message: Message) -> Message {
    match message {
        Message::NewLink(inner) => Message::DelLink(inner),
        Message::NewAddress(inner) => Message::DelAddress(inner),
        Message::NewRoute(inner) => Message::DelRoute(inner),
        Message::NewNeighbour(inner) => Message::DelNeighbour(inner),
        other => other,
    }
}

/// A host with a device of ours and one peer, an underlay with an address and a default route, and a pod.
fn survey() -> Survey {
    let pod = announced(POD, "veth0", &Link::up(LinkKind::Veth(kernel::state::Veth { peer: None })));
    let links = [eth0(1500), announced(FLANNEL, "flannel.1", &ours()), pod].iter().map(seen).collect();
    let address = |index, at| address::decode(&address::add(index, net(at), &Address::default()), &Links).unwrap();
    let addresses = vec![address(ETH0, "192.0.2.1/24"), address(FLANNEL, "10.5.1.0/32")];
    let routes =
        [via("0.0.0.0/0", "192.0.2.254", RouteProtocol::BOOT), route_to("192.0.2.0/24", "eth0", RouteProtocol::KERNEL)];
    let routes = routes.iter().map(|message| route::decode(message, &Links).unwrap()).collect();
    Survey { links, addresses, routes, ..Survey::default() }
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn peer() -> (RouteKey, Route) {
    let by = Route { protocol: RouteProtocol::FLANNEL, ..Route::by(&name("flannel.1")) };
    (RouteKey::main(net("10.5.2.0/24")), by)
}

fn wanted() -> State {
    let mut state = State::default();
    let dev = name("flannel.1");
    state.links.insert(dev.clone(), ours());
    state.address(&dev, net("10.5.1.0/32"), true);
    let (key, route) = peer();
    state.neighbours.insert(NeighbourKey { dev: dev.clone(), addr: key.dst.network() }, mac());
    state.fdb.insert(FdbKey { dev, mac: mac() }, IpAddr::from([192, 0, 2, 2]).into());
    state.routes.insert(key, route);
    state
}

fn chosen() -> Chosen {
    Chosen { dev: Some(name("eth0")), by_default_route: true, can_reach: None, ipv6: false }
}

/// A filter, and what is desired while it is there.
struct Held {
    filter: Filter,
    _desired: Arc<State>,
}

impl Deref for Held {
    type Target = Filter;
    fn deref(&self) -> &Filter {
        &self.filter
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Filter {
        &mut self.filter
    }
}

/// A filter after a pass, which knows the underlay by `chosen`.
fn filter(chosen: Chosen) -> Held {
    filter_for(chosen, wanted())
}

fn filter_for(chosen: Chosen, desired: State) -> Held {
    let (survey, devices) = (survey(), vec![name("flannel.1")]);
    let named = Named { within: vec![net("10.5.0.0/16")], own: "10.5.1.0-24".parse().unwrap() };
    let facts = Facts::new(chosen, &devices, named, &survey);
    let routes = RouteScope {
        protocol: Some(RouteProtocol::FLANNEL),
        within: vec![net("10.5.0.0/16")],
        adopt: Adopt {
            within: vec![net("10.5.0.0/16")],
            gateways: Arc::new([(net("10.5.9.0/24"), [192, 0, 2, 9].into())].into()),
        },
        ..RouteScope::default()
    };
    let scope = Scope {
        links: devices.clone(),
        read_links: vec![name("eth0")],
        addresses: devices.clone(),
        neighbours: devices,
        routes: Some(routes),
        ..Scope::default()
    };
    let mut filter = Filter::default();
    filter.reader.survey_ends(&survey.links);
    let desired = Arc::new(desired);
    let interest = Interest { desired: Some(Arc::downgrade(&desired)), scope: scope.into(), facts: facts.into() };
    filter.interest = Some(interest);
    filter.facts_hold = true;
    Held { filter, _desired: desired }
}

fn wakes(chosen: Chosen, message: Message) -> bool {
    filter(chosen).matches(message.into())
}

fn check(cases: impl IntoIterator<Item = (Message, bool, &'static str)>) {
    for (message, expected, what) in cases {
        assert_eq!(wakes(chosen(), message), expected, "{what}");
    }
}

#[test]
fn what_contradicts_the_desired_state_is_news() {
    let addr = [10, 5, 2, 0].into();
    let dst = Fdb::from(IpAddr::from([192, 0, 2, 2]));
    let elsewhere = Fdb::from(IpAddr::from([192, 0, 2, 3]));
    let (key, by) = peer();
    let neighbour = |mac| neighbour::put_neighbour(FLANNEL, addr, mac);
    let mut reachable = neighbour(mac());
    if let Message::NewNeighbour(inner) = &mut reachable {
        inner.header.state = NeighbourState::Reachable;
    }
    let route = |route: &Route| route::put(&key, route, &Links).unwrap();
    let address = |at: &str| address::add(FLANNEL, net(at), &Address::default());
    check([
        (announced(FLANNEL, "flannel.1", &ours()), false, "our link is announced as it is wanted"),
        (announced(FLANNEL, "flannel.1", &Link { up: false, ..ours() }), true, "our link goes down"),
        (announced(FLANNEL, "flannel.1", &Link { mtu: Some(Mtu(1400)), ..ours() }), true, "our link's MTU"),
        (announced(FLANNEL, "flannel.1", &Link { alias: None, ..ours() }), true, "our link loses its mark"),
        (announced(FLANNEL, "mine", &ours()), true, "our link is renamed"),
        (gone(announced(FLANNEL, "flannel.1", &ours())), true, "our link goes"),
        (address("10.5.1.0/32"), false, "our address"),
        (gone(address("10.5.1.0/32")), true, "our address goes"),
        (address("10.9.9.9/32"), true, "somebody's address on our link"),
        (address("fe80::1/64"), false, "the kernel's own address"),
        (route(&by), false, "our route"),
        (gone(route(&by)), true, "our route goes"),
        (route(&Route { mtu: Some(Mtu(1200)), ..by.clone() }), true, "our route's MTU"),
        (route(&Route { protocol: BGP, ..by.clone() }), true, "another program's route in place of ours"),
        (route_to("10.5.9.0/24", "flannel.1", RouteProtocol::FLANNEL), true, "a route of ours that nobody wants"),
        (via("10.5.9.0/24", "192.0.2.9", RouteProtocol::BOOT), true, "a route that a Go flanneld has left"),
        (neighbour(mac()), false, "our neighbour"),
        (neighbour(Mac::local([2; 6])), true, "our neighbour's MAC"),
        (reachable, true, "our neighbour is permanent no more"),
        (gone(neighbour(mac())), true, "our neighbour goes"),
        (neighbour::put_fdb(FLANNEL, mac(), dst), false, "our forwarding entry"),
        (neighbour::put_fdb(FLANNEL, mac(), elsewhere), true, "our forwarding entry's destination"),
        (neighbour::put_fdb(FLANNEL, Mac([0; 6]), dst), true, "somebody's forwarding entry"),
        (gone(neighbour::put_fdb(FLANNEL, mac(), dst)), true, "our forwarding entry goes"),
    ]);
}

fn resolved(index: IfIndex, addr: [u8; 4]) -> Message {
    let Message::NewNeighbour(mut message) = neighbour::put_neighbour(index, addr.into(), mac()) else { panic!() };
    message.header.state = NeighbourState::Reachable;
    Message::NewNeighbour(message)
}

#[test]
fn other_peoples_objects_are_no_news() {
    let kernel = RouteProtocol::KERNEL;
    let ipvs = Link::up(LinkKind::Other("dummy".into()));
    check([
        (
            announced(IfIndex(30), "veth7", &Link::up(LinkKind::Veth(kernel::state::Veth { peer: None }))),
            false,
            "a pod's link comes",
        ),
        (gone(announced(POD, "veth0", &ours())), false, "a pod's link goes"),
        (announced(IfIndex(31), "kube-ipvs0", &ipvs), false, "kube-proxy's link comes"),
        (gone(announced(IfIndex(31), "kube-ipvs0", &ipvs)), false, "kube-proxy's link goes"),
        (address::add(POD, net("10.96.0.1/32"), &Address::default()), false, "a service's address"),
        (via("203.0.113.0/24", "192.0.2.254", BGP), false, "a BGP daemon's route"),
        (via("10.5.200.0/24", "192.0.2.254", BGP), false, "a BGP daemon's route inside the network"),
        (gone(via("10.5.200.0/24", "192.0.2.254", BGP)), false, "it goes"),
        (via("203.0.113.0/24", "192.0.2.9", BGP), false, "a BGP daemon's route over another gateway"),
        (gone(via("203.0.113.0/24", "192.0.2.9", BGP)), false, "a route over a gateway that is not known goes"),
        (via("10.5.200.0/24", "192.0.2.9", RouteProtocol::BOOT), true, "an administrator's is named"),
        (via("10.5.1.9/32", "192.0.2.9", RouteProtocol::BOOT), true, "one that leads a pod's packets elsewhere"),
        (route_to("10.5.1.9/32", "veth0", RouteProtocol::BOOT), false, "a pod's"),
        (route_to("10.5.1.0/24", "veth0", kernel), false, "the bridge's own route"),
        (resolved(ETH0, [192, 0, 2, 9]), false, "ARP on the underlay"),
        (gone(resolved(ETH0, [192, 0, 2, 9])), false, "it is forgotten"),
        (neighbour::put_neighbour(ETH0, [192, 0, 2, 9].into(), mac()), true, "one that is never asked for again"),
        (neighbour::put_neighbour(POD, [192, 0, 2, 9].into(), mac()), false, "the same on another link"),
        (neighbour::put_fdb(POD, mac(), Fdb::from(IpAddr::from([192, 0, 2, 1]))), false, "another device's entry"),
        (neighbour::delete_neighbour(FLANNEL, [10, 5, 9, 0].into()), false, "an entry goes that nobody wants"),
    ]);
}

#[test]
fn the_underlay_is_news_when_it_changes() {
    let address = |at: &str| address::add(ETH0, net(at), &Address::default());
    let default = |gateway| via("0.0.0.0/0", gateway, RouteProtocol::BOOT);
    check([
        (eth0(1500), false, "the underlay is announced as it is"),
        (eth0(1400), true, "its MTU"),
        (gone(eth0(1500)), true, "it goes"),
        (announced(IfIndex(40), "eth0", &Link::up(LinkKind::Other("dummy".into()))), true, "it is made anew"),
        (address("192.0.2.1/24"), false, "its address is refreshed"),
        (address("192.0.2.7/24"), true, "it gets another address"),
        (gone(address("192.0.2.1/24")), true, "its address goes"),
        (default("192.0.2.254"), false, "the default route is announced as it is"),
        (default("192.0.2.253"), true, "another default route"),
        (gone(default("192.0.2.254")), true, "the default route goes"),
        (route_to("192.0.2.0/24", "eth0", RouteProtocol::KERNEL), false, "its segment"),
        (gone(route_to("192.0.2.0/24", "eth0", RouteProtocol::KERNEL)), true, "its segment goes"),
        (route_to("198.51.100.0/24", "eth0", BGP), true, "hosts that are on its segment now"),
    ]);
    let named = Chosen { by_default_route: false, ..chosen() };
    assert!(!wakes(named.clone(), default("192.0.2.254")), "by name, the default route decides nothing");
    for new in [default("192.0.2.253"), via("203.0.113.0/24", "192.0.2.253", RouteProtocol::STATIC)] {
        assert!(wakes(named.clone(), new), "but a lease must not hold the new gateway");
    }
    let peers = via("203.0.113.0/24", "192.0.2.9", RouteProtocol::FLANNEL_CNI);
    assert!(!wakes(named, peers), "whose gateway is a peer");
    let reach = |addr: &str| Chosen { can_reach: addr.parse().ok(), ..chosen() };
    let other = || via("203.0.113.0/24", "192.0.2.254", BGP);
    assert!(wakes(reach("203.0.113.9"), other()) && !wakes(reach("198.51.100.9"), other()), "--iface-can-reach");
}

#[test]
fn without_an_underlay_everything_may_be_it() {
    let none = || Chosen { dev: None, ..chosen() };
    let new = announced(IfIndex(41), "eth5", &Link::up(LinkKind::Other("dummy".into())));
    assert!(wakes(none(), new));
    assert!(wakes(none(), address::add(POD, net("192.0.2.9/24"), &Address::default())));
    assert!(!wakes(none(), eth0(1500)));
    assert!(!wakes(none(), via("203.0.113.0/24", "192.0.2.9", BGP)));
}

/// A lease whose subnet contains an address of ours is rejected. When a pass moves our address, leases are judged anew.
#[test]
fn our_own_address_is_a_fact_although_it_is_wanted() {
    let mut wanted = wanted();
    wanted.address(&name("flannel.1"), net("10.5.7.0/32"), true);
    let mut filter = filter_for(chosen(), wanted);
    let moved = address::add(FLANNEL, net("10.5.7.0/32"), &Address::default());
    assert!(filter.matches(moved.into()));
}

/// What a first pass does is announced, and is no reason for another one.
#[test]
fn a_device_and_its_address_are_no_news_when_they_are_made() {
    let mut wanted = wanted();
    wanted.address(&name("flannel.1"), net("10.5.1.0/32"), true);
    let mut filter = filter_for(chosen(), wanted);
    let (again, down) = (IfIndex(50), Link { up: false, alias: None, ..ours() });
    assert!(filter.matches(gone(announced(FLANNEL, "flannel.1", &ours())).into()), "it goes");
    assert!(!filter.matches(announced(again, "flannel.1", &down).into()), "it is made");
    assert!(!filter.matches(announced(again, "flannel.1", &ours()).into()), "as it is wanted");
    assert!(!filter.matches(address::add(again, net("10.5.1.0/32"), &Address::default()).into()), "its address");
    assert!(filter.matches(announced(again, "flannel.1", &down).into()), "it goes down");
    let local = || address::add(ETH0, net("fe80::7/64"), &Address::default());
    assert!(!wakes(chosen(), local()), "without IPv6");
    assert!(wakes(Chosen { ipv6: true, ..chosen() }, local()));
}

/// A change that is reverted while a survey runs may or may not be in the survey.
#[test]
fn while_the_kernel_is_read_nothing_is_known_of_the_underlay() {
    let mut filter = filter(chosen());
    assert!(!filter.matches(eth0(1500).into()));
    filter.facts_hold = false;
    assert!(filter.matches(eth0(1500).into()));
    assert!(!filter.matches(via("203.0.113.0/24", "192.0.2.254", BGP).into()));
    filter.facts_hold = true;
    assert!(filter.matches(eth0(1400).into()), "changed");
    assert!(filter.matches(eth0(1500).into()), "changed back, before anybody has looked");
}

#[test]
fn before_the_first_pass_everything_is_news() {
    assert!(Filter::default().matches(eth0(1500).into()));
    let mut filter = filter(chosen());
    filter.overrun();
    assert!(filter.matches(eth0(1500).into()), "after announcements were lost");
}

/// Nothing is desired while there is no underlay, and when a plan is gone nothing is known.
#[test]
fn what_is_desired_may_be_nothing_or_gone() {
    let mut none = filter(chosen());
    none.interest.iter_mut().for_each(|interest| interest.desired = None);
    let other = || via("203.0.113.0/24", "192.0.2.254", BGP);
    assert!(!none.matches(other().into()));
    let Held { mut filter, _desired } = filter(chosen());
    assert!(!filter.matches(other().into()));
    drop(_desired);
    assert!(filter.matches(other().into()));
}

#[test]
fn entries_that_stay_are_news_where_they_matter() {
    let (key, other) = (NeighbourKey { dev: name("cni0"), addr: [10, 5, 1, 2].into() }, Mac([2; 6]));
    let entry = |port: &str, mac| kernel::message::neighbour::Forwarding { port: name(port), mac };
    let of = |forwarding: &[_]| {
        facts::Facts::of(facts::Fixed {
            devs: [name("cni0")].into(),
            neighbours: [(key.clone(), mac())].into(),
            macs: [mac()].into(),
            forwarding: forwarding.iter().cloned().collect(),
        })
    };
    let is_news = |facts: &facts::Facts, news: News| facts.touched_by(&news) && !facts.agree_with(&news);
    let known = of(&[entry("veth1", mac())]);
    for (news, expected, what) in [
        (News::Neighbour(key.clone(), Some(mac())), false, "as it is known"),
        (News::Neighbour(key.clone(), Some(other)), true, "another MAC"),
        (News::Neighbour(key.clone(), None), true, "it is gone"),
        (News::Neighbour(NeighbourKey { dev: name("eth0"), ..key.clone() }, Some(other)), false, "on another link"),
        (News::Neighbour(NeighbourKey { addr: [10, 5, 1, 9].into(), ..key.clone() }, None), false, "never permanent"),
        (News::Forwarding(entry("veth1", mac()), true), false, "as it is known"),
        (News::Forwarding(entry("veth1", mac()), false), true, "it moves again"),
        (News::Forwarding(entry("veth2", mac()), true), true, "at another port"),
        (News::Forwarding(entry("veth2", mac()), false), false, "learned"),
        (News::Forwarding(entry("veth2", other), true), false, "another's"),
    ] {
        assert_eq!(is_news(&known, news.clone()), expected, "{what}: {news:?}");
    }
}
