//! The kinds of link: one file each, with its state, its attributes in a message, the fields that can change in
//! place, and its words in a command.
//!
//! A new kind is a new file and a line in each of the three tables here: [`LinkKind`], `LinkKind::as_kind` and
//! `decode`.

mod bridge;
mod dummy;
mod ifb;
mod ipip;
mod ipvlan;
mod macvlan;
mod other;
pub(crate) mod text;
mod tuntap;
mod veth;
mod vlan;
mod vxlan;
mod wireguard;

use std::fmt;

use netlink_packet_route::link::{InfoData, InfoKind, LinkAttribute};

pub use bridge::Bridge;
pub use ipip::Ipip;
pub use ipvlan::{Ipvlan, IpvlanIsolation, IpvlanMode};
pub use macvlan::{Macvlan, MacvlanMode};
pub use tuntap::TunTap;
pub use veth::{Veth, VethPeer};
pub use vlan::{VlanDevice, VlanProtocol};
pub use vxlan::{KERNEL_VXLAN_PORT, Vxlan, VxlanDf, VxlanTtl};

use crate::types::IfName;

/// The kind of a link, with the fields that only links of that kind have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// `ip link add type bridge`
    Bridge(Bridge),
    /// `ip link add type veth`
    Veth(Veth),
    /// `ip link add type vxlan`
    Vxlan(Vxlan),
    /// `ip link add type ipip`
    Ipip(Ipip),
    /// `ip link add type wireguard`; its keys and peers are in [`State::wireguard`](crate::state::State::wireguard).
    Wireguard,
    /// `ip link add link LOWER type macvlan`
    Macvlan(Macvlan),
    /// `ip link add link LOWER type ipvlan`
    Ipvlan(Ipvlan),
    /// `ip link add link LOWER type vlan`
    Vlan(VlanDevice),
    /// `ip link add type dummy`
    Dummy,
    /// `ip link add type ifb`
    Ifb,
    /// `ip tuntap add`
    TunTap(TunTap),
    /// lo
    Loopback,
    /// Any other kind, by the kernel's name (`bond`, `vrf`, …) or empty for hardware. It can be observed, used as a
    /// lower link, or moved to another namespace.
    Other(String),
}

/// How a link of a kind is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// By RTM_NEWLINK, with everything but its alias.
    Message,
    /// By an ioctl that takes only the name and the kind's own fields.
    Ioctl,
    /// By the kernel itself.
    Kernel,
}

/// Whether a message creates or changes a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The link is created: all fields are sent.
    Creation,
    /// The link exists: fields that can change are sent.
    Change,
}

/// The properties of a kind of link. The defaults fit a link without fields of its own.
pub(crate) trait Kind {
    /// The kernel's word (IFLA_INFO_KIND).
    fn word(&self) -> &str;

    fn made(&self) -> Made {
        Made::Message
    }

    /// The module whose absence the kernel reports as an unknown type, if loading it helps.
    fn module(&self) -> Option<&'static str> {
        None
    }

    /// The UDP port that the kernel listens on while the link is up.
    fn udp_port(&self) -> Option<u16> {
        None
    }

    /// Carries packets of an overlay to other hosts.
    fn is_tunnel(&self) -> bool {
        false
    }

    /// The lower link.
    fn lower(&self) -> Option<&IfName> {
        None
    }

    /// The same kind on another lower link, if the kind has one.
    fn above(&self, _lower: Option<IfName>) -> Option<LinkKind> {
        None
    }

    /// Whether this link can become `want`, of the same kind, in place. The lower link's namespace is not compared.
    fn can_become(&self, _want: &LinkKind) -> bool {
        true
    }

    /// The changes that turn `have`, of the same kind, into this; `None` when no changeable field differs.
    fn change(&self, _have: &LinkKind) -> Option<LinkKind> {
        None
    }

    /// IFLA_INFO_DATA. `lower` is the index of [`Self::lower`].
    fn data(&self, _lower: Option<u32>, _phase: Phase) -> Option<InfoData> {
        None
    }

    /// The attributes for creation besides [`Self::data`].
    fn attributes(&self, lower: Option<u32>) -> Vec<LinkAttribute> {
        lower.map(LinkAttribute::Link).into_iter().collect()
    }

    /// Whether `ip link` names the lower link first, as `link LOWER`.
    fn lower_comes_first(&self) -> bool {
        true
    }

    /// The words of `ip link` before `type`, each after a space.
    fn options(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    /// The words of `ip link` after `type WORD`, each after a space.
    fn parameters(&self, _f: &mut fmt::Formatter<'_>, _phase: Phase) -> fmt::Result {
        Ok(())
    }
}

