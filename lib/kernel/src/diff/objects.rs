//! Objects that belong to links.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::Step;
use crate::state::{Address, AddressKey, Route, RouteKey, RouteKind, Scope, State};
use crate::types::{IfName, RouteProtocol, TableId, host_net};

/// RT_SCOPE_HOST (linux/rtnetlink.h).
const HOST: u8 = 254;

/// Forwarding comes last: when a host starts to forward, it drops default routes from routers on links whose
/// `accept_ra` is not 2 yet (`rt6_purge_dflt_routers`, net/ipv6/route.c).
pub(super) fn sysctls(desired: &State, observed: &State, steps: &mut Vec<Step>) {
    let mut differ: Vec<_> =
        desired.sysctls.iter().filter(|(path, value)| !is_value(observed.sysctls.get(*path), value)).collect();
    differ.sort_by_key(|(path, _)| path.ends_with("/forwarding"));
    steps.extend(differ.into_iter().map(|(path, value)| Step::WriteSysctl(path.clone(), value.clone())));
}

/// The kernel separates the numbers of a parameter by tabs, however they were written.
fn is_value(have: Option<&String>, want: &str) -> bool {
    have.is_some_and(|have| have.split_whitespace().eq(want.split_whitespace()))
}

pub(super) fn add_addresses(desired: &State, observed: &State, steps: &mut Vec<Step>) {
    for (key, address) in &desired.addresses {
        if !observed.addresses.contains_key(key) {
            steps.push(Step::AddAddress(key.clone(), address.clone()));
        } else if observed.unheard.contains(key) {
            steps.extend(hear(key, address));
        }
    }
}

/// First neighbours, then forwarding entries.
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
        // The kernel does not change one kind of entry into the other (vxlan_fdb_update_existing, vxlan_core.c).
        if have.is_some_and(|have| have.nexthop.is_some() != want.nexthop.is_some()) {
            steps.push(Step::DeleteFdb(key.clone()));
        }
        steps.push(Step::PutFdb(key.clone(), *want));
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

/// Whether the link is ours and not desired: it is deleted at the end, with everything on it.
pub(super) fn dies(desired: &State, scope: &Scope, dev: &IfName) -> bool {
    scope.links.contains(dev) && !desired.links.contains_key(dev)
}

/// Whether the link's entries are ours, and the link itself stays.
fn stays<'a>(desired: &'a State, scope: &'a Scope) -> impl Fn(&IfName) -> bool + 'a {
    move |dev| scope.neighbours.contains(dev) && !dies(desired, scope, dev)
}

/// Brings back the route in the local table of an address that is there. IPv4: as the kernel's own (fib_add_ifaddr,
/// net/ipv4/fib_frontend.c); a device that loses its last address loses all its routes. IPv6: with the address, because the
/// kernel's own has metric 0, which cannot be asked for (ip6_route_info_create, net/ipv6/route.c).
fn hear(key: &AddressKey, address: &Address) -> Vec<Step> {
    let IpAddr::V4(_) = key.net.ip() else {
        return vec![Step::DeleteAddress(key.clone()), Step::AddAddress(key.clone(), address.clone())];
    };
    let route = Route {
        kind: RouteKind::LOCAL,
        scope: Some(HOST),
        src: Some(key.net.ip()),
        protocol: RouteProtocol::KERNEL,
        ..Route::by(&key.dev)
    };
    let local = RouteKey { table: TableId::LOCAL, ..RouteKey::main(host_net(key.net.ip())) };
    vec![Step::PutRoute(local, route)]
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
