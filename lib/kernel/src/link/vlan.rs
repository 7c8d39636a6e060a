//! Links that carry one VLAN of another link: net/8021q/vlan_netlink.c.

use std::fmt;

use netlink_packet_route::link::{self, InfoData, InfoVlan};

use super::{Kind, LinkKind, Phase, same_lower};
use crate::types::{IfName, VlanId};

/// A VLAN device (`ip link add link LOWER type vlan`). The VLANs of a bridge's port are
/// [`State::vlans`](crate::state::State::vlans).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VlanDevice {
    /// The lower link, in the namespace that the link is created from.
    pub lower: Option<IfName>,
    /// The VLAN; `None` means number 0: frames that have a priority and belong to no VLAN.
    pub id: Option<VlanId>,
    /// The tag's protocol.
    pub protocol: VlanProtocol,
}

/// The protocol of a VLAN tag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VlanProtocol {
    /// 802.1Q, EtherType 0x8100
    #[default]
    Dot1q,
    /// 802.1ad, EtherType 0x88a8: the outer of two tags
    Dot1ad,
}

impl VlanDevice {
    /// VLAN `id` of `lower`, 802.1Q.
    pub fn on(lower: IfName, id: VlanId) -> Self {
        Self { lower: Some(lower), id: Some(id), protocol: VlanProtocol::Dot1q }
    }

    pub(super) fn decode(data: &[InfoVlan]) -> Self {
        let mut vlan = Self { lower: None, id: None, protocol: VlanProtocol::Dot1q };
        for attribute in data {
            match attribute {
                InfoVlan::Id(id) => vlan.id = VlanId::new(*id).ok(),
                InfoVlan::Protocol(link::VlanProtocol::Ieee8021Ad) => vlan.protocol = VlanProtocol::Dot1ad,
                _ => {}
            }
        }
        vlan
    }

    fn number(&self) -> u16 {
        self.id.map_or(0, VlanId::get)
    }
}

impl Kind for VlanDevice {
    fn word(&self) -> &str {
        "vlan"
    }

    fn module(&self) -> Option<&'static str> {
        Some("8021q")
    }

    fn lower(&self) -> Option<&IfName> {
        self.lower.as_ref()
    }

    fn above(&self, lower: Option<IfName>) -> Option<LinkKind> {
        Some(LinkKind::Vlan(Self { lower, ..self.clone() }))
    }

    fn can_become(&self, want: &LinkKind) -> bool {
        matches!(want, LinkKind::Vlan(want) if want.id == self.id
            && want.protocol == self.protocol
            && same_lower(want.lower.as_ref(), self.lower.as_ref()))
    }

    fn data(&self, _lower: Option<u32>, _phase: Phase) -> Option<InfoData> {
        let protocol = match self.protocol {
            VlanProtocol::Dot1q => link::VlanProtocol::Ieee8021Q,
            VlanProtocol::Dot1ad => link::VlanProtocol::Ieee8021Ad,
        };
        Some(InfoData::Vlan(vec![InfoVlan::Id(self.number()), InfoVlan::Protocol(protocol)]))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>, _phase: Phase) -> fmt::Result {
        let protocol = match self.protocol {
            VlanProtocol::Dot1q => "802.1Q",
            VlanProtocol::Dot1ad => "802.1ad",
        };
        write!(f, " protocol {protocol} id {}", self.number())
    }
}
