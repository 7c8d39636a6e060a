//! Routes: RTM_NEWROUTE, RTM_DELROUTE (Documentation/netlink/specs/rt-route.yaml).

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteType, RouteVia,
};

use super::{Names, address_family};
use crate::state::{Route, RouteKey, RouteKind};
use crate::types::{Family, IfIndex, Mtu, RouteProtocol, TableId};

/// The metric that the kernel gives IPv6 routes without one (IP6_RT_PRIO_USER, include/net/ip6_route.h).
const IPV6_METRIC: u32 = 1024;

/// The metric of IPv6 routes that the kernel adds with an address (IP6_RT_PRIO_ADDRCONF, include/net/ip6_route.h).
pub const IPV6_PREFIX_METRIC: u32 = 256;

/// RT_SCOPE_UNIVERSE and RT_SCOPE_LINK, linux/rtnetlink.h
const UNIVERSE: u8 = 0;
const LINK: u8 = 253;

/// The scope that iproute2 sets: for IPv4, link if there is no gateway. IPv6 has no scopes.
pub fn default_scope(dst: IpNetwork, route: &Route) -> u8 {
    let link = dst.is_ipv4() && route.via.is_none() && route.kind == RouteKind::Unicast;
    if link { LINK } else { UNIVERSE }
}

fn table_byte(table: TableId) -> u8 {
    // RT_TABLE_COMPAT: the number is in the attribute
    u8::try_from(table.0).unwrap_or(252)
}

fn message(key: &RouteKey, route: &Route, names: &dyn Names) -> Option<RouteMessage> {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = address_family(Family::from(key.dst));
    header.destination_prefix_length = key.dst.prefix();
    header.table = table_byte(key.table);
    header.protocol = route.protocol.0.into();
    header.scope = route.scope.unwrap_or_else(|| default_scope(key.dst, route)).into();
    header.tos = key.tos;
    header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Other(kind) => kind.into(),
    };
    if route.onlink {
        header.flags = RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(key.table.0));
    if key.dst.prefix() > 0 {
        attributes.push(RouteAttribute::Destination(key.dst.network().into()));
    }
    attributes.extend(route.via.map(|ip| match ip {
        IpAddr::V6(v6) if key.dst.is_ipv4() => RouteAttribute::Via(RouteVia::Inet6(v6)),
        ip => RouteAttribute::Gateway(ip.into()),
    }));
    if let Some(dev) = &route.dev {
        attributes.push(RouteAttribute::Oif(names.index(dev)?.0));
    }
    attributes.extend(key.metric.map(RouteAttribute::Priority));
    attributes.extend(route.src.map(|ip| RouteAttribute::PrefSource(ip.into())));
    let metrics: Vec<_> = [route.mtu.map(|Mtu(mtu)| RouteMetric::Mtu(mtu)), route.advmss.map(RouteMetric::Advmss)]
        .into_iter()
        .flatten()
        .collect();
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    Some(message)
}

/// `ip route replace …` or `append`, depending on the flags. `None` if its link is unknown.
pub fn put(key: &RouteKey, route: &Route, names: &dyn Names) -> Option<Message> {
    message(key, route, names).map(Message::NewRoute)
}

/// `ip route del …` for exactly this route. `None` if its link is unknown.
pub fn delete(key: &RouteKey, route: &Route, names: &dyn Names) -> Option<Message> {
    message(key, route, names).map(Message::DelRoute)
}

/// `ip route show table T [proto P] [dev INDEX]` of one family.
pub fn get(family: Family, table: TableId, protocol: Option<RouteProtocol>, dev: Option<u32>) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.table = table_byte(table);
    message.header.protocol = protocol.map_or(0, |p| p.0).into();
    message.attributes.push(RouteAttribute::Table(table.0));
    message.attributes.extend(dev.map(RouteAttribute::Oif));
    Message::GetRoute(message)
}

/// `ip route get ADDR`: asks the kernel how it reaches `addr`.
pub fn lookup(addr: IpAddr) -> Message {
    Message::GetRoute(question(addr))
}

fn question(addr: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    let family = Family::from(addr);
    message.header.address_family = address_family(family);
    message.header.destination_prefix_length = family.bits();
    message.attributes.push(RouteAttribute::Destination(addr.into()));
    message
}

