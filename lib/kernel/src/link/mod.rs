//! The kinds of link: one file for each, with its state, its attributes in a message, what of it can be changed in place,
//! and its words in a command.
//!
//! A new kind is a new file and a line in each of the three tables here: [`LinkKind`], `LinkKind::as_kind` and
//! `decode`.

mod bridge;
mod dummy;
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

/// The kind of a link and what only links of that kind have.
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
    /// `ip link add type wireguard`; what it holds is [`State::wireguard`](crate::state::State::wireguard).
    Wireguard,
    /// `ip link add link LOWER type macvlan`
    Macvlan(Macvlan),
    /// `ip link add link LOWER type ipvlan`
    Ipvlan(Ipvlan),
    /// `ip link add link LOWER type vlan`
    Vlan(VlanDevice),
    /// `ip link add type dummy`
    Dummy,
    /// `ip tuntap add`
    TunTap(TunTap),
    /// lo
    Loopback,
    /// Anything else, by the kernel's own word (`bond`, `vrf`, …) or empty for hardware. Observed, relied on or moved
    /// to another namespace.
    Other(String),
}

/// How a link of a kind comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// RTM_NEWLINK, with all that the link is to have but its alias.
    Message,
    /// An ioctl that takes the name and the kind's own fields alone.
    Ioctl,
    /// The kernel makes it by itself.
    Kernel,
}

/// Whether a link is being made or lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It is being made: everything is said.
    Creation,
    /// It lives: what can be changed is said.
    Change,
}

/// What a kind of link knows of itself. The defaults are those of a link that is nothing but its name.
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

    /// Carries packets of an overlay to other hosts.
    fn is_tunnel(&self) -> bool {
        false
    }

    /// The link that this one stands on.
    fn lower(&self) -> Option<&IfName> {
        None
    }

    /// The same on another lower link, for kinds that have one.
    fn above(&self, _lower: Option<IfName>) -> Option<LinkKind> {
        None
    }

    /// A link that is this can become `want`, of the same kind, while it lives. The lower link's namespace is not
    /// compared.
    fn can_become(&self, _want: &LinkKind) -> bool {
        true
    }

    /// What to set on `have`, of the same kind, to make it into this; `None` when nothing differs that can be set.
    fn change(&self, _have: &LinkKind) -> Option<LinkKind> {
        None
    }

    /// IFLA_INFO_DATA. `lower` is the index of [`Self::lower`].
    fn data(&self, _lower: Option<u32>, _phase: Phase) -> Option<InfoData> {
        None
    }

    /// What creation takes outside of [`Self::data`].
    fn attributes(&self, lower: Option<u32>) -> Vec<LinkAttribute> {
        lower.map(LinkAttribute::Link).into_iter().collect()
    }

    /// `ip link` names the lower link in front, as `link LOWER`.
    fn lower_comes_first(&self) -> bool {
        true
    }

    /// What `ip link` takes before `type`, each word after a space.
    fn options(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    /// What `ip link` takes behind `type WORD`, each word after a space.
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
            Self::TunTap(tuntap) => tuntap,
            Self::Loopback => &other::Loopback,
            Self::Other(word) => word,
        }
    }

    /// The kernel's word: `vxlan`, `macvlan`; `device` for hardware.
    pub fn word(&self) -> &str {
        self.as_kind().word()
    }

    /// The link that it stands on (`dev` or `link` of `ip link add`). `None`, too, when an observed one's is in
    /// another namespace.
    pub fn lower(&self) -> Option<&IfName> {
        self.as_kind().lower()
    }

    /// Carries packets of an overlay to other hosts: vxlan, ipip, wireguard, tun.
    pub fn is_tunnel(&self) -> bool {
        self.as_kind().is_tunnel()
    }

    /// The same kind, whatever its fields.
    pub fn is_like(&self, other: &Self) -> bool {
        self.word() == other.word()
    }

    /// A link of this kind can be made into `want` while it lives. One that stands on another link keeps it, unless
    /// its kind can move; a lower link in another namespace is not compared.
    pub fn can_become(&self, want: &Self) -> bool {
        self.is_like(want) && self.as_kind().can_become(want)
    }

    /// What to set to make `have` into this; `None` when nothing differs that can be set.
    pub fn change(&self, have: &Self) -> Option<Self> {
        self.as_kind().change(have)
    }

    /// The same on another lower link, for kinds that have one.
    pub(crate) fn above(&self, lower: Option<IfName>) -> Self {
        self.as_kind().above(lower).unwrap_or_else(|| self.clone())
    }
}

/// What IFLA_INFO_KIND and IFLA_INFO_DATA say; the lower link is put in by [`LinkKind::above`].
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
        (InfoKind::Tun, Some(InfoData::Tun(data))) => LinkKind::TunTap(TunTap::decode(data)),
        (other, _) => LinkKind::Other(other.to_string()),
    }
}

/// A lower link that cannot be changed: `have` is on the one that is wanted, as far as names of one namespace tell.
fn same_lower(want: Option<&IfName>, have: Option<&IfName>) -> bool {
    want.is_none() || have.is_none() || want == have
}

#[cfg(test)]
mod tests;
