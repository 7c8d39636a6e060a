//! Links: RTM_NEWLINK, RTM_SETLINK, RTM_DELLINK (Documentation/netlink/specs/rt-link.yaml).

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;

use netlink_packet_core::Nla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, InfoBridge, InfoBridgePort, InfoData, InfoIpTunnel, InfoKind, InfoMacVlan, InfoPortData,
    InfoPortKind, InfoTun, InfoVeth, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
    MacVlanMode, State as OperState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::Names;
use crate::diff::LinkChange;
use crate::state::{Ipip, Link, LinkKind, MacvlanMode, Port, TunTap, VethPeer, Vxlan};
use crate::types::{IfIndex, IfName, Mac, Mtu, Vni};

/// The port the kernel takes when a VXLAN device names none (`vxlan_port`, drivers/net/vxlan/vxlan_core.c). IANA's
/// 4789 came later.
pub const KERNEL_VXLAN_PORT: u16 = 8472;

/// A link as the kernel describes it, references to other links still as indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenLink {
    /// Its number.
    pub index: IfIndex,
    /// Its name.
    pub name: IfName,
    /// What can be said without other links' names.
    pub link: Link,
    /// IFLA_MASTER
    pub master: Option<u32>,
    /// IFLA_LINK or IFLA_VXLAN_LINK
    pub lower: Option<u32>,
    /// The flags of a bridge port.
    pub port: Option<Port>,
    /// IF_OPER_UP, or unknown for links that do not tell.
    pub running: bool,
    /// IF_OPER_* in the kernel's word.
    pub operstate: String,
    /// Some of `net/ipv6/conf/NAME`; `None` where the link has no IPv6.
    pub ipv6: Option<Ipv6Conf>,
}

/// What of a link's IPv6 parameters comes with every answer about it (IFLA_INET6_CONF).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ipv6Conf {
    /// `accept_ra`: 0 takes no router advertisement, 1 only while not forwarding, 2 always.
    pub accept_ra: i32,
    /// `forwarding` is on.
    pub forwarding: bool,
    /// `disable_ipv6` is on.
    pub disabled: bool,
}

impl Ipv6Conf {
    /// Router advertisements change the host's routes now (`ipv6_accept_ra`, net/ipv6/ndisc.c).
    pub fn takes_routers(self) -> bool {
        !self.disabled && if self.forwarding { self.accept_ra == 2 } else { self.accept_ra != 0 }
    }
}

impl SeenLink {
    /// The link with names in place of indexes.
    pub fn named(&self, names: &dyn Names) -> Link {
        let mut link = self.link.clone();
        link.master = self.master.and_then(|i| names.name(i));
        let below = self.lower.and_then(|i| names.name(i));
        match &mut link.kind {
            LinkKind::Vxlan(vxlan) => vxlan.lower = below,
            LinkKind::Macvlan { lower, .. } => {
                if let Some(below) = below {
                    *lower = below;
                }
            }
            _ => {}
        }
        link
    }
}

fn message(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Unspec;
    message.header.index = index;
    message.attributes = attributes;
    message
}

/// `ip -d link show dev NAME`, without statistics.
pub fn get_by_name(name: &IfName) -> Message {
    Message::GetLink(message(
        0,
        vec![LinkAttribute::IfName(name.as_str().to_owned()), LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])],
    ))
}

/// The link with `index`.
pub fn get_by_index(index: u32) -> Message {
    Message::GetLink(message(index, vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])]))
}

/// `ip -d link show`, without statistics.
pub fn get_all() -> Message {
    Message::GetLink(message(0, vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])]))
}

