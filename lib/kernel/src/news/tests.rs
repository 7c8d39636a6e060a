//! From messages to news.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_APPEND, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAttribute, RouteNextHop, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::*;
use crate::message::{Names, address, link, neighbour, route, vlan};
use crate::state::{Address, Link, LinkKind, RouteKind, Scope, State};
use crate::types::IfIndex;

const FLANNEL: IfIndex = IfIndex(7);

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn flannel() -> IfName {
    name("flannel.1")
}

/// The kernel's message about a link.
fn link_message(index: u32, called: &str) -> LinkMessage {
    let up = Link::up(LinkKind::Bridge(crate::state::Bridge::default()));
    let Some(Message::NewLink(mut message)) = link::create(&name(called), &up, &Reader::default()) else { panic!() };
    message.header.index = index;
    message
}

/// A reader that knows flannel.1.
fn reader() -> Reader {
    let mut reader = Reader::default();
    reader.read(Message::NewLink(link_message(FLANNEL.0, "flannel.1")).into());
    reader
}

fn read(message: Message) -> Vec<News> {
    reader().read(message.into())
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

#[test]
fn a_renamed_link_is_gone_under_its_old_name() {
    let mut reader = reader();
    let news = reader.read(Message::NewLink(link_message(FLANNEL.0, "mine")).into());
    let names: Vec<_> = news.iter().map(|n| matches!(n, News::Link(_, None))).collect();
    assert_eq!(names, [true, false], "{news:?}");
    assert_eq!(reader.name(FLANNEL.0), Some(name("mine")));
    let mut wanted = State::default();
    wanted.links.insert(flannel(), Link::up(LinkKind::Bridge(crate::state::Bridge::default())));
    assert!(contradicts(&news[0], &wanted, &Scope::default()));
}

#[test]
fn a_survey_is_older_than_what_is_announced_after_it_began() {
    let mut reader = reader();
    let Some(before) = link::decode(&Message::NewLink(link_message(FLANNEL.0, "flannel.1"))) else { panic!() };
    reader.read(gone(Message::NewLink(link_message(FLANNEL.0, "flannel.1"))).into());
    assert_eq!(reader.name(FLANNEL.0), Some(flannel()), "what hung on it is announced yet");
    reader.survey_begins();
    reader.read(Message::NewLink(link_message(FLANNEL.0, "mine")).into());
    reader.read(Message::NewLink(link_message(8, "born")).into());
    reader.survey_ends(&[before]);
    assert_eq!((reader.name(FLANNEL.0), reader.name(8)), (Some(name("mine")), Some(name("born"))));
    reader.survey_begins();
    reader.survey_ends(&[]);
    assert_eq!((reader.name(FLANNEL.0), reader.name(8)), (None, None));
}

#[test]
fn an_entry_that_is_not_permanent_is_no_entry() {
    let (mac, addr) = (Mac([2, 0, 0, 0, 0, 1]), IpAddr::from([10, 5, 2, 0]));
    let in_state = |message: Message, state: NeighbourState| match message {
        Message::NewNeighbour(mut inner) => {
            inner.header.state = state;
            Message::NewNeighbour(inner)
        }
        other => other,
    };
    let (neighbour, fdb) =
        (neighbour::put_neighbour(FLANNEL, addr, mac), neighbour::put_fdb(FLANNEL, mac, addr.into()));
    let key = NeighbourKey { dev: flannel(), addr };
    assert_eq!(read(neighbour.clone()), [News::Neighbour(key.clone(), Some(mac))]);
    for state in [NeighbourState::Reachable, NeighbourState::Stale, NeighbourState::Failed, NeighbourState::Other(0x42)]
    {
        assert_eq!(read(in_state(neighbour.clone(), state)), [News::Neighbour(key.clone(), None)], "{state:?}");
    }
    assert_eq!(read(gone(neighbour)), [News::Neighbour(key, None)]);
    let key = FdbKey { dev: flannel(), mac };
    assert_eq!(read(fdb.clone()), [News::Fdb(key.clone(), Some(addr.into()))]);
    assert_eq!(read(in_state(fdb.clone(), NeighbourState::Reachable)), [News::Fdb(key.clone(), None)]);
    assert_eq!(read(gone(fdb)), [News::Fdb(key, None)]);
}

/// A proxy entry of our neighbour's address, and a bridge's own entry of our peer's MAC address.
#[test]
fn entries_of_other_tables_are_not_ours() {
    let (mac, addr) = (Mac([2, 0, 0, 0, 0, 1]), IpAddr::from([10, 5, 2, 0]));
    let both = |message: Message, flags: NeighbourFlags| {
        let Message::NewNeighbour(mut inner) = message else { panic!() };
        inner.header.flags = flags;
        [read(Message::NewNeighbour(inner.clone())), read(Message::DelNeighbour(inner))]
    };
    assert_eq!(both(neighbour::put_neighbour(FLANNEL, addr, mac), NeighbourFlags::Proxy), [[], []]);
    let of_bridge = |stays| [News::Forwarding(Forwarding { port: name("flannel.1"), mac }, stays)];
    for flags in [NeighbourFlags::Controller, NeighbourFlags::empty()] {
        let entry = neighbour::put_fdb(FLANNEL, mac, addr.into());
        assert_eq!(both(entry, flags), [of_bridge(true), of_bridge(false)], "{flags:?}");
    }
}

#[test]
fn a_bridge_moves_what_it_has_learned() {
    let Message::NewNeighbour(mut learned) =
        neighbour::put_fdb(FLANNEL, Mac([2; 6]), IpAddr::from([10, 5, 2, 0]).into())
    else {
        panic!()
    };
    (learned.header.flags, learned.header.state) = (NeighbourFlags::empty(), NeighbourState::Reachable);
    let stays = |message: &NeighbourMessage| match &read(Message::NewNeighbour(message.clone()))[..] {
        [News::Forwarding(_, stays)] => *stays,
        other => panic!("{other:?}"),
    };
    assert!(!stays(&learned));
    learned.header.flags = NeighbourFlags::Sticky;
    assert!(stays(&learned));
}

/// The kernel announces a new link's addresses, neighbours and settings before the link.
#[test]
fn what_is_on_a_link_that_is_not_announced_yet_is_no_news() {
    let stranger = IfIndex(99);
    let net = "10.5.1.0/32".parse().unwrap();
    for message in [
        address::add(stranger, net, &Address::default()),
        neighbour::put_neighbour(stranger, "10.5.2.0".parse().unwrap(), Mac([2; 6])),
        neighbour::put_fdb(stranger, Mac([2; 6]), IpAddr::from([192, 0, 2, 1]).into()),
    ] {
        assert_eq!(read(message.clone()), [], "{message:?}");
        assert_eq!(read(gone(message.clone())), [], "{message:?}");
    }
}

fn to_peer() -> (RouteKey, Route) {
    let via = Some([10, 5, 2, 0].into());
    (RouteKey::main("10.5.2.0/24".parse().unwrap()), Route { via, onlink: true, ..Route::by(&flannel()) })
}

fn route_message() -> netlink_packet_route::route::RouteMessage {
    let (key, route) = to_peer();
    let Some(Message::NewRoute(message)) = route::put(&key, &route, &reader()) else { panic!() };
    message
}

#[test]
fn a_route_of_another_sort_is_read_as_what_it_is() {
    let (key, route) = to_peer();
    assert_eq!(read(Message::NewRoute(route_message())), [News::Route(key.clone(), Some(route.clone()))]);
    assert_eq!(read(Message::DelRoute(route_message())), [News::Route(key.clone(), None)]);
    let mut unreachable = route_message();
    unreachable.header.kind = RouteType::Unreachable;
    let mut several = route_message();
    several.attributes.retain(|a| !matches!(a, RouteAttribute::Oif(_) | RouteAttribute::Gateway(_)));
    several.attributes.push(RouteAttribute::MultiPath(vec![RouteNextHop::default(), RouteNextHop::default()]));
    let nowhere = Route { kind: RouteKind::Other(7), dev: None, ..route.clone() };
    let two_ways = Route { dev: None, via: None, scope: Some(0), further: true, ..route };
    for (message, is) in [(unreachable, nowhere), (several, two_ways)] {
        assert_eq!(read(Message::NewRoute(message.clone())), [News::Route(key.clone(), Some(is))], "{message:?}");
        assert_eq!(read(Message::DelRoute(message.clone())), [News::Route(key.clone(), None)], "{message:?}");
    }
    let mut for_some = route_message();
    for_some.header.source_prefix_length = 64;
    assert_eq!(read(Message::NewRoute(for_some)), []);
}

#[test]
fn a_route_behind_ours_leaves_ours_alone() {
    let (key, route) = to_peer();
    let mut wanted = State::default();
    wanted.routes.insert(key, route);
    let mut other = route_message();
    other.header.protocol = 186.into();
    for (flags, contradictory) in [(NLM_F_APPEND, false), (0, true)] {
        let [announcement] = &announcements(&bytes(Message::NewRoute(other.clone()), flags))[..] else { panic!() };
        let news = reader().read(announcement.clone());
        assert_eq!(contradicts(&news[0], &wanted, &Scope::default()), contradictory, "{news:?}");
    }
}

/// A pod may have several routes to one prefix, and an announcement does not say which of them it is about.
#[test]
fn any_of_the_routes_that_are_wanted_under_one_key_agrees() {
    let (key, first) = to_peer();
    let second = Route { via: Some([10, 5, 3, 0].into()), ..first.clone() };
    let third = Route { via: Some([10, 5, 4, 0].into()), ..first.clone() };
    let mut wanted = State::default();
    wanted.routes.insert(key.clone(), first.clone());
    wanted.routes.insert(RouteKey { ordinal: 1, ..key.clone() }, second.clone());
    for (route, contradictory) in [(first, false), (second, false), (third, true)] {
        let news = News::Route(key.clone(), Some(route));
        assert_eq!(contradicts(&news, &wanted, &Scope::default()), contradictory, "{news:?}");
    }
}

/// AF_BRIDGE messages are about the port only: the link stays when it leaves its bridge.
#[test]
fn a_port_is_read_with_its_vlans() {
    let id = |id| VlanId::new(id).unwrap();
    let Message::SetLink(mut message) = vlan::add(FLANNEL, id(5), Vlan { pvid: true, untagged: true }) else {
        panic!()
    };
    message.attributes.push(LinkAttribute::IfName("veth1".into()));
    // A first and a last one: numbers 100 to 102.
    for (flags, vid) in [(8, 100_u16), (16, 102)] {
        let Message::SetLink(more) = vlan::add(FLANNEL, id(vid), Vlan::default()) else { panic!() };
        let (mut bits, mut all) = (flags, Vec::new());
        for attribute in more.attributes {
            let LinkAttribute::AfSpecBridge(specs) = attribute else { continue };
            all.extend(specs.into_iter().map(|spec| match spec {
                netlink_packet_route::link::AfSpecBridge::VlanInfo(mut info) => {
                    info.flags = netlink_packet_route::link::BridgeVlanInfoFlags::from_bits_retain(bits);
                    bits = 0;
                    netlink_packet_route::link::AfSpecBridge::VlanInfo(info)
                }
                other => other,
            }));
        }
        for attribute in &mut message.attributes {
            if let LinkAttribute::AfSpecBridge(specs) = attribute {
                specs.append(&mut all);
            }
        }
    }
    assert_eq!(message.header.interface_family, AddressFamily::Bridge);
    let tagged = Vlan::default();
    let vlans = [(id(5), Vlan { pvid: true, untagged: true }), (id(100), tagged), (id(101), tagged), (id(102), tagged)];
    assert_eq!(read(Message::NewLink(message.clone())), [News::Vlans(name("veth1"), vlans.into())]);
    let left = [News::Vlans(name("veth1"), BTreeMap::new()), News::Port(name("veth1"), None)];
    assert_eq!(read(Message::DelLink(message)), left);
}

fn bytes(message: Message, flags: u16) -> Vec<u8> {
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
    message.finalize();
    message.header.flags = flags;
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// One message of `kind`.
fn raw(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ((16 + payload.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([0; 10]);
    bytes.extend(payload);
    bytes
}

fn read_raw(kind: u16, payload: &[u8]) -> Vec<News> {
    let mut reader = reader();
    announcements(&raw(kind, payload)).into_iter().flat_map(|announcement| reader.read(announcement)).collect()
}

/// RTM_NEWNETCONF: the family, NETCONFA_IFINDEX and one value.
fn netconf(family: u8, ifindex: i32, kind: u16, value: i32) -> Vec<u8> {
    let mut payload = vec![family, 0, 0, 0];
    for (kind, value) in [(1, ifindex), (kind, value)] {
        payload.extend(8_u16.to_ne_bytes());
        payload.extend(kind.to_ne_bytes());
        payload.extend(value.to_ne_bytes());
    }
    payload
}

#[test]
fn settings_of_ip_are_sysctls() {
    let sysctl = |path: &str, value: &str| News::Sysctl(path.into(), value.into());
    let (v4, v6) = (libc::AF_INET as u8, libc::AF_INET6 as u8);
    let all = [sysctl("net/ipv4/conf/all/forwarding", "0"), sysctl("net/ipv4/ip_forward", "0")];
    assert_eq!(read_raw(80, &netconf(v4, -1, 2, 0)), all);
    assert_eq!(read_raw(80, &netconf(v6, -1, 2, 0)), [sysctl("net/ipv6/conf/all/forwarding", "0")]);
    assert_eq!(read_raw(80, &netconf(v4, 7, 2, 0)), [sysctl("net/ipv4/conf/flannel.1/forwarding", "0")]);
    assert_eq!(read_raw(80, &netconf(v4, -2, 3, 1)), [sysctl("net/ipv4/conf/default/rp_filter", "1")]);
    assert_eq!(read_raw(80, &netconf(v4, 99, 2, 0)), [], "a link that is not announced yet");
    assert_eq!(read_raw(80, &netconf(v6, -1, 3, 0)), [], "IPv6 has no rp_filter");
    let mut wanted = State::default();
    wanted.sysctls.insert("net/ipv4/ip_forward".into(), "1".into());
    assert!(all.iter().any(|news| contradicts(news, &wanted, &Scope::default())));
    assert!(!read_raw(80, &netconf(v4, -1, 2, 1)).iter().any(|news| contradicts(news, &wanted, &Scope::default())));
}

#[test]
fn what_cannot_be_read_is_news() {
    let cut = |kind, payload: &[u8]| matches!(read_raw(kind, payload)[..], [News::Unreadable(_)]);
    for kind in [16, 17, 20, 21, 24, 25, 28, 29, 80] {
        assert!(cut(kind, &[2]), "message type {kind}");
    }
    assert!(cut(200, &[0; 16]), "an unknown type");
    assert!(cut(80, &netconf(2, -1, 2, 0)[..14]), "settings that are cut short");
    assert_eq!(read_raw(30, &[2]), [], "RTM_GETNEIGH asks");
    assert!(matches!(announcements(&[1, 2, 3])[..], [Announcement { body: announcement::Body::Unreadable(_), .. }]));
    let mut nameless = link_message(FLANNEL.0, "flannel.1");
    nameless.attributes.clear();
    assert!(matches!(read(Message::NewLink(nameless))[..], [News::Unreadable(_)]));
}

/// A wireless event has no name and does not describe the link; other families have their own settings.
#[test]
fn an_event_of_a_link_is_no_news() {
    let mut event = vec![0; 16];
    event[4..8].copy_from_slice(&7_i32.to_ne_bytes());
    // IFLA_WIRELESS (linux/if_link.h) with struct iw_event: its length and SIOCGIWAP
    event.extend([20, 0, 11, 0, 16, 0, 0x15, 0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(read_raw(16, &event), []);
    let mut inet6 = link_message(FLANNEL.0, "flannel.1");
    inet6.header.interface_family = AddressFamily::Inet6;
    assert_eq!(read(Message::NewLink(inet6)), []);
}
