//! How a peer is reached: one choice, of which upstream's `vxlan`, `vxlan` with `DirectRouting` and `host-gw` are three
//! points.

use std::fmt;

use kernel::types::Vni;

use crate::lease::VxlanData;
use crate::netconf::{Backend, VxlanConf};

/// When packets go to a peer without VXLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only when there is no other way: backend `vxlan`.
    Never,
    /// Where no router is between: `vxlan` with `DirectRouting`.
    WherePossible,
    /// On principle: `host-gw`.
    Always,
}

impl Mode {
    /// The backend's mode; `None` for alloc, which moves no packets.
    pub fn of(backend: &Backend) -> Option<Self> {
        match backend {
            Backend::Vxlan(VxlanConf { direct_routing: false, .. }) => Some(Self::Never),
            Backend::Vxlan(_) => Some(Self::WherePossible),
            Backend::HostGw => Some(Self::Always),
            Backend::Alloc => None,
        }
    }
}

/// The way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// A plain route by the peer's underlay address.
    Direct,
    /// In VXLAN packets.
    Vxlan,
    /// There is none.
    Unreachable(Why),
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Vxlan => "vxlan",
            Self::Unreachable(_) => "unreachable",
        })
    }
}

/// Why a way was chosen, or why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Direct: the mode allows it, and no router is between.
    #[error("on the same segment")]
    OnLink,
    /// VXLAN: the mode would allow a direct route.
    #[error("a router is between")]
    Routed,
    /// VXLAN: by configuration.
    #[error("the backend is vxlan without DirectRouting")]
    ByMode,
    /// The peer published no VTEP: it runs another backend.
    #[error("the peer has no VTEP")]
    NoPeerVtep,
    /// The peer's VTEP has another VNI.
    #[error("the peer's VNI is {0}")]
    OtherVni(Vni),
    /// This host has no VTEP of the family.
    #[error("this host has no VTEP")]
    NoOwnVtep,
}

/// The way to a peer, and why. `on_link`: the peer's address is in a prefix that the underlay link is connected to.
/// `peer`: its VTEP, if it published one. `own`: the VNI of this host's VTEP of the family, if it has one.
///
/// A peer that VXLAN cannot reach is reached directly if it is on the link, even in mode [`Mode::Never`]: hosts that
/// disagree about the backend, as while it is being changed, must not be cut off from each other.
pub fn decide(mode: Mode, on_link: bool, peer: Option<VxlanData>, own: Option<Vni>) -> (Reach, Why) {
    if on_link && mode != Mode::Never {
        return (Reach::Direct, Why::OnLink);
    }
    let no_vxlan = match (peer, own) {
        (None, _) => Why::NoPeerVtep,
        (_, None) => Why::NoOwnVtep,
        (Some(peer), Some(own)) => match peer.vni.filter(|_| !peer.speaks(own)) {
            Some(other) => Why::OtherVni(other),
            None => return (Reach::Vxlan, if mode == Mode::Never { Why::ByMode } else { Why::Routed }),
        },
    };
    if on_link { (Reach::Direct, no_vxlan) } else { (Reach::Unreachable(no_vxlan), no_vxlan) }
}

/// The way to a peer: [`decide`] without the reason for the good ones.
pub fn reach(mode: Mode, on_link: bool, peer: Option<VxlanData>, own: Option<Vni>) -> Reach {
    decide(mode, on_link, peer, own).0
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
        use Mode::{Always, Never, WherePossible};
        use Reach::{Direct, Vxlan};
        for (mode, on_link, peer, own, way, why) in [
            (Never, true, vtep(1), own, Vxlan, Why::ByMode),
            (Never, false, vtep(1), own, Vxlan, Why::ByMode),
            (Never, true, None, own, Direct, Why::NoPeerVtep),
            (Never, true, vtep(2), own, Direct, Why::OtherVni(vni(2))),
            (Never, false, None, own, lost(Why::NoPeerVtep), Why::NoPeerVtep),
            (Never, false, vtep(1), None, lost(Why::NoOwnVtep), Why::NoOwnVtep),
            (Never, false, vtep(2), own, lost(Why::OtherVni(vni(2))), Why::OtherVni(vni(2))),
            (WherePossible, true, vtep(1), own, Direct, Why::OnLink),
            (WherePossible, false, vtep(1), own, Vxlan, Why::Routed),
            (WherePossible, false, None, own, lost(Why::NoPeerVtep), Why::NoPeerVtep),
            (Always, true, None, None, Direct, Why::OnLink),
            (Always, true, vtep(1), own, Direct, Why::OnLink),
            (Always, false, vtep(1), own, Vxlan, Why::Routed),
            (Always, false, None, None, lost(Why::NoPeerVtep), Why::NoPeerVtep),
        ] {
            assert_eq!(decide(mode, on_link, peer, own), (way, why), "{mode:?} {on_link} {peer:?} {own:?}");
            assert_eq!(reach(mode, on_link, peer, own), way);
        }
    }
}
