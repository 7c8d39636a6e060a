//! Links: RTM_NEWLINK, RTM_SETLINK, RTM_DELLINK (Documentation/netlink/specs/rt-link.yaml). The attributes of one kind
//! of link are in that kind's file (`crate::link`).

use std::os::fd::RawFd;

use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgePortState, InfoBridgePort, InfoKind, InfoPortData, InfoPortKind, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, State as OperState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage, RouteNetlinkMessage as Message};

use super::Names;
use crate::diff::LinkChange;
pub use crate::link::KERNEL_VXLAN_PORT;
use crate::link::{self, LinkKind, Made, Phase};
use crate::state::{Birth, Link, Passing, Port, Vxlan};
use crate::types::{IfIndex, IfName, Mac, Mtu};

/// An observed link. It refers to other links by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenLink {
    /// The link's index.
    pub index: IfIndex,
    /// The link's name.
    pub name: IfName,
    /// The fields that need no other link's name.
    pub link: Link,
    /// The index of the master, such as a bridge (IFLA_MASTER).
    pub master: Option<u32>,
    /// The index of the lower link (IFLA_LINK or IFLA_VXLAN_LINK).
    pub lower: Option<u32>,
    /// The index of a lower link that is in another namespace; it is valid there (IFLA_LINK).
    pub lower_elsewhere: Option<u32>,
    /// The flags of a bridge port; `None` for other links.
    pub port: Option<Port>,
    /// Operational state IF_OPER_UP, or unknown for links that do not report it.
    pub running: bool,
    /// The operational state (IF_OPER_*) as text, such as `lowerlayerdown`.
    pub operstate: String,
    /// The queueing discipline that what it sends goes through (`tc qdisc`), such as `noqueue`.
    pub queue: String,
    /// Settings of `net/ipv6/conf/NAME`; `None` if the link has no IPv6.
    pub ipv6: Option<Ipv6Conf>,
}

/// A link's IPv6 settings that are part of every message about it (IFLA_INET6_CONF).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ipv6Conf {
    /// `accept_ra`: 0 ignores router advertisements, 1 accepts them while `forwarding` is off, 2 always accepts them.
    pub accept_ra: i32,
    /// `forwarding` is on.
    pub forwarding: bool,
    /// `disable_ipv6` is on.
    pub disabled: bool,
}

impl Ipv6Conf {
    /// Whether router advertisements now change the host's routes (`ipv6_accept_ra`, net/ipv6/ndisc.c).
    pub fn takes_routers(self) -> bool {
        !self.disabled && if self.forwarding { self.accept_ra == 2 } else { self.accept_ra != 0 }
    }
}

impl SeenLink {
    /// The link with names instead of indexes.
    pub fn named(&self, names: &dyn Names) -> Link {
        let mut link = self.link.clone();
        link.master = match self.master {
            None => Some(None),
            // it has one, which is unknown
            Some(index) => names.name(index).map(Some),
        };
        link.kind = link.kind.above(self.lower.and_then(|i| names.name(i)));
        link
    }
}

