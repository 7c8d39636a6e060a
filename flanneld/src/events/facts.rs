//! The kernel's facts on which the plan depends: the underlay, and this host's addresses. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::message::address::SeenAddress;
use kernel::message::link::SeenLink;
use kernel::message::neighbour::Forwarding;
use kernel::news::News;
use kernel::state::{AddressKey, Link, NeighbourKey, Route, RouteKey, State};
use kernel::survey::{is_link_local, is_on_link};
use kernel::types::{IfIndex, IfName, Mac, Mtu, RouteProtocol, TableId, host_net};
use overlay::lease::Subnets;
use overlay::net::within;
use overlay::ownership::may_mislead;
use overlay::peers::{gateway, gateways};

use overlay::underlay::Survey;

/// The facts of the last survey. An announcement is news if it differs from them.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    chosen: Chosen,
    /// Our devices. A lease is rejected if its subnet contains an address of this host, including the address that one
    /// of our devices has had until now.
    ours: BTreeSet<IfName>,
    links: BTreeMap<IfName, Carrier>,
    addresses: BTreeMap<AddressKey, SeenAddress>,
    named: Named,
    /// The gateways that this host needs: a peer's subnet must not hold one.
    gateways: BTreeSet<IpAddr>,
    /// Routes by their key with ordinal 0: the kernel keeps several routes under one key.
    routes: BTreeMap<RouteKey, Vec<Route>>,
    /// The underlay's addresses that no route in the local table leads to.
    unheard: BTreeSet<IpAddr>,
    fixed: Fixed,
}

/// Entries that no resolution and no learning replaces. Another program's may send packets elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fixed {
    /// The links whose permanent neighbours matter.
    pub devs: BTreeSet<IfName>,
    /// Their permanent neighbours.
    pub neighbours: BTreeMap<NeighbourKey, Mac>,
    /// The MAC addresses whose place in the bridges' tables matters.
    pub macs: BTreeSet<Mac>,
    /// Their entries that stay where they are.
    pub forwarding: BTreeSet<Forwarding>,
}

impl Fixed {
    fn touched_by(&self, news: &News) -> bool {
        match news {
            News::Neighbour(key, mac) => {
                self.devs.contains(&key.dev) && (mac.is_some() || self.neighbours.contains_key(key))
            }
            News::Forwarding(entry, stays) => {
                self.macs.contains(&entry.mac) && (*stays || self.forwarding.contains(entry))
            }
            _ => false,
        }
    }

    fn agrees_with(&self, news: &News) -> bool {
        match news {
            News::Neighbour(key, mac) => self.neighbours.get(key) == mac.as_ref(),
            News::Forwarding(entry, stays) => self.forwarding.contains(entry) == *stays,
            _ => true,
        }
    }
}

/// Where an administrator's routes are named in the status: they may lead elsewhere what is ours to carry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// A route's destination is inside one of these networks.
    pub within: Vec<IpNetwork>,
    /// This host's own subnets, where routes to pods are as they should be.
    pub own: Subnets,
}

impl Named {
    /// Whether the status names the route. Those of routing daemons change by the thousands, so they are no reason for a
    /// pass; the next one names them.
    fn has(&self, key: &RouteKey, route: Option<&Route>) -> bool {
        let by_hand = [RouteProtocol::BOOT, RouteProtocol::STATIC];
        let asked = [TableId::MAIN, TableId::LOCAL].contains(&key.table);
        route.is_some_and(|route| {
            asked
                && by_hand.contains(&route.protocol)
                && may_mislead(&self.within, self.own, &(key.clone(), route.clone()))
        })
    }
}

/// The underlay, and what it was chosen by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chosen {
    /// The underlay's name. `None` if there is none: then every link and address may become it.
    pub dev: Option<IfName>,
    /// Whether the default route decided.
    pub by_default_route: bool,
    /// The address whose route decided.
    pub can_reach: Option<IpAddr>,
    /// The network has IPv6.
    pub ipv6: bool,
}

/// The fields of a lower link that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Carrier {
    index: IfIndex,
    up: bool,
    running: bool,
    mtu: Option<Mtu>,
    arp: Option<bool>,
    master: Option<u32>,
}

impl Carrier {
    fn of(seen: &SeenLink) -> Self {
        let Link { up, mtu, arp, .. } = seen.link;
        Self { index: seen.index, up, running: seen.running, mtu, arp, master: seen.master }
    }
}

impl Facts {
    /// Only these entries: nothing depends on the underlay.
    pub fn of(fixed: Fixed) -> Self {
        // no underlay is this link
        let chosen = Chosen { dev: IfName::new("lo").ok(), ..Chosen::default() };
        Self { chosen, fixed, ..Self::default() }
    }

