//! What a host's addresses and its main table say about its uplink. Pure except [`Kernel::survey`].

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::kernel::Kernel;
use crate::netlink::KernelError;
use crate::state::{Route, RouteKey};
use crate::types::{Family, IfName, TableId};

pub use crate::message::address::SeenAddress;
pub use crate::message::link::SeenLink;
pub use crate::message::rule::SeenRule;

/// A namespace's links, addresses and main table, each in the kernel's order.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// All links of the namespace.
    pub links: Vec<SeenLink>,
    /// The addresses of all links.
    pub addresses: Vec<SeenAddress>,
    /// The main table of both families.
    pub routes: Vec<(RouteKey, Route)>,
}

impl Kernel {
    /// Reads all of it with four dumps.
    pub fn survey(&mut self) -> Result<Survey, KernelError> {
        // links first: addresses of unknown links are left out
        let links = self.links()?;
        let addresses = self.addresses()?;
        let routes = self.routes(TableId::MAIN)?;
        Ok(Survey { links, addresses, routes })
    }
}

/// A default route, with the fields for the choice of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultRoute<'a> {
    /// The link by which it leaves.
    pub dev: &'a IfName,
    /// The metric, or the family's default if the route has none.
    pub metric: u32,
    /// Whether there are other default routes, by other links.
    pub several: bool,
}

/// The default route that the kernel prefers: the lowest metric, then the first in the list.
pub fn default_route(routes: &[(RouteKey, Route)], family: Family) -> Option<DefaultRoute<'_>> {
    let any = family.default_net();
    // IP6_RT_PRIO_USER, include/net/ip6_route.h
    let usual = if family == Family::V6 { 1024 } else { 0 };
    let defaults: Vec<(u32, &IfName)> = routes
        .iter()
        .filter(|(key, _)| key.dst == any)
        .filter_map(|(key, route)| Some((key.metric.unwrap_or(usual), route.dev.as_ref()?)))
        .collect();
    let (metric, dev) = defaults.iter().min_by_key(|(metric, _)| *metric).copied()?;
    Some(DefaultRoute { dev, metric, several: defaults.iter().any(|(_, other)| *other != dev) })
}

/// The best address of a link: global before link-local, then permanent before others, then no privacy address, then
/// the kernel's order. Never a deprecated or tentative address.
pub fn preferred_address(addresses: &[SeenAddress], dev: &IfName, family: Family) -> Option<IpAddr> {
    let usable = |seen: &&SeenAddress| {
        let ip = seen.key.net.ip();
        let settled = !seen.deprecated && !seen.tentative && !seen.dad_failed;
        seen.key.dev == *dev && Family::from(ip) == family && settled && !ip.is_loopback() && !ip.is_multicast()
    };
    let rank = |seen: &&SeenAddress| (is_link_local(seen.key.net.ip()), !seen.permanent, seen.secondary);
    addresses.iter().filter(usable).min_by_key(rank).map(|seen| seen.key.net.ip())
}

/// The prefixes that the table reaches through `dev` without a router: hosts there are on the same segment.
pub fn connected(routes: &[(RouteKey, Route)], dev: &IfName) -> Vec<IpNetwork> {
    routes.iter().filter(|(key, route)| is_on_link(key, route, dev)).map(|(key, _)| key.dst).collect()
}

/// Whether the route reaches hosts on the same segment as `dev`.
pub fn is_on_link(key: &RouteKey, route: &Route, dev: &IfName) -> bool {
    route.dev.as_ref() == Some(dev) && route.via.is_none() && !is_link_local(key.dst.ip())
}

/// Whether the address is in 169.254.0.0/16 or fe80::/10.
pub fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
