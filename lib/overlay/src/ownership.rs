//! Decides which objects of a host's kernel belong to this network. Pure.
//!
//! Several flannelds, each with its own network, may serve one host. A device belongs to the network in its alias; a
//! route of protocol 70 belongs to the network that contains its destination. Go flannel marks nothing: its devices
//! are recognised by name and address, its routes by their device or by the lease that they lead to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use kernel::state::{Adopt, Link, Route, RouteKey, RouteKind, RouteScope};
use kernel::types::{Family, IfName, RouteProtocol, TableId};

use crate::lease::Subnets;
use crate::net::{overlap, parse_cidr, within};
use crate::peers::Peer;

/// The alias of every device that flanneld made or took over starts with this (`ip link set … alias`). An alias of
/// only this word is from a flanneld that did not add the network yet.
const MARK: &str = "flannel";

/// The longest alias of a link, in bytes (IFALIASZ in linux/if.h, without the terminator).
const LONGEST: usize = 255;

/// Which devices and routes belong to this daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// The networks of the configuration, IPv4 first.
    networks: Vec<IpNetwork>,
    /// Former networks, whose objects may still exist.
    former: Vec<IpNetwork>,
    /// Devices of other networks under names of flannel devices, each with its networks, or with its addresses if it
    /// names no network.
    others: BTreeMap<IfName, Vec<IpNetwork>>,
}

/// The owner without a network: the protocol alone decides about routes.
pub static NOBODY: Owner = Owner { networks: Vec::new(), former: Vec::new(), others: BTreeMap::new() };

/// Who owns a tunnel device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// This network: the device has its mark.
    Ours,
    /// None of our daemons: a Go flanneld, or another program.
    Unmarked,
    /// Another network: its networks, or its addresses if it names no network.
    Another(Vec<IpNetwork>),
}

/// A network of this daemon and a network of another one overlap.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the network {ours} overlaps {theirs}, which another flanneld on this host serves ({by}): give each its own addresses, \
     or stop one of the two"
)]
pub struct Overlap {
    /// This daemon's network.
    pub ours: IpNetwork,
    /// The other network.
    pub theirs: IpNetwork,
    /// The evidence: a device, or that the other daemon runs.
    pub by: String,
}

impl Owner {
    /// The owner of `networks`, and of what is left of `former` networks.
    pub fn new(networks: Vec<IpNetwork>, mut former: Vec<IpNetwork>) -> Self {
        former.retain(|network| !networks.contains(network));
        Self { networks, former, others: BTreeMap::new() }
    }

    /// The current and the former networks.
    pub fn all(&self) -> impl Iterator<Item = IpNetwork> {
        self.networks.iter().chain(&self.former).copied()
    }

    /// Inspects the tunnel devices of a host, each with its addresses, and returns the names of ours.
    pub fn survey<'a>(
        &mut self,
        devices: impl IntoIterator<Item = (&'a IfName, &'a Link, Vec<IpNetwork>)>,
    ) -> Vec<IfName> {
        self.others.clear();
        let mut ours = Vec::new();
        for (name, link, addresses) in devices {
            match self.judge(name, link, &addresses) {
                Whose::Ours => ours.push(name.clone()),
                Whose::Another(whose) => drop(self.others.insert(name.clone(), whose)),
                Whose::Unmarked => {}
            }
        }
        ours
    }

    /// Who owns the link `name` with these addresses.
    pub fn judge(&self, name: &IfName, link: &Link, addresses: &[IpNetwork]) -> Whose {
        if !link.kind.is_tunnel() {
            return Whose::Unmarked;
        }
        let alias = link.alias.as_deref();
        if let Some(networks) = alias.and_then(marked) {
            let ours = self.all().any(|own| networks.contains(&own));
            return if ours { Whose::Ours } else { Whose::Another(networks) };
        }
        // Without a network in the alias, its name and its address must both match.
        if !is_device(name) {
            return Whose::Unmarked;
        }
        let placed: Vec<_> = addresses.iter().copied().filter(|net| !is_link_local(net.ip())).collect();
        let inside = |net: &IpNetwork| self.all().any(|own| own.contains(net.ip()));
        match alias {
            _ if !placed.is_empty() && !placed.iter().any(inside) => Whose::Another(placed),
            Some(MARK) => Whose::Ours,
            _ => Whose::Unmarked,
        }
    }

    /// The devices of other networks, each with a description of its owner.
    pub fn others(&self) -> BTreeMap<IfName, String> {
        self.others.iter().map(|(name, nets)| (name.clone(), list(nets))).collect()
    }

    /// A network of another flanneld that overlaps one of ours: the other one has marked a device on this host, or is
    /// in `served`, the networks that running processes say they serve.
    pub fn overlap(&self, served: impl IntoIterator<Item = IpNetwork>) -> Option<Overlap> {
        let marks = self
            .others
            .iter()
            .flat_map(|(name, nets)| nets.iter().map(move |net| (*net, format!("its device {name}"))));
        let processes = served.into_iter().map(|net| (net, "it runs".to_owned()));
        marks.chain(processes).find_map(|(theirs, by)| {
            let ours = self.networks.iter().copied().find(|ours| overlap(*ours, theirs))?;
            Some(Overlap { ours, theirs, by })
        })
    }

    /// Which routes of the main table are ours. `gateways`: the routes that may be taken over; `None`: another
    /// program routes inside the network.
    pub fn routes(&self, gateways: Option<Gateways>) -> RouteScope {
        let within: Vec<_> = self.all().collect();
        let adopt = gateways.map(|gateways| Adopt { within: within.clone(), gateways });
        RouteScope {
            protocol: Some(RouteProtocol::FLANNEL),
            adopt: adopt.unwrap_or_default(),
            within,
            ..RouteScope::default()
        }
    }
}

