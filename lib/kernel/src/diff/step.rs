//! One change to the kernel, as data. It prints as the equivalent command.

use std::fmt;

use super::NftStep;
use crate::link::Phase;
use crate::link::text::{Creation, flags};
use crate::nft::TableKey;
use crate::state::{
    Address, AddressKey, Fdb, FdbKey, Filter, FilterKey, Link, LinkKind, NeighbourKey, Port, PublicKey, Qdisc,
    QdiscKey, Route, RouteKey, RouteKind, Secret, Vlan, VlanKey, WireguardPeerChange,
};
use crate::sysctl;
use crate::types::{IfName, Mac, Mtu, RouteProtocol, TableId};

/// A change to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Create a link, down.
    CreateLink(IfName, Link),
    /// Rename a link from the first name to the second.
    RenameLink(IfName, IfName),
    /// Change a link's settings.
    ChangeLink(IfName, LinkChange),
    /// Set the flags of a bridge port.
    SetPort(IfName, Port),
    /// Add a VLAN to a bridge port, or change its flags.
    AddVlan(VlanKey, Vlan),
    /// Remove a VLAN from a bridge port.
    DeleteVlan(VlanKey),
    /// Change a table of nf_tables. Consecutive changes are one transaction.
    Nft(TableKey, NftStep),
    /// Write a sysctl: its path below /proc/sys, and the value.
    WriteSysctl(String, String),
    /// Set a WireGuard device's private key, its port, or both.
    SetWireguard(IfName, Option<Secret>, Option<u16>),
    /// Add a peer to a WireGuard device, or change it.
    PutWireguardPeer(IfName, PublicKey, WireguardPeerChange),
    /// Remove a peer from a WireGuard device.
    DeleteWireguardPeer(IfName, PublicKey),
    /// Add an address.
    AddAddress(AddressKey, Address),
    /// Put a queueing discipline in a place that has none but the kernel's own.
    AddQdisc(QdiscKey, Qdisc),
    /// Change the parameters of a queueing discipline.
    ChangeQdisc(QdiscKey, Qdisc),
    /// Add a filter in a place that has none.
    AddFilter(FilterKey, Filter),
    /// Add or replace a permanent neighbour.
    PutNeighbour(NeighbourKey, Mac),
    /// Add or replace a VXLAN forwarding entry.
    PutFdb(FdbKey, Fdb),
    /// Replace the first route to the destination, or add it.
    PutRoute(RouteKey, Route),
    /// Add a route that must be the first to its destination, without replacing any. IPv6 has no order: no other may
    /// exist.
    CreateRoute(RouteKey, Route),
    /// Add a route before others to the same destination, without replacing any.
    AddRoute(RouteKey, Route),
    /// Delete a route.
    DeleteRoute(RouteKey, Route),
    /// Delete a filter.
    DeleteFilter(FilterKey),
    /// Delete a queueing discipline with its filters.
    DeleteQdisc(QdiscKey),
    /// Delete a neighbour.
    DeleteNeighbour(NeighbourKey),
    /// Delete a forwarding entry with all its destinations.
    DeleteFdb(FdbKey),
    /// Delete an address.
    DeleteAddress(AddressKey),
    /// Delete a link.
    DeleteLink(IfName),
}

/// The fields of a link to change; `None` leaves a field unchanged. The default changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// Up or down.
    pub up: Option<bool>,
    /// The MTU in bytes.
    pub mtu: Option<Mtu>,
    /// The hardware address.
    pub mac: Option<Mac>,
    /// The master, such as a bridge, or none.
    pub master: Option<Option<IfName>>,
    /// IFLA_IFALIAS
    pub alias: Option<String>,
    /// Promiscuous mode.
    pub promisc: Option<bool>,
    /// Whether all multicast packets are received.
    pub allmulti: Option<bool>,
    /// The largest number of packets that wait to be sent.
    pub queue_len: Option<u32>,
    /// Whether neighbours are resolved.
    pub arp: Option<bool>,
    /// IFF_MULTICAST
    pub multicast: Option<bool>,
    /// Whether the link is kept without a carrier.
    pub protodown: Option<bool>,
    /// The attributes of the kind that can change in place.
    pub kind: Option<LinkKind>,
}

impl LinkChange {
    /// Only raises the link.
    pub fn up() -> Self {
        Self { up: Some(true), ..Self::default() }
    }
}

