//! Decides how to reach a peer. Upstream's `vxlan`, `vxlan` with `DirectRouting` and `host-gw` are three cases of
//! this one decision.

use std::fmt;

use kernel::types::{Family, Vni};

/// When packets go to a peer without a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only as the last resort: backends `vxlan`, `ipip`, `udp`.
    Never,
    /// Never: `wireguard`, because packets must not go unencrypted when a peer runs another backend.
    Encrypted,
    /// To hosts on the same segment: `vxlan` and `ipip` with `DirectRouting`.
    WherePossible,
    /// Always: `host-gw`.
    Always,
}

/// What packets are packed in: a backend's name. It is one pointer, because every peer's way has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tunnel(&'static Names);

/// What a tunnel is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Names {
    /// The backend's name.
    pub name: &'static str,
    /// How people write it: `VXLAN`.
    pub title: &'static str,
    /// The backend has the option `DirectRouting`.
    pub direct_routing: bool,
}

impl Tunnel {
    /// The tunnel of the backend with these names.
    pub const fn new(names: &'static Names) -> Self {
        Self(names)
    }

    /// The backend's name.
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// The usual spelling.
    pub const fn title(self) -> &'static str {
        self.0.title
    }
}

/// The way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// A plain route by the peer's underlay address.
    Direct,
    /// Through a tunnel.
    Through(Tunnel),
    /// There is no way.
    Unreachable(Why),
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
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

/// Why a way was chosen, or why none exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Direct: the mode allows it, and both hosts are on one segment.
    #[error("on the same segment")]
    OnLink,
    /// A tunnel, although the mode would allow a direct route.
    #[error("a router is between")]
    Routed,
    /// A tunnel: by configuration.
    #[error("the backend is {0}{without}", without = if .0.0.direct_routing { " without DirectRouting" } else { "" })]
    ByMode(Tunnel),
    /// A tunnel of a previous configuration, because the peer has not followed the change yet.
    #[error("the configuration is changing, and the previous {0} device still reaches the peer")]
    Kept(Tunnel),
    /// The peer publishes no VTEP, because it runs another backend.
    #[error("the peer has no VTEP")]
    NoPeerVtep,
    /// The peer's VTEP has a different VNI.
    #[error("the peer's VNI is {0}")]
    OtherVni(Vni),
    /// This host has no VTEP of the family.
    #[error("this host has no VTEP")]
    NoOwnVtep,
    /// The peer's lease belongs to another backend than this host's tunnel.
    #[error("the peer runs another backend than {0}")]
    NotIn(Tunnel),
    /// The peer has no address of the underlay family that WireGuard's `Mode` requires.
    #[error("the peer publishes no {} address, which Mode requires", if *.0 == Family::V4 { "IPv4" } else { "IPv6" })]
    NoEndpoint(Family),
}

/// Chooses the way to a peer, with the reason. `on_link`: the peer's address is in a prefix that the underlay link is
/// connected to. `tunnel`: the tunnel that reaches the peer, or the reason why none does.
///
/// A peer on the link that no tunnel reaches is reached directly, even in mode [`Mode::Never`]: hosts that disagree
/// about the backend, for example during a change, must not be cut off from each other. Only [`Mode::Encrypted`]
/// loses the packets rather than sending them unencrypted.
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
        const TUNNEL: Tunnel = Tunnel::new(&Names { name: "vxlan", title: "VXLAN", direct_routing: true });
        use Mode::{Always, Encrypted, Never, WherePossible};
        use Reach::{Direct, Through, Unreachable};
        let (by_mode, no) = (Why::ByMode(TUNNEL), Why::NoPeerVtep);
        for (mode, on_link, tunnel, way, why) in [
            (Never, true, Ok(TUNNEL), Through(TUNNEL), by_mode),
            (Never, false, Ok(TUNNEL), Through(TUNNEL), by_mode),
            (Never, true, Err(no), Direct, no),
            (Never, false, Err(no), Unreachable(no), no),
            (Encrypted, true, Ok(TUNNEL), Through(TUNNEL), by_mode),
            (Encrypted, true, Err(no), Unreachable(no), no),
            (Encrypted, false, Err(no), Unreachable(no), no),
            (WherePossible, true, Ok(TUNNEL), Direct, Why::OnLink),
            (WherePossible, true, Err(no), Direct, Why::OnLink),
            (WherePossible, false, Ok(TUNNEL), Through(TUNNEL), Why::Routed),
            (WherePossible, false, Err(no), Unreachable(no), no),
            (Always, true, Err(no), Direct, Why::OnLink),
            (Always, true, Ok(TUNNEL), Direct, Why::OnLink),
            (Always, false, Ok(TUNNEL), Through(TUNNEL), Why::Routed),
            (Always, false, Err(no), Unreachable(no), no),
        ] {
            assert_eq!(decide(mode, on_link, tunnel), (way, why), "{mode:?} {on_link} {tunnel:?}");
        }
        assert_eq!(by_mode.to_string(), "the backend is vxlan without DirectRouting");
        assert_eq!(
            Why::ByMode(Tunnel::new(&Names { name: "udp", title: "UDP", direct_routing: false })).to_string(),
            "the backend is udp"
        );
    }
}
