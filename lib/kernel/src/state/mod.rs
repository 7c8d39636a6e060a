//! Kernel objects as plain data, the same for the desired and the observed state.
//!
//! A [`State`] belongs to one network namespace. Every object has a key, which identifies it, and fields, which
//! describe it. When desired, a field with the value `None` may have any value.

mod link;
pub mod nft;
mod queue;
mod scope;
#[cfg(test)]
mod tests;
mod wireguard;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

pub use link::{Birth, Link, Passing, Port};
pub use nft::{ElementKey, NftChain, NftChainScope, NftParts, NftRule, NftScope, NftSet, NftTable};
pub use queue::{Filter, FilterAction, FilterKey, Qdisc, QdiscKey, QdiscPlace, Selects, Tbf};
pub use scope::{Adopt, RouteScope, Scope};
pub use wireguard::{NotAKey, PublicKey, Secret, WireguardDevice, WireguardPeer, WireguardPeerChange};

pub use crate::link::{
    Bridge, Ipip, Ipvlan, IpvlanIsolation, IpvlanMode, KERNEL_VXLAN_PORT, LinkKind, Macvlan, MacvlanMode, TunTap, Veth,
    VethPeer, VlanDevice, VlanProtocol, Vxlan, VxlanDf, VxlanTtl,
};
use crate::nft::TableKey;
use crate::types::{IfIndex, IfName, Mac, Mtu, RouteProtocol, TableId, VlanId, Vni};

/// The objects of one network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Network interfaces (`ip link`).
    pub links: BTreeMap<IfName, Link>,
    /// Bridge ports (`bridge link`).
    pub ports: BTreeMap<IfName, Port>,
    /// VLANs of bridge ports (`bridge vlan`).
    pub vlans: BTreeMap<VlanKey, Vlan>,
    /// `/proc/sys` values by path below it, such as `net/ipv4/ip_forward`.
    pub sysctls: BTreeMap<String, String>,
    /// Observed addresses that have lost their route in the local table, which the kernel adds with an address and only
    /// then: the host does not take packets to them.
    pub unheard: BTreeSet<AddressKey>,
    /// Addresses of links (`ip addr`).
    pub addresses: BTreeMap<AddressKey, Address>,
    /// The neighbour table: ARP and NDP (`ip neigh`).
    pub neighbours: BTreeMap<NeighbourKey, Mac>,
    /// A VXLAN device's own forwarding entries (`bridge fdb … self`).
    pub fdb: BTreeMap<FdbKey, Fdb>,
    /// The keys and peers of WireGuard devices (`wg show`).
    pub wireguard: BTreeMap<IfName, WireguardDevice>,
    /// Queueing disciplines (`tc qdisc`).
    pub qdiscs: BTreeMap<QdiscKey, Qdisc>,
    /// Filters of packets that links receive (`tc filter`).
    pub filters: BTreeMap<FilterKey, Filter>,
    /// Routes (`ip route`).
    pub routes: BTreeMap<RouteKey, Route>,
    /// Tables of nf_tables (`nft list table`).
    pub nft: BTreeMap<TableKey, NftTable>,
}

/// Which VLAN of which bridge port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VlanKey {
    /// The port.
    pub dev: IfName,
    /// The VLAN.
    pub id: VlanId,
}

/// How a port carries a VLAN (BRIDGE_VLAN_INFO_*, linux/if_bridge.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vlan {
    /// Whether arriving untagged frames belong to it.
    pub pvid: bool,
    /// Whether its frames leave untagged.
    pub untagged: bool,
}

/// Identifies an address: the link, and the address with its prefix length and host bits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressKey {
    /// The link that holds it.
    pub dev: IfName,
    /// The address and its prefix length.
    pub net: IpNetwork,
}

/// The fields of an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Address {
    /// IPv6: whether the address is usable at once, without duplicate address detection (IFA_F_NODAD). Used at
    /// creation only; it is ignored in comparisons.
    pub nodad: bool,
    /// Whether the kernel adds no route to the address's network (IFA_F_NOPREFIXROUTE). Used at creation only; it is
    /// ignored in comparisons.
    pub noprefixroute: bool,
    /// IPv4: the broadcast address, for prefixes shorter than /31.
    pub broadcast: Option<std::net::Ipv4Addr>,
}

/// Identifies a neighbour.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeighbourKey {
    /// The link that it is on.
    pub dev: IfName,
    /// The neighbour's address. The entry is permanent (NUD_PERMANENT).
    pub addr: IpAddr,
}

/// Identifies a forwarding entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbKey {
    /// The VXLAN device.
    pub dev: IfName,
    /// The inner destination. A group address or zero has one entry here, whatever the number of its destinations.
    pub mac: Mac,
}

/// Where a VXLAN device sends frames (`struct vxlan_rdst`, include/net/vxlan.h). `None` means the device's own value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fdb {
    /// The outer destination; `0.0.0.0` if a next-hop object sets it.
    pub dst: IpAddr,
    /// The outer UDP port (`port`).
    pub port: Option<u16>,
    /// The VNI of the frame (`vni`).
    pub vni: Option<Vni>,
    /// The link that sends the outer packet (`via`).
    pub via: Option<IfIndex>,
    /// The next-hop object that replaces all of this (`nhid`).
    pub nexthop: Option<u32>,
}

