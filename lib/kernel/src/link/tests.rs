//! Properties of every kind: it is read as it was written, and its desired fields are reached.

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_packet_route::RouteNetlinkMessage;

use super::text::Creation;
use super::*;
use crate::diff::{LinkChange, Step};
use crate::message::{Names, link as codec};
use crate::state::{Birth, Link};
use crate::types::{IfIndex, Mac, Mtu, VlanId, Vni};

struct Eth0;

impl Names for Eth0 {
    fn name(&self, index: u32) -> Option<IfName> {
        (index == 2).then(|| name("eth0"))
    }

    fn index(&self, name: &IfName) -> Option<IfIndex> {
        (name.as_str() == "eth0").then_some(IfIndex(2))
    }
}

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn vni(vni: u32) -> Vni {
    Vni::new(vni).unwrap()
}

/// Each kind that a message creates, once plain and once with every field set.
fn kinds() -> Vec<LinkKind> {
    let rich = Vxlan {
        lower: Some(name("eth0")),
        local: "2001:db8::1".parse().ok(),
        port: Some(4789),
        learning: true,
        gbp: true,
        ttl: VxlanTtl::Hops(9),
        df: VxlanDf::Set,
        ..Vxlan::new(vni(77))
    };
    let ipip = Ipip { local: "192.0.2.1".parse().ok(), remote: "192.0.2.2".parse().ok(), ttl: 3, pmtudisc: true };
    let mut kinds = vec![
        LinkKind::Bridge(Bridge::default()),
        LinkKind::Bridge(Bridge { vlan_filtering: true, ..Bridge::default() }),
        LinkKind::Veth(Veth::default()),
        LinkKind::Vxlan(Vxlan::new(vni(1))),
        LinkKind::Vxlan(rich.clone()),
        LinkKind::Vxlan(Vxlan { ttl: VxlanTtl::Inherit, df: VxlanDf::Inherit, ..rich }),
        LinkKind::Ipip(Ipip::default()),
        LinkKind::Ipip(ipip),
        LinkKind::Wireguard,
        LinkKind::Dummy,
        LinkKind::Vlan(VlanDevice::on(name("eth0"), VlanId::new(4094).unwrap())),
        LinkKind::Vlan(VlanDevice { lower: Some(name("eth0")), id: None, protocol: VlanProtocol::Dot1ad }),
        LinkKind::Macvlan(Macvlan { bc_queue_len: Some(7), ..Macvlan::on(name("eth0"), MacvlanMode::Source) }),
        LinkKind::Ifb,
        LinkKind::Other("nlmon".to_owned()),
    ];
    use MacvlanMode::{Bridge as Direct, Passthru, Private, Vepa};
    kinds.extend([Direct, Private, Vepa, Passthru].map(|mode| LinkKind::Macvlan(Macvlan::on(name("eth0"), mode))));
    for mode in [IpvlanMode::L2, IpvlanMode::L3, IpvlanMode::L3s] {
        for isolation in [IpvlanIsolation::Bridge, IpvlanIsolation::Private, IpvlanIsolation::Vepa] {
            kinds.push(LinkKind::Ipvlan(Ipvlan { isolation, ..Ipvlan::on(name("eth0"), mode) }));
        }
    }
    kinds
}

/// The message as it arrives at the other end of a socket.
fn through_bytes(message: &RouteNetlinkMessage) -> RouteNetlinkMessage {
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let mut header = NetlinkHeader::default();
    header.message_type = message.message_type();
    RouteNetlinkMessage::deserialize(&header, &bytes).unwrap()
}

fn seen(message: &RouteNetlinkMessage) -> Link {
    codec::decode(&through_bytes(message)).unwrap().named(&Eth0)
}

#[test]
fn every_kind_is_read_as_it_was_written() {
    for kind in kinds() {
        let message = codec::create(&name("l"), &Link::up(kind.clone()), &Eth0).unwrap();
        assert_eq!(seen(&message).kind, kind);
    }
}

#[test]
fn what_nobody_makes_by_message_has_none() {
    for kind in [LinkKind::Loopback, LinkKind::TunTap(TunTap::default()), LinkKind::Other(String::new())] {
        assert_eq!(codec::create(&name("l"), &Link::up(kind), &Eth0), None);
    }
    let lost = LinkKind::Macvlan(Macvlan::on(name("nosuch"), MacvlanMode::Bridge));
    assert_eq!(codec::create(&name("l"), &Link::up(lost), &Eth0), None);
}

/// One change turns a link into another of its kind, or nothing does; a link never changes its kind.
#[test]
fn a_change_leads_to_what_is_wanted() {
    for want in kinds() {
        for have in kinds() {
            if !have.can_become(&want) {
                continue;
            }
            assert_eq!(want.word(), have.word());
            let Some(change) = want.change(&have) else { continue };
            assert_eq!(want.change(&change), None, "{want:?} from {have:?}");
            let change = LinkChange { kind: Some(change), ..LinkChange::default() };
            assert!(codec::change(&name("l"), &change, &Eth0).is_some());
        }
        assert_eq!(want.change(&want), None, "{want:?}");
        assert!(want.can_become(&want));
    }
}