/// `ip link add …`: created down, so that sysctls can be written before anything is up. `None` when a link that it
/// refers to is not known, or its kind is not made this way.
pub fn create(name: &IfName, link: &Link, names: &dyn Names) -> Option<Message> {
    let mut attributes = vec![LinkAttribute::IfName(name.as_str().to_owned())];
    if let Some(Mtu(mtu)) = link.mtu {
        attributes.push(LinkAttribute::Mtu(mtu));
    }
    if let Some(Mac(mac)) = link.mac {
        attributes.push(LinkAttribute::Address(mac.to_vec()));
    }
    if let Some(master) = &link.master {
        attributes.push(LinkAttribute::Controller(names.index(master)?.0));
    }
    if let LinkKind::Macvlan { lower, .. } = &link.kind {
        attributes.push(LinkAttribute::Link(names.index(lower)?.0));
    }
    if matches!(link.kind, LinkKind::Veth { .. }) {
        attributes.extend(ONE_QUEUE);
    }
    attributes.push(LinkAttribute::LinkInfo(info(&link.kind, names)?));
    Some(Message::NewLink(message(0, attributes)))
}

/// A veth has a pair of queues for each possible CPU unless told otherwise, and each queue is an object of its own in
/// sysfs, with its own event for udev. It never queues (noqueue, NETIF_F_LLTX): the rest is only registered and removed.
const ONE_QUEUE: [LinkAttribute; 2] = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];

fn info(kind: &LinkKind, names: &dyn Names) -> Option<Vec<LinkInfo>> {
    let (kind, data) = match kind {
        LinkKind::Bridge { vlan_filtering: false } => (InfoKind::Bridge, None),
        LinkKind::Bridge { vlan_filtering: true } => {
            (InfoKind::Bridge, Some(InfoData::Bridge(vec![InfoBridge::VlanFiltering(true)])))
        }
        LinkKind::Veth { peer } => {
            (InfoKind::Veth, peer.as_ref().map(|p| InfoData::Veth(InfoVeth::Peer(veth_peer(p)))))
        }
        LinkKind::Vxlan(vxlan) => (InfoKind::Vxlan, Some(InfoData::Vxlan(vxlan_attributes(vxlan, names, true)?))),
        LinkKind::Ipip(ipip) => (InfoKind::IpIp, Some(InfoData::IpTunnel(ipip_attributes(ipip)))),
        LinkKind::Wireguard => (InfoKind::Wireguard, None),
        LinkKind::Macvlan { mode, .. } => {
            (InfoKind::MacVlan, Some(InfoData::MacVlan(vec![InfoMacVlan::Mode(macvlan_mode(*mode))])))
        }
        LinkKind::Other(word) => (InfoKind::from(word.as_str()), None),
        LinkKind::TunTap(_) | LinkKind::Loopback => return None,
    };
    let mut info = vec![LinkInfo::Kind(kind)];
    info.extend(data.map(LinkInfo::Data));
    Some(info)
}

fn veth_peer(peer: &VethPeer) -> LinkMessage {
    // no IFF_UP here: the kernel raises the peer before its other end exists and fails with ENOTCONN
    let mut attributes = vec![LinkAttribute::IfName(peer.name.as_str().to_owned())];
    attributes.extend(ONE_QUEUE);
    if let Some(Mac(mac)) = peer.mac {
        attributes.push(LinkAttribute::Address(mac.to_vec()));
    }
    if let Some(Mtu(mtu)) = peer.mtu {
        attributes.push(LinkAttribute::Mtu(mtu));
    }
    if let Some(fd) = peer.netns {
        attributes.push(LinkAttribute::NetNsFd(fd));
    }
    message(0, attributes)
}

/// `creating` adds what the kernel takes at creation only.
fn vxlan_attributes(vxlan: &Vxlan, names: &dyn Names, creating: bool) -> Option<Vec<InfoVxlan>> {
    let mut attributes = vec![InfoVxlan::Id(vxlan.vni.get()), InfoVxlan::Learning(vxlan.learning)];
    if let Some(lower) = &vxlan.lower {
        attributes.push(InfoVxlan::Link(names.index(lower)?.0));
    }
    match vxlan.local {
        Some(IpAddr::V4(v4)) => attributes.push(InfoVxlan::Local(v4)),
        Some(IpAddr::V6(v6)) => attributes.push(InfoVxlan::Local6(v6)),
        None => {}
    }
    if creating {
        attributes.push(InfoVxlan::UDPCsum(true));
        attributes.extend(vxlan.port.map(InfoVxlan::Port));
        attributes.extend(vxlan.gbp.then_some(InfoVxlan::Gbp));
    }
    Some(attributes)
}

