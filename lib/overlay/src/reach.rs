//! How a peer is reached: one choice, of which upstream's `vxlan`, `vxlan` with `DirectRouting` and `host-gw` are three
//! points.

use std::fmt;

use kernel::types::{Family, Vni};

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

/// What packets are packed in: a backend's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tunnel {
    name: &'static str,
    title: &'static str,
    /// The backend has the option `DirectRouting`.
    direct_routing: bool,
}

impl Tunnel {
    /// The tunnel of the backend with this name; `title` is how people write it: `VXLAN`.
    pub const fn new(name: &'static str, title: &'static str) -> Self {
        Self { name, title, direct_routing: false }
    }

    /// The same of a backend that has the option `DirectRouting`.
    pub const fn with_direct_routing(self) -> Self {
        Self { direct_routing: true, ..self }
    }

    /// The backend's name.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// How people write it.
    pub const fn title(self) -> &'static str {
        self.title
    }
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
        f.write_str(self.name)
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
    #[error("the backend is {0}{without}", without = if .0.direct_routing { " without DirectRouting" } else { "" })]
    ByMode(Tunnel),
    /// A tunnel of a configuration before: the peer does not follow the change yet.
    #[error("the configuration changes, and the {0} device before the change still reaches the peer")]
    Kept(Tunnel),
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
        const TUNNEL: Tunnel = Tunnel::new("vxlan", "VXLAN").with_direct_routing();
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
        assert_eq!(Why::ByMode(Tunnel::new("udp", "UDP")).to_string(), "the backend is udp");
    }
}
