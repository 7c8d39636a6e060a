//! IPv4 in IPv4: net/ipv4/ipip.c.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::link::{InfoData, InfoIpTunnel};

use super::{Kind, LinkKind, Phase};

/// An IPv4-in-IPv4 device (RFC 2003). Without a remote, a packet's outer destination is its route's gateway. The
/// default leaves everything to the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ipip {
    /// The outer source address; `None`: the kernel chooses one per packet.
    pub local: Option<Ipv4Addr>,
    /// The outer destination of every packet; `None`: that of the route.
    pub remote: Option<Ipv4Addr>,
    /// The outer packets' TTL; 0 copies that of the inner packet. Other values require `pmtudisc`.
    pub ttl: u8,
    /// Whether outer packets must not be fragmented. If false, as for Go flannel's device, the outer packet has DF if
    /// the inner one has.
    pub pmtudisc: bool,
}

impl Ipip {
    pub(super) fn decode(data: &[InfoIpTunnel]) -> Self {
        let set = |addr: &IpAddr| match addr {
            IpAddr::V4(v4) => Some(*v4).filter(|v4| !v4.is_unspecified()),
            IpAddr::V6(_) => None,
        };
        let mut ipip = Self::default();
        for attribute in data {
            match attribute {
                InfoIpTunnel::Local(addr) => ipip.local = set(addr),
                InfoIpTunnel::Remote(addr) => ipip.remote = set(addr),
                InfoIpTunnel::Ttl(ttl) => ipip.ttl = *ttl,
                InfoIpTunnel::PMtuDisc(on) => ipip.pmtudisc = *on,
                _ => {}
            }
        }
        ipip
    }
}

impl Kind for Ipip {
    fn word(&self) -> &str {
        "ipip"
    }

    fn module(&self) -> Option<&'static str> {
        Some("ipip")
    }

    fn is_tunnel(&self) -> bool {
        true
    }

    /// A tunnel to one host cannot become a tunnel to many (ip_tunnel_changelink, net/ipv4/ip_tunnel.c).
    fn can_become(&self, want: &LinkKind) -> bool {
        matches!(want, LinkKind::Ipip(want) if want.remote == self.remote)
    }

    fn change(&self, have: &LinkKind) -> Option<LinkKind> {
        let LinkKind::Ipip(have) = have else { return None };
        let want = Self { local: self.local.or(have.local), ..*self };
        (want != *have).then_some(LinkKind::Ipip(want))
    }

    /// The kernel takes an absent attribute as 0, even in a change (ipip_netlink_parms).
    fn data(&self, _lower: Option<u32>, _phase: Phase) -> Option<InfoData> {
        let address = |addr: Option<Ipv4Addr>| IpAddr::V4(addr.unwrap_or(Ipv4Addr::UNSPECIFIED));
        Some(InfoData::IpTunnel(vec![
            InfoIpTunnel::Local(address(self.local)),
            InfoIpTunnel::Remote(address(self.remote)),
            InfoIpTunnel::Ttl(self.ttl),
            InfoIpTunnel::PMtuDisc(self.pmtudisc),
        ]))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>, _phase: Phase) -> fmt::Result {
        for (word, addr) in [("local", self.local), ("remote", self.remote)] {
            match addr {
                Some(addr) => write!(f, " {word} {addr}")?,
                None => write!(f, " {word} any")?,
            }
        }
        match self.ttl {
            0 => write!(f, " ttl inherit")?,
            ttl => write!(f, " ttl {ttl}")?,
        }
        write!(f, " {}pmtudisc", if self.pmtudisc { "" } else { "no" })
    }
}
