//! Bridge ports: RTM_NEWLINK and RTM_DELLINK of AF_BRIDGE (br_ifinfo_notify, net/bridge/br_netlink.c).

use std::collections::BTreeMap;

use netlink_packet_core::Nla;
use netlink_packet_route::link::{
    AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkMessage, LinkProtoInfoBridge,
};

use super::News;
use crate::state::{Port, Vlan};
use crate::types::{IfName, VlanId};

/// IFLA_BRPORT_MODE and IFLA_BRPORT_ISOLATED (linux/if_link.h).
const HAIRPIN: u16 = 4;
const ISOLATED: u16 = 33;

/// The flags and all VLANs of the port `name`. RTM_DELLINK means that the port leaves its bridge; the link stays.
pub(super) fn news(name: &IfName, message: &LinkMessage, gone: bool) -> Vec<News> {
    let mut port = None;
    let mut vlans = BTreeMap::new();
    for attribute in message.attributes.iter().filter(|_| !gone) {
        match attribute {
            LinkAttribute::ProtoInfoBridge(flags) => {
                port = Some(Port { hairpin: is_set(flags, HAIRPIN), isolated: is_set(flags, ISOLATED) });
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

fn is_set(flags: &[LinkProtoInfoBridge], kind: u16) -> bool {
    flags.iter().filter(|flag| flag.kind() == kind && flag.value_len() == 1).any(|flag| {
        let mut value = [0];
        flag.emit_value(&mut value);
        value != [0]
    })
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
