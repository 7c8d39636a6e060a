//! Chooses the link that carries the overlay, and its published addresses. The rules are upstream's (`--iface`,
//! `--iface-regex`, `--iface-can-reach`, else the default route), except that the default route is the one that the
//! kernel prefers by metric, not the first in the list.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use kernel::state::{LinkKind, NeighbourKey, Route, RouteKey};
use kernel::survey::{self, DefaultRoute, SeenAddress, SeenLink, SeenRule};
use kernel::types::{Family, IfIndex, IfName, Mac, Mtu};

use crate::limits::Limits;
use crate::net::ByFamily;
use crate::peers::Service;

/// The options that select the underlay link and the published addresses. The default follows the default route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Select {
    /// Names or addresses, tried in this order.
    pub iface: Vec<String>,
    /// Valid patterns, tried in this order after all of `iface`.
    pub iface_regex: Vec<String>,
    /// Use the interface of the route to this address; tried last.
    pub can_reach: Option<IpAddr>,
    /// Publish this instead of the link's IPv4 address.
    pub public_ip: Option<Ipv4Addr>,
    /// Publish this instead of the link's IPv6 address.
    pub public_ipv6: Option<Ipv6Addr>,
}

/// The parts of the kernel's state that the choice depends on.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// All links.
    pub links: Vec<SeenLink>,
    /// All their addresses, in the kernel's order.
    pub addresses: Vec<SeenAddress>,
    /// The main table without flannel's own routes, in the kernel's order.
    pub routes: Vec<(RouteKey, Route)>,
    /// Routes of other types than unicast and blackhole, and those of the local table that are not the kernel's own.
    pub odd: Vec<(RouteKey, Route)>,
    /// The routing policy.
    pub rules: Vec<SeenRule>,
    /// The permanent neighbours of the link that is the underlay.
    pub neighbours: BTreeMap<NeighbourKey, Mac>,
    /// The underlay's addresses that the host does not take packets to, because no route in the local table leads there.
    pub unheard: BTreeSet<IpAddr>,
    /// The route to `--iface-can-reach`.
    pub reach: Option<Route>,
    /// The limits of the neighbour tables.
    pub limits: Limits,
    /// The DNS servers that resolv.conf(5) names.
    pub dns_servers: Vec<(IpAddr, Service)>,
}

/// The link that this host reaches the others by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// The link.
    pub dev: IfName,
    /// The link's MTU in bytes.
    pub mtu: Mtu,
    /// Its address per enabled family, which may differ from the published one (NAT).
    pub addresses: ByFamily<Option<IpAddr>>,
    /// The prefixes that the link reaches without a gateway.
    pub connected: Vec<IpNetwork>,
}

/// The link that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The link.
    pub underlay: Underlay,
    /// The link's index.
    pub index: IfIndex,
    /// The address that peers send to, per enabled family.
    pub public: ByFamily<Option<IpAddr>>,
    /// The reason for choosing this link.
    pub why: String,
    /// Whether the link currently carries packets.
    pub carries: Result<(), Down>,
}

/// Why a link carries no packets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Down {
    /// It is administratively down.
    #[error("{0} is down: ip link set {0} up")]
    Down(IfName),
    /// It has no carrier.
    #[error("{0} has no carrier: ip link show {0}")]
    NoCarrier(IfName),
    /// It resolves no neighbours, although its frames need their addresses.
    #[error("{0} resolves no neighbours: ip link set {0} arp on")]
    NoArp(IfName),
    /// It is a port of another link, which takes all that it receives.
    #[error(
        "{dev} is a port of {master}, which takes what {dev} receives: ip link set {dev} nomaster, or --iface {master}"
    )]
    Port {
        /// The underlay.
        dev: IfName,
        /// The link that it is a port of.
        master: IfName,
    },
    /// The host does not take packets to its address.
    #[error(
        "no route in the local table leads to {addr}, so that this host takes no packets to it: ip route add local {addr} dev {dev} table local"
    )]
    Unheard {
        /// The underlay.
        dev: IfName,
        /// Its address.
        addr: IpAddr,
    },
}

/// No link can carry the overlay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnderlayError {
    /// The options match no existing interface.
    #[error(
        "Failed to find interface to use that matches the interfaces and/or regexes provided; there are: {}",
        .0.join(", ")
    )]
    NoMatch(Vec<String>),
    /// `--public-ip` alone selects the interface, but no interface has the address.
    #[error("--public-ip {0} is not an address of this host; if a router has it, also name the interface with --iface")]
    NotOurs(IpAddr),
    /// There is no default route to follow.
    #[error("unable to find default{} route; add one, or name the interface with --iface", if *.0 == Family::V6 { " v6" } else { "" })]
    NoDefault(Family),
    /// The link has no address that peers could send to.
    #[error("{dev} has no usable {} address", if *family == Family::V4 { "IPv4" } else { "IPv6" })]
    NoAddress {
        /// The link.
        dev: IfName,
        /// The family without an address.
        family: Family,
    },
    /// The link has no MTU.
    #[error("failed to determine MTU for {0} interface")]
    NoMtu(IfName),
}