/// The outer packet has DF as the inner one has, as Go flannel's device does: `ip link add type ipip nopmtudisc`.
fn ipip_attributes(ipip: &Ipip) -> Vec<InfoIpTunnel> {
    let address = |addr: Option<Ipv4Addr>| IpAddr::V4(addr.unwrap_or(Ipv4Addr::UNSPECIFIED));
    vec![
        InfoIpTunnel::Local(address(ipip.local)),
        InfoIpTunnel::Remote(address(ipip.remote)),
        InfoIpTunnel::PMtuDisc(false),
    ]
}

fn macvlan_mode(mode: MacvlanMode) -> MacVlanMode {
    match mode {
        MacvlanMode::Bridge => MacVlanMode::Bridge,
        MacvlanMode::Private => MacVlanMode::Private,
        MacvlanMode::Vepa => MacVlanMode::Vepa,
        MacvlanMode::Passthru => MacVlanMode::Passthrough,
    }
}

/// An existing link, by its index or else by its name: a link that was made in the same batch has no known index.
fn existing(name: &IfName, names: &dyn Names) -> (u32, Vec<LinkAttribute>) {
    match names.index(name) {
        Some(index) => (index.0, Vec::new()),
        None => (0, vec![LinkAttribute::IfName(name.as_str().to_owned())]),
    }
}

/// `ip link set …`, every change in one message. `None` when a link that it refers to is not known.
pub fn change(name: &IfName, change: &LinkChange, names: &dyn Names) -> Option<Message> {
    let (index, mut attributes) = existing(name, names);
    if let Some(Mtu(mtu)) = change.mtu {
        attributes.push(LinkAttribute::Mtu(mtu));
    }
    if let Some(Mac(mac)) = change.mac {
        attributes.push(LinkAttribute::Address(mac.to_vec()));
    }
    if let Some(master) = &change.master {
        let master = master.as_ref().map_or(Some(0), |m| names.index(m).map(|i| i.0))?;
        attributes.push(LinkAttribute::Controller(master));
    }
    if let Some(alias) = &change.alias {
        attributes.push(LinkAttribute::IfAlias(alias.clone()));
    }
    if let Some(LinkKind::Vxlan(vxlan)) = &change.kind {
        let data = vxlan_attributes(vxlan, names, false)?;
        attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(data)),
        ]));
    }
    if let Some(LinkKind::Ipip(ipip)) = &change.kind {
        attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::IpIp),
            LinkInfo::Data(InfoData::IpTunnel(ipip_attributes(ipip))),
        ]));
    }
    if let Some(LinkKind::Bridge { vlan_filtering }) = &change.kind {
        attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::VlanFiltering(*vlan_filtering)])),
        ]));
    }
    let mut message = message(index, attributes);
    for (flag, wanted) in [(LinkFlags::Up, change.up), (LinkFlags::Promisc, change.promisc)] {
        if let Some(wanted) = wanted {
            message.header.change_mask |= flag;
            message.header.flags.set(flag, wanted);
        }
    }
    Some(Message::NewLink(message))
}

/// `bridge link set dev NAME hairpin … isolated …`
pub fn set_port(name: &IfName, port: Port, names: &dyn Names) -> Message {
    let (index, mut attributes) = existing(name, names);
    let data = vec![InfoBridgePort::HairpinMode(port.hairpin), InfoBridgePort::Isolated(port.isolated)];
    attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(data)),
    ]));
    Message::NewLink(message(index, attributes))
}