/// The subnets of leases with their public addresses: they identify a Go flanneld's direct routes.
pub type Gateways = Arc<BTreeMap<IpNetwork, IpAddr>>;

/// The pairs of one peer.
pub fn gateways(peer: &Peer) -> impl Iterator<Item = (IpNetwork, IpAddr)> {
    Family::ALL.into_iter().filter_map(|family| peer.half(family)).map(|half| (half.subnet, half.public))
}

/// The alias of the devices of these networks: `flannel 10.244.0.0/16 fd00:10:244::/56`.
pub fn mark(networks: impl IntoIterator<Item = IpNetwork>) -> String {
    let mut mark = MARK.to_owned();
    for network in networks {
        let length = mark.len();
        let _ = write!(mark, " {network}");
        if mark.len() > LONGEST {
            mark.truncate(length);
        }
    }
    mark
}

/// The networks in the alias of a flanneld's device; `None` when it names none.
pub fn marked(alias: &str) -> Option<Vec<IpNetwork>> {
    let mut words = alias.split(' ');
    let named = words.next() == Some(MARK);
    let networks: Option<Vec<_>> = words.map(parse_cidr).collect();
    networks.filter(|_| named).filter(|networks| !networks.is_empty())
}

/// Whether the alias is a flanneld's mark, with or without a network.
pub fn is_mark(alias: &str) -> bool {
    alias == MARK || marked(alias).is_some()
}

fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Whether flannel devices, Go's or ours, have such a name.
fn is_device(name: &IfName) -> bool {
    name.as_str().starts_with("flannel")
}

fn list(nets: &[IpNetwork]) -> String {
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The routes inside our networks that are neither ours nor taken over. They stay, and may lead our traffic elsewhere.
/// Those inside this host's own subnets count if they drop packets or have a gateway: others are pods'. The kernel's own
/// routes for addresses do not count, and neither does any route when another program does the routing.
pub fn foreign<'a>(
    scope: &RouteScope,
    (devices, own): (&[IfName], Subnets),
    routes: impl IntoIterator<Item = &'a (RouteKey, Route)>,
) -> Vec<&'a (RouteKey, Route)> {
    let by_ours = |route: &Route| route.dev.as_ref().is_some_and(|dev| devices.contains(dev));
    let leased = |(key, route): &(RouteKey, Route)| {
        route.via.is_some() && scope.adopt.gateways.get(&key.dst).copied() == route.via
    };
    let foreign = |entry: &&(RouteKey, Route)| {
        let (key, route) = *entry;
        let usual = [RouteProtocol::KERNEL, RouteProtocol::FLANNEL].contains(&route.protocol);
        let asked = key.table == scope.table || key.table == TableId::LOCAL;
        asked && !usual && may_mislead(&scope.within, own, entry) && !by_ours(route) && !leased(entry)
    };
    routes.into_iter().filter(|_| !scope.adopt.within.is_empty()).filter(foreign).collect()
}

/// A route inside one of `networks` that may lead pods' packets elsewhere: not one to pods of `own` subnets. In the local
/// table, which is asked first, a route around a network may, too.
pub fn may_mislead(networks: &[IpNetwork], own: Subnets, (key, route): &(RouteKey, Route)) -> bool {
    let ours = own.iter().any(|own| within(key.dst, own));
    let to_pods = route.kind == RouteKind::Unicast && route.via.is_none() && key.table != TableId::LOCAL;
    let inside = |net: &IpNetwork| within(key.dst, *net) || (key.table == TableId::LOCAL && overlap(key.dst, *net));
    networks.iter().any(inside) && !(ours && to_pods)
}

#[cfg(test)]
mod tests;