/// `ip route get DST from SRC iif INDEX`: as the kernel forwards a packet.
pub fn lookup_forwarded(src: IpAddr, dst: IpAddr, iif: IfIndex) -> Message {
    let mut message = question(dst);
    message.header.source_prefix_length = Family::from(src).bits();
    message.attributes.push(RouteAttribute::Source(src.into()));
    message.attributes.push(RouteAttribute::Iif(iif.0));
    Message::GetRoute(message)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// The index of the outgoing link in a RTM_NEWROUTE, if it has one.
pub fn link(message: &Message) -> Option<u32> {
    let Message::NewRoute(message) = message else { return None };
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// Whether a RTM_NEWROUTE leads to the host itself.
pub fn is_local(message: &Message) -> bool {
    matches!(message, Message::NewRoute(message) if message.header.kind == RouteType::Local)
}

/// The protocol in a RTM_NEWROUTE: who installed the route.
pub fn protocol(message: &Message) -> Option<RouteProtocol> {
    let Message::NewRoute(message) = message else { return None };
    Some(RouteProtocol(message.header.protocol.into()))
}

/// Whether the destination of a RTM_NEWROUTE is one of `nets` or inside one.
pub fn is_within(message: &Message, nets: &[IpNetwork]) -> bool {
    let Message::NewRoute(message) = message else { return false };
    let prefix = message.header.destination_prefix_length;
    let dst = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    dst.is_some_and(|dst| nets.iter().any(|net| net.prefix() <= prefix && net.contains(dst)))
}

/// Decodes a RTM_NEWROUTE. `None` for a cache entry, and for a route that applies only to some sources (IPv6's `from`).
pub fn decode(message: &Message, names: &dyn Names) -> Option<(RouteKey, Route)> {
    let Message::NewRoute(message) = message else { return None };
    let header = &message.header;
    let kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        other => RouteKind::Other(other.into()),
    };
    if header.flags.contains(RouteFlags::Cloned) || header.source_prefix_length > 0 {
        return None;
    }
    decode_route(message, kind, names)
}

/// Like [`decode`], for routes by the link `dev`. IPv6 merges routes to a destination that differ only in their next
/// hop into one, but accepts them one by one: each hop by `dev` is returned as a route.
pub(crate) fn decode_by(dev: u32, message: &Message, names: &dyn Names) -> Vec<(RouteKey, Route)> {
    let hops = if let Message::NewRoute(route) = message { by_hop(dev, route) } else { None };
    match hops {
        Some(hops) => hops.into_iter().filter_map(|hop| decode(&Message::NewRoute(hop), names)).collect(),
        None => decode(message, names).into_iter().collect(),
    }
}

/// The route with each of its hops by `dev` in turn; `None` unless it is an IPv6 route with several hops.
fn by_hop(dev: u32, route: &RouteMessage) -> Option<Vec<RouteMessage>> {
    let is_ipv6 = route.header.address_family == address_family(Family::V6);
    let hops = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) if is_ipv6 => Some(hops),
        _ => None,
    })?;
    let alone = |hop: &RouteNextHop| {
        let mut alone = route.clone();
        alone.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::MultiPath(_)));
        alone.attributes.push(RouteAttribute::Oif(hop.interface_index));
        alone.attributes.extend(hop.attributes.iter().cloned());
        alone
    };
    Some(hops.iter().filter(|hop| hop.interface_index == dev).map(alone).collect())
}

/// Decodes the route of a RTM_DELROUTE, as [`decode`] does for a new one.
pub fn decode_gone(message: &Message, names: &dyn Names) -> Option<(RouteKey, Route)> {
    let Message::DelRoute(gone) = message else { return None };
    decode(&Message::NewRoute(gone.clone()), names)
}

/// Decodes the reply to [`lookup`], which the kernel marks as a clone.
pub fn decode_lookup(message: &Message, names: &dyn Names) -> Option<Route> {
    let Message::NewRoute(message) = message else { return None };
    (message.header.kind == RouteType::Unicast)
        .then(|| decode_route(message, RouteKind::Unicast, names))
        .flatten()
        .map(|(_, route)| route)
}

fn decode_route(message: &RouteMessage, kind: RouteKind, names: &dyn Names) -> Option<(RouteKey, Route)> {
    let header = &message.header;
    let family = if header.address_family == address_family(Family::V4) { Family::V4 } else { Family::V6 };
    let mut dst = family.default_net();
    let mut key = RouteKey::main(dst);
    key.table = TableId(u32::from(header.table));
    key.tos = if family == Family::V4 { header.tos } else { 0 };
    let mut route = Route {
        kind,
        dev: None,
        via: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
        scope: Some(header.scope.into()),
        src: None,
        protocol: RouteProtocol(header.protocol.into()),
        mtu: None,
        advmss: None,
        further: false,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                dst = IpNetwork::new(ip(address)?, header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Table(table) => key.table = TableId(*table),
            RouteAttribute::Priority(metric) => key.metric = Some(*metric),
            RouteAttribute::Gateway(address) => route.via = ip(address),
            RouteAttribute::Oif(index) => route.dev = names.name(*index),
            RouteAttribute::PrefSource(address) => route.src = ip(address),
            RouteAttribute::Metrics(metrics) => decode_metrics(metrics, &mut route),
            RouteAttribute::Via(RouteVia::Inet6(v6)) => route.via = Some(IpAddr::V6(*v6)),
            RouteAttribute::MultiPath(_)
            | RouteAttribute::NhId(_)
            | RouteAttribute::Encap(_)
            | RouteAttribute::EncapType(_) => route.further = true,
            _ => {}
        }
    }
    key.dst = dst;
    let default_metric = if family == Family::V6 { IPV6_METRIC } else { 0 };
    key.metric = key.metric.filter(|metric| *metric != default_metric);
    if kind != RouteKind::Unicast {
        // IPv6 attaches such routes to lo
        route.dev = None;
    }
    if route.scope == Some(default_scope(dst, &route)) {
        route.scope = None;
    }
    Some((key, route))
}

fn decode_metrics(metrics: &[RouteMetric], route: &mut Route) {
    for metric in metrics {
        match metric {
            RouteMetric::Mtu(mtu) => route.mtu = Some(Mtu(*mtu)),
            RouteMetric::Advmss(advmss) => route.advmss = Some(*advmss),
            RouteMetric::Lock(_) | RouteMetric::Window(_) | RouteMetric::Hoplimit(_) => route.further = true,
            _ => {}
        }
    }
}
