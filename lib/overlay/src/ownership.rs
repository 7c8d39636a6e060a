//! What of a host's kernel is this network's. Pure.
//!
//! Several flannelds may serve one host, each with its network. A device belongs to the network that its alias names, a
//! route of protocol 70 to the network that its destination is in. Go flannel marks nothing: a device of its is known by
//! its name and by its address, a route by the device or by the lease that it leads to.

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

/// How the alias of every device begins that flanneld made or took over (`ip link set … alias`). Alone it is that of a
/// flanneld which did not write the network yet.
const MARK: &str = "flannel";

/// The longest alias that a link can have, bytes (IFALIASZ, linux/if.h, without the end of the string).
const LONGEST: usize = 255;

/// Whose devices and routes are this daemon's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// The networks that the configuration names, IPv4 first.
    networks: Vec<IpNetwork>,
    /// Networks of before, whose objects may still be there.
    former: Vec<IpNetwork>,
    /// Devices of other networks under names that flannel devices have, each with its networks, or where it names none its
    /// addresses.
    others: BTreeMap<IfName, Vec<IpNetwork>>,
}

/// The owner of no network: routes count by their protocol alone.
pub static NOBODY: Owner = Owner { networks: Vec::new(), former: Vec::new(), others: BTreeMap::new() };

/// Whose a tunnel device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// Marked as this network's.
    Ours,
    /// No flanneld's of ours: a Go flanneld's, or somebody else's.
    Unmarked,
    /// Another network's: its networks or, where it names none, its addresses.
    Another(Vec<IpNetwork>),
}

/// A network of this daemon and one of another that share addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the network {ours} overlaps {theirs}, which another flanneld on this host serves ({by}): give each its own addresses, \
     or stop one of the two"
)]
pub struct Overlap {
    /// This daemon's.
    pub ours: IpNetwork,
    /// The other's.
    pub theirs: IpNetwork,
    /// What shows it: a device, or that it runs.
    pub by: String,
}

impl Owner {
    /// The owner of `networks`, and of what is left of `former` ones.
    pub fn new(networks: Vec<IpNetwork>, mut former: Vec<IpNetwork>) -> Self {
        former.retain(|network| !networks.contains(network));
        Self { networks, former, others: BTreeMap::new() }
    }

    /// The networks of now and of before.
    pub fn all(&self) -> impl Iterator<Item = IpNetwork> {
        self.networks.iter().chain(&self.former).copied()
    }

    /// Looks at the tunnel devices of a host, each with its addresses, and gives the names of those that are ours.
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

    /// Whose the link `name` with these addresses is.
    pub fn judge(&self, name: &IfName, link: &Link, addresses: &[IpNetwork]) -> Whose {
        if !link.kind.is_tunnel() {
            return Whose::Unmarked;
        }
        let alias = link.alias.as_deref();
        if let Some(networks) = alias.and_then(marked) {
            let ours = self.all().any(|own| networks.contains(&own));
            return if ours { Whose::Ours } else { Whose::Another(networks) };
        }
        // without a network on it, its name and its address must agree
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

    /// The devices of other networks, each with its owner in words.
    pub fn others(&self) -> BTreeMap<IfName, String> {
        self.others.iter().map(|(name, nets)| (name.clone(), list(nets))).collect()
    }

    /// A network of another flanneld that shares addresses with one of ours: one that marks a device here, or one of
    /// `served`, those that other processes say they serve.
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

    /// Which of the main table's routes are ours. `gateways`: what may be taken over; `None`: somebody else routes inside
    /// the network.
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

/// Subnets of leases and their public addresses: by such a pair a Go flanneld's direct route is known.
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

/// The networks that a flanneld's device is marked with. `None`: the alias names none.
pub fn marked(alias: &str) -> Option<Vec<IpNetwork>> {
    let mut words = alias.split(' ');
    let named = words.next() == Some(MARK);
    let networks: Option<Vec<_>> = words.map(parse_cidr).collect();
    networks.filter(|_| named).filter(|networks| !networks.is_empty())
}

/// The alias is a flanneld's mark, with or without a network.
pub fn is_mark(alias: &str) -> bool {
    alias == MARK || marked(alias).is_some()
}

fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// A name that flannel devices have, Go's and ours.
fn is_device(name: &IfName) -> bool {
    name.as_str().starts_with("flannel")
}

fn list(nets: &[IpNetwork]) -> String {
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The routes inside our networks that are neither ours nor taken over, and lead elsewhere what is ours to carry: they stay.
/// Those of this host's own subnets may be pods', unless they drop packets or send them to a gateway. The kernel's own, of
/// addresses, are none. Where nothing is taken over, somebody else routes.
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

/// A route inside one of `networks` that may lead pods' packets elsewhere: not one to pods of `own` subnets.
pub fn may_mislead(networks: &[IpNetwork], own: Subnets, (key, route): &(RouteKey, Route)) -> bool {
    let ours = own.iter().any(|own| within(key.dst, own));
    let to_pods = route.kind == RouteKind::Unicast && route.via.is_none() && key.table != TableId::LOCAL;
    networks.iter().any(|net| within(key.dst, *net)) && !(ours && to_pods)
}

#[cfg(test)]
mod tests;