impl LinkKind {
    pub(crate) fn as_kind(&self) -> &dyn Kind {
        match self {
            Self::Bridge(bridge) => bridge,
            Self::Veth(veth) => veth,
            Self::Vxlan(vxlan) => vxlan,
            Self::Ipip(ipip) => ipip,
            Self::Wireguard => &wireguard::Wireguard,
            Self::Macvlan(macvlan) => macvlan,
            Self::Ipvlan(ipvlan) => ipvlan,
            Self::Vlan(vlan) => vlan,
            Self::Dummy => &dummy::Dummy,
            Self::Ifb => &ifb::Ifb,
            Self::TunTap(tuntap) => tuntap,
            Self::Loopback => &other::Loopback,
            Self::Other(word) => word,
        }
    }

    /// The kernel's name of the kind: `vxlan`, `macvlan`; `device` for hardware.
    pub fn word(&self) -> &str {
        self.as_kind().word()
    }

    /// The lower link (`dev` or `link` of `ip link add`). Also `None` when an observed link's is in another
    /// namespace.
    pub fn lower(&self) -> Option<&IfName> {
        self.as_kind().lower()
    }

    /// Whether it carries an overlay's packets to other hosts: vxlan, ipip, wireguard, tun.
    pub fn is_tunnel(&self) -> bool {
        self.as_kind().is_tunnel()
    }

    /// Whether the kinds are equal, whatever their fields.
    pub fn is_like(&self, other: &Self) -> bool {
        self.word() == other.word()
    }

    /// Whether a link of this kind can be changed into `want` in place. A lower link can change only if the kind
    /// allows it; a lower link in another namespace is not compared.
    pub fn can_become(&self, want: &Self) -> bool {
        self.is_like(want) && self.as_kind().can_become(want)
    }

    /// The changes that turn `have` into this; `None` when no changeable field differs.
    pub fn change(&self, have: &Self) -> Option<Self> {
        self.as_kind().change(have)
    }

    /// The same kind on another lower link, if the kind has one.
    pub(crate) fn above(&self, lower: Option<IfName>) -> Self {
        self.as_kind().above(lower).unwrap_or_else(|| self.clone())
    }
}

/// Decodes IFLA_INFO_KIND and IFLA_INFO_DATA; [`LinkKind::above`] adds the lower link.
pub(crate) fn decode(word: &InfoKind, data: Option<&InfoData>) -> LinkKind {
    match (word, data) {
        (InfoKind::Bridge, data) => LinkKind::Bridge(Bridge::decode(data)),
        (InfoKind::Veth, _) => LinkKind::Veth(Veth::default()),
        (InfoKind::Vxlan, Some(InfoData::Vxlan(data))) => LinkKind::Vxlan(Vxlan::decode(data)),
        (InfoKind::IpIp, Some(InfoData::IpTunnel(data))) => LinkKind::Ipip(Ipip::decode(data)),
        (InfoKind::Wireguard, _) => LinkKind::Wireguard,
        (InfoKind::MacVlan, Some(InfoData::MacVlan(data))) => LinkKind::Macvlan(Macvlan::decode(data)),
        (InfoKind::IpVlan, Some(InfoData::IpVlan(data))) => LinkKind::Ipvlan(Ipvlan::decode(data)),
        (InfoKind::Vlan, Some(InfoData::Vlan(data))) => LinkKind::Vlan(VlanDevice::decode(data)),
        (InfoKind::Dummy, _) => LinkKind::Dummy,
        (InfoKind::Ifb, _) => LinkKind::Ifb,
        (InfoKind::Tun, Some(InfoData::Tun(data))) => LinkKind::TunTap(TunTap::decode(data)),
        (other, _) => LinkKind::Other(other.to_string()),
    }
}

/// Whether `have` is on the desired lower link, as far as names of one namespace tell.
fn same_lower(want: Option<&IfName>, have: Option<&IfName>) -> bool {
    want.is_none() || have.is_none() || want == have
}

#[cfg(test)]
mod tests;
