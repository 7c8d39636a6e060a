//! Neighbours and forwarding entries, both RTM_NEWNEIGH (Documentation/netlink/specs/rt-neigh.yaml).

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteType;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::{Names, address_family};
use crate::state::{Fdb, FdbKey, NeighbourKey};
use crate::types::{Family, IfIndex, IfName, Mac, Vni};

fn entry(family: AddressFamily, index: IfIndex, addr: Option<IpAddr>, mac: Option<Mac>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = index.0;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    if let Some(addr) = addr {
        let addr = match addr {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        };
        message.attributes.push(NeighbourAttribute::Destination(addr));
    }
    if let Some(Mac(mac)) = mac {
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    }
    message
}

/// `ip neigh replace ADDR lladdr MAC dev INDEX nud permanent`
pub fn put_neighbour(index: IfIndex, addr: IpAddr, mac: Mac) -> Message {
    Message::NewNeighbour(entry(address_family(Family::from(addr)), index, Some(addr), Some(mac)))
}

/// `ip neigh del ADDR dev INDEX`
pub fn delete_neighbour(index: IfIndex, addr: IpAddr) -> Message {
    Message::DelNeighbour(entry(address_family(Family::from(addr)), index, Some(addr), None))
}

/// NDA_NH_ID (linux/neighbour.h).
const NEXTHOP: u16 = 13;

/// `bridge fdb replace MAC dev INDEX dst ADDR [port P] [vni V] [via LINK] self permanent`
pub fn put_fdb(index: IfIndex, mac: Mac, to: Fdb) -> Message {
    let dst = Some(to.dst).filter(|_| to.nexthop.is_none());
    let mut message = entry(AddressFamily::Bridge, index, dst, Some(mac));
    message.header.flags = NeighbourFlags::Own;
    let attributes = &mut message.attributes;
    attributes.extend(to.port.map(NeighbourAttribute::Port));
    attributes.extend(to.vni.map(|vni| NeighbourAttribute::Vni(vni.get())));
    attributes.extend(to.via.map(|via| NeighbourAttribute::IfIndex(via.0)));
    let nexthop = |id: u32| NeighbourAttribute::Other(DefaultNla::new(NEXTHOP, id.to_ne_bytes().to_vec()));
    attributes.extend(to.nexthop.map(nexthop));
    Message::NewNeighbour(message)
}

/// `bridge fdb del MAC dev INDEX self`. Without a destination it deletes all of them (`__vxlan_fdb_delete`,
/// vxlan_core.c).
pub fn delete_fdb(index: IfIndex, mac: Mac) -> Message {
    let mut message = entry(AddressFamily::Bridge, index, None, Some(mac));
    message.header.flags = NeighbourFlags::Own;
    Message::DelNeighbour(message)
}

/// `ip neigh show dev INDEX` of one family, or `bridge fdb show dev INDEX` if `family` is `None`.
pub fn get(index: IfIndex, family: Option<Family>) -> Message {
    let mut message = NeighbourMessage::default();
    message.header.family = family.map_or(AddressFamily::Bridge, address_family);
    match family {
        // neigh_valid_dump_req takes the link as an attribute, valid_fdb_dump_strict takes it in the header
        Some(_) => message.attributes.push(NeighbourAttribute::IfIndex(index.0)),
        None => message.header.ifindex = index.0,
    }
    Message::GetNeighbour(message)
}

/// `bridge fdb show br INDEX`
pub fn get_of_bridge(index: IfIndex) -> Message {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.attributes.push(NeighbourAttribute::Controller(index.0));
    Message::GetNeighbour(message)
}

/// Where a bridge sends the frames for a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forwarding {
    /// The port; the bridge itself for an address of its own.
    pub port: IfName,
    /// The address.
    pub mac: Mac,
}

/// Decodes an entry in a bridge's own table, and whether it stays where it is, whatever the bridge learns. `None` for other
/// messages and for a link without a known name.
pub fn decode_forwarding(message: &NeighbourMessage, names: &dyn Names) -> Option<(Forwarding, bool)> {
    let header = &message.header;
    if header.family != AddressFamily::Bridge || header.flags.contains(NeighbourFlags::Own) {
        return None;
    }
    let entry = Forwarding { port: names.name(header.ifindex)?, mac: subject(message).1? };
    // a static entry does not age, but moves to the port that a frame comes by (br_fdb_update, net/bridge/br_fdb.c)
    let local = u16::from(header.state) & u16::from(NeighbourState::Permanent) != 0;
    Some((entry, local || header.flags.contains(NeighbourFlags::Sticky)))
}

/// A decoded RTM_NEWNEIGH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeenNeighbour {
    /// A permanent neighbour.
    Neighbour(NeighbourKey, Mac),
    /// A permanent FDB entry of a VXLAN device, with its destination.
    Fdb(FdbKey, Fdb),
}

/// The entry in a RTM_DELNEIGH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GoneNeighbour {
    /// A neighbour.
    Neighbour(NeighbourKey),
    /// An FDB entry.
    Fdb(FdbKey),
}

