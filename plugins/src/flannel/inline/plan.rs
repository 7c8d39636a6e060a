//! The desired state of this host's kernel for the network. Pure.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::message::link::SeenLink;
use kernel::state::{LinkKind, RouteScope, Scope, State};
use kernel::survey::{Survey, connected, default_route, preferred_address};
use kernel::types::{Family, IfName, RouteProtocol, masked};
use overlay::backend::{Host, Identity};
use overlay::net::ByFamily;
use overlay::ownership::NOBODY;
use overlay::peers::gateways;
use overlay::reach::Reach;
use overlay::render::{Ours, Renderer};
use overlay::subnet_env::SubnetEnv;
use overlay::underlay::Underlay;

use super::network::Network;
use crate::attach::delegating::joined;

/// The alias of a network's VXLAN devices, which marks their owner. Devices of flanneld and of other networks are
/// left alone.
pub(super) fn mark(name: &str) -> String {
    let mut mark = format!("flannel-cni/{name}");
    // IFALIASZ, linux/if.h; a name is ASCII
    mark.truncate(255);
    mark
}

/// The desired state, and messages about it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) desired: State,
    pub(super) scope: Scope,
    /// The values that flanneld would write.
    pub(super) env: SubnetEnv,
    /// The reasons why some traffic does not flow.
    pub(super) limits: Vec<String>,
}

/// Why this host cannot have the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// The underlay link is missing, or not ready.
    Underlay(String),
    /// The configuration contradicts this host.
    Mistakes(Vec<String>),
}

/// The plan for the network `name`; `recorded` are the networks that it had routes to.
pub(super) fn plan(network: &Network, name: &str, survey: &Survey, recorded: &[IpNetwork]) -> Result<Plan, Obstacle> {
    let link = underlay_link(network, survey).map_err(Obstacle::Underlay)?;
    let underlay = underlay(network, survey, link).map_err(Obstacle::Underlay)?;
    let mut public = network.own.public;
    for (family, _) in network.conf.families() {
        let address = *underlay.addresses.get(family);
        let public = public.get_mut(family);
        *public = public.or(address);
    }
    let mut own = network.own_at(&public, survey.addresses.iter().map(|seen| seen.key.net.ip()));
    // A DNS server may be among the pods: the author of the list of peers knows that.
    own.hosts = gateways(&survey.routes, &link.name);
    let of_link = survey.addresses.iter().filter(|seen| seen.key.dev == link.name);
    own.underlay = of_link.map(|seen| masked(seen.key.net)).collect();
    let peers = network.judge(&own, &public).map_err(Obstacle::Mistakes)?;
    let host = Host {
        networks: network.conf.network_by_family(),
        own: network.own.subnets,
        identity: Identity { vtep_macs: network.own_macs(&public), ..Identity::default() },
        underlay,
    };
    let ours = Ours { devices: &marked(name, survey), owner: &NOBODY, complete: true };
    let wanted = Renderer::new(&host, &network.conf.backend, &[]).desired(&peers, ours);
    let mut limits = Vec::new();
    if !link.running {
        limits.push(format!("{} has no carrier ({})", link.name, link.operstate));
    }
    for path in &wanted.paths {
        if let Reach::Unreachable(why) = path.reach {
            limits.push(format!("the peer {} cannot be reached: {}", path.peer, unreachable(network, why)));
        }
    }
    let (networks, subnets) = (network.conf.networks(), network.own.subnets);
    let used = joined(recorded, &networks);
    let env = SubnetEnv { networks, subnets, mtu: wanted.mtu, ipmasq: false };
    let (desired, scope) = marked_as(name, wanted.state, wanted.scope, used);
    Ok(Plan { desired, scope, env, limits })
}

fn unreachable(network: &Network, why: overlay::reach::Why) -> String {
    match network.vni() {
        None => "host-gw needs every peer on this host's own segment; vxlan and direct-routing do not".to_owned(),
        Some(_) => why.to_string(),
    }
}

/// Removes the network `name`, which used `networks`, from the host.
pub(in crate::flannel) fn removal(name: &str, survey: &Survey, networks: Vec<IpNetwork>) -> (State, Scope) {
    let devices = marked(name, survey);
    let scope = Scope { links: devices.clone(), addresses: devices.clone(), neighbours: devices, ..Scope::default() };
    marked_as(name, State::default(), scope, networks)
}

