//! What the plugin makes for a pod. Pure.

use std::net::IpAddr;

use attachment::rules::portmap::{HostPort, Portmap};
use attachment::section::Section;
use cni::result::{AddResult, IpConfig};
use ipnetwork::IpNetwork;
use kernel::state::{Scope, State};
use kernel::types::{Family, IfName};

use super::conf::{Conf, HostAddress, Mapping};
use crate::attach::{Side, Sides};

/// What the plugin must know about the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The link of the route to the pod's IPv4 address.
    pub device: Option<IfName>,
    /// The host's own addresses, if addresses of services are local, too (`kube-ipvs0`). `None`: they are not.
    pub own: Option<Vec<IpAddr>>,
}

/// The pod's first address of each family, with the prefix length of its network. Addresses of other interfaces are
/// left out, as upstream does.
pub fn pod_addresses(result: &AddResult, ifname: &str) -> Vec<IpNetwork> {
    let is_pods = |ip: &&IpConfig| {
        let interface = ip.interface.and_then(|at| usize::try_from(at).ok()).and_then(|at| result.interfaces.get(at));
        interface.is_none_or(|interface| interface.name == ifname && !interface.sandbox.is_empty())
    };
    let first =
        |family| result.ips.iter().filter(is_pods).map(|ip| ip.address).find(|net| Family::from(*net) == family);
    Family::ALL.into_iter().filter_map(first).collect()
}

/// The host's side: the ports, and the setting that local clients need.
pub fn sides(conf: &Conf, facts: &Facts, pod: &[IpNetwork]) -> Sides {
    let portmap = portmap(conf, facts, pod);
    if portmap.ports.is_empty() {
        return Sides::default();
    }
    let host = localhost(conf, facts, &portmap);
    Sides { host, section: Some(Section::Portmap(portmap)), ..Sides::default() }
}

fn portmap(conf: &Conf, facts: &Facts, pod: &[IpNetwork]) -> Portmap {
    let is_one = |mapping: &&Mapping| matches!(mapping.host, HostAddress::One(_));
    let (one, any): (Vec<&Mapping>, Vec<&Mapping>) = conf.mappings.iter().partition(is_one);
    // upstream's rules are in the order of the mappings
    let ordered: Vec<&Mapping> =
        if facts.own.is_some() { any.into_iter().chain(one).collect() } else { conf.mappings.iter().collect() };
    let of_pod = |pod: &IpNetwork| ordered.iter().flat_map(|mapping| ports(mapping, facts, *pod)).collect::<Vec<_>>();
    let mut all: Vec<HostPort> = Vec::new();
    // a mapping of one address counts more than one of all addresses
    for port in pod.iter().flat_map(of_pod) {
        let key = |port: &HostPort| (port.protocol, port.address, port.port, port.pod);
        all.retain(|other| key(other) != key(&port));
        all.push(port);
    }
    Portmap {
        ports: all,
        standby: Vec::new(),
        masquerade: conf.masquerade,
        conditions: conf.conditions.clone(),
        backend: conf.backend.clone(),
    }
}

fn ports(mapping: &Mapping, facts: &Facts, pod: IpNetwork) -> Vec<HostPort> {
    let family = Family::from(pod);
    let Mapping { protocol, host, port, pod_port } = *mapping;
    let addresses: Vec<Option<IpAddr>> = match (host, &facts.own) {
        _ if !host.has(family) => Vec::new(),
        (HostAddress::One(address), _) => vec![Some(address)],
        // a service's address is local, too, and its ports are not the host's
        (_, Some(own)) => own.iter().filter(|address| Family::from(**address) == family).copied().map(Some).collect(),
        (_, None) => vec![None],
    };
    addresses.into_iter().map(|address| HostPort { protocol, address, port, pod, pod_port }).collect()
}

/// Packets from the host's loopback addresses leave it only with this setting, on the link to the pod. IPv6 has none.
fn localhost(conf: &Conf, facts: &Facts, portmap: &Portmap) -> Side {
    let has_v4 = portmap.ports.iter().any(|port| port.pod.is_ipv4());
    let Some(device) = facts.device.as_ref().filter(|_| has_v4 && conf.masquerade.is_some()) else {
        return Side::default();
    };
    let mut wanted = State::default();
    wanted.conf("ipv4", device, "route_localnet", "1");
    let scope = Scope { sysctls: wanted.sysctls.keys().cloned().collect(), ..Scope::default() };
    Side { wanted, scope, known: None }
}
