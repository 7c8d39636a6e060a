//! VXLAN devices: drivers/net/vxlan/vxlan_core.c, Documentation/networking/vxlan.rst.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_route::link::{self, InfoData, InfoVxlan, LinkAttribute};

use super::{Kind, LinkKind, Phase};
use crate::types::{IfName, Vni};

/// The port that the kernel uses when a VXLAN device names none (`vxlan_port`). IANA assigned 4789 later.
pub const KERNEL_VXLAN_PORT: u16 = 8472;

/// A VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// The network identifier.
    pub vni: Vni,
    /// The underlay link (IFLA_VXLAN_LINK); `None` when desired: any.
    pub lower: Option<IfName>,
    /// The outer source address; `None` when desired: any.
    pub local: Option<IpAddr>,
    /// The UDP port; `None` omits the attribute, so that the kernel uses 8472.
    pub port: Option<u16>,
    /// Whether the device learns from received packets.
    pub learning: bool,
    /// Whether the group policy extension is on.
    pub gbp: bool,
    /// The outer packets' TTL.
    pub ttl: VxlanTtl,
    /// Whether outer IPv4 packets may be fragmented.
    pub df: VxlanDf,
    /// It has more that changes what becomes of packets and cannot be changed: a proxy or short circuit, misses that are
    /// announced, a destination by packet or by VNI, a limit of entries. Observed only.
    pub further: bool,
}

/// The TTL of outer packets (`ip link … type vxlan ttl`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VxlanTtl {
    /// The host's default TTL.
    #[default]
    Auto,
    /// The TTL of the inner packet. Only at creation.
    Inherit,
    /// This many hops, never 0.
    Hops(u8),
}

/// The don't-fragment flag of outer IPv4 packets (`ip link … type vxlan df`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VxlanDf {
    /// Never set.
    #[default]
    Unset,
    /// Always set.
    Set,
    /// As in the inner packet.
    Inherit,
}

impl Vxlan {
    /// The device of `vni`, with the kernel's defaults, except that learning is off.
    pub fn new(vni: Vni) -> Self {
        Self {
            vni,
            lower: None,
            local: None,
            port: None,
            learning: false,
            gbp: false,
            ttl: VxlanTtl::Auto,
            df: VxlanDf::Unset,
            further: false,
        }
    }

    pub(super) fn decode(data: &[InfoVxlan]) -> Self {
        let mut vxlan = Self::new(Vni::ZERO);
        for attribute in data {
            match attribute {
                InfoVxlan::Id(id) => vxlan.vni = Vni::new(*id).unwrap_or(vxlan.vni),
                InfoVxlan::Local(v4) => vxlan.local = Some(IpAddr::V4(*v4)),
                InfoVxlan::Local6(v6) => vxlan.local = Some(IpAddr::V6(*v6)),
                InfoVxlan::Port(port) => vxlan.port = Some(*port).filter(|p| *p != KERNEL_VXLAN_PORT),
                InfoVxlan::Learning(on) => vxlan.learning = *on,
                InfoVxlan::Gbp => vxlan.gbp = true,
                InfoVxlan::Ttl(hops @ 1..) => vxlan.ttl = VxlanTtl::Hops(*hops),
                InfoVxlan::TtlInherit(1..) | InfoVxlan::TtlInheritFlag => vxlan.ttl = VxlanTtl::Inherit,
                InfoVxlan::Df(link::VxlanDf::Set) => vxlan.df = VxlanDf::Set,
                InfoVxlan::Df(link::VxlanDf::Inherit) => vxlan.df = VxlanDf::Inherit,
                InfoVxlan::Proxy(true)
                | InfoVxlan::Rsc(true)
                | InfoVxlan::L2Miss(true)
                | InfoVxlan::L3Miss(true)
                | InfoVxlan::CollectMetadata(true)
                | InfoVxlan::Vnifilter(true)
                | InfoVxlan::Limit(1..) => vxlan.further = true,
                _ => {}
            }
        }
        vxlan
    }

    /// The lower link's index, from IFLA_VXLAN_LINK.
    pub(crate) fn decode_lower(data: &InfoData) -> Option<u32> {
        let InfoData::Vxlan(data) = data else { return None };
        data.iter().find_map(|a| if let InfoVxlan::Link(index) = a { Some(*index) } else { None })
    }

    fn ttl_attribute(&self) -> InfoVxlan {
        match self.ttl {
            VxlanTtl::Auto => InfoVxlan::Ttl(0),
            VxlanTtl::Inherit => InfoVxlan::TtlInheritFlag,
            VxlanTtl::Hops(hops) => InfoVxlan::Ttl(hops),
        }
    }