/// The same with this plugin's marks instead of the daemon's. The routes of all such networks have one protocol: ours
/// are those to `networks`, or by our devices.
fn marked_as(name: &str, mut state: State, mut scope: Scope, networks: Vec<IpNetwork>) -> (State, Scope) {
    for link in state.links.values_mut().filter(|link| link.alias.is_some()) {
        link.alias = Some(mark(name));
    }
    for route in state.routes.values_mut() {
        route.protocol = RouteProtocol::FLANNEL_CNI;
    }
    let protocol = Some(RouteProtocol::FLANNEL_CNI);
    // A network without prefixes has no routes.
    let routes = RouteScope { protocol, within: networks, ..RouteScope::default() };
    scope.routes = Some(routes).filter(|routes| !routes.within.is_empty());
    (state, scope)
}

/// The devices with the network's mark.
fn marked(name: &str, survey: &Survey) -> Vec<IfName> {
    let mark = mark(name);
    let ours = |link: &&SeenLink| {
        matches!(link.link.kind, LinkKind::Vxlan(_)) && link.link.alias.as_deref() == Some(mark.as_str())
    };
    survey.links.iter().filter(ours).map(|link| link.name.clone()).collect()
}

impl Plan {
    /// Removes from the scope what is neither desired nor this network's: a name alone does not make an object ours.
    pub(super) fn narrow(&mut self, name: &str, survey: &Survey) {
        let marked = marked(name, survey);
        let keep = |dev: &IfName| self.desired.links.contains_key(dev) || marked.contains(dev);
        let Scope { links, addresses, neighbours, .. } = &mut self.scope;
        for devices in [links, addresses, neighbours] {
            devices.retain(keep);
        }
    }
}

/// The link `iface`, or the link of the preferred default route.
fn underlay_link<'a>(network: &Network, survey: &'a Survey) -> Result<&'a SeenLink, String> {
    let link = |name: &str| survey.links.iter().find(|link| link.name.as_str() == name);
    let Some(iface) = &network.iface else {
        let family = network.conf.families().next().map_or(Family::V4, |(family, _)| family);
        let route = default_route(&survey.routes, family);
        return route.and_then(|route| link(route.dev.as_str())).ok_or_else(|| {
            let v6 = if family == Family::V6 { " IPv6" } else { "" };
            format!("this host has no default{v6} route to find its interface by: add one, or set \"iface\"")
        });
    };
    let found = match iface.parse::<IpAddr>() {
        Ok(addr) => {
            let seen = survey.addresses.iter().find(|seen| seen.key.net.ip() == addr);
            seen.and_then(|seen| link(seen.key.dev.as_str()))
        }
        Err(_) => link(iface),
    };
    found.ok_or_else(|| {
        let names: Vec<&str> = survey.links.iter().map(|link| link.name.as_str()).collect();
        format!(
            "iface {iface} is neither an interface of this host nor an address of one; the interfaces are {}",
            names.join(", ")
        )
    })
}

fn underlay(network: &Network, survey: &Survey, link: &SeenLink) -> Result<Underlay, String> {
    let dev = &link.name;
    if !link.link.up {
        return Err(format!("{dev} is down (ip link set {dev} up)"));
    }
    let named = network.iface.as_deref().and_then(|iface| iface.parse::<IpAddr>().ok());
    let mut addresses = ByFamily::default();
    for (family, _) in network.conf.families() {
        let named = named.filter(|addr| Family::from(*addr) == family);
        let address = named.or_else(|| preferred_address(&survey.addresses, dev, family));
        let missing = || {
            let version = if family == Family::V4 { "IPv4" } else { "IPv6" };
            format!("{dev} has no usable {version} address; set another interface as \"iface\"")
        };
        *addresses.get_mut(family) = Some(address.ok_or_else(missing)?);
    }
    let mtu = link.link.mtu.filter(|mtu| mtu.0 > 0).ok_or_else(|| format!("{dev} has no MTU"))?;
    Ok(Underlay { dev: dev.clone(), mtu, addresses, connected: connected(&survey.routes, dev) })
}
