//! Bridge ports: RTM_NEWLINK and RTM_DELLINK of AF_BRIDGE (br_ifinfo_notify, net/bridge/br_netlink.c).

use std::collections::BTreeMap;

use netlink_packet_core::{Emitable, Nla, NlaBuffer, Parseable};
use netlink_packet_route::link::{
    AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, InfoBridgePort, LinkAttribute, LinkMessage, LinkProtoInfoBridge,
};

use super::News;
use crate::message::link::{PORT_READ, carries, decode_port};
use crate::state::Vlan;
use crate::types::{IfName, VlanId};

/// The flags and all VLANs of the port `name`. RTM_DELLINK means that the port leaves its bridge; the link stays.
pub(super) fn news(name: &IfName, message: &LinkMessage, gone: bool) -> Vec<News> {
    let mut port = None;
    let mut vlans = BTreeMap::new();
    for attribute in message.attributes.iter().filter(|_| !gone) {
        match attribute {
            LinkAttribute::ProtoInfoBridge(flags) => {
                let flags: Vec<_> = flags.iter().filter_map(attribute_of).collect();
                port = Some(decode_port(&flags, carries(message.header.flags)));
            }
            LinkAttribute::AfSpecBridge(specs) => vlans = all(specs),
            _ => {}
        }
    }
    let mut news = vec![News::Vlans(name.clone(), vlans)];
    // The bridge itself is announced like a port, but is not one.
    if gone || port.is_some() {
        news.push(News::Port(name.clone(), port));
    }
    news
}

/// The same attributes are nested in IFLA_PROTINFO as in IFLA_INFO_SLAVE_DATA (br_port_fill_attrs).
fn attribute_of(flag: &LinkProtoInfoBridge) -> Option<InfoBridgePort> {
    let mut bytes = vec![0; flag.buffer_len()];
    flag.emit(&mut bytes);
    let buffer = NlaBuffer::new_checked(&bytes).ok()?;
    PORT_READ.contains(&flag.kind()).then(|| InfoBridgePort::parse(&buffer).ok()).flatten()
}

/// Consecutive numbers with equal flags are sent as a first and a last one (RTEXT_FILTER_BRVLAN_COMPRESSED).
fn all(specs: &[AfSpecBridge]) -> BTreeMap<VlanId, Vlan> {
    let mut vlans = BTreeMap::new();
    let mut first = None;
    for spec in specs {
        let AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid }) = spec else { continue };
        if flags.contains(BridgeVlanInfoFlags::RangeBegin) {
            first = Some(*vid);
            continue;
        }
        let vlan = Vlan {
            pvid: flags.contains(BridgeVlanInfoFlags::Pvid),
            untagged: flags.contains(BridgeVlanInfoFlags::Untagged),
        };
        let from = first.take().filter(|_| flags.contains(BridgeVlanInfoFlags::RangeEnd)).unwrap_or(*vid);
        vlans.extend((from..=*vid).filter_map(|id| VlanId::new(id).ok()).map(|id| (id, vlan)));
    }
    vlans
}