/// Decodes a permanent entry of a known link. Other entries are not configuration.
pub fn decode(message: &Message, names: &dyn Names) -> Option<SeenNeighbour> {
    let Message::NewNeighbour(message) = message else { return None };
    if !is_permanent(message) {
        return None;
    }
    let (addr, mac) = subject(message);
    let mac = mac?;
    let dev = names.name(message.header.ifindex)?;
    if message.header.family != AddressFamily::Bridge {
        return Some(SeenNeighbour::Neighbour(NeighbourKey { dev, addr: addr? }, mac));
    }
    let entry = destination(message, addr).filter(|_| message.header.flags.contains(NeighbourFlags::Own))?;
    Some(SeenNeighbour::Fdb(FdbKey { dev, mac }, entry))
}

/// Decodes a destination. The kernel leaves out what equals the device's setting (vxlan_fdb_info, vxlan_core.c).
/// `None`: a bridge's own entry.
fn destination(message: &NeighbourMessage, dst: Option<IpAddr>) -> Option<Fdb> {
    let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let mut entry = Fdb::from(dst.unwrap_or(nowhere));
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Port(port) => entry.port = Some(*port),
            NeighbourAttribute::Vni(vni) => entry.vni = Vni::new(*vni).ok(),
            NeighbourAttribute::IfIndex(index) => entry.via = Some(IfIndex(*index)),
            NeighbourAttribute::Other(other) if other.kind() == NEXTHOP => entry.nexthop = nexthop(other),
            _ => {}
        }
    }
    match entry.nexthop {
        Some(_) => Some(Fdb { dst: nowhere, ..entry }),
        None => dst.map(|_| entry),
    }
}

fn nexthop(attribute: &DefaultNla) -> Option<u32> {
    let mut id = [0; 4];
    (attribute.value_len() == id.len()).then(|| {
        attribute.emit_value(&mut id);
        u32::from_ne_bytes(id)
    })
}

/// Whether the entry is permanent. The state is a set of bits: `bridge fdb … permanent` sets NUD_NOARP and
/// NUD_PERMANENT. An FDB entry stays with either bit (vxlan_cleanup, drivers/net/vxlan/vxlan_core.c), a neighbour only
/// with the second.
fn is_permanent(message: &NeighbourMessage) -> bool {
    let permanent = u16::from(NeighbourState::Permanent);
    let stays = match message.header.family {
        AddressFamily::Bridge => permanent | u16::from(NeighbourState::Noarp),
        _ => permanent,
    };
    u16::from(message.header.state) & stays != 0
}

/// Decodes which entry of a known link is gone.
pub fn decode_gone(message: &Message, names: &dyn Names) -> Option<GoneNeighbour> {
    let Message::DelNeighbour(message) = message else { return None };
    let (addr, mac) = subject(message);
    let dev = names.name(message.header.ifindex)?;
    if message.header.family == AddressFamily::Bridge {
        return Some(GoneNeighbour::Fdb(FdbKey { dev, mac: mac? }));
    }
    Some(GoneNeighbour::Neighbour(NeighbourKey { dev, addr: addr? }))
}

fn subject(message: &NeighbourMessage) -> (Option<IpAddr>, Option<Mac>) {
    let mut addr = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => addr = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => addr = Some(IpAddr::V6(*v6)),
            // for AF_BRIDGE the crate does not know the address's family and returns its bytes
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => addr = address(bytes),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.first_chunk::<6>().map(|m| Mac(*m)),
            _ => {}
        }
    }
    (addr, mac)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|b| IpAddr::from(*b)),
        16 => bytes.first_chunk::<16>().map(|b| IpAddr::from(*b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One;

    impl Names for One {
        fn name(&self, _: u32) -> Option<IfName> {
            IfName::new("flannel.1").ok()
        }

        fn index(&self, _: &IfName) -> Option<IfIndex> {
            None
        }
    }

    fn stays(message: Message, state: u16) -> bool {
        let Message::NewNeighbour(mut message) = message else { panic!("{message:?}") };
        message.header.state = state.into();
        decode(&Message::NewNeighbour(message), &One).is_some()
    }

    /// NUD_REACHABLE, NUD_STALE, NUD_NOARP and NUD_PERMANENT (linux/neighbour.h).
    #[test]
    fn an_entry_that_stays_is_configuration_whoever_made_it() {
        let (mac, addr) = (Mac([2, 0, 0, 0, 0, 1]), IpAddr::from([192, 0, 2, 1]));
        for (state, fdb, neighbour) in [
            (0x80, true, true),
            (0xc0, true, true),
            (0x82, true, true),
            (0x40, true, false),
            (0x02, false, false),
            (0x04, false, false),
        ] {
            assert_eq!(stays(put_fdb(IfIndex(1), mac, addr.into()), state), fdb, "FDB entry in state {state:#x}");
            assert_eq!(stays(put_neighbour(IfIndex(1), addr, mac), state), neighbour, "neighbour in state {state:#x}");
        }
    }
}
