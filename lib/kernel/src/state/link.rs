//! Links: what they are made of and how they are set.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;

use crate::types::{IfName, Mac, Mtu, Vni};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What the link is. A link of another kind under the same name is not ours to touch; one of the same kind with
    /// other unchangeable fields is recreated.
    pub kind: LinkKind,
    /// Administratively up.
    pub up: bool,
    /// `None`: the kernel's choice.
    pub mtu: Option<Mtu>,
    /// `None`: the kernel's choice (random for most kinds).
    pub mac: Option<Mac>,
    /// The bridge (or other upper device) that this link is a port of.
    pub master: Option<IfName>,
    /// IFLA_IFALIAS, up to 255 bytes: the owner mark that `ip link` shows.
    pub alias: Option<String>,
    /// IFF_PROMISC asked for by an administrator (`ip link set promisc on`).
    pub promisc: Option<bool>,
}

impl Link {
    /// A link of `kind`, up, everything else left to the kernel.
    pub fn up(kind: LinkKind) -> Self {
        Self { kind, up: true, mtu: None, mac: None, master: None, alias: None, promisc: None }
    }
}

/// The kind of a link and what cannot be changed after creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// `ip link add type bridge`; `vlan_filtering` is written when true.
    Bridge {
        /// Filter by VLAN (`bridge vlan`); needs CONFIG_BRIDGE_VLAN_FILTERING.
        vlan_filtering: bool,
    },
    /// `ip link add type veth`. `peer` is only read at creation; an observed veth has none.
    Veth {
        /// The other end.
        peer: Option<Box<VethPeer>>,
    },
    /// `ip link add type vxlan`
    Vxlan(Vxlan),
    /// `ip link add type ipip`
    Ipip(Ipip),
    /// `ip link add type wireguard`; what it holds is [`State::wireguard`](super::State::wireguard).
    Wireguard,
    /// `ip link add link LOWER type macvlan`
    Macvlan {
        /// The link below.
        lower: IfName,
        /// How ports see each other.
        mode: MacvlanMode,
    },
    /// `ip tuntap add`
    TunTap(TunTap),
    /// lo
    Loopback,
    /// Anything else, by the kernel's own word (`dummy`, `vlan`, …) or empty for hardware. Observed or relied on,
    /// never created.
    Other(String),
}

/// The other end of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethPeer {
    /// Its name from birth.
    pub name: IfName,
    /// `None`: random.
    pub mac: Option<Mac>,
    /// `None`: the kernel's 1500.
    pub mtu: Option<Mtu>,
    /// An open namespace file the peer is born in (IFLA_NET_NS_FD); `None` is the namespace of the socket.
    pub netns: Option<RawFd>,
}

/// A VXLAN device (Documentation/networking/vxlan.rst).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// The network identifier.
    pub vni: Vni,
    /// The underlay link (IFLA_VXLAN_LINK).
    pub lower: Option<IfName>,
    /// The outer source address.
    pub local: Option<IpAddr>,
    /// UDP port; `None` omits the attribute, which is the kernel's 8472.
    pub port: Option<u16>,
    /// Learn from received packets.
    pub learning: bool,
    /// Group policy extension.
    pub gbp: bool,
}

/// An IPv4-in-IPv4 device (RFC 2003). A packet's outer destination is its route's gateway when there is no remote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ipip {
    /// The outer source address; `None` is the kernel's choice per packet.
    pub local: Option<Ipv4Addr>,
    /// The outer destination of every packet; `None` for many.
    pub remote: Option<Ipv4Addr>,
}

/// How the ports of one macvlan parent see each other (`ip link … type macvlan mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Directly
    Bridge,
    /// Not at all
    Private,
    /// By way of the switch outside
    Vepa,
    /// One port owns the parent
    Passthru,
}

/// A TUN or TAP device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TunTap {
    /// Ethernet frames (TAP) instead of IP packets (TUN).
    pub tap: bool,
    /// IFF_MULTI_QUEUE
    pub multi_queue: bool,
    /// The user that may open it.
    pub owner: Option<u32>,
    /// The group that may open it.
    pub group: Option<u32>,
}

/// The flags of a bridge port (`bridge link set`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Port {
    /// A frame may leave by the port it came in by.
    pub hairpin: bool,
    /// Isolated ports cannot reach each other.
    pub isolated: bool,
}
