//! Addresses: RTM_NEWADDR, RTM_DELADDR (Documentation/netlink/specs/rt-addr.yaml).

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::{Names, address_family};
use crate::state::{Address, AddressKey};
use crate::types::{Family, IfIndex};

/// An observed address with its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenAddress {
    /// The link and the address.
    pub key: AddressKey,
    /// The address's properties.
    pub address: Address,
    /// IPv6: not usable yet (IFA_F_TENTATIVE).
    pub tentative: bool,
    /// IPv6: duplicate address detection found another host with it (IFA_F_DADFAILED).
    pub dad_failed: bool,
    /// The address has no lifetime (IFA_F_PERMANENT).
    pub permanent: bool,
    /// A privacy address (IFA_F_TEMPORARY, the same bit as IPv4's secondary).
    pub secondary: bool,
    /// Deprecated: not used for new connections (IFA_F_DEPRECATED).
    pub deprecated: bool,
    /// Valid everywhere (RT_SCOPE_UNIVERSE).
    pub global: bool,
}

fn message(index: u32, net: IpNetwork) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = address_family(Family::from(net));
    message.header.prefix_len = net.prefix();
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    // for IPv4, IFA_LOCAL is the address and IFA_ADDRESS the peer's; they are equal if there is no peer
    message.attributes = vec![AddressAttribute::Local(net.ip()), AddressAttribute::Address(net.ip())];
    message
}

/// `ip addr add NET dev INDEX [brd B] [nodad] [noprefixroute]`
pub fn add(index: IfIndex, net: IpNetwork, address: &Address) -> Message {
    let mut message = message(index.0, net);
    if let Some(broadcast) = address.broadcast {
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    let mut flags = AddressFlags::empty();
    flags.set(AddressFlags::Nodad, address.nodad && net.is_ipv6());
    flags.set(AddressFlags::Noprefixroute, address.noprefixroute);
    if !flags.is_empty() {
        // The kernel takes the attribute instead of the header, which has the low eight bits.
        message.header.flags = AddressHeaderFlags::from_bits_truncate(flags.bits().to_le_bytes()[0]);
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    Message::NewAddress(message)
}

/// `ip addr del NET dev INDEX`
pub fn delete(index: IfIndex, net: IpNetwork) -> Message {
    Message::DelAddress(message(index.0, net))
}

/// `ip addr show [dev INDEX]`, both families. Index 0 means all links.
pub fn get(index: u32) -> Message {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Unspec;
    message.header.index = index;
    Message::GetAddress(message)
}

/// Decodes a RTM_NEWADDR of a known link.
pub fn decode(message: &Message, names: &dyn Names) -> Option<SeenAddress> {
    let Message::NewAddress(message) = message else { return None };
    let mut local: Option<IpAddr> = None;
    let mut address = None;
    let mut broadcast = None;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Broadcast(ip) => broadcast = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let net = IpNetwork::new(local.or(address)?, message.header.prefix_len).ok()?;
    Some(SeenAddress {
        key: AddressKey { dev: names.name(message.header.index)?, net },
        address: Address {
            nodad: flags.contains(AddressFlags::Nodad),
            noprefixroute: flags.contains(AddressFlags::Noprefixroute),
            broadcast,
        },
        tentative: flags.contains(AddressFlags::Tentative),
        dad_failed: flags.contains(AddressFlags::Dadfailed),
        permanent: flags.contains(AddressFlags::Permanent),
        secondary: flags.contains(AddressFlags::Secondary),
        deprecated: flags.contains(AddressFlags::Deprecated),
        global: message.header.scope == AddressScope::Universe,
    })
}
