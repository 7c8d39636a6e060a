//! Decides whether news contradicts the desired state, by [`diff`] on the one object concerned.

use super::News;
use crate::diff::{diff, satisfies, twins};
use crate::message::link::SeenLink;
use crate::state::{AddressKey, Scope, State};
use crate::types::{IfName, TableId, host_net};

/// Whether the kernel no longer matches `desired`, if it did before: a field of an object is wrong, a desired object
/// is gone, or another one has appeared inside `scope`. False for all other changes.
///
/// A desired object belongs to a link of `desired`, or to one in `scope`.
pub fn contradicts(news: &News, desired: &State, scope: &Scope) -> bool {
    match news {
        News::Unreadable(_) => true,
        News::Policy | News::Forwarding(..) => false,
        News::Queue(name) => concerns(name, desired, scope),
        News::Link(name, seen) => concerns(name, desired, scope) && link(name, seen.as_deref(), desired, scope),
        News::Route(key, None) if key.table == TableId::LOCAL => {
            let is_theirs =
                |address: &AddressKey| host_net(address.net.ip()) == key.dst && scope.local.contains(&address.dev);
            desired.addresses.keys().any(is_theirs)
        }
        News::Route(key, Some(seen)) if twins(key, desired).any(|(_, want)| satisfies(want, seen)) => false,
        _ => {
            let (wanted, seen) = pair(news, desired);
            !diff(&wanted, &seen, scope).is_empty()
        }
    }
}

/// Whether objects on the link can be desired or ours.
fn concerns(name: &IfName, desired: &State, scope: &Scope) -> bool {
    let Scope { links, read_links, addresses, neighbours, vlans, wireguard, queues, .. } = scope;
    let named = [links, read_links, addresses, neighbours, vlans, wireguard, queues];
    desired.links.contains_key(name)
        || desired.ports.contains_key(name)
        || named.iter().any(|links| links.contains(name))
        || scope.routes.as_ref().is_some_and(|routes| routes.dev.as_ref() == Some(name))
}

fn link(name: &IfName, seen: Option<&SeenLink>, desired: &State, scope: &Scope) -> bool {
    let mut wanted = State::default();
    let mut there = State::default();
    wanted.links.extend(desired.links.get_key_value(name).map(|(name, link)| (name.clone(), link.clone())));
    let routes = || desired.routes.iter().filter(|(_, route)| route.dev.as_ref() == Some(name));
    match seen {
        Some(seen) => {
            there.links.insert(name.clone(), seen.link.clone());
            // The kernel drops the routes of a link that goes down; for IPv4 it does not announce that
            // (fib_table_flush).
            (!seen.link.up && routes().next().is_some()) || !diff(&wanted, &there, scope).is_empty()
        }
        None => {
            if wanted.links.is_empty() {
                hanging(name, desired, &mut wanted);
                wanted.routes.extend(routes().map(|(key, route)| (key.clone(), route.clone())));
            }
            !diff(&wanted, &there, scope).is_empty()
        }
    }
}

/// The desired objects on the link `name`, except routes.
fn hanging(name: &IfName, desired: &State, wanted: &mut State) {
    let State { ports, vlans, addresses, neighbours, fdb, wireguard, sysctls, .. } = desired;
    wanted.ports.extend(ports.get(name).map(|port| (name.clone(), *port)));
    wanted.vlans.extend(vlans.iter().filter(|(key, _)| key.dev == *name).map(|(key, vlan)| (key.clone(), *vlan)));
    let addresses = addresses.iter().filter(|(key, _)| key.dev == *name);
    wanted.addresses.extend(addresses.map(|(key, address)| (key.clone(), address.clone())));
    let neighbours = neighbours.iter().filter(|(key, _)| key.dev == *name);
    wanted.neighbours.extend(neighbours.map(|(key, mac)| (key.clone(), *mac)));
    wanted.fdb.extend(fdb.iter().filter(|(key, _)| key.dev == *name).map(|(key, entry)| (key.clone(), *entry)));
    wanted.wireguard.extend(wireguard.get(name).map(|device| (name.clone(), device.clone())));
    let sysctls = sysctls.iter().filter(|(path, _)| path.split('/').nth(3) == Some(name.as_str()));
    wanted.sysctls.extend(sysctls.map(|(path, value)| (path.clone(), value.clone())));
}

/// The one object as desired and as observed. Its link is as desired in both states.
fn pair(news: &News, desired: &State) -> (State, State) {
    let mut wanted = State::default();
    let mut there = State::default();
    let dev = match news {
        News::Port(name, port) => {
            wanted.ports.extend(desired.ports.get(name).map(|port| (name.clone(), *port)));
            there.ports.extend(port.map(|port| (name.clone(), port)));
            None
        }
        News::Vlans(name, vlans) => {
            let ours = desired.vlans.iter().filter(|(key, _)| key.dev == *name);
            wanted.vlans.extend(ours.map(|(key, vlan)| (key.clone(), *vlan)));
            let key = |id| crate::state::VlanKey { dev: name.clone(), id };
            there.vlans.extend(vlans.iter().map(|(id, vlan)| (key(*id), *vlan)));
            None
        }
        News::Address(key, seen) => {
            wanted.addresses.extend(desired.addresses.get(key).map(|address| (key.clone(), address.clone())));
            there.addresses.extend(seen.as_ref().map(|seen| (key.clone(), seen.address.clone())));
            Some(&key.dev)
        }
        News::Neighbour(key, mac) => {
            wanted.neighbours.extend(desired.neighbours.get(key).map(|mac| (key.clone(), *mac)));
            there.neighbours.extend(mac.map(|mac| (key.clone(), mac)));
            Some(&key.dev)
        }
        News::Fdb(key, entry) => {
            wanted.fdb.extend(desired.fdb.get(key).map(|entry| (key.clone(), *entry)));
            there.fdb.extend(entry.map(|entry| (key.clone(), entry)));
            Some(&key.dev)
        }
        News::Route(key, route) => {
            wanted.routes.extend(desired.routes.get_key_value(key).map(|(key, route)| (key.clone(), route.clone())));
            there.routes.extend(route.as_ref().map(|route| (key.clone(), route.clone())));
            None
        }
        News::Sysctl(path, value) => {
            wanted.sysctls.extend(desired.sysctls.get_key_value(path).map(|(path, want)| (path.clone(), want.clone())));
            there.sysctls.insert(path.clone(), value.clone());
            None
        }
        News::Link(..) | News::Queue(_) | News::Policy | News::Forwarding(..) | News::Unreadable(_) => None,
    };
    if let Some((name, link)) = dev.and_then(|dev| desired.links.get_key_value(dev)) {
        for side in [&mut wanted, &mut there] {
            side.links.insert(name.clone(), link.clone());
        }
    }
    (wanted, there)
}
