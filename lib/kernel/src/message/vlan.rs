//! VLANs of bridge ports: RTM_SETLINK, RTM_DELLINK and RTM_GETLINK of AF_BRIDGE (net/bridge/br_netlink.c).

use netlink_packet_route::link::{
    AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkExtentMask, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::Names;
use crate::state::{Vlan, VlanKey};
use crate::types::{IfIndex, VlanId};

fn message(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = index;
    message.attributes = attributes;
    message
}

fn one(index: IfIndex, id: VlanId, vlan: Vlan) -> LinkMessage {
    let mut flags = BridgeVlanInfoFlags::empty();
    flags.set(BridgeVlanInfoFlags::Pvid, vlan.pvid);
    flags.set(BridgeVlanInfoFlags::Untagged, vlan.untagged);
    let info = BridgeVlanInfo { flags, vid: id.get() };
    message(index.0, vec![LinkAttribute::AfSpecBridge(vec![AfSpecBridge::VlanInfo(info)])])
}

/// `bridge vlan add dev INDEX vid ID [pvid] [untagged]`. Also changes an existing VLAN.
pub fn add(index: IfIndex, id: VlanId, vlan: Vlan) -> Message {
    Message::SetLink(one(index, id, vlan))
}

/// `bridge vlan del dev INDEX vid ID`
pub fn delete(index: IfIndex, id: VlanId) -> Message {
    Message::DelLink(one(index, id, Vlan::default()))
}

/// `bridge vlan show`
pub fn get() -> Message {
    Message::GetLink(message(0, vec![LinkAttribute::ExtMask(vec![LinkExtentMask::Brvlan])]))
}

/// Decodes the VLANs of a known port.
pub fn decode(message: &Message, names: &dyn Names) -> Vec<(VlanKey, Vlan)> {
    let Message::NewLink(message) = message else { return Vec::new() };
    let Some(dev) = names.name(message.header.index) else { return Vec::new() };
    let specs = message.attributes.iter().filter_map(|a| match a {
        LinkAttribute::AfSpecBridge(specs) => Some(specs),
        _ => None,
    });
    let infos = specs.flatten().filter_map(|spec| match spec {
        AfSpecBridge::VlanInfo(info) => Some(info),
        _ => None,
    });
    infos
        .filter_map(|info| {
            let vlan = Vlan {
                pvid: info.flags.contains(BridgeVlanInfoFlags::Pvid),
                untagged: info.flags.contains(BridgeVlanInfoFlags::Untagged),
            };
            Some((VlanKey { dev: dev.clone(), id: VlanId::new(info.vid).ok()? }, vlan))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};

    use super::*;

    fn bytes(message: Message) -> Vec<u8> {
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    /// What `strace -e trace=sendmsg bridge vlan add dev INDEX vid 100 pvid untagged` of iproute2 6.1 sends:
    /// RTM_SETLINK, AF_BRIDGE, IFLA_AF_SPEC holding IFLA_BRIDGE_VLAN_INFO {flags 6, vid 100}.
    #[test]
    fn the_message_is_iproute2s() {
        let sent = bytes(add(IfIndex(5), VlanId::new(100).unwrap(), Vlan { pvid: true, untagged: true }));
        assert_eq!(sent[4..6], 19u16.to_ne_bytes());
        assert_eq!(sent[16], 7);
        assert_eq!(sent[20..24], 5u32.to_ne_bytes());
        let mut spec = Vec::new();
        for half in [12u16, 26 | 1 << 15, 8, 2, 6, 100] {
            spec.extend(half.to_ne_bytes());
        }
        let mut plain = spec.clone();
        plain[2..4].copy_from_slice(&26u16.to_ne_bytes());
        assert!(sent[32..] == spec[..] || sent[32..] == plain[..], "{:?}", &sent[32..]);
        assert_eq!(bytes(delete(IfIndex(5), VlanId::new(100).unwrap()))[4..6], 17u16.to_ne_bytes());
    }
}