impl Step {
    /// The kind of object, for metrics: `link`, `port`, `vlan`, `sysctl`, `wireguard`,
    /// `wireguard-peer`, `qdisc`, `filter`, `address`, `neighbour`, `fdb`, `route` or `nft`.
    pub fn object(&self) -> &'static str {
        match self {
            Self::CreateLink(..) | Self::RenameLink(..) | Self::ChangeLink(..) | Self::DeleteLink(_) => "link",
            Self::SetPort(..) => "port",
            Self::AddVlan(..) | Self::DeleteVlan(_) => "vlan",
            Self::Nft(..) => "nft",
            Self::WriteSysctl(..) => "sysctl",
            Self::SetWireguard(..) => "wireguard",
            Self::PutWireguardPeer(..) | Self::DeleteWireguardPeer(..) => "wireguard-peer",
            Self::AddQdisc(..) | Self::ChangeQdisc(..) | Self::DeleteQdisc(_) => "qdisc",
            Self::AddFilter(..) | Self::DeleteFilter(_) => "filter",
            Self::AddAddress(..) | Self::DeleteAddress(_) => "address",
            Self::PutNeighbour(..) | Self::DeleteNeighbour(_) => "neighbour",
            Self::PutFdb(..) | Self::DeleteFdb(_) => "fdb",
            Self::PutRoute(..) | Self::CreateRoute(..) | Self::AddRoute(..) | Self::DeleteRoute(..) => "route",
        }
    }

    /// Whether the step removes something.
    pub fn is_delete(&self) -> bool {
        if let Self::Nft(_, step) = self {
            return step.is_delete();
        }
        matches!(
            self,
            Self::DeleteRoute(..)
                | Self::DeleteVlan(_)
                | Self::DeleteWireguardPeer(..)
                | Self::DeleteFilter(_)
                | Self::DeleteQdisc(_)
                | Self::DeleteNeighbour(_)
                | Self::DeleteFdb(_)
                | Self::DeleteAddress(_)
                | Self::DeleteLink(_)
        )
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateLink(name, link) => Creation::new(name, link).fmt(f),
            Self::RenameLink(from, to) => write!(f, "ip link set {from} name {to}"),
            Self::ChangeLink(name, change) => write!(f, "ip link set {name}{change}"),
            Self::SetPort(name, port) => {
                let on = |on| if on { "on" } else { "off" };
                write!(f, "bridge link set dev {name} hairpin {} isolated {}", on(port.hairpin), on(port.isolated))?;
                port.passing.map_or(Ok(()), |passing| {
                    write!(f, " learning {} flood {}", on(passing.learning), on(passing.unicast))?;
                    write!(f, " mcast_flood {} bcast_flood {}", on(passing.multicast), on(passing.broadcast))?;
                    write!(f, " neigh_suppress {} locked {}", on(passing.suppressed), on(passing.locked))?;
                    write!(f, " state {}", if passing.blocked { 4 } else { 3 })
                })
            }
            Self::AddVlan(key, vlan) => {
                let (pvid, untagged) =
                    (if vlan.pvid { " pvid" } else { "" }, if vlan.untagged { " untagged" } else { "" });
                write!(f, "bridge vlan add dev {} vid {}{pvid}{untagged}", key.dev, key.id)
            }
            Self::DeleteVlan(key) => write!(f, "bridge vlan del dev {} vid {}", key.dev, key.id),
            Self::Nft(table, step) => step.write(f, table),
            Self::WriteSysctl(path, value) => write!(f, "sysctl -w {}={value}", sysctl::parameter(path)),
            Self::SetWireguard(name, key, port) => {
                write!(f, "wg set {name}{}", key.map_or("", |_| " private-key (secret)"))?;
                port.map_or(Ok(()), |port| write!(f, " listen-port {port}"))
            }
            Self::PutWireguardPeer(name, key, change) => write!(f, "wg set {name} peer {key}{change}"),
            Self::DeleteWireguardPeer(name, key) => write!(f, "wg set {name} peer {key} remove"),
            Self::AddAddress(key, address) => {
                let nodad = if address.nodad && key.net.is_ipv6() { " nodad" } else { "" };
                let bare = if address.noprefixroute { " noprefixroute" } else { "" };
                write!(f, "ip addr add {} dev {}{nodad}{bare}", key.net, key.dev)
            }
            Self::PutNeighbour(key, mac) => {
                write!(f, "ip neigh replace {} lladdr {mac} dev {} nud permanent", key.addr, key.dev)
            }
            Self::PutFdb(key, entry) => {
                write!(f, "bridge fdb replace {} dev {}{entry} self permanent", key.mac, key.dev)
            }
            Self::PutRoute(key, route) => write!(f, "ip route replace {}", RouteText(key, route)),
            Self::CreateRoute(key, route) => {
                let how = if key.dst.is_ipv4() { "prepend" } else { "add" };
                write!(f, "ip route {how} {}", RouteText(key, route))
            }
            Self::AddRoute(key, route) => {
                let how = if key.ordinal == 0 { "prepend" } else { "append" };
                write!(f, "ip route {how} {}", RouteText(key, route))
            }
            Self::DeleteRoute(key, route) => write!(f, "ip route del {}", RouteText(key, route)),
            Self::DeleteNeighbour(key) => write!(f, "ip neigh del {} dev {}", key.addr, key.dev),
            Self::DeleteFdb(key) => write!(f, "bridge fdb del {} dev {} self", key.mac, key.dev),
            Self::DeleteAddress(key) => write!(f, "ip addr del {} dev {}", key.net, key.dev),
            Self::DeleteLink(name) => write!(f, "ip link del {name}"),
            Self::AddQdisc(key, qdisc) => write!(f, "tc qdisc add {key}{qdisc}"),
            Self::ChangeQdisc(key, qdisc) => write!(f, "tc qdisc change {key}{qdisc}"),
            Self::DeleteQdisc(key) => write!(f, "tc qdisc del dev {} {}", key.dev, key.place),
            Self::AddFilter(key, filter) => {
                write!(f, "tc filter add dev {} ingress prio {}{filter}", key.dev, key.prio)
            }
            Self::DeleteFilter(key) => write!(f, "tc filter del dev {} ingress prio {}", key.dev, key.prio),
        }
    }
}

