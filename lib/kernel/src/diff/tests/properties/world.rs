//! A model of the kernel that takes steps one by one, and refuses what the kernel refuses.

use crate::diff::{Step, twins};
use crate::state::{
    Fdb, FilterAction, Link, LinkKind, Port, PublicKey, QdiscKey, QdiscPlace, Route, RouteKey, RouteKind, State,
    TunTap, Vxlan, WireguardDevice, WireguardPeer, WireguardPeerChange,
};
use crate::types::IfName;

use super::super::LinkChange;

/// The state of the kernel after `step`.
pub fn take(world: &mut State, step: &Step) {
    match step.clone() {
        Step::CreateLink(name, link) => create(world, name, link),
        Step::ChangeLink(name, change) => alter(world, &name, change),
        Step::RenameLink(from, to) => super::super::rename(world, &from, &to),
        Step::DeleteLink(name) => delete(world, &name),
        Step::SetPort(name, port) => {
            assert!(world.links[&name].master.is_some(), "{name} is no port");
            world.ports.insert(name, port);
        }
        Step::AddVlan(key, vlan) => {
            assert!(world.links.contains_key(&key.dev), "{step}: no such port");
            world.vlans.insert(key, vlan);
        }
        Step::WriteSysctl(path, value) => drop(world.sysctls.insert(path, value)),
        Step::AddAddress(key, address) => {
            assert!(world.links.contains_key(&key.dev), "{step}: no such device");
            assert!(world.addresses.insert(key, address).is_none(), "{step}: File exists");
        }
        Step::AddQdisc(key, qdisc) => {
            assert!(world.links.contains_key(&key.dev), "{step}: no such device");
            assert!(world.qdiscs.insert(key, qdisc).is_none(), "{step}: Exclusivity flag on, cannot modify");
        }
        Step::ChangeQdisc(key, qdisc) => {
            let before = world.qdiscs.insert(key, qdisc.clone());
            assert!(before.is_some_and(|before| before.word() == qdisc.word()), "{step}: Invalid qdisc name");
        }
        Step::AddFilter(key, filter) => {
            assert!(has_ingress(world, &key.dev), "{step}: Parent Qdisc doesn't exists");
            let reached = |to: &IfName| world.links.contains_key(to);
            assert!(
                !matches!(&filter.action, FilterAction::Redirect(to) if !to.as_ref().is_some_and(reached)),
                "{step}"
            );
            assert!(world.filters.insert(key, filter).is_none(), "{step}: another filter comes first");
        }
        Step::PutNeighbour(key, mac) => {
            assert!(world.links[&key.dev].up, "{step}: the device is down");
            world.neighbours.insert(key, mac);
        }
        Step::PutFdb(key, entry) => {
            let before = world.fdb.insert(key, entry);
            let sort = |entry: Fdb| entry.nexthop.is_some();
            assert!(before.is_none_or(|before| sort(before) == sort(entry)), "{step}: Operation not supported");
        }
        Step::PutRoute(key, route) | Step::AddRoute(key, route) => {
            assert!(can_leave(world, &route), "{step}: down");
            world.routes.insert(key, route);
        }
        Step::CreateRoute(key, route) => {
            assert!(can_leave(world, &route), "{step}: down");
            let others: Vec<Route> = twins(&key, world).map(|(_, other)| other.clone()).collect();
            let refused = if key.dst.is_ipv4() { others.contains(&route) } else { !others.is_empty() };
            assert!(!refused, "{step}: File exists");
            line_up(world, &key, std::iter::once(route).chain(others));
        }
        Step::SetWireguard(name, key, port) => {
            let device = world.wireguard.entry(name).or_default();
            device.private_key = key.or(device.private_key);
            device.listen_port = port.or(device.listen_port);
        }
        Step::PutWireguardPeer(name, key, change) => {
            assert!(world.links.contains_key(&name), "{step}: no such device");
            put_peer(world.wireguard.entry(name).or_default(), key, change);
        }
        gone => assert!(remove(world, &gone), "{step}: there is none"),
    }
}

pub fn has_ingress(state: &State, dev: &IfName) -> bool {
    state.qdiscs.contains_key(&QdiscKey { dev: dev.clone(), place: QdiscPlace::Ingress })
}

fn can_leave(world: &State, route: &Route) -> bool {
    let up = |dev: &IfName| world.links.get(dev).is_some_and(|link| link.up);
    route.kind == RouteKind::Blackhole || route.dev.as_ref().is_none_or(up)
}

