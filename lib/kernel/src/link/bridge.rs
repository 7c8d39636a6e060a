//! Bridges: net/bridge/br_netlink.c.

use std::fmt;

use netlink_packet_route::link::{BridgeStpState, InfoBridge, InfoData};

use super::{Kind, LinkKind, Phase};

/// A bridge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bridge {
    /// Filter by VLAN (`bridge vlan`); needs CONFIG_BRIDGE_VLAN_FILTERING. It is enabled when desired, and never
    /// disabled, because others may need it.
    pub vlan_filtering: bool,
    /// The spanning tree protocol (`stp_state`), which keeps a new port from forwarding for half a minute. `None` on the
    /// desired side: whatever the bridge has.
    pub stp: Option<bool>,
}

impl Bridge {
    /// The attributes of IFLA_INFO_DATA that [`Bridge::decode`] needs: IFLA_BR_STP_STATE and IFLA_BR_VLAN_FILTERING.
    pub(crate) const READ: [u16; 2] = [5, 7];

    pub(super) fn decode(data: Option<&InfoData>) -> Self {
        let Some(InfoData::Bridge(data)) = data else { return Self::default() };
        let mut bridge = Self::default();
        for attribute in data {
            match attribute {
                InfoBridge::VlanFiltering(on) => bridge.vlan_filtering = *on,
                InfoBridge::StpState(state) => bridge.stp = Some(*state != BridgeStpState::Disabled),
                _ => {}
            }
        }
        bridge
    }

    fn attributes(&self) -> Vec<InfoBridge> {
        let stp = |on| InfoBridge::StpState(if on { BridgeStpState::KernelStp } else { BridgeStpState::Disabled });
        let filtering = self.vlan_filtering.then_some(InfoBridge::VlanFiltering(true));
        filtering.into_iter().chain(self.stp.map(stp)).collect()
    }
}

impl Kind for Bridge {
    fn word(&self) -> &str {
        "bridge"
    }

    fn change(&self, have: &LinkKind) -> Option<LinkKind> {
        let LinkKind::Bridge(have) = have else { return None };
        let filters = self.vlan_filtering && !have.vlan_filtering;
        let spans = self.stp.is_some_and(|on| on != have.stp.unwrap_or_default());
        (filters || spans).then_some(LinkKind::Bridge(*self))
    }

    fn data(&self, _lower: Option<u32>, _phase: Phase) -> Option<InfoData> {
        Some(self.attributes()).filter(|attributes| !attributes.is_empty()).map(InfoData::Bridge)
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>, _phase: Phase) -> fmt::Result {
        if self.vlan_filtering {
            write!(f, " vlan_filtering 1")?;
        }
        self.stp.map_or(Ok(()), |on| write!(f, " stp_state {}", u8::from(on)))
    }
}
