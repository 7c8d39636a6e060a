//! Links with a MAC address of their own on another link: drivers/net/macvlan.c.

use std::fmt;

use netlink_packet_route::link::{InfoData, InfoMacVlan, MacVlanMode};

use super::{Kind, LinkKind, Phase, same_lower};
use crate::types::IfName;

/// A macvlan device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Macvlan {
    /// The lower link, in the namespace that the link is created from.
    pub lower: Option<IfName>,
    /// How the devices on one lower link reach each other.
    pub mode: MacvlanMode,
    /// The number of broadcast packets that may wait on the lower link; `None` means the kernel's 1000.
    pub bc_queue_len: Option<u32>,
}

/// How the macvlan devices of one lower link reach each other (`ip link … type macvlan mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Directly
    Bridge,
    /// Not at all
    Private,
    /// Through the external switch
    Vepa,
    /// One device owns the lower link
    Passthru,
    /// Not at all, and each accepts packets from listed sources only
    Source,
}

impl Macvlan {
    /// A device on `lower`, with everything else left to the kernel.
    pub fn on(lower: IfName, mode: MacvlanMode) -> Self {
        Self { lower: Some(lower), mode, bc_queue_len: None }
    }

    pub(super) fn decode(data: &[InfoMacVlan]) -> Self {
        let mut macvlan = Self { lower: None, mode: MacvlanMode::Vepa, bc_queue_len: None };
        for attribute in data {
            match attribute {
                InfoMacVlan::Mode(mode) => macvlan.mode = MacvlanMode::of(*mode).unwrap_or(macvlan.mode),
                InfoMacVlan::BcQueueLen(packets) => macvlan.bc_queue_len = Some(*packets),
                _ => {}
            }
        }
        macvlan
    }
}

impl MacvlanMode {
    fn of(mode: MacVlanMode) -> Option<Self> {
        match mode {
            MacVlanMode::Bridge => Some(Self::Bridge),
            MacVlanMode::Private => Some(Self::Private),
            MacVlanMode::Vepa => Some(Self::Vepa),
            MacVlanMode::Passthrough => Some(Self::Passthru),
            MacVlanMode::Source => Some(Self::Source),
            _ => None,
        }
    }

    fn number(self) -> MacVlanMode {
        match self {
            Self::Bridge => MacVlanMode::Bridge,
            Self::Private => MacVlanMode::Private,
            Self::Vepa => MacVlanMode::Vepa,
            Self::Passthru => MacVlanMode::Passthrough,
            Self::Source => MacVlanMode::Source,
        }
    }
}

impl Kind for Macvlan {
    fn word(&self) -> &str {
        "macvlan"
    }

    fn module(&self) -> Option<&'static str> {
        Some("macvlan")
    }

    fn lower(&self) -> Option<&IfName> {
        self.lower.as_ref()
    }

    fn above(&self, lower: Option<IfName>) -> Option<LinkKind> {
        Some(LinkKind::Macvlan(Self { lower, ..self.clone() }))
    }

    /// The mode can change, but not from or to passthru (macvlan_changelink).
    fn can_become(&self, want: &LinkKind) -> bool {
        let owns = |mode| mode == MacvlanMode::Passthru;
        matches!(want, LinkKind::Macvlan(want)
            if owns(want.mode) == owns(self.mode) && same_lower(want.lower.as_ref(), self.lower.as_ref()))
    }

    fn change(&self, have: &LinkKind) -> Option<LinkKind> {
        let LinkKind::Macvlan(have) = have else { return None };
        let queue = self.bc_queue_len.is_some() && self.bc_queue_len != have.bc_queue_len;
        (self.mode != have.mode || queue).then(|| LinkKind::Macvlan(self.clone()))
    }

    fn data(&self, _lower: Option<u32>, _phase: Phase) -> Option<InfoData> {
        let mut data = vec![InfoMacVlan::Mode(self.mode.number())];
        data.extend(self.bc_queue_len.map(InfoMacVlan::BcQueueLen));
        Some(InfoData::MacVlan(data))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>, _phase: Phase) -> fmt::Result {
        write!(f, " mode {}", self.mode.number())?;
        self.bc_queue_len.map_or(Ok(()), |packets| write!(f, " bcqueuelen {packets}"))
    }
}
