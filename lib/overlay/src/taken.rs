//! What goes to peers, and which routes of other programs take all of it. Pure.
//!
//! A backend has a route for each peer, or one for the whole network (udp, wireguard). In front of the latter comes any longer
//! route of another program: it takes a peer's packets without being a route to the same destination.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use kernel::state::{Route, RouteKey, RouteKind, State};
use kernel::types::{TableId, host_net, masked};

/// IP6_RT_PRIO_USER, linux/ipv6_route.h.
const V6_METRIC: u32 = 1024;

/// RTN_THROW, linux/rtnetlink.h: the next rule decides.
const THROW: RouteKind = RouteKind::Other(9);

/// A subnet of a peer, and our route that leads there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way<'a> {
    /// The peer's subnet.
    pub subnet: IpNetwork,
    /// The key of the longest of our routes that contain it.
    pub key: &'a RouteKey,
    /// That route.
    pub route: &'a Route,
}

/// The ways to `subnets`. A subnet that no route of `desired` leads to by a link has none.
pub fn ways<'a>(
    desired: &'a State,
    subnets: impl Iterator<Item = IpNetwork> + Clone,
) -> impl Iterator<Item = Way<'a>> + Clone {
    subnets.filter_map(|subnet| {
        let (key, route) = longest(desired, subnet)?;
        Some(Way { subnet, key, route })
    })
}

fn longest(desired: &State, subnet: IpNetwork) -> Option<(&RouteKey, &Route)> {
    let by_link = |(_, route): &(&RouteKey, &Route)| route.kind == RouteKind::Unicast && route.dev.is_some();
    let to = |dst: IpNetwork| {
        let first = RouteKey::main(dst);
        let last = RouteKey { metric: Some(u32::MAX), tos: u8::MAX, ordinal: u8::MAX, ..first.clone() };
        desired.routes.range(first..=last).find(by_link)
    };
    (0..=subnet.prefix()).rev().find_map(|length| to(masked(IpNetwork::new(subnet.ip(), length).ok()?)))
}

/// Those of `foreign` that the kernel asks before our route for every packet to some peer, each with the way to that peer.
/// A route that takes only a part of each peer's packets is not among them.
pub fn taken<'f, 'a>(
    foreign: &[&'f (RouteKey, Route)],
    ways: impl Iterator<Item = Way<'a>>,
) -> Vec<(&'f (RouteKey, Route), Way<'a>)> {
    if foreign.is_empty() {
        return Vec::new();
    }
    let ways: BTreeMap<IpNetwork, Way<'a>> = ways.map(|way| (way.subnet, way)).collect();
    let of = |entry: &&'f (RouteKey, Route)| {
        let (key, route) = *entry;
        let last = host_net(key.dst.broadcast());
        let mut inside = ways.range(key.dst..=last).map(|(_, way)| *way);
        inside.find(|way| precedes(key, route, way.key)).map(|way| (*entry, way))
    };
    foreign.iter().filter_map(of).collect()
}

/// Whether the kernel asks the route of another program before `ours`, for a subnet inside both.
fn precedes(key: &RouteKey, route: &Route, ours: &RouteKey) -> bool {
    let longer = (key.dst.prefix(), effective_metric(ours)) > (ours.dst.prefix(), effective_metric(key));
    match key.table {
        _ if key.tos != 0 => false,
        TableId::LOCAL => route.kind != THROW,
        table => table == ours.table && longer,
    }
}

fn effective_metric(key: &RouteKey) -> u32 {
    key.metric.unwrap_or(if key.dst.is_ipv4() { 0 } else { V6_METRIC })
}

#[cfg(test)]
mod tests {
    use kernel::types::IfName;

    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn by(dst: &str, metric: Option<u32>) -> (RouteKey, Route) {
        (RouteKey { metric, ..RouteKey::main(net(dst)) }, Route::by(&IfName::new("flannel.1").unwrap()))
    }

    /// A route for each of two peers, and one for the whole network.
    fn desired() -> State {
        let mut desired = State::default();
        desired.routes.extend([by("10.6.1.0/24", None), by("10.6.2.0/24", None), by("fd06:0:0:1::/64", None)]);
        desired.routes.extend([by("10.5.0.0/16", Some(1))]);
        desired
    }

