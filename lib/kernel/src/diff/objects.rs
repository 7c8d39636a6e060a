//! Everything that hangs on links.

use ipnetwork::IpNetwork;

use super::Step;
use crate::state::{Route, RouteKey, Scope, State};
use crate::types::IfName;

pub(super) fn sysctls(desired: &State, observed: &State, steps: &mut Vec<Step>) {
    for (path, value) in &desired.sysctls {
        if observed.sysctls.get(path) != Some(value) {
            steps.push(Step::WriteSysctl(path.clone(), value.clone()));
        }
    }
}

pub(super) fn add_addresses(desired: &State, observed: &State, steps: &mut Vec<Step>) {
    for (key, address) in &desired.addresses {
        if !observed.addresses.contains_key(key) {
            steps.push(Step::AddAddress(key.clone(), address.clone()));
        }
    }
}

/// Neighbours, then forwarding entries.
pub(super) fn put_neighbours(desired: &State, observed: &State, steps: &mut Vec<Step>) {
    for (key, mac) in &desired.neighbours {
        if observed.neighbours.get(key) != Some(mac) {
            steps.push(Step::PutNeighbour(key.clone(), *mac));
        }
    }
    for (key, want) in &desired.fdb {
        let have = observed.fdb.get(key);
        if have == Some(want) {
            continue;
        }
        // the kernel changes no entry of one sort into the other (vxlan_fdb_update_existing, vxlan_core.c)
        if have.is_some_and(|have| have.nexthop.is_some() != want.nexthop.is_some()) {
            steps.push(Step::DeleteFdb(key.clone()));
        }
        steps.push(Step::PutFdb(key.clone(), *want));
    }
}

/// `have` does what `want` says; what `want` leaves to the kernel is not looked at.
pub fn satisfies(want: &Route, have: &Route) -> bool {
    want.kind == have.kind
        && (want.dev.is_none() || want.dev == have.dev)
        && want.via == have.via
        && want.onlink == have.onlink
        && want.scope == have.scope
        && (want.src.is_none() || want.src == have.src)
        && want.protocol == have.protocol
        && want.mtu == have.mtu
        && want.advmss == have.advmss
}

pub(super) fn put_routes(desired: &State, observed: &State, scope: &Scope, steps: &mut Vec<Step>) {
    // a route that leaves its link to the kernel is there by a link that is about to go, and would go with it
    let lost = |want: &Route, have: &Route| {
        want.dev.is_none() && !scope.keep && have.dev.as_ref().is_some_and(|dev| dies(desired, scope, dev))
    };
    let there = |want: &Route, have: &Route| satisfies(want, have) && !lost(want, have);
    let mut put: Vec<_> = desired
        .routes
        .iter()
        .filter(|(key, want)| !observed.routes.get(*key).is_some_and(|have| there(want, have)))
        .collect();
    // a gateway must be reachable when its route comes: routes without one first, and before those with an onlink one,
    // because IPv6 asks the table about that too (ip6_route_check_nh_onlink, net/ipv6/route.c)
    let rank = |route: &Route| match (route.via, route.onlink) {
        (None, _) => 0,
        (Some(_), true) => 1,
        (Some(_), false) => 2,
    };
    put.sort_by_key(|(key, route)| (rank(route), key.ordinal));
    let step = if scope.beside { Step::AddRoute } else { Step::PutRoute };
    steps.extend(put.into_iter().map(|(key, route)| step(key.clone(), route.clone())));
}

/// Whether a route that nobody wants is ours.
fn ours(scope: &Scope, key: &RouteKey, route: &Route) -> bool {
    let Some(routes) = &scope.routes else { return false };
    if key.table != routes.table || route.protocol == crate::types::RouteProtocol::KERNEL {
        return false;
    }
    let adopted = route.protocol == crate::types::RouteProtocol::BOOT
        && route.via.is_some()
        && routes.adopt.iter().any(|net| within(*net, key.dst));
    let inside = routes.within.is_empty()
        || routes.within.iter().any(|net| *net == key.dst || within(*net, key.dst))
        || route.dev.as_ref().is_some_and(|dev| scope.links.contains(dev));
    (routes.protocol == Some(route.protocol) && inside) || adopted || (routes.dev.is_some() && route.dev == routes.dev)
}

/// `inner` is a part of `outer`, not all of it.
fn within(outer: IpNetwork, inner: IpNetwork) -> bool {
    inner.is_ipv4() == outer.is_ipv4() && inner.prefix() > outer.prefix() && outer.contains(inner.network())
}

pub(super) fn delete_routes(desired: &State, observed: &State, scope: &Scope, steps: &mut Vec<Step>) {
    for (key, route) in &observed.routes {
        if !desired.routes.contains_key(key) && ours(scope, key, route) {
            steps.push(Step::DeleteRoute(key.clone(), route.clone()));
        }
    }
}

pub(super) fn delete_neighbours(desired: &State, observed: &State, scope: &Scope, steps: &mut Vec<Step>) {
    let stays = stays(desired, scope);
    for key in observed.neighbours.keys().filter(|key| stays(&key.dev)) {
        if !desired.neighbours.contains_key(key) {
            steps.push(Step::DeleteNeighbour(key.clone()));
        }
    }
    for key in observed.fdb.keys().filter(|key| stays(&key.dev)) {
        if !desired.fdb.contains_key(key) {
            steps.push(Step::DeleteFdb(key.clone()));
        }
    }
}

/// A link of ours that nobody wants: it is deleted in the end, and all that hangs on it goes with it.
pub(super) fn dies(desired: &State, scope: &Scope, dev: &IfName) -> bool {
    scope.links.contains(dev) && !desired.links.contains_key(dev)
}

/// A link whose entries are ours and which is not itself deleted, with all of them, in the end.
fn stays<'a>(desired: &'a State, scope: &'a Scope) -> impl Fn(&IfName) -> bool + 'a {
    move |dev| scope.neighbours.contains(dev) && !dies(desired, scope, dev)
}

pub(super) fn delete_addresses(desired: &State, observed: &State, scope: &Scope, steps: &mut Vec<Step>) {
    for key in observed.addresses.keys() {
        let dies = dies(desired, scope, &key.dev);
        let link_local = matches!(key.net, IpNetwork::V6(v6) if v6.ip().is_unicast_link_local());
        if scope.addresses.contains(&key.dev) && !dies && !link_local && !desired.addresses.contains_key(key) {
            steps.push(Step::DeleteAddress(key.clone()));
        }
    }
}
