//! Targets: bytes from the kernel and from the network.

#![expect(clippy::unwrap_used, reason = "a target fails by panicking")]

use std::net::IpAddr;

use kernel::message::neighbour::{self, SeenNeighbour};
use kernel::message::{Names, address, link, route, vlan};
use kernel::message::{read_datagram, read_queues, write_queues};
use kernel::news::{Reader, announcements, contradicts};
use kernel::nft::{self, NftFamily, TableKey};
use kernel::state::{
    Address, Bridge, Filter, FilterAction, FilterKey, Link, LinkKind, Qdisc, QdiscKey, QdiscPlace, Route, RouteKey,
    Scope, Selects, State, Tbf,
};
use kernel::types::{IfIndex, IfName, Mac, RouteProtocol, VlanId, masked};
use lab::capture::decode;
use netlink_packet_core::{NLM_F_ACK, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;

/// Links called `l` with their index.
struct Numbered;

impl Names for Numbered {
    fn name(&self, index: u32) -> Option<IfName> {
        IfName::new(&format!("l{index}")).ok()
    }

    fn index(&self, name: &IfName) -> Option<IfIndex> {
        name.as_str().strip_prefix('l')?.parse().ok().map(IfIndex)
    }
}

/// A decoded object is decoded the same from the message that creates it.
pub fn rtnetlink(bytes: &[u8]) {
    let mut reader = Reader::default();
    let news = announcements(bytes).into_iter().flat_map(|announcement| reader.read(announcement));
    news.for_each(|news| {
        contradicts(&news, &State::default(), &Scope::default());
    });
    let (objects, refusals) = read_datagram(bytes);
    refusals.iter().for_each(|refusal| drop(refusal.to_string()));
    for object in &objects {
        if let Some(seen) = link::decode(object) {
            let _ = seen.named(&Numbered);
        }
        if let Some((key, route)) = route::decode(object, &Numbered) {
            same_route(&key, &route);
        }
        let _ = route::decode_lookup(object, &Numbered);
        if let Some(seen) = address::decode(object, &Numbered) {
            let index = Numbered.index(&seen.key.dev).unwrap();
            let again = address::decode(&address::add(index, seen.key.net, &seen.address), &Numbered).unwrap();
            assert_eq!(again.key, seen.key);
        }
        match neighbour::decode(object, &Numbered) {
            Some(SeenNeighbour::Neighbour(key, mac)) => {
                let index = Numbered.index(&key.dev).unwrap();
                let again = neighbour::decode(&neighbour::put_neighbour(index, key.addr, mac), &Numbered);
                assert_eq!(again, Some(SeenNeighbour::Neighbour(key, mac)));
            }
            Some(SeenNeighbour::Fdb(key, entry)) => {
                let index = Numbered.index(&key.dev).unwrap();
                let again = neighbour::decode(&neighbour::put_fdb(index, key.mac, entry), &Numbered);
                assert_eq!(again, Some(SeenNeighbour::Fdb(key, entry)));
            }
            None => {}
        }
        assert!(vlan::decode(object, &Numbered).iter().all(|(key, _)| key.id.get() < 4095));
    }
}

fn same_route(key: &RouteKey, route: &Route) {
    // a route from the kernel has no host bits; and a gateway of the other family is encoded differently
    let via_other = route.via.is_some_and(|via| via.is_ipv4() != key.dst.is_ipv4());
    if key.dst != masked(key.dst) || via_other || route.src.is_some_and(|src| src.is_ipv4() != key.dst.is_ipv4()) {
        return;
    }
    let Some(message) = route::put(key, route, &Numbered) else { return };
    let (again_key, again) = route::decode(&message, &Numbered).unwrap();
    assert_eq!((again_key.dst, again_key.table), (key.dst, key.table));
    assert_eq!((again.via, again.kind, again.protocol, again.src), (route.via, route.kind, route.protocol, route.src));
}

fn datagram(messages: Vec<RouteNetlinkMessage>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (sequence, message) in (1..).zip(messages) {
        let mut header = NetlinkHeader::default();
        (header.flags, header.sequence_number) = (NLM_F_ACK, sequence);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        bytes.extend(buffer);
    }
    bytes
}

/// Messages of this library, which have the form of the kernel's replies.
pub fn rtnetlink_seeds() -> Vec<Vec<u8>> {
    let (index, dev) = (IfIndex(3), IfName::new("l3").unwrap());
    let (net, addr, mac) = ("10.1.0.0/16", IpAddr::from([192, 0, 2, 2]), Mac([2, 0, 0, 0, 0, 9]));
    let by = |dst: &str, via: Option<IpAddr>| {
        let route = Route { via, onlink: true, protocol: RouteProtocol::FLANNEL, ..Route::by(&dev) };
        route::put(&RouteKey::main(dst.parse().unwrap()), &route, &Numbered).unwrap()
    };
    let bridge = link::create(
        &dev,
        &Link::up(LinkKind::Bridge(Bridge { vlan_filtering: true, ..Bridge::default() })),
        &Numbered,
    )
    .unwrap();
    let mut refused = 36_u32.to_ne_bytes().to_vec();
    refused.extend([2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    refused.extend((-17_i32).to_ne_bytes());
    refused.extend([0; 16]);
    vec![
        datagram(vec![by(net, Some(addr)), by("fd00::/64", None)]),
        datagram(vec![address::add(index, "10.1.0.1/24".parse().unwrap(), &Address::default())]),
        datagram(vec![neighbour::put_neighbour(index, addr, mac), neighbour::put_fdb(index, mac, addr.into())]),
        datagram(vec![bridge, vlan::add(index, VlanId::new(7).unwrap(), kernel::state::Vlan::default())]),
        refused,
    ]
}

/// Whatever the kernel says about a table can be decoded and printed.
pub fn nftables(bytes: &[u8]) {
    for family in [NftFamily::Inet, NftFamily::Bridge] {
        let view = nft::read_datagram(bytes, &TableKey { family, name: "t".into() });
        assert!(format!("{view:?}").len() > 1);
        assert!(view.chains.iter().all(|chain| view.has_chain(&chain.name)));
    }
}

/// An nf_tables message of this kind, with attributes.
fn nft_message(kind: u8, attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![1, 0, 0, 0];
    attributes.iter().for_each(|(kind, value)| body.extend(attribute(*kind, value)));
    let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
    bytes.extend([kind, 10, 0, 0]);
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub fn nftables_seeds() -> Vec<Vec<u8>> {
    let be32 = |number: u32| number.to_be_bytes().to_vec();
    let text = |text: &str| [text.as_bytes(), b"\0"].concat();
    let hook = [attribute(1, &be32(4)), attribute(2, &be32(100))].concat();
    let meta = [attribute(1, &be32(1)), attribute(2, &be32(4))].concat();
    let expression = [attribute(1, &text("meta")), attribute(2, &meta)].concat();
    let key = attribute(1, &attribute(1, &[10, 1, 0, 2]));
    let element = attribute(1, &key);
    vec![
        nft_message(0, &[(1, text("t"))]),
        nft_message(3, &[(1, text("t")), (3, text("post")), (4, hook), (5, be32(1)), (7, text("nat"))]),
        nft_message(6, &[(1, text("t")), (2, text("post")), (3, vec![0; 8]), (4, attribute(1, &expression))]),
        [
            nft_message(9, &[(1, text("t")), (2, text("s")), (3, be32(0)), (4, be32(7)), (5, be32(4))]),
            nft_message(12, &[(1, text("t")), (2, text("s")), (3, element)]),
        ]
        .concat(),
    ]
}

/// The packet inside VXLAN is not longer than the packet around it.
pub fn packet(bytes: &[u8]) {
    let Some(frame) = decode(bytes, 8472) else { return };
    assert_eq!(frame.length(), bytes.len());
    assert!(frame.outer.as_ref().is_none_or(|(outer, vni)| frame.inner.length < outer.length && *vni < 1 << 24));
    assert!(!frame.inner.to_string().is_empty());
}

pub fn packet_seeds() -> Vec<Vec<u8>> {
    let ethernet = |kind: [u8; 2]| [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &kind].concat();
    let ipv4 = |protocol: u8, payload: &[u8]| {
        let length = (20 + payload.len() as u16).to_be_bytes();
        let mut header = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
        header.extend([10, 1, 0, 1, 10, 1, 0, 2]);
        [header, payload.to_vec()].concat()
    };
    let echo = [ethernet([8, 0]), ipv4(1, &[8, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3, 4])].concat();
    let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &echo].concat();
    let length = (8 + vxlan.len() as u16).to_be_bytes();
    let udp = [&[0x30, 0x39, 0x21, 0x18, length[0], length[1], 0, 0][..], &vxlan].concat();
    let mut ipv6 = vec![0x60, 0, 0, 0, 0, 8, 58, 64];
    ipv6.extend([0xfd; 32]);
    ipv6.extend([128, 0, 0, 0, 0, 7, 0, 1]);
    vec![echo.clone(), [ethernet([8, 0]), ipv4(17, &udp)].concat(), [ethernet([0x86, 0xdd]), ipv6].concat()]
}

/// Queueing disciplines and filters. What is read is written so that it is read again.
pub fn traffic_control(bytes: &[u8]) {
    let found = read_queues(bytes, &Numbered);
    let again = read_queues(&write_queues(&found, &Numbered), &Numbered);
    assert!(again.qdiscs.iter().all(|(key, qdisc)| found.qdiscs[key].agrees(qdisc)), "{found:?} {again:?}");
    assert!(again.filters.iter().all(|(key, filter)| found.filters[key] == *filter), "{found:?} {again:?}");
}

pub fn traffic_control_seeds() -> Vec<Vec<u8>> {
    let (dev, to) = (IfName::new("l3").unwrap(), IfName::new("l4").unwrap());
    let mut state = State::default();
    let qdisc = |place| QdiscKey { dev: dev.clone(), place };
    state.qdiscs.insert(qdisc(QdiscPlace::Root), Qdisc::Tbf(Tbf { rate: 125_000, burst: 25_000, limit: 28_125 }));
    state.qdiscs.insert(qdisc(QdiscPlace::Ingress), Qdisc::Ingress);
    let nets = ["10.1.0.0/16", "fd05::/48"].map(|net| (Selects::To(net.parse().unwrap()), FilterAction::Pass));
    let all = (Selects::All, FilterAction::Redirect(Some(to)));
    for (prio, (selects, action)) in (1..).zip(nets.into_iter().chain([all])) {
        state.filters.insert(FilterKey { dev: dev.clone(), prio }, Filter { selects, action });
    }
    let whole = write_queues(&state, &Numbered);
    vec![write_queues(&State { filters: Default::default(), ..state }, &Numbered), whole]
}