    /// The facts in `survey`, from which the underlay was `chosen`. `ours` are our devices. `named` selects the foreign
    /// routes that the status names.
    pub fn new(chosen: Chosen, ours: &[IfName], named: Named, survey: &Survey) -> Self {
        let mut facts = Self { chosen, ours: ours.iter().cloned().collect(), named, ..Self::default() };
        let links = survey.links.iter().filter(|seen| facts.chosen.may_be(&seen.name));
        let links = links.map(|seen| (seen.name.clone(), Carrier::of(seen))).collect();
        let addresses = survey.addresses.iter().filter(|seen| facts.counts(&seen.key));
        let addresses = addresses.map(|seen| (seen.key.clone(), seen.clone())).collect();
        let mut routes: BTreeMap<_, Vec<Route>> = BTreeMap::new();
        let counts = |(key, route): &&(RouteKey, Route)| {
            facts.chosen.depends_on(key, Some(route)) || facts.named.has(key, Some(route))
        };
        for (key, route) in survey.routes.iter().chain(&survey.odd).filter(counts) {
            routes.entry(first(key)).or_default().push(route.clone());
        }
        let gateways = facts.chosen.dev.iter().flat_map(|dev| gateways(&survey.routes, dev));
        facts.gateways = gateways.map(|(gateway, _)| gateway).collect();
        (facts.links, facts.addresses, facts.routes) = (links, addresses, routes);
        let devs = facts.chosen.dev.iter().cloned().collect();
        facts.fixed = Fixed { devs, neighbours: survey.neighbours.clone(), ..Fixed::default() };
        facts.unheard = survey.unheard.clone();
        facts
    }

    /// Whether `news` is about an object on which the choice of the underlay, or its data, depends.
    pub fn touched_by(&self, news: &News) -> bool {
        match news {
            News::Link(name, _) => self.chosen.may_be(name),
            News::Address(key, _) => self.counts(key),
            News::Route(key, route) => {
                self.routes.contains_key(&first(key))
                    || self.chosen.depends_on(key, route.as_ref())
                    || self.named.has(key, route.as_ref())
                    || self.has_new_gateway(key, route.as_ref())
                    || self.is_of_an_address(key)
            }
            News::Policy => true,
            news => self.fixed.touched_by(news),
        }
    }

    /// Whether the route makes the host take packets to an address of the underlay.
    fn is_of_an_address(&self, key: &RouteKey) -> bool {
        let is_its = |address: &AddressKey| {
            self.chosen.dev.as_ref() == Some(&address.dev) && host_net(address.net.ip()) == key.dst
        };
        key.table == TableId::LOCAL && self.addresses.keys().any(is_its)
    }

    /// Whether a route leads over a gateway that no route led over before. Those of routing daemons come and go by the
    /// thousands, so they are no reason for a pass; the next one reads their gateways.
    fn has_new_gateway(&self, key: &RouteKey, route: Option<&Route>) -> bool {
        let (Some(dev), Some(route)) = (&self.chosen.dev, route) else { return false };
        let by_host = [RouteProtocol::BOOT, RouteProtocol::STATIC, RouteProtocol::ROUTER, RouteProtocol::DHCP];
        key.table == TableId::MAIN
            && by_host.contains(&route.protocol)
            && gateway(key, route, dev).is_some_and(|gateway| !self.gateways.contains(&gateway))
    }

    /// Whether an address counts. A link-local one is in no subnet, but may be the underlay's only address of IPv6.
    fn counts(&self, key: &AddressKey) -> bool {
        let (link_local, of_network) = (is_link_local(key.net.ip()), key.net.is_ipv4() || self.chosen.ipv6);
        (self.chosen.may_be(&key.dev) && (of_network || !link_local)) || (self.ours.contains(&key.dev) && !link_local)
    }

    /// Whether `news` is that a device of ours has the address that is `desired` of it, in this host's own subnet. No lease is
    /// judged otherwise for it: nobody else can have a part of that subnet.
    pub fn follow_from_the_lease(&self, news: &News, desired: Option<&State>) -> bool {
        let News::Address(key, Some(_)) = news else { return false };
        self.ours.contains(&key.dev)
            && desired.is_some_and(|desired| desired.addresses.contains_key(key))
            && self.named.own.iter().any(|own| within(key.net, own))
    }

    /// Whether `news` equals the known facts.
    pub fn agree_with(&self, news: &News) -> bool {
        match news {
            News::Link(name, seen) => self.links.get(name) == seen.as_deref().map(Carrier::of).as_ref(),
            News::Address(key, seen) => self.addresses.get(key) == seen.as_ref(),
            News::Route(key, route) if self.is_of_an_address(key) => {
                self.unheard.contains(&key.dst.ip()) == route.is_none()
            }
            News::Route(key, Some(route)) => {
                self.routes.get(&first(key)).is_some_and(|known| *known == [route.clone()])
            }
            News::Route(key, None) => key.table == TableId::MAIN && !self.routes.contains_key(&first(key)),
            // which rules there are is not compared: they rarely change
            News::Policy => false,
            news => self.fixed.agrees_with(news),
        }
    }
}

fn first(key: &RouteKey) -> RouteKey {
    RouteKey { ordinal: 0, ..key.clone() }
}

impl Chosen {
    fn may_be(&self, name: &IfName) -> bool {
        self.dev.as_ref().is_none_or(|dev| dev == name)
    }

    /// Whether the choice depends on a route. Our own routes never lead to the underlay. The route to an address may be
    /// in any table; other routes are looked up in the main table.
    fn depends_on(&self, key: &RouteKey, route: Option<&Route>) -> bool {
        if route.is_some_and(|route| route.protocol == RouteProtocol::FLANNEL) {
            return false;
        }
        let on_link = |dev| route.is_some_and(|route| is_on_link(key, route, dev));
        let in_main = key.table == TableId::MAIN
            && ((self.by_default_route && key.dst.prefix() == 0) || self.dev.as_ref().is_some_and(on_link));
        in_main || self.can_reach.is_some_and(|addr| key.dst.contains(addr))
    }
}
