//! The desired state of host and pod for an attachment. Pure.

use std::net::IpAddr;
use std::os::fd::RawFd;

use cni::error::Error;
use cni::result::AddResult;
use ipnetwork::IpNetwork;
use kernel::state::{Link, LinkKind, Route, RouteKey, RouteScope, State, Veth, VethPeer};
use kernel::types::{Family, RouteProtocol, masked};

use super::conf::Conf;
use crate::attach::Ends;
use crate::host::{forward, refuse_routers};
use crate::pod::{self, Dad};

/// IPAM gives each address once, so nobody else on the pair has it.
pub const DAD: Dad = Dad::Off;

/// RT_SCOPE_HOST, linux/rtnetlink.h; upstream's plugin gives it to the route to the pod.
const HOST: u8 = 254;

/// IPAM's result with the plugin's additions: the interface of each address, and DNS.
pub fn complete(conf: &Conf, mut ipam: AddResult) -> Result<AddResult, Error> {
    if ipam.ips.is_empty() {
        return Err(Error::internal("IPAM plugin returned missing IP config"));
    }
    if let Some(ip) = ipam.ips.iter().find(|ip| ip.gateway.is_none()) {
        return Err(Error::internal(format!("IPAM plugin returned no gateway for {}", ip.address)).with_details(
            "the host's end of the pair has the gateway's address: let IPAM give one (host-local: \"gateway\")",
        ));
    }
    ipam.ips.iter_mut().for_each(|ip| ip.interface = Some(1));
    if !conf.dns.is_empty() {
        ipam.dns = conf.dns.clone();
    }
    Ok(ipam)
}

/// The pair, which is still down. `netns` is the pod's open namespace.
pub fn links(conf: &Conf, ends: &Ends, netns: Option<RawFd>) -> State {
    let mut state = State::default();
    let peer = VethPeer { name: ends.ifname.clone(), mac: Some(ends.pod_mac), mtu: conf.mtu, netns };
    let kind = LinkKind::Veth(Veth { peer: Some(Box::new(peer)) });
    let veth = Link { up: false, mtu: conf.mtu, mac: Some(ends.host_mac), ..Link::up(kind) };
    state.links.insert(ends.host.clone(), veth);
    refuse_routers(&mut state, &ends.host);
    state
}

/// The host's complete side: its end with the gateways' addresses, a route to each of the pod's addresses, forwarding.
pub fn host(conf: &Conf, ends: &Ends, result: &AddResult) -> State {
    let mut state = links(conf, ends, None);
    if let Some(veth) = state.links.get_mut(&ends.host) {
        veth.up = true;
    }
    for ip in &result.ips {
        if let Some(gateway) = ip.gateway {
            state.address(&ends.host, single(gateway), true);
        }
        let pod = single(ip.address.ip());
        let scope = pod.is_ipv4().then_some(HOST);
        state.routes.insert(RouteKey::main(pod), Route { scope, ..Route::by(&ends.host) });
        forward(&mut state, Family::from(pod));
    }
    state
}

/// The host's routes to the pod in `wanted`. Another program may have a route to the same address; ours precedes it.
pub fn host_routes(wanted: &State) -> RouteScope {
    let within = wanted.routes.keys().map(|key| key.dst).collect();
    RouteScope { protocol: Some(RouteProtocol::BOOT), within, ..RouteScope::default() }
}

/// The pod's side. The pod reaches everything, its own network too, by its gateway.
pub fn pod(conf: &Conf, ends: &Ends, result: &AddResult) -> Result<State, Error> {
    let link = pod::veth_end(Some(ends.pod_mac), conf.mtu);
    let mut state = pod::desired(&ends.ifname, link, result, DAD)?;
    for address in state.addresses.values_mut() {
        address.noprefixroute = true;
    }
    for ip in &result.ips {
        let (Some(gateway), src) = (ip.gateway, Some(ip.address.ip())) else { continue };
        let near = single(gateway);
        state.routes.insert(RouteKey::main(near), Route { src, ..Route::by(&ends.ifname) });
        let network = masked(ip.address);
        if network.prefix() < Family::from(network).bits() && network != near {
            let by_gateway = Route { via: Some(gateway), src, ..Route::by(&ends.ifname) };
            state.routes.insert(RouteKey::main(network), by_gateway);
        }
    }
    Ok(state)
}

fn single(address: IpAddr) -> IpNetwork {
    address.into()
}