/// A link, and its addresses that were explicitly requested.
struct Pick<'a> {
    link: &'a SeenLink,
    addresses: Vec<IpAddr>,
    why: String,
}

/// Chooses the link for an overlay of `families` (at least one); `before` is the previous choice. An IPv6 address
/// disappears when its link goes down for a moment, and comes back only when somebody adds it again. Until then that
/// family keeps its address and is reported, while the other family continues.
///
/// # Errors
/// No link matches, or it has no address of a family.
pub fn choose(
    select: &Select,
    families: &[Family],
    survey: &Survey,
    before: Option<&Found>,
) -> Result<(Found, Vec<UnderlayError>), UnderlayError> {
    let pick = pick(select, families, survey)?;
    let dev = pick.link.name.clone();
    let mtu = pick.link.link.mtu.filter(|mtu| mtu.0 > 0).ok_or_else(|| UnderlayError::NoMtu(dev.clone()))?;
    let (mut missing, mut addresses, mut public) = (Vec::new(), ByFamily::default(), ByFamily::default());
    for family in families.iter().copied() {
        let named = pick.addresses.iter().copied().find(|addr| Family::from(*addr) == family);
        let address = named.or_else(|| survey::preferred_address(&survey.addresses, &dev, family));
        let none = UnderlayError::NoAddress { dev: dev.clone(), family };
        let kept = before.filter(|before| before.underlay.dev == dev).and_then(|before| before.routable(family));
        let address = match (address, kept) {
            (Some(address), None) => address,
            (Some(address), Some(_)) if !survey::is_link_local(address) => address,
            (_, Some(kept)) => {
                missing.push(none);
                kept
            }
            (None, None) => return Err(none),
        };
        *addresses.get_mut(family) = Some(address);
        *public.get_mut(family) = Some(select.published(family).unwrap_or(address));
    }
    if missing.len() == families.len()
        && let Some(none) = missing.pop()
    {
        return Err(none);
    }
    let connected = survey::connected(&survey.routes, &dev);
    let carries = carries(pick.link, &addresses, survey);
    let underlay = Underlay { dev, mtu, addresses, connected };
    Ok((Found { underlay, index: pick.link.index, public, why: pick.why, carries }, missing))
}

impl Found {
    /// The link's address of the family, unless it is link-local.
    fn routable(&self, family: Family) -> Option<IpAddr> {
        self.underlay.addresses.get(family).filter(|addr| !survey::is_link_local(*addr))
    }
}

fn carries(seen: &SeenLink, addresses: &ByFamily<Option<IpAddr>>, survey: &Survey) -> Result<(), Down> {
    let (dev, link) = (seen.name.clone(), &seen.link);
    let master = survey.links.iter().find(|link| Some(link.index.0) == seen.master);
    let addr = [addresses.v4, addresses.v6].into_iter().flatten().find(|addr| survey.unheard.contains(addr));
    match (master, addr) {
        _ if !link.up => Err(Down::Down(dev)),
        _ if !seen.running => Err(Down::NoCarrier(dev)),
        _ if link.arp == Some(false) && needs_arp(seen) => Err(Down::NoArp(dev)),
        (Some(master), _) if takes_frames(&master.link.kind) => Err(Down::Port { dev, master: master.name.clone() }),
        (_, Some(addr)) => Err(Down::Unheard { dev, addr }),
        _ => Ok(()),
    }
}

/// Whether frames of the link need the address of a neighbour. ipvlan in mode l3 needs none, nor do tunnels, which are of
/// other kinds or have no MAC address.
fn needs_arp(seen: &SeenLink) -> bool {
    let kind = match &seen.link.kind {
        LinkKind::Veth(_) | LinkKind::Bridge(_) | LinkKind::Vlan(_) | LinkKind::Macvlan(_) => true,
        LinkKind::Other(kind) => ["", "bond", "team"].contains(&kind.as_str()),
        _ => false,
    };
    kind && seen.link.mac.is_some()
}

/// Whether a link of this kind takes all frames of its ports. A VRF does not.
fn takes_frames(kind: &LinkKind) -> bool {
    match kind {
        LinkKind::Bridge(_) => true,
        LinkKind::Other(kind) => ["bond", "team", "openvswitch"].contains(&kind.as_str()),
        _ => false,
    }
}