    fn df_attribute(&self) -> InfoVxlan {
        InfoVxlan::Df(match self.df {
            VxlanDf::Unset => link::VxlanDf::Unset,
            VxlanDf::Set => link::VxlanDf::Set,
            VxlanDf::Inherit => link::VxlanDf::Inherit,
        })
    }
}

impl Kind for Vxlan {
    fn word(&self) -> &str {
        "vxlan"
    }

    fn udp_port(&self) -> Option<u16> {
        Some(self.port.unwrap_or(KERNEL_VXLAN_PORT))
    }

    fn is_tunnel(&self) -> bool {
        true
    }

    fn lower(&self) -> Option<&IfName> {
        self.lower.as_ref()
    }

    fn above(&self, lower: Option<IfName>) -> Option<LinkKind> {
        Some(LinkKind::Vxlan(Self { lower, ..self.clone() }))
    }

    /// vxlan_nl2conf refuses some changes of an existing device.
    fn can_become(&self, want: &LinkKind) -> bool {
        let LinkKind::Vxlan(want) = want else { return false };
        let family = |vxlan: &Self| vxlan.local.map(|ip| ip.is_ipv4());
        let inherits = |vxlan: &Self| vxlan.ttl == VxlanTtl::Inherit;
        !self.further
            && want.vni == self.vni
            && want.port == self.port
            && want.gbp == self.gbp
            && inherits(want) == inherits(self)
            && (want.local.is_none() || family(want) == family(self))
    }

    fn change(&self, have: &LinkKind) -> Option<LinkKind> {
        let LinkKind::Vxlan(have) = have else { return None };
        let differs = (self.lower.is_some() && self.lower != have.lower)
            || (self.local.is_some() && self.local != have.local)
            || (self.learning, self.ttl, self.df) != (have.learning, have.ttl, have.df);
        differs.then(|| LinkKind::Vxlan(self.clone()))
    }

    fn data(&self, lower: Option<u32>, phase: Phase) -> Option<InfoData> {
        let mut data = vec![InfoVxlan::Id(self.vni.get()), InfoVxlan::Learning(self.learning)];
        data.extend(lower.map(InfoVxlan::Link));
        data.extend(self.local.map(|local| match local {
            IpAddr::V4(v4) => InfoVxlan::Local(v4),
            IpAddr::V6(v6) => InfoVxlan::Local6(v6),
        }));
        if phase == Phase::Creation {
            data.push(InfoVxlan::UDPCsum(true));
            data.extend(self.port.map(InfoVxlan::Port));
            data.extend(self.gbp.then_some(InfoVxlan::Gbp));
        }
        if phase == Phase::Change || self.ttl != VxlanTtl::Auto {
            data.push(self.ttl_attribute());
        }
        if phase == Phase::Change || self.df != VxlanDf::Unset {
            data.push(self.df_attribute());
        }
        Some(InfoData::Vxlan(data))
    }

    /// The lower link is in [`Self::data`].
    fn attributes(&self, _lower: Option<u32>) -> Vec<LinkAttribute> {
        Vec::new()
    }

    fn lower_comes_first(&self) -> bool {
        false
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>, phase: Phase) -> fmt::Result {
        write!(f, " id {}", self.vni)?;
        self.lower.as_ref().map_or(Ok(()), |lower| write!(f, " dev {lower}"))?;
        self.local.map_or(Ok(()), |local| write!(f, " local {local}"))?;
        if phase == Phase::Creation {
            // Without it, ip warns and leaves the choice to the kernel.
            write!(f, " dstport {}", self.port.unwrap_or(KERNEL_VXLAN_PORT))?;
        }
        write!(f, " {}learning", if self.learning { "" } else { "no" })?;
        if phase == Phase::Creation {
            write!(f, " udpcsum{}", if self.gbp { " gbp" } else { "" })?;
        }
        match self.ttl {
            VxlanTtl::Auto if phase == Phase::Creation => {}
            VxlanTtl::Auto => write!(f, " ttl auto")?,
            VxlanTtl::Inherit => write!(f, " ttl inherit")?,
            VxlanTtl::Hops(hops) => write!(f, " ttl {hops}")?,
        }
        match self.df {
            VxlanDf::Unset if phase == Phase::Creation => Ok(()),
            VxlanDf::Unset => write!(f, " df unset"),
            VxlanDf::Set => write!(f, " df set"),
            VxlanDf::Inherit => write!(f, " df inherit"),
        }
    }
}
