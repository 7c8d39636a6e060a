//! The pod's side of an attachment, which is the same for every plugin with addresses: the desired state of the
//! interface in the pod's namespace. Pure.

use cni::error::Error;
use cni::result::{AddResult, Route as CniRoute};
use ipnetwork::IpNetwork;
use kernel::state::{Link, LinkKind, Route, RouteKey, RouteScope, Scope, State, Veth};
use kernel::types::{Family, IfName, Mtu, TableId, masked};

/// When IPv6 addresses are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dad {
    /// At once: the address comes from our own IPAM, so no other host has it.
    Off,
    /// After duplicate address detection, with the kernel's enhanced loop check (RFC 7527).
    On,
}

/// The desired state of the link `dev` in the pod: up, with the addresses and routes of `result`.
pub fn desired(dev: &IfName, link: Link, result: &AddResult, dad: Dad) -> Result<State, Error> {
    let mut state = State::default();
    state.links.insert(dev.clone(), link);
    settings(&mut state, dev, dad);
    for ip in &result.ips {
        if ip.address.is_ipv6() {
            enable_ipv6(&mut state, dev);
        }
        state.address(dev, ip.address, dad == Dad::Off);
    }
    for route in &result.routes {
        add_route(&mut state, dev, route, result)?;
    }
    Ok(state)
}

/// arp_notify announces the address when the link is raised, so that neighbours replace the former owner's MAC
/// address.
fn settings(state: &mut State, dev: &IfName, dad: Dad) {
    state.conf("ipv4", dev, "arp_notify", "1");
    match dad {
        Dad::Off => state.conf("ipv6", dev, "accept_dad", "0"),
        Dad::On => {
            state.conf("ipv6", dev, "enhanced_dad", "1");
            state.conf("ipv6", dev, "accept_dad", "1");
        }
    }
}

/// Some runtimes disable IPv6 in a new namespace.
#[expect(clippy::expect_used, reason = "lo is a name")]
fn enable_ipv6(state: &mut State, dev: &IfName) {
    let lo = IfName::new("lo").expect("a name");
    for name in [&lo, dev] {
        state.conf("ipv6", name, "disable_ipv6", "0");
    }
    state.conf("ipv6", dev, "keep_addr_on_down", "1");
}

/// The gateway for a route without one: that of the first address of its family that has one. `0.0.0.0` means none,
/// as in the kernel.
fn gateway(route: &CniRoute, result: &AddResult) -> Option<std::net::IpAddr> {
    let family = Family::from(route.dst);
    if route.gw.is_some_and(|gw| gw.is_unspecified()) {
        return None;
    }
    route.gw.or_else(|| result.ips.iter().filter(|ip| Family::from(ip.address) == family).find_map(|ip| ip.gateway))
}

fn add_route(state: &mut State, dev: &IfName, wanted: &CniRoute, result: &AddResult) -> Result<(), Error> {
    let via = gateway(wanted, result);
    if via.is_some_and(|gw| Family::from(gw) != Family::from(wanted.dst)) {
        return Err(Error::config(format!("route {}: its gateway is of the other family", wanted.dst)));
    }
    let default_metric = if wanted.dst.is_ipv6() { 1024 } else { 0 };
    let mut key = RouteKey {
        dst: masked(wanted.dst),
        table: wanted.table.filter(|t| *t != 0).map_or(TableId::MAIN, TableId),
        tos: 0,
        metric: Some(wanted.priority).filter(|m| *m != 0 && *m != default_metric),
        ordinal: 0,
    };
    let mut route = Route {
        via,
        mtu: Some(Mtu(wanted.mtu)).filter(|m| m.0 != 0),
        advmss: Some(wanted.advmss).filter(|m| *m != 0),
        ..Route::by(dev)
    };
    route.scope = wanted.scope.filter(|s| *s != kernel::message::route::default_scope(key.dst, &route));
    while let Some(there) = state.routes.get(&key) {
        if *there == route {
            return Ok(());
        }
        key.ordinal = key.ordinal.checked_add(1).ok_or_else(|| too_many(wanted))?;
    }
    state.routes.insert(key, route);
    Ok(())
}

fn too_many(route: &CniRoute) -> Error {
    Error::config(format!(
        "route {}: IPAM gives more than {} different ones to this destination: give them metrics (\"priority\") or leave some out",
        route.dst,
        usize::from(u8::MAX) + 1
    ))
}

/// Removes from `wanted` what a later plugin or the pod may change: parameters, the MTU, the default route. For
/// CHECK.
pub fn leave_to_others(wanted: &mut State) {
    wanted.sysctls.clear();
    wanted.links.values_mut().for_each(|link| link.mtu = None);
    wanted.routes.retain(|key, _| !is_default(key.dst));
}

/// The parts of `wanted` by routing table, always including the main one, each with the objects that belong to this
/// attachment: the interface, its addresses, and routes by it.
pub fn by_table(dev: &IfName, wanted: &State) -> Vec<(State, Scope)> {
    let mut tables: Vec<_> = wanted.routes.keys().map(|key| key.table).chain([TableId::MAIN]).collect();
    tables.sort_unstable();
    tables.dedup();
    tables.into_iter().map(|table| part(dev, wanted, table)).collect()
}

fn part(dev: &IfName, wanted: &State, table: TableId) -> (State, Scope) {
    let routes = Some(RouteScope { table, dev: Some(dev.clone()), ..RouteScope::default() });
    let of_table = wanted.routes.iter().filter(|(key, _)| key.table == table);
    let of_table = of_table.map(|(key, route)| (key.clone(), route.clone())).collect();
    // Everything except routes is compared once.
    let rest = if table == TableId::MAIN { wanted.clone() } else { State::default() };
    let scope = Scope {
        links: vec![dev.clone()],
        addresses: vec![dev.clone()],
        routes,
        sysctls: rest.sysctls.keys().cloned().collect(),
        keep: true,
        ..Scope::default()
    };
    (State { routes: of_table, ..rest }, scope)
}

/// A veth end in a pod, up.
pub fn veth_end(mac: Option<kernel::types::Mac>, mtu: Option<Mtu>) -> Link {
    Link { mac, mtu, ..Link::up(LinkKind::Veth(Veth { peer: None })) }
}

/// Whether `net` without its host bits is its family's default route.
pub fn is_default(net: IpNetwork) -> bool {
    net.prefix() == 0
}

#[cfg(test)]
mod tests;