/// `ip link set dev INDEX netns FD`: costs an RCU barrier of 15–20 ms. For physical links only.
pub fn move_to(index: IfIndex, netns: RawFd) -> Message {
    Message::SetLink(message(index.0, vec![LinkAttribute::NetNsFd(netns)]))
}

/// `ip link del dev NAME`
pub fn delete(name: &IfName) -> Message {
    Message::DelLink(message(0, vec![LinkAttribute::IfName(name.as_str().to_owned())]))
}

/// `ip link del dev INDEX`
pub fn delete_by_index(index: IfIndex) -> Message {
    Message::DelLink(message(index.0, Vec::new()))
}

/// Reads a RTM_NEWLINK; `None` for anything else or for a nameless link.
pub fn decode(message: &RouteNetlinkMessage) -> Option<SeenLink> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    decode_link(message)
}

fn decode_link(message: &LinkMessage) -> Option<SeenLink> {
    let flags = message.header.flags;
    let mut seen = SeenLink {
        index: IfIndex(message.header.index),
        name: message.attributes.iter().find_map(|a| match a {
            LinkAttribute::IfName(name) => IfName::new(name).ok(),
            _ => None,
        })?,
        link: Link {
            up: flags.contains(LinkFlags::Up),
            promisc: Some(flags.contains(LinkFlags::Promisc)),
            ..Link::up(LinkKind::Other(String::new()))
        },
        master: None,
        lower: None,
        port: None,
        running: false,
        operstate: String::new(),
        ipv6: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => seen.link.mtu = Some(Mtu(*mtu)),
            LinkAttribute::Address(bytes) => seen.link.mac = bytes.first_chunk::<6>().map(|mac| Mac(*mac)),
            LinkAttribute::Controller(index) => seen.master = Some(*index).filter(|i| *i != 0),
            // a tunnel that is bound to no link says 0
            LinkAttribute::Link(index) => seen.lower = Some(*index).filter(|i| *i != 0),
            LinkAttribute::IfAlias(alias) => seen.link.alias = Some(alias.clone()),
            LinkAttribute::OperState(state) => {
                seen.running = matches!(state, OperState::Up | OperState::Unknown);
                seen.operstate = state.to_string();
            }
            LinkAttribute::LinkInfo(info) => decode_info(info, &mut seen),
            LinkAttribute::AfSpecUnspec(families) => seen.ipv6 = families.iter().find_map(decode_ipv6),
            _ => {}
        }
    }
    if flags.contains(LinkFlags::Loopback) {
        seen.link.kind = LinkKind::Loopback;
    }
    Some(seen)
}

fn decode_ipv6(family: &AfSpecUnspec) -> Option<Ipv6Conf> {
    let AfSpecUnspec::Inet6(attributes) = family else { return None };
    attributes.iter().find_map(|attribute| match attribute {
        AfSpecInet6::DevConf(conf) => Some(Ipv6Conf {
            accept_ra: conf.accept_ra,
            forwarding: conf.forwarding != 0,
            disabled: conf.disable_ipv6 != 0,
        }),
        _ => None,
    })
}