impl From<IpAddr> for Fdb {
    /// To `dst`, with the device's values for everything else.
    fn from(dst: IpAddr) -> Self {
        Self { dst, port: None, vni: None, via: None, nexthop: None }
    }
}

/// Identifies a route, by the fields that the kernel's replace compares.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// The destination; host bits are zero.
    pub dst: IpNetwork,
    /// The routing table.
    pub table: TableId,
    /// The metric. `None` is the kernel's default: 0 for IPv4, 1024 for IPv6.
    pub metric: Option<u32>,
    /// IPv4: the type of service of the packets that it applies to (`tos`); 0: any.
    pub tos: u8,
    /// Distinguishes several routes with one key, where a namespace has them on purpose; otherwise 0.
    pub ordinal: u8,
}

impl RouteKey {
    /// The route to `dst` in the main table with the default metric.
    pub fn main(dst: IpNetwork) -> Self {
        Self { dst, table: TableId::MAIN, metric: None, tos: 0, ordinal: 0 }
    }
}

/// What a route does with packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RouteKind {
    /// Forwards them.
    #[default]
    Unicast,
    /// Drops them silently.
    Blackhole,
    /// Another type (RTN_*, linux/rtnetlink.h).
    Other(u8),
}

impl RouteKind {
    /// Leads to the host itself (RTN_LOCAL).
    pub const LOCAL: Self = Self::Other(2);
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unicast => f.write_str("unicast"),
            Self::Blackhole => f.write_str("blackhole"),
            Self::Other(2) => f.write_str("local"),
            Self::Other(7) => f.write_str("unreachable"),
            Self::Other(8) => f.write_str("prohibit"),
            Self::Other(9) => f.write_str("throw"),
            // ip also accepts a number.
            Self::Other(other) => other.fmt(f),
        }
    }
}

/// The fields of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What it does with packets.
    pub kind: RouteKind,
    /// The outgoing link. `None` lets the kernel derive it from the gateway.
    pub dev: Option<IfName>,
    /// The next hop.
    pub via: Option<IpAddr>,
    /// Whether the next hop counts as on the link, whatever the addresses are (RTNH_F_ONLINK).
    pub onlink: bool,
    /// The scope; `None`: universe with a gateway, link without, as iproute2 does.
    pub scope: Option<u8>,
    /// The preferred source address.
    pub src: Option<IpAddr>,
    /// Who installed it.
    pub protocol: RouteProtocol,
    /// RTAX_MTU
    pub mtu: Option<Mtu>,
    /// RTAX_ADVMSS, bytes
    pub advmss: Option<u32>,
    /// Whether it has more that changes where packets go or whether they arrive: several next hops, a next-hop
    /// object, an encapsulation, a locked or another metric. Observed only.
    pub further: bool,
}

impl Route {
    /// A unicast route by `dev` with protocol boot and nothing else set.
    pub fn by(dev: &IfName) -> Self {
        Self {
            kind: RouteKind::Unicast,
            dev: Some(dev.clone()),
            via: None,
            onlink: false,
            scope: None,
            src: None,
            protocol: RouteProtocol::BOOT,
            mtu: None,
            advmss: None,
            further: false,
        }
    }
}

impl State {
    /// Adds the address `net` to `dev`, with the broadcast address of iproute2's `brd +`.
    pub fn address(&mut self, dev: &IfName, net: IpNetwork, nodad: bool) {
        let broadcast = match net {
            IpNetwork::V4(v4) if v4.prefix() < 31 => Some(v4.broadcast()),
            _ => None,
        };
        self.addresses.insert(AddressKey { dev: dev.clone(), net }, Address { nodad, noprefixroute: false, broadcast });
    }

    /// Adds all objects of `other`, which replace those with the same keys.
    pub fn extend(&mut self, other: Self) {
        let Self {
            links,
            ports,
            vlans,
            sysctls,
            unheard,
            addresses,
            neighbours,
            fdb,
            wireguard,
            qdiscs,
            filters,
            routes,
            nft,
        } = other;
        self.links.extend(links);
        self.ports.extend(ports);
        self.vlans.extend(vlans);
        self.sysctls.extend(sysctls);
        self.unheard.extend(unheard);
        self.addresses.extend(addresses);
        self.neighbours.extend(neighbours);
        self.fdb.extend(fdb);
        self.wireguard.extend(wireguard);
        self.qdiscs.extend(qdiscs);
        self.filters.extend(filters);
        self.routes.extend(routes);
        self.nft.extend(nft);
    }

    /// Sets `net/<family>/conf/<dev>/<key>`; `family` is `ipv4` or `ipv6`.
    pub fn conf(&mut self, family: &str, dev: &IfName, key: &str, value: &str) {
        self.sysctls.insert(format!("net/{family}/conf/{dev}/{key}"), value.to_owned());
    }
}
