//! How a peer is reached: one choice, of which upstream's `vxlan`, `vxlan` with `DirectRouting` and `host-gw` are three
//! points.

use std::fmt;

use kernel::types::{Family, Vni};

use crate::lease::VxlanData;
use crate::netconf::{Backend, IpipConf, VxlanConf};

/// When packets go to a peer without a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only when there is no other way: backends `vxlan`, `ipip`, `udp`.
    Never,
    /// Not even then: `wireguard`, whose packets do not go in clear because a peer runs something else.
    Encrypted,
    /// Where no router is between: `vxlan` and `ipip` with `DirectRouting`.
    WherePossible,
    /// On principle: `host-gw`.
    Always,
}

impl Mode {
    /// The backend's mode; `None` for those that leave routes to others: alloc and extension.
    pub fn of(backend: &Backend) -> Option<Self> {
        match backend {
            Backend::Vxlan(VxlanConf { direct_routing: true, .. })
            | Backend::Ipip(IpipConf { direct_routing: true }) => Some(Self::WherePossible),
            Backend::Vxlan(_) | Backend::Ipip(_) | Backend::Udp(_) => Some(Self::Never),
            Backend::Wireguard(_) => Some(Self::Encrypted),
            Backend::HostGw => Some(Self::Always),
            Backend::Alloc | Backend::Extension(_) => None,
        }
    }
}

/// What packets are packed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tunnel {
    /// VXLAN, by the kernel.
    Vxlan,
    /// Datagrams, by this program.
    Udp,
    /// IP in IP, by the kernel.
    Ipip,
    /// WireGuard, by the kernel.
    Wireguard,
    /// What the operator's commands make of it.
    Extension,
}

/// The way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// A plain route by the peer's underlay address.
    Direct,
    /// Packed in something.
    Through(Tunnel),
    /// There is none.
    Unreachable(Why),
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vxlan => "vxlan",
            Self::Udp => "udp",
            Self::Ipip => "ipip",
            Self::Wireguard => "wireguard",
            Self::Extension => "extension",
        })
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Through(tunnel) => tunnel.fmt(f),
            Self::Unreachable(_) => f.write_str("unreachable"),
        }
    }
}

/// Why a way was chosen, or why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Direct: the mode allows it, and no router is between.
    #[error("on the same segment")]
    OnLink,
    /// A tunnel: the mode would allow a direct route.
    #[error("a router is between")]
    Routed,
    /// A tunnel: by configuration.
    #[error("the backend is {0}{without}", without = if matches!(.0, Tunnel::Vxlan | Tunnel::Ipip) { " without DirectRouting" } else { "" })]
    ByMode(Tunnel),
    /// The peer published no VTEP: it runs another backend.
    #[error("the peer has no VTEP")]
    NoPeerVtep,
    /// The peer's VTEP has another VNI.
    #[error("the peer's VNI is {0}")]
    OtherVni(Vni),
    /// This host has no VTEP of the family.
    #[error("this host has no VTEP")]
    NoOwnVtep,
    /// The peer's lease is another backend's than this host's tunnel.
    #[error("the peer runs another backend than {0}")]
    NotIn(Tunnel),
    /// WireGuard: the family of the underlay that `Mode` asks for.
    #[error("the peer publishes no {} address, over which Mode sends", if *.0 == Family::V4 { "IPv4" } else { "IPv6" })]
    NoEndpoint(Family),
}

/// Whether VXLAN reaches a peer. `peer`: its VTEP, if it published one. `own`: the VNI of this host's VTEP of the family,
/// if it has one.
///
/// # Errors
/// Why it does not.
pub fn vxlan(peer: Option<VxlanData>, own: Option<Vni>) -> Result<Tunnel, Why> {
    let peer = peer.ok_or(Why::NoPeerVtep)?;
    let own = own.ok_or(Why::NoOwnVtep)?;
    match peer.vni.filter(|_| !peer.speaks(own)) {
        Some(other) => Err(Why::OtherVni(other)),
        None => Ok(Tunnel::Vxlan),
    }
}

/// The way to a peer, and why. `on_link`: the peer's address is in a prefix that the underlay link is connected to.
/// `tunnel`: what packets to the peer can be packed in, or why in nothing.
///
/// A peer that no tunnel reaches is reached directly if it is on the link, even in mode [`Mode::Never`]: hosts that
/// disagree about the backend, as while it is being changed, must not be cut off from each other. Only
/// [`Mode::Encrypted`] would rather lose packets than show them.
pub fn decide(mode: Mode, on_link: bool, tunnel: Result<Tunnel, Why>) -> (Reach, Why) {
    match (tunnel, on_link) {
        (_, true) if matches!(mode, Mode::WherePossible | Mode::Always) => (Reach::Direct, Why::OnLink),
        (Ok(tunnel), _) if matches!(mode, Mode::Never | Mode::Encrypted) => {
            (Reach::Through(tunnel), Why::ByMode(tunnel))
        }
        (Ok(tunnel), _) => (Reach::Through(tunnel), Why::Routed),
        (Err(why), true) if mode != Mode::Encrypted => (Reach::Direct, why),
        (Err(why), _) => (Reach::Unreachable(why), why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case() {
        let vni = |vni| Vni::new(vni).unwrap();
        let vtep = |n| Some(VxlanData { vni: Some(vni(n)), vtep_mac: "02:00:00:00:00:01".parse().unwrap() });
        let own = Some(vni(1));
        let lost = Reach::Unreachable;
        use Mode::{Always, Encrypted, Never, WherePossible};
        use Reach::Direct;
        const VXLAN: Reach = Reach::Through(Tunnel::Vxlan);
        let by_mode = Why::ByMode(Tunnel::Vxlan);
        for (mode, on_link, peer, own, way, why) in [
            (Never, true, vtep(1), own, VXLAN, by_mode),
            (Never, false, vtep(1), own, VXLAN, by_mode),
            (Never, true, None, own, Direct, Why::NoPeerVtep),
            (Never, true, vtep(2), own, Direct, Why::OtherVni(vni(2))),
            (Never, false, None, own, lost(Why::NoPeerVtep), Why::NoPeerVtep),
            (Never, false, vtep(1), None, lost(Why::NoOwnVtep), Why::NoOwnVtep),
            (Never, false, vtep(2), own, lost(Why::OtherVni(vni(2))), Why::OtherVni(vni(2))),
            (Encrypted, true, vtep(1), own, VXLAN, by_mode),
            (Encrypted, true, None, own, lost(Why::NoPeerVtep), Why::NoPeerVtep),
            (Encrypted, false, None, own, lost(Why::NoPeerVtep), Why::NoPeerVtep),
            (WherePossible, true, vtep(1), own, Direct, Why::OnLink),
            (WherePossible, false, vtep(1), own, VXLAN, Why::Routed),
            (WherePossible, false, None, own, lost(Why::NoPeerVtep), Why::NoPeerVtep),
            (Always, true, None, None, Direct, Why::OnLink),
            (Always, true, vtep(1), own, Direct, Why::OnLink),
            (Always, false, vtep(1), own, VXLAN, Why::Routed),
            (Always, false, None, None, lost(Why::NoPeerVtep), Why::NoPeerVtep),
        ] {
            let tunnel = vxlan(peer, own);
            assert_eq!(decide(mode, on_link, tunnel), (way, why), "{mode:?} {on_link} {peer:?} {own:?}");
        }
    }
}
