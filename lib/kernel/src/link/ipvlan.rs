//! Links that share the MAC address of another link: drivers/net/ipvlan/ipvlan_main.c.

use std::fmt;

use netlink_packet_route::link::{InfoData, InfoIpVlan, IpVlanFlags, IpVlanMode};

use super::{Kind, LinkKind, Phase, same_lower};
use crate::types::IfName;

/// An ipvlan device. Mode and isolation belong to the lower link: the last device created on it sets them for all
/// (`ipvlan_link_new`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipvlan {
    /// The lower link, in the namespace that the link is created from.
    pub lower: Option<IfName>,
    /// How packets are assigned to devices.
    pub mode: IpvlanMode,
    /// How the devices on one lower link reach each other.
    pub isolation: IpvlanIsolation,
}

/// How packets are assigned to the ipvlan devices of one lower link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IpvlanMode {
    /// By address only; ARP and broadcasts reach every device.
    L2,
    /// By routing in the lower link's namespace; no broadcasts. The kernel's default.
    #[default]
    L3,
    /// As L3, and netfilter of the lower link's namespace sees the packets.
    L3s,
}

/// How the ipvlan devices of one lower link reach each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IpvlanIsolation {
    /// Directly
    #[default]
    Bridge,
    /// Not at all
    Private,
    /// Through the external switch
    Vepa,
}

impl Ipvlan {
    /// A device on `lower` whose peers reach each other directly.
    pub fn on(lower: IfName, mode: IpvlanMode) -> Self {
        Self { lower: Some(lower), mode, isolation: IpvlanIsolation::Bridge }
    }

    pub(super) fn decode(data: &[InfoIpVlan]) -> Self {
        let mut ipvlan = Self { lower: None, mode: IpvlanMode::default(), isolation: IpvlanIsolation::default() };
        for attribute in data {
            match attribute {
                InfoIpVlan::Mode(IpVlanMode::L2) => ipvlan.mode = IpvlanMode::L2,
                InfoIpVlan::Mode(IpVlanMode::L3S) => ipvlan.mode = IpvlanMode::L3s,
                InfoIpVlan::Flags(flags) if flags.contains(IpVlanFlags::Private) => {
                    ipvlan.isolation = IpvlanIsolation::Private;
                }
                InfoIpVlan::Flags(flags) if flags.contains(IpVlanFlags::Vepa) => {
                    ipvlan.isolation = IpvlanIsolation::Vepa;
                }
                _ => {}
            }
        }
        ipvlan
    }
}

impl Kind for Ipvlan {
    fn word(&self) -> &str {
        "ipvlan"
    }

    fn module(&self) -> Option<&'static str> {
        Some("ipvlan")
    }

    fn lower(&self) -> Option<&IfName> {
        self.lower.as_ref()
    }

    fn above(&self, lower: Option<IfName>) -> Option<LinkKind> {
        Some(LinkKind::Ipvlan(Self { lower, ..self.clone() }))
    }

    /// The kernel can change mode and isolation, but does so for all devices on the lower link, which may not be
    /// ours.
    fn can_become(&self, want: &LinkKind) -> bool {
        matches!(want, LinkKind::Ipvlan(want) if want.mode == self.mode
            && want.isolation == self.isolation
            && same_lower(want.lower.as_ref(), self.lower.as_ref()))
    }

    fn data(&self, _lower: Option<u32>, _phase: Phase) -> Option<InfoData> {
        let mode = match self.mode {
            IpvlanMode::L2 => IpVlanMode::L2,
            IpvlanMode::L3 => IpVlanMode::L3,
            IpvlanMode::L3s => IpVlanMode::L3S,
        };
        let flags = match self.isolation {
            IpvlanIsolation::Bridge => IpVlanFlags::empty(),
            IpvlanIsolation::Private => IpVlanFlags::Private,
            IpvlanIsolation::Vepa => IpVlanFlags::Vepa,
        };
        Some(InfoData::IpVlan(vec![InfoIpVlan::Mode(mode), InfoIpVlan::Flags(flags)]))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>, _phase: Phase) -> fmt::Result {
        let mode = match self.mode {
            IpvlanMode::L2 => "l2",
            IpvlanMode::L3 => "l3",
            IpvlanMode::L3s => "l3s",
        };
        let isolation = match self.isolation {
            IpvlanIsolation::Bridge => "bridge",
            IpvlanIsolation::Private => "private",
            IpvlanIsolation::Vepa => "vepa",
        };
        write!(f, " mode {mode} {isolation}")
    }
}