fn decode_info(info: &[LinkInfo], seen: &mut SeenLink) {
    for part in info {
        match part {
            LinkInfo::Kind(kind) => seen.link.kind = bare_kind(kind),
            LinkInfo::Data(InfoData::Bridge(data)) => {
                let vlan_filtering = data.contains(&InfoBridge::VlanFiltering(true));
                seen.link.kind = LinkKind::Bridge { vlan_filtering };
            }
            LinkInfo::Data(InfoData::Vxlan(data)) => decode_vxlan(data, seen),
            LinkInfo::Data(InfoData::Tun(data)) => seen.link.kind = LinkKind::TunTap(decode_tun(data)),
            LinkInfo::Data(InfoData::IpTunnel(data)) => decode_ipip(data, seen),
            LinkInfo::Data(InfoData::MacVlan(data)) => {
                let mode = data.iter().find_map(|a| match a {
                    InfoMacVlan::Mode(MacVlanMode::Private) => Some(MacvlanMode::Private),
                    InfoMacVlan::Mode(MacVlanMode::Vepa) => Some(MacvlanMode::Vepa),
                    InfoMacVlan::Mode(MacVlanMode::Passthrough) => Some(MacvlanMode::Passthru),
                    _ => None,
                });
                // the parent's name is put in by `SeenLink::named`; until then the link's own stands there
                seen.link.kind =
                    LinkKind::Macvlan { lower: seen.name.clone(), mode: mode.unwrap_or(MacvlanMode::Bridge) };
            }
            LinkInfo::PortData(InfoPortData::BridgePort(data)) => {
                seen.port = Some(Port {
                    hairpin: data.contains(&InfoBridgePort::HairpinMode(true)),
                    isolated: data.contains(&InfoBridgePort::Isolated(true)),
                });
            }
            _ => {}
        }
    }
}

fn bare_kind(kind: &InfoKind) -> LinkKind {
    match kind {
        InfoKind::Bridge => LinkKind::Bridge { vlan_filtering: false },
        InfoKind::Veth => LinkKind::Veth { peer: None },
        InfoKind::Wireguard => LinkKind::Wireguard,
        other => LinkKind::Other(other.to_string()),
    }
}

/// Other kinds have the same attributes: sit, ip6tnl.
fn decode_ipip(data: &[InfoIpTunnel], seen: &mut SeenLink) {
    if seen.link.kind != LinkKind::Other(InfoKind::IpIp.to_string()) {
        return;
    }
    let set = |addr: &IpAddr| match addr {
        IpAddr::V4(v4) => Some(*v4).filter(|v4| !v4.is_unspecified()),
        IpAddr::V6(_) => None,
    };
    let mut ipip = Ipip::default();
    for attribute in data {
        match attribute {
            InfoIpTunnel::Local(addr) => ipip.local = set(addr),
            InfoIpTunnel::Remote(addr) => ipip.remote = set(addr),
            _ => {}
        }
    }
    seen.link.kind = LinkKind::Ipip(ipip);
}

fn decode_vxlan(data: &[InfoVxlan], seen: &mut SeenLink) {
    let mut vxlan = Vxlan { vni: Vni::ZERO, lower: None, local: None, port: None, learning: false, gbp: false };
    for attribute in data {
        match attribute {
            InfoVxlan::Id(id) => vxlan.vni = Vni::new(*id).unwrap_or(vxlan.vni),
            InfoVxlan::Link(index) => seen.lower = Some(*index),
            InfoVxlan::Local(v4) => vxlan.local = Some(IpAddr::V4(*v4)),
            InfoVxlan::Local6(v6) => vxlan.local = Some(IpAddr::V6(*v6)),
            InfoVxlan::Port(port) => vxlan.port = Some(*port).filter(|p| *p != KERNEL_VXLAN_PORT),
            InfoVxlan::Learning(on) => vxlan.learning = *on,
            InfoVxlan::Gbp => vxlan.gbp = true,
            _ => {}
        }
    }
    seen.link.kind = LinkKind::Vxlan(vxlan);
}

/// IFLA_TUN_* (linux/if_link.h); the type is IFF_TUN or IFF_TAP.
fn decode_tun(data: &[InfoTun]) -> TunTap {
    let mut tun = TunTap::default();
    for attribute in data {
        let mut value = [0; 4];
        if attribute.value_len() <= value.len() {
            attribute.emit_value(&mut value[..attribute.value_len()]);
        }
        match attribute.kind() {
            1 => tun.owner = Some(u32::from_ne_bytes(value)),
            2 => tun.group = Some(u32::from_ne_bytes(value)),
            3 => tun.tap = i32::from(value[0]) == libc::IFF_TAP,
            7 => tun.multi_queue = value[0] != 0,
            _ => {}
        }
    }
    tun
}