pub(crate) fn message(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
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

/// `ip link add …`. The link is created down, so that sysctls can be written before it is up. `None` if it refers to an
/// unknown link, or if its kind is not created with rtnetlink.
pub fn create(name: &IfName, link: &Link, names: &dyn Names) -> Option<Message> {
    Some(Message::NewLink(creation(name, link, names, names)?))
}

/// As [`create`], but sent from another namespace: that of `below`, which knows the lower link. `names` knows the other
/// links, in the namespace where the link is created. With an index the kernel does not look up the name in the
/// sender's namespace.
pub(crate) fn create_in(
    netns: RawFd,
    index: Option<IfIndex>,
    (name, link): (&IfName, &Link),
    (names, below): (&dyn Names, &dyn Names),
) -> Option<Message> {
    let mut message = creation(name, link, names, below)?;
    message.header.index = index.map_or(0, |index| index.0);
    message.attributes.push(LinkAttribute::NetNsFd(netns));
    Some(Message::NewLink(message))
}

fn creation(name: &IfName, link: &Link, names: &dyn Names, below: &dyn Names) -> Option<LinkMessage> {
    let kind = link.kind.as_kind();
    if kind.made() != Made::Message {
        return None;
    }
    let lower = match kind.lower() {
        Some(lower) => Some(below.index(lower)?.0),
        None => None,
    };
    let mut attributes = vec![LinkAttribute::IfName(name.as_str().to_owned())];
    attributes.extend(link.mtu.map(|Mtu(mtu)| LinkAttribute::Mtu(mtu)));
    attributes.extend(link.mac.map(|Mac(mac)| LinkAttribute::Address(mac.to_vec())));
    if let Some(Some(master)) = &link.master {
        attributes.push(LinkAttribute::Controller(names.index(master)?.0));
    }
    attributes.extend(kind.attributes(lower));
    attributes.push(info(&link.kind, lower, Phase::Creation));
    let mut message = message(0, attributes);
    set_flags(&mut message, [(LinkFlags::Noarp, link.arp.map(|arp| !arp)), (LinkFlags::Multicast, link.multicast)]);
    Some(message)
}

fn info(kind: &LinkKind, lower: Option<u32>, phase: Phase) -> LinkAttribute {
    let kind = kind.as_kind();
    let mut info = vec![LinkInfo::Kind(InfoKind::from(kind.word()))];
    info.extend(kind.data(lower, phase).map(LinkInfo::Data));
    LinkAttribute::LinkInfo(info)
}

fn set_flags<const N: usize>(message: &mut LinkMessage, flags: [(LinkFlags, Option<bool>); N]) {
    for (flag, wanted) in flags {
        if let Some(wanted) = wanted {
            message.header.change_mask |= flag;
            message.header.flags.set(flag, wanted);
        }
    }
}

/// Identifies an existing link by its index, or else by its name: a link from the same batch has no known index.
fn existing(name: &IfName, names: &dyn Names) -> (u32, Vec<LinkAttribute>) {
    match names.index(name) {
        Some(index) => (index.0, Vec::new()),
        None => (0, vec![LinkAttribute::IfName(name.as_str().to_owned())]),
    }
}

/// `ip link set …` with all changes in one message. `None` if it refers to an unknown link.
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
    attributes.extend(change.queue_len.map(LinkAttribute::TxQueueLen));
    attributes.extend(change.protodown.map(|down| LinkAttribute::ProtoDown(u8::from(down))));
    if let Some(alias) = &change.alias {
        attributes.push(LinkAttribute::IfAlias(alias.clone()));
    }
    if let Some(kind) = &change.kind {
        let lower = match kind.lower() {
            Some(lower) => Some(names.index(lower)?.0),
            None => None,
        };
        attributes.push(info(kind, lower, Phase::Change));
    }
    let mut message = message(index, attributes);
    let flags =
        [(LinkFlags::Up, change.up), (LinkFlags::Promisc, change.promisc), (LinkFlags::Allmulti, change.allmulti)];
    set_flags(&mut message, flags);
    set_flags(&mut message, [(LinkFlags::Noarp, change.arp.map(|arp| !arp)), (LinkFlags::Multicast, change.multicast)]);
    Some(Message::NewLink(message))
}

/// `ip link set dev INDEX name NAME`
pub fn rename(index: IfIndex, name: &IfName) -> Message {
    Message::NewLink(message(index.0, vec![LinkAttribute::IfName(name.as_str().to_owned())]))
}

/// `bridge link set dev NAME hairpin … isolated …`
pub fn set_port(name: &IfName, port: Port, names: &dyn Names) -> Message {
    let (index, mut attributes) = existing(name, names);
    let mut data = vec![InfoBridgePort::HairpinMode(port.hairpin), InfoBridgePort::Isolated(port.isolated)];
    data.extend(port.passing.into_iter().flat_map(passing));
    attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(data)),
    ]));
    Message::NewLink(message(index, attributes))
}

/// The state comes last: the kernel refuses it, and that alone, for a port whose link is down, and gives that one its state
/// when the link comes up (br_setport and br_set_port_state, net/bridge/br_netlink.c).
fn passing(wanted: Passing) -> [InfoBridgePort; 7] {
    let state = if wanted.blocked { BridgePortState::Blocking } else { BridgePortState::Forwarding };
    [
        InfoBridgePort::Learning(wanted.learning),
        InfoBridgePort::UnicastFlood(wanted.unicast),
        InfoBridgePort::MulticastFlood(wanted.multicast),
        InfoBridgePort::BroadcastFlood(wanted.broadcast),
        InfoBridgePort::NeighSupress(wanted.suppressed),
        InfoBridgePort::Locked(wanted.locked),
        InfoBridgePort::State(state),
    ]
}

/// `ip link set dev INDEX netns FD name NAME alias ALIAS`: the link `index` moves, is down afterwards, and has a new
/// name. The kernel moves it first and then renames it, so it may have moved even if the name was taken. The move waits
/// for an RCU barrier, 15–20 ms.
pub(crate) fn move_to(netns: RawFd, index: IfIndex, name: &IfName, alias: &str) -> Message {
    let name = LinkAttribute::IfName(name.as_str().to_owned());
    let attributes = vec![name, LinkAttribute::NetNsFd(netns), LinkAttribute::IfAlias(alias.to_owned())];
    Message::SetLink(message(index.0, attributes))
}