    /// The metric of our route that `key` comes before.
    fn first_taken(key: RouteKey, kind: RouteKind) -> Option<(IpNetwork, Option<u32>)> {
        let (desired, entry) = (desired(), (key, Route { kind, dev: None, ..by("0.0.0.0/0", None).1 }));
        let peers = ["10.5.7.0/24", "10.6.1.0/24", "10.6.2.0/24", "10.9.1.0/24", "fd06:0:0:1::/64"].map(net);
        let taken = taken(&[&entry], ways(&desired, peers.into_iter()));
        taken.first().map(|(_, way)| (way.subnet, way.key.metric))
    }

    fn blackhole(dst: &str, metric: Option<u32>) -> Option<(IpNetwork, Option<u32>)> {
        first_taken(by(dst, metric).0, RouteKind::Blackhole)
    }

    #[test]
    fn the_longest_route_leads_to_a_peer() {
        let mut desired = desired();
        desired.routes.extend([by("10.5.7.0/24", None)]);
        let peers = ["10.5.7.0/24", "10.5.8.0/24", "10.9.1.0/24"].map(net);
        let found: Vec<_> = ways(&desired, peers.into_iter()).map(|way| (way.subnet, way.key.dst)).collect();
        assert_eq!(found, [(peers[0], peers[0]), (peers[1], net("10.5.0.0/16"))]);
        let (key, route) = by("10.9.1.0/24", None);
        desired.routes.insert(key, Route { kind: RouteKind::Blackhole, ..route });
        assert_eq!(ways(&desired, [peers[2]].into_iter()).next(), None);
    }

    #[test]
    fn a_route_with_a_lower_metric_takes_all() {
        assert_eq!(blackhole("10.5.0.0/16", None), Some((net("10.5.7.0/24"), Some(1))));
        assert_eq!(blackhole("10.5.0.0/16", Some(1)), None, "whichever is first, and ours is made that");
        assert_eq!(blackhole("10.5.0.0/16", Some(2)), None);
        assert_eq!(blackhole("10.6.1.0/24", None), None);
        assert_eq!(blackhole("fd06:0:0:1::/64", Some(1023)), Some((net("fd06:0:0:1::/64"), None)));
        assert_eq!(blackhole("fd06:0:0:1::/64", Some(1025)), None);
    }

    #[test]
    fn a_longer_route_takes_the_peers_inside_it() {
        assert_eq!(blackhole("10.5.7.0/24", Some(7)), Some((net("10.5.7.0/24"), Some(1))));
        assert_eq!(blackhole("10.5.0.0/20", None), Some((net("10.5.7.0/24"), Some(1))));
        assert_eq!(blackhole("10.5.128.0/17", None), None, "no peer is there");
        assert_eq!(blackhole("10.5.7.0/25", None), None, "a part of a peer");
        assert_eq!(blackhole("10.6.0.0/16", None), None, "ours are longer");
        assert_eq!(blackhole("0.0.0.0/0", None), None);
    }

    #[test]
    fn the_local_table_is_asked_first() {
        let local = |dst: &str| RouteKey { table: TableId::LOCAL, ..by(dst, Some(7)).0 };
        let taken = |dst: &str| first_taken(local(dst), RouteKind::Blackhole).map(|(subnet, _)| subnet);
        assert_eq!(taken("10.6.2.0/24"), Some(net("10.6.2.0/24")));
        assert_eq!(taken("10.6.0.0/16"), Some(net("10.6.1.0/24")));
        assert_eq!(taken("10.6.2.0/25"), None);
        assert_eq!(first_taken(local("10.6.2.0/24"), THROW), None);
    }

    #[test]
    fn what_takes_a_part_or_is_not_asked_takes_nothing() {
        let key = by("10.5.7.0/24", None).0;
        assert_eq!(first_taken(RouteKey { table: TableId(7), ..key.clone() }, RouteKind::Blackhole), None);
        assert_eq!(first_taken(RouteKey { tos: 0x10, ..key.clone() }, RouteKind::Blackhole), None);
        assert_eq!(first_taken(key, THROW).map(|(subnet, _)| subnet), Some(net("10.5.7.0/24")), "the rest has none");
    }
}
