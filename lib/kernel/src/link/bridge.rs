//! Bridges: net/bridge/br_netlink.c.

use std::fmt;

use netlink_packet_route::link::{InfoBridge, InfoData};

use super::{Kind, LinkKind, Phase};

/// A bridge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bridge {
    /// Filter by VLAN (`bridge vlan`); needs CONFIG_BRIDGE_VLAN_FILTERING. It is enabled when desired, and never
    /// disabled, because others may need it.
    pub vlan_filtering: bool,
}

impl Bridge {
    /// The attributes of IFLA_INFO_DATA that [`Bridge::decode`] needs: IFLA_BR_VLAN_FILTERING.
    pub(crate) const READ: [u16; 1] = [7];

    pub(super) fn decode(data: Option<&InfoData>) -> Self {
        let on = InfoBridge::VlanFiltering(true);
        Self { vlan_filtering: matches!(data, Some(InfoData::Bridge(data)) if data.contains(&on)) }
    }
}

impl Kind for Bridge {
    fn word(&self) -> &str {
        "bridge"
    }

    fn change(&self, have: &LinkKind) -> Option<LinkKind> {
        let off = matches!(have, LinkKind::Bridge(have) if !have.vlan_filtering);
        (self.vlan_filtering && off).then_some(LinkKind::Bridge(*self))
    }

    fn data(&self, _lower: Option<u32>, _phase: Phase) -> Option<InfoData> {
        self.vlan_filtering.then(|| InfoData::Bridge(vec![InfoBridge::VlanFiltering(true)]))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>, _phase: Phase) -> fmt::Result {
        if self.vlan_filtering { write!(f, " vlan_filtering 1") } else { Ok(()) }
    }
}