/// `ip link del dev NAME`
pub fn delete(name: &IfName) -> Message {
    Message::DelLink(message(0, vec![LinkAttribute::IfName(name.as_str().to_owned())]))
}

/// `ip link del dev INDEX`
pub fn delete_by_index(index: IfIndex) -> Message {
    Message::DelLink(message(index.0, Vec::new()))
}

/// Decodes a RTM_NEWLINK. `None` for other messages and for a link without a name.
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
            allmulti: Some(flags.contains(LinkFlags::Allmulti)),
            arp: Some(!flags.contains(LinkFlags::Noarp)),
            multicast: Some(flags.contains(LinkFlags::Multicast)),
            ..Link::up(LinkKind::Other(String::new()))
        },
        master: None,
        lower: None,
        lower_elsewhere: None,
        port: None,
        running: false,
        operstate: String::new(),
        queue: String::new(),
        ipv6: None,
    };
    let mut elsewhere = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => seen.link.mtu = Some(Mtu(*mtu)),
            LinkAttribute::Address(bytes) => seen.link.mac = bytes.first_chunk::<6>().map(|mac| Mac(*mac)),
            LinkAttribute::Controller(index) => seen.master = Some(*index).filter(|i| *i != 0),
            // a tunnel without a lower link reports 0
            LinkAttribute::Link(index) => seen.lower = Some(*index).filter(|i| *i != 0),
            LinkAttribute::Qdisc(queue) => seen.queue.clone_from(queue),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::TxQueueLen(packets) => seen.link.queue_len = Some(*packets),
            LinkAttribute::IfAlias(alias) => seen.link.alias = Some(alias.clone()),
            LinkAttribute::ProtoDown(down) => seen.link.protodown = Some(*down != 0),
            LinkAttribute::OperState(state) => {
                seen.running = matches!(state, OperState::Up | OperState::Unknown);
                seen.operstate = state.to_string();
            }
            LinkAttribute::LinkInfo(info) => decode_info(info, carries(flags), &mut seen),
            LinkAttribute::AfSpecUnspec(families) => seen.ipv6 = families.iter().find_map(decode_ipv6),
            _ => {}
        }
    }
    if elsewhere {
        seen.lower_elsewhere = seen.lower.take();
        seen.link.birth = Birth::Parent;
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

/// What [`decode_info`] gets to see of a bridge port's IFLA_INFO_SLAVE_DATA: IFLA_BRPORT_STATE, MODE (hairpin), LEARNING,
/// UNICAST_FLOOD, MCAST_FLOOD, BCAST_FLOOD, NEIGH_SUPPRESS, ISOLATED and LOCKED.
pub(crate) const PORT_READ: [u16; 9] = [1, 4, 8, 9, 27, 30, 32, 33, 39];

/// A port by its attributes. `carries`: its link is up and has a carrier.
pub(crate) fn decode_port<'a>(data: impl IntoIterator<Item = &'a InfoBridgePort>, carries: bool) -> Port {
    let (mut port, mut passing) = (Port::default(), Passing::default());
    for attribute in data {
        match attribute {
            InfoBridgePort::HairpinMode(on) => port.hairpin = *on,
            InfoBridgePort::Isolated(on) => port.isolated = *on,
            InfoBridgePort::State(state) => passing.blocked = carries && *state != BridgePortState::Forwarding,
            InfoBridgePort::Learning(on) => passing.learning = *on,
            InfoBridgePort::UnicastFlood(on) => passing.unicast = *on,
            InfoBridgePort::MulticastFlood(on) => passing.multicast = *on,
            InfoBridgePort::BroadcastFlood(on) => passing.broadcast = *on,
            InfoBridgePort::NeighSupress(on) => passing.suppressed = *on,
            InfoBridgePort::Locked(on) => passing.locked = *on,
            _ => {}
        }
    }
    Port { passing: Some(passing), ..port }
}

/// The link is up and has a carrier.
pub(crate) fn carries(flags: LinkFlags) -> bool {
    flags.contains(LinkFlags::Up | LinkFlags::LowerUp)
}

fn decode_info(info: &[LinkInfo], carries: bool, seen: &mut SeenLink) {
    let word = info.iter().find_map(|part| if let LinkInfo::Kind(kind) = part { Some(kind) } else { None });
    let data = info.iter().find_map(|part| if let LinkInfo::Data(data) = part { Some(data) } else { None });
    if let Some(word) = word {
        seen.link.kind = link::decode(word, data);
    }
    seen.lower = data.and_then(Vxlan::decode_lower).or(seen.lower);
    for part in info {
        if let LinkInfo::PortData(InfoPortData::BridgePort(data)) = part {
            seen.port = Some(decode_port(data, carries));
        }
    }
}