#[test]
fn what_the_kernel_refuses_to_change_is_made_anew() {
    let vxlan = |vxlan: Vxlan| LinkKind::Vxlan(vxlan);
    let macvlan = |mode| LinkKind::Macvlan(Macvlan::on(name("eth0"), mode));
    let base = || Vxlan { local: "192.0.2.1".parse().ok(), ..Vxlan::new(vni(1)) };
    let fixed = [
        (vxlan(base()), vxlan(Vxlan { ttl: VxlanTtl::Inherit, ..base() })),
        (vxlan(base()), vxlan(Vxlan { port: Some(4789), ..base() })),
        (vxlan(base()), vxlan(Vxlan { local: "2001:db8::1".parse().ok(), ..base() })),
        (macvlan(MacvlanMode::Bridge), macvlan(MacvlanMode::Passthru)),
        (macvlan(MacvlanMode::Bridge), LinkKind::Macvlan(Macvlan::on(name("eth1"), MacvlanMode::Bridge))),
        (LinkKind::Dummy, LinkKind::Wireguard),
    ];
    for (have, want) in fixed {
        assert!(!have.can_become(&want) && !want.can_become(&have), "{have:?} {want:?}");
    }
    let hops = vxlan(Vxlan { ttl: VxlanTtl::Hops(1), df: VxlanDf::Set, ..base() });
    assert!(hops.can_become(&vxlan(base())));
    assert_eq!(vxlan(base()).change(&hops), Some(vxlan(base())));
    // The local address is not desired, so it stays.
    let here = Ipip { local: "192.0.2.1".parse().ok(), ttl: 7, pmtudisc: true, remote: None };
    let calm = Ipip { local: here.local, ..Ipip::default() };
    assert_eq!(LinkKind::Ipip(Ipip::default()).change(&LinkKind::Ipip(here)), Some(LinkKind::Ipip(calm)));
}

fn command(link: Link) -> String {
    Step::CreateLink(name("eth0"), link).to_string()
}

#[test]
fn a_step_prints_the_command_that_does_it() {
    let on_eth1 = LinkKind::Macvlan(Macvlan::on(name("eth1"), MacvlanMode::Bridge));
    let vxlan = Vxlan { lower: Some(name("eth1")), local: "192.0.2.1".parse().ok(), ..Vxlan::new(vni(1)) };
    let full = Link {
        mtu: Some(Mtu(1450)),
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        master: Some(Some(name("br0"))),
        arp: Some(false),
        ..Link::up(LinkKind::Vxlan(vxlan))
    };
    let tap = TunTap { tap: true, owner: Some(7), ..TunTap::default() };
    let vlan = LinkKind::Vlan(VlanDevice::on(name("eth1"), VlanId::new(5).unwrap()));
    let ipvlan = LinkKind::Ipvlan(Ipvlan::on(name("eth1"), IpvlanMode::L3s));
    let peer = VethPeer { name: name("p"), mac: Some(Mac([2, 0, 0, 0, 0, 2])), mtu: Some(Mtu(1400)), netns: None };
    let veth = LinkKind::Veth(Veth { peer: Some(Box::new(peer)) });
    for (link, expected) in [
        (
            full,
            "ip link add eth0 mtu 1450 address 02:00:00:00:00:01 master br0 arp off type vxlan id 1 dev eth1 \
             local 192.0.2.1 dstport 8472 nolearning udpcsum",
        ),
        (
            Link { birth: Birth::Parent, ..Link::up(on_eth1) },
            "ip link add link eth1 name eth0 netns $NETNS type macvlan mode bridge",
        ),
        (Link::up(vlan), "ip link add link eth1 name eth0 type vlan protocol 802.1Q id 5"),
        (Link::up(ipvlan), "ip link add link eth1 name eth0 type ipvlan mode l3s bridge"),
        (
            Link::up(veth),
            "ip link add eth0 numtxqueues 1 numrxqueues 1 type veth peer name p numtxqueues 1 numrxqueues 1 \
             address 02:00:00:00:00:02 mtu 1400",
        ),
        (Link::up(LinkKind::TunTap(tap)), "ip tuntap add dev eth0 mode tap vnet_hdr user 7"),
        (
            Link { birth: Birth::Moved(name("ens3")), ..Link::up(LinkKind::Other(String::new())) },
            "ip link set dev ens3 netns $NETNS name eth0 alias \"ens3\"",
        ),
    ] {
        assert_eq!(command(link), expected);
    }
    let link = Link { birth: Birth::Parent, ..Link::up(LinkKind::Dummy) };
    let elsewhere = Creation { name: &name("eth0"), link: &link, netns: "/proc/7/fd/3" };
    assert_eq!(elsewhere.to_string(), "ip link add eth0 netns /proc/7/fd/3 type dummy");
}

#[test]
fn a_lower_link_elsewhere_has_no_name_here() {
    let link = Link::up(LinkKind::Macvlan(Macvlan::on(name("eth0"), MacvlanMode::Bridge)));
    let Some(RouteNetlinkMessage::NewLink(mut message)) = codec::create(&name("l"), &link, &Eth0) else { panic!() };
    message.attributes.push(LinkAttribute::LinkNetNsId(0));
    let seen = seen(&RouteNetlinkMessage::NewLink(message));
    assert_eq!((seen.kind.lower(), seen.birth), (None, Birth::Parent));
}