/// Puts the routes under one key in this order.
fn line_up(world: &mut State, key: &RouteKey, routes: impl IntoIterator<Item = Route>) {
    world.routes.retain(|other, _| RouteKey { ordinal: 0, ..other.clone() } != RouteKey { ordinal: 0, ..key.clone() });
    world.routes.extend((0..).zip(routes).map(|(ordinal, route)| (RouteKey { ordinal, ..key.clone() }, route)));
}

/// The routes as the kernel lists them: numbered from 0, without duplicates.
pub fn as_listed(state: &mut State) {
    let keys: Vec<RouteKey> = state.routes.keys().cloned().collect();
    for key in keys {
        let mut routes: Vec<Route> = Vec::new();
        for (_, route) in twins(&key, state) {
            if !routes.contains(route) {
                routes.push(route.clone());
            }
        }
        line_up(state, &key, routes);
    }
}

/// Removes the object of a step. Returns whether it existed.
fn remove(world: &mut State, step: &Step) -> bool {
    match step {
        Step::DeleteVlan(key) => world.vlans.remove(key).is_some(),
        Step::DeleteRoute(key, route) => {
            let alike = |(found, had): &(&RouteKey, &Route)| found.ordinal >= key.ordinal && *had == route;
            let found = twins(key, world).find(alike).map(|(found, _)| found.clone());
            found.is_some_and(|found| world.routes.remove(&found).is_some())
        }
        Step::DeleteFilter(key) => world.filters.remove(key).is_some(),
        Step::DeleteQdisc(key) => {
            if key.place == QdiscPlace::Ingress {
                world.filters.retain(|filter, _| filter.dev != key.dev);
            }
            world.qdiscs.remove(key).is_some()
        }
        Step::DeleteNeighbour(key) => world.neighbours.remove(key).is_some(),
        Step::DeleteFdb(key) => world.fdb.remove(key).is_some(),
        Step::DeleteAddress(key) => world.addresses.remove(key).is_some(),
        Step::DeleteWireguardPeer(name, key) => {
            world.wireguard.get_mut(name).is_some_and(|device| device.peers.remove(key).is_some())
        }
        _ => false,
    }
}

/// A link is created down. Its alias and promiscuous mode, and the MTU of a TUN device, are set later.
fn create(world: &mut State, name: IfName, mut link: Link) {
    let lower = match &link.kind {
        LinkKind::Macvlan(macvlan) => macvlan.lower.as_ref(),
        LinkKind::Vxlan(Vxlan { lower, .. }) => lower.as_ref(),
        _ => None,
    };
    for below in lower.into_iter().chain(link.master.iter().flatten()) {
        assert!(world.links.contains_key(below), "{name} needs {below}");
    }
    if link.kind == LinkKind::Wireguard {
        world.wireguard.insert(name.clone(), WireguardDevice::default());
    }
    link.mtu = link.mtu.filter(|_| !matches!(link.kind, LinkKind::TunTap(_)));
    if link.master.iter().flatten().next().is_some() {
        world.ports.insert(name.clone(), Port::default());
    }
    let link = Link { up: false, alias: None, promisc: None, allmulti: None, queue_len: None, ..link };
    assert!(world.links.insert(name.clone(), link).is_none(), "{name}: File exists");
}

fn alter(world: &mut State, name: &IfName, change: LinkChange) {
    let link = world.links.get_mut(name).unwrap_or_else(|| panic!("{name}: no such device"));
    let alone = LinkChange { kind: change.kind.clone(), ..LinkChange::default() };
    assert!(change.kind.is_none() || change == alone, "{name}: attributes of a kind are sent alone");
    assert_ne!(change, LinkChange::default(), "{name}: nothing to change");
    link.up = change.up.unwrap_or(link.up);
    link.mtu = change.mtu.or(link.mtu);
    link.mac = change.mac.or(link.mac);
    if let Some(master) = change.master {
        assert_ne!(Some(&master), link.master.as_ref(), "{name} is that already");
        world.ports.insert(name.clone(), Port::default());
        link.master = Some(master);
    }
    link.alias = change.alias.or(link.alias.take());
    link.promisc = change.promisc.or(link.promisc);
    link.allmulti = change.allmulti.or(link.allmulti);
    link.queue_len = change.queue_len.or(link.queue_len);
    if let Some(kind) = change.kind {
        link.kind = changed(name, kind, &link.kind);
    }
}