impl fmt::Display for LinkChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if let Some(mac) = self.mac {
            write!(f, " address {mac}")?;
        }
        match &self.master {
            Some(Some(master)) => write!(f, " master {master}")?,
            Some(None) => write!(f, " nomaster")?,
            None => {}
        }
        if let Some(alias) = &self.alias {
            write!(f, " alias {alias:?}")?;
        }
        if let Some(promisc) = self.promisc {
            write!(f, " promisc {}", if promisc { "on" } else { "off" })?;
        }
        if let Some(allmulti) = self.allmulti {
            write!(f, " allmulticast {}", if allmulti { "on" } else { "off" })?;
        }
        if let Some(packets) = self.queue_len {
            write!(f, " txqueuelen {packets}")?;
        }
        flags(f, self.arp, self.multicast)?;
        if let Some(protodown) = self.protodown {
            write!(f, " protodown {}", if protodown { "on" } else { "off" })?;
        }
        // After `type` every word belongs to the kind.
        match self.up {
            Some(true) => write!(f, " up")?,
            Some(false) => write!(f, " down")?,
            None => {}
        }
        if let Some(kind) = &self.kind {
            write!(f, " type {}", kind.word())?;
            kind.as_kind().parameters(f, Phase::Change)?;
        }
        Ok(())
    }
}

impl fmt::Display for WireguardPeerChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(endpoint) = self.endpoint {
            write!(f, " endpoint {endpoint}")?;
        }
        if let Some(seconds) = self.keepalive {
            write!(f, " persistent-keepalive {seconds}")?;
        }
        if self.preshared_key.is_some() {
            write!(f, " preshared-key (secret)")?;
        }
        if self.replace || !self.allowed_ips.is_empty() {
            let all: Vec<String> = self.allowed_ips.iter().map(ToString::to_string).collect();
            write!(f, " allowed-ips {}{}", if self.replace { "" } else { "+" }, all.join(",+"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Fdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(id) = self.nexthop {
            return write!(f, " nhid {id}");
        }
        write!(f, " dst {}", self.dst)?;
        self.port.map_or(Ok(()), |port| write!(f, " port {port}"))?;
        self.vni.map_or(Ok(()), |vni| write!(f, " vni {vni}"))?;
        // `bridge` accepts a name or `ifN`.
        self.via.map_or(Ok(()), |via| write!(f, " via if{via}"))
    }
}

/// A route as `ip route` takes it.
#[derive(Debug, Clone, Copy)]
pub struct RouteText<'a>(pub &'a RouteKey, pub &'a Route);

impl fmt::Display for RouteText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(key, route) = self;
        match route.kind {
            RouteKind::Unicast => {}
            kind => write!(f, "{kind} ")?,
        }
        write!(f, "{}", key.dst)?;
        if key.tos != 0 {
            write!(f, " tos {:#x}", key.tos)?;
        }
        if let Some(via) = route.via {
            let other_family = if via.is_ipv4() == key.dst.is_ipv4() { "" } else { "inet6 " };
            write!(f, " via {other_family}{via}")?;
        }
        if let Some(dev) = &route.dev {
            write!(f, " dev {dev}")?;
        }
        if route.onlink {
            write!(f, " onlink")?;
        }
        if let Some(src) = route.src {
            write!(f, " src {src}")?;
        }
        if let Some(metric) = key.metric {
            write!(f, " metric {metric}")?;
        }
        if key.table != TableId::MAIN {
            write!(f, " table {}", key.table.0)?;
        }
        if route.protocol != RouteProtocol::BOOT {
            write!(f, " proto {}", route.protocol.0)?;
        }
        if let Some(mtu) = route.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if let Some(advmss) = route.advmss {
            write!(f, " advmss {advmss}")?;
        }
        Ok(())
    }
}