fn pick<'a>(select: &Select, families: &[Family], survey: &'a Survey) -> Result<Pick<'a>, UnderlayError> {
    if select.names_a_link() {
        let named = select.iface.iter().find_map(|given| survey.named(given));
        let named = named.or_else(|| select.iface_regex.iter().find_map(|given| survey.matching(given, families)));
        let named = named.or_else(|| select.can_reach.and_then(|addr| survey.reaching(addr)));
        return named.ok_or_else(|| UnderlayError::NoMatch(survey.describe()));
    }
    if let Some(addr) = families.iter().find_map(|family| select.published(*family)) {
        return survey.holding(addr).ok_or(UnderlayError::NotOurs(addr));
    }
    let family = families.first().copied().unwrap_or(Family::V4);
    survey.default(family).ok_or(UnderlayError::NoDefault(family))
}

impl Select {
    /// Whether an option selects an interface.
    fn names_a_link(&self) -> bool {
        !self.iface.is_empty() || !self.iface_regex.is_empty() || self.can_reach.is_some()
    }

    /// Whether the link is that of the default route.
    pub fn follows_default_route(&self, families: &[Family]) -> bool {
        !self.names_a_link() && families.iter().all(|family| self.published(*family).is_none())
    }

    /// The address from the command line.
    fn published(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.public_ip.map(IpAddr::V4),
            Family::V6 => self.public_ipv6.map(IpAddr::V6),
        }
    }
}

impl Survey {
    fn link(&self, name: &str) -> Option<&SeenLink> {
        self.links.iter().find(|link| link.name.as_str() == name)
    }

    fn addresses_of<'a>(&'a self, dev: &'a IfName) -> impl Iterator<Item = &'a SeenAddress> {
        self.addresses.iter().filter(move |seen| seen.key.dev == *dev)
    }

    /// `--iface`: a name, or an address of a link.
    fn named(&self, given: &str) -> Option<Pick<'_>> {
        match given.parse::<IpAddr>() {
            Ok(addr) => self.holding(addr),
            Err(_) => self.link(given).map(|link| Pick { link, addresses: vec![], why: format!("--iface {given}") }),
        }
    }

    fn holding(&self, addr: IpAddr) -> Option<Pick<'_>> {
        let seen = self.addresses.iter().find(|seen| seen.key.net.ip() == addr)?;
        let link = self.link(seen.key.dev.as_str())?;
        Some(Pick { link, addresses: vec![addr], why: format!("it has {addr}") })
    }

    /// `--iface-regex`: first by address, where every enabled family must have a matching one, then by name.
    fn matching(&self, given: &str, families: &[Family]) -> Option<Pick<'_>> {
        // The flag's parser has checked it.
        let regex = regex_lite::Regex::new(given).ok()?;
        let why = || format!("--iface-regex {given}");
        // After a restart the overlay's devices exist, with addresses in the network that the pattern may match.
        let others = || self.links.iter().filter(|link| !is_overlay(link));
        let by_address = others().find_map(|link| {
            let matching = |family: &Family| {
                let addresses = self.addresses_of(&link.name).map(|seen| seen.key.net.ip());
                addresses.filter(|addr| Family::from(*addr) == *family).find(|addr| regex.is_match(&addr.to_string()))
            };
            let addresses: Option<Vec<_>> = families.iter().map(matching).collect();
            Some(Pick { link, addresses: addresses?, why: why() })
        });
        let by_name = || others().find(|link| regex.is_match(link.name.as_str()));
        by_address.or_else(|| by_name().map(|link| Pick { link, addresses: vec![], why: why() }))
    }

    /// `--iface-can-reach`: the link and the source address of the kernel's route.
    fn reaching(&self, addr: IpAddr) -> Option<Pick<'_>> {
        let route = self.reach.as_ref()?;
        let link = self.link(route.dev.as_ref()?.as_str())?;
        Some(Pick { link, addresses: route.src.into_iter().collect(), why: format!("it reaches {addr}") })
    }

    /// The link of the default route that the kernel prefers; if there are several, the first in the list.
    fn default(&self, family: Family) -> Option<Pick<'_>> {
        let DefaultRoute { dev, metric, several } = survey::default_route(&self.routes, family)?;
        let why = match several {
            true => format!("it has the default route with the lowest metric ({metric})"),
            false => "it has the default route".to_owned(),
        };
        self.link(dev.as_str()).map(|link| Pick { link, addresses: vec![], why })
    }

    fn describe(&self) -> Vec<String> {
        let text = |link: &SeenLink| {
            let addresses: Vec<String> =
                self.addresses_of(&link.name).map(|seen| seen.key.net.ip().to_string()).collect();
            if addresses.is_empty() {
                link.name.to_string()
            } else {
                format!("{} ({})", link.name, addresses.join(" "))
            }
        };
        self.links.iter().filter(|link| link.link.kind != LinkKind::Loopback).map(text).collect()
    }
}

pub(crate) fn is_overlay(link: &SeenLink) -> bool {
    link.link.kind.is_tunnel() && link.name.as_str().starts_with("flannel")
}

#[cfg(test)]
mod tests;