/// The kernel's changelink: attributes that are not in the message stay, and some are refused.
fn changed(name: &IfName, want: LinkKind, have: &LinkKind) -> LinkKind {
    match (want, have) {
        (LinkKind::Vxlan(want), LinkKind::Vxlan(have)) => {
            assert_eq!((want.vni, want.port, want.gbp), (have.vni, have.port, have.gbp), "{name}: not supported");
            let lower = want.lower.or_else(|| have.lower.clone());
            LinkKind::Vxlan(Vxlan { lower, local: want.local.or(have.local), ..have.clone() }.learns(want.learning))
        }
        (LinkKind::Ipip(want), LinkKind::Ipip(have)) => {
            assert_eq!(want.remote, have.remote, "{name}: invalid argument");
            LinkKind::Ipip(want)
        }
        (LinkKind::Macvlan(want), LinkKind::Macvlan(have)) => {
            assert_eq!(want.lower, have.lower, "{name}: invalid argument");
            LinkKind::Macvlan(want)
        }
        (want @ LinkKind::Bridge { .. }, LinkKind::Bridge { .. }) => want,
        (want, have) => panic!("{name} of kind {have:?} does not become {want:?}"),
    }
}

impl Vxlan {
    fn learns(self, learning: bool) -> Self {
        Self { learning, ..self }
    }
}

/// The objects on a link disappear with it.
fn delete(world: &mut State, gone: &IfName) {
    assert!(world.links.remove(gone).is_some(), "{gone}: no such device");
    strip(world, gone);
}

/// `state` without the objects on the link.
pub fn strip(state: &mut State, gone: &IfName) {
    for (name, link) in state.links.iter_mut().filter(|(_, link)| link.master.iter().flatten().next() == Some(gone)) {
        link.master = Some(None);
        state.ports.remove(name);
    }
    state.ports.remove(gone);
    state.wireguard.remove(gone);
    state.vlans.retain(|key, _| key.dev != *gone);
    state.addresses.retain(|key, _| key.dev != *gone);
    state.neighbours.retain(|key, _| key.dev != *gone);
    state.fdb.retain(|key, _| key.dev != *gone);
    state.routes.retain(|_, route| route.dev.as_ref() != Some(gone));
    state.qdiscs.retain(|key, _| key.dev != *gone);
    state.filters.retain(|key, _| key.dev != *gone);
    for filter in state.filters.values_mut() {
        if filter.action == FilterAction::Redirect(Some(gone.clone())) {
            filter.action = FilterAction::Redirect(None);
        }
    }
    let part = format!("/conf/{gone}/");
    state.sysctls.retain(|path, _| !path.contains(&part));
}

/// A prefix belongs to one peer.
fn put_peer(device: &mut WireguardDevice, key: PublicKey, change: WireguardPeerChange) {
    device.peers.values_mut().for_each(|peer| peer.allowed_ips.retain(|net| !change.allowed_ips.contains(net)));
    let peer: &mut WireguardPeer = device.peers.entry(key).or_default();
    peer.endpoint = change.endpoint.or(peer.endpoint);
    peer.preshared_key = change.preshared_key.unwrap_or(peer.preshared_key);
    peer.keepalive = change.keepalive.unwrap_or(peer.keepalive);
    if change.replace {
        peer.allowed_ips.clear();
    }
    peer.allowed_ips.extend(change.allowed_ips);
}

/// Whether the link is what is desired; fields left to the kernel are ignored.
pub fn fits(want: &Link, have: &Link) -> bool {
    fn left_or_equal<T: PartialEq>(want: &Option<T>, have: &Option<T>) -> bool {
        want.is_none() || want == have
    }
    let kind = match (&want.kind, &have.kind) {
        (LinkKind::Vxlan(w), LinkKind::Vxlan(h)) => {
            (w.vni, w.port, w.gbp, w.learning) == (h.vni, h.port, h.gbp, h.learning)
                && left_or_equal(&w.lower, &h.lower)
                && left_or_equal(&w.local, &h.local)
        }
        (LinkKind::Ipip(w), LinkKind::Ipip(h)) => w.remote == h.remote && left_or_equal(&w.local, &h.local),
        (LinkKind::Bridge(w), LinkKind::Bridge(h)) => h.vlan_filtering >= w.vlan_filtering,
        (LinkKind::TunTap(w), LinkKind::TunTap(h)) => {
            let made = |t: &TunTap| (t.tap, t.multi_queue);
            made(w) == made(h)
        }
        (want, have) => want == have,
    };
    kind && want.up == have.up
        && left_or_equal(&want.mtu, &have.mtu)
        && left_or_equal(&want.mac, &have.mac)
        && left_or_equal(&want.master, &have.master)
        && left_or_equal(&want.alias, &have.alias)
        && left_or_equal(&want.queue_len, &have.queue_len)
        && want.promisc.is_none_or(|on| on == have.promisc.unwrap_or(false))
        && want.allmulti.is_none_or(|on| on == have.allmulti.unwrap_or(false))
}
