//! The desired state of host and pod for an attachment. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::RawFd;

use attachment::record::MADE;
use cni::error::Error;
use cni::result::{AddResult, Interface, Route as CniRoute};
use ipnetwork::IpNetwork;
use kernel::message::link::SeenLink;
use kernel::state::{AddressKey, Bridge, Link, LinkKind, Port, State, Veth, VethPeer, Vlan, VlanKey};
use kernel::types::{Family, IfName, Mac, VlanId, masked};

use super::conf::{Conf, Gateway, Vlans};
use crate::attach::{Ends, interface};
use crate::host::{forward, refuse_routers, seen_accept_ra};
use crate::pod;

/// Whether this plugin made the bridge.
pub fn is_ours(bridge: &Link) -> bool {
    bridge.alias.as_deref() == Some(MADE)
}

/// The current state of the bridge, if the link is a bridge.
pub fn known(conf: &Conf, seen: &SeenLink) -> Result<State, Error> {
    let LinkKind::Bridge(_) = &seen.link.kind else {
        return Err(Error::internal(format!("{:?} already exists but is not a bridge", conf.bridge.as_str())).with_details(
            format!(
                "it is a link of kind {}: set another \"bridge\" in the configuration, or delete that link: ip link del {}",
                seen.link.kind.word(),
                conf.bridge
            ),
        ));
    };
    let mut state = State::default();
    state.links.insert(conf.bridge.clone(), seen.link.clone());
    state.sysctls.extend([seen_accept_ra(seen)]);
    Ok(state)
}

/// IPAM's result with the bridge's additions: the interface of each address, gateways, the default route, DNS.
pub fn complete(conf: &Conf, mut ipam: AddResult) -> Result<AddResult, Error> {
    if conf.ipam.is_some() && ipam.ips.is_empty() {
        return Err(Error::internal("IPAM plugin returned missing IP config"));
    }
    for ip in &mut ipam.ips {
        ip.interface = Some(2);
        if ip.gateway.is_none() && conf.gateway != Gateway::No {
            ip.gateway = first_host(ip.address);
        }
    }
    if conf.gateway == Gateway::Default {
        add_default_routes(&mut ipam);
    }
    if !conf.dns.is_empty() {
        ipam.dns = conf.dns.clone();
    }
    Ok(ipam)
}

/// The network's address plus one.
fn first_host(net: IpNetwork) -> Option<IpAddr> {
    match net {
        IpNetwork::V4(v4) => u32::from(v4.network()).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpNetwork::V6(v6) => u128::from(v6.network()).checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

/// Adds one default route per family by the gateway, unless the result has one already, with or without a gateway.
fn add_default_routes(result: &mut AddResult) {
    for family in Family::ALL {
        let gateway = result.ips.iter().filter(|ip| Family::from(ip.address) == family).find_map(|ip| ip.gateway);
        let there = result.routes.iter().any(|r| Family::from(r.dst) == family && pod::is_default(r.dst));
        if let (Some(gateway), false) = (gateway, there) {
            result.routes.push(CniRoute { gw: Some(gateway), ..CniRoute::to(family.default_net()) });
        }
    }
}

/// The bridge and the pair, which is still down. `netns` is the pod's open namespace; `new`: the bridge is created
/// now.
pub fn links(conf: &Conf, ends: &Ends, netns: Option<RawFd>, new: bool) -> State {
    let mut state = State::default();
    let bridge = Link {
        promisc: conf.promisc.then_some(true),
        mac: new.then_some(ends.shared_mac),
        mtu: conf.mtu.filter(|_| new),
        alias: new.then(|| MADE.to_owned()),
        ..Link::up(LinkKind::Bridge(Bridge { vlan_filtering: conf.vlans.is_some(), ..Bridge::default() }))
    };
    state.links.insert(conf.bridge.clone(), bridge);
    refuse_routers(&mut state, &conf.bridge);
    let peer = VethPeer { name: ends.ifname.clone(), mac: Some(ends.pod_mac), mtu: conf.mtu, netns };
    let veth = Link {
        up: false,
        mtu: conf.mtu,
        mac: Some(ends.host_mac),
        master: Some(Some(conf.bridge.clone())),
        ..Link::up(LinkKind::Veth(Veth { peer: Some(Box::new(peer)) }))
    };
    state.links.insert(ends.host.clone(), veth);
    state.ports.insert(ends.host.clone(), Port { hairpin: conf.hairpin, isolated: conf.isolated, passing: None });
    refuse_routers(&mut state, &ends.host);
    state
}

/// The host's complete side: the links, the gateway's addresses, forwarding.
pub fn host(conf: &Conf, ends: &Ends, result: &AddResult) -> State {
    let mut state = links(conf, ends, None, false);
    if let Some(veth) = state.links.get_mut(&ends.host) {
        veth.up = true;
    }
    if let Some(vlans) = &conf.vlans {
        state.vlans.extend(port_vlans(&ends.host, vlans));
    }
    if conf.gateway == Gateway::No {
        return state;
    }
    for ip in &result.ips {
        let Some(net) = gateway_net(ip) else { continue };
        state.address(&conf.gateway_link(), net, true);
        forward(&mut state, Family::from(net));
    }
    state
}

/// The VLANs of a pod's port. As upstream, untagged frames of a port with only a trunk belong to VLAN 1.
fn port_vlans(port: &IfName, vlans: &Vlans) -> Vec<(VlanKey, Vlan)> {
    let key = |id: VlanId| VlanKey { dev: port.clone(), id };
    let ids = vlans.tagged.iter().flat_map(|(min, max)| min.get()..=max.get()).filter_map(|id| VlanId::new(id).ok());
    let mut all: BTreeMap<_, _> = ids.map(|id| (key(id), Vlan::default())).collect();
    if let Some(id) = vlans.pvid.or(VlanId::new(1).ok()) {
        all.insert(key(id), Vlan { pvid: true, untagged: true });
    }
    all.into_iter().collect()
}

/// The VLAN that a new port of a VLAN-filtering bridge has (`default_pvid`, net/bridge/br_vlan.c).
pub fn default_vlan(port: &IfName) -> Option<(VlanKey, Vlan)> {
    let id = VlanId::new(1).ok()?;
    Some((VlanKey { dev: port.clone(), id }, Vlan { pvid: true, untagged: true }))
}

/// The gateway link of a VLAN: a pair on the host, whose far end is a port of the bridge in that VLAN.
pub fn vlan_gateway(conf: &Conf, ends: &Ends) -> State {
    let mut state = State::default();
    let peer = VethPeer { name: ends.spare.clone(), mac: None, mtu: conf.mtu, netns: None };
    let link = Link { mtu: conf.mtu, ..Link::up(LinkKind::Veth(Veth { peer: Some(Box::new(peer)) })) };
    state.links.insert(conf.gateway_link(), Link { up: false, ..link });
    state
}

/// The settings of the far end of [`vlan_gateway`] once the pair exists.
pub fn vlan_port(conf: &Conf, ends: &Ends) -> State {
    let mut state = State::default();
    let port = Link { master: Some(Some(conf.bridge.clone())), ..Link::up(LinkKind::Veth(Veth { peer: None })) };
    state.links.insert(ends.spare.clone(), port);
    state.links.insert(conf.gateway_link(), Link::up(LinkKind::Veth(Veth { peer: None })));
    for dev in [&ends.spare, &conf.gateway_link()] {
        refuse_routers(&mut state, dev);
    }
    let pvid = conf.vlans.as_ref().and_then(|vlans| vlans.pvid);
    let carried = |id| (VlanKey { dev: ends.spare.clone(), id }, Vlan { pvid: true, untagged: true });
    state.vlans.extend(pvid.map(carried));
    state
}

fn gateway_net(ip: &cni::result::IpConfig) -> Option<IpNetwork> {
    IpNetwork::new(ip.gateway?, ip.address.prefix()).ok()
}

/// The pod's side. Without IPAM the interface is only raised.
pub fn pod(conf: &Conf, ends: &Ends, result: &AddResult) -> Result<State, Error> {
    if !conf.container_interface {
        return Ok(State::default());
    }
    let link = pod::veth_end(Some(ends.pod_mac), conf.mtu);
    if conf.ipam.is_some() {
        return pod::desired(&ends.ifname, link, result, conf.dad);
    }
    let mut state = State::default();
    state.links.insert(ends.ifname.clone(), link);
    Ok(state)
}

/// Addresses on the bridge that conflict with the desired ones: any other IPv4 address, or an overlapping IPv6
/// address.
pub fn conflicting(wanted: &State, present: &[AddressKey]) -> Vec<AddressKey> {
    let rivals = |have: &AddressKey, want: &AddressKey| match (have.net, want.net) {
        (IpNetwork::V4(_), IpNetwork::V4(_)) => true,
        (IpNetwork::V6(a), IpNetwork::V6(b)) => {
            !a.ip().is_unicast_link_local() && (a.contains(b.network()) || b.contains(a.network()))
        }
        _ => false,
    };
    present
        .iter()
        .filter(|have| !wanted.addresses.contains_key(*have))
        .filter(|have| wanted.addresses.keys().any(|want| want.dev == have.dev && rivals(have, want)))
        .cloned()
        .collect()
}

/// The error for a bridge that serves another subnet, with advice.
pub fn address_conflict(conf: &Conf, wanted: &State, present: &[AddressKey], ports: usize) -> Error {
    let link = conf.gateway_link();
    let text = |keys: &mut dyn Iterator<Item = &AddressKey>| {
        keys.filter(|k| k.dev == link).map(|k| format!("{} ({})", k.net, masked(k.net))).collect::<Vec<_>>().join(", ")
    };
    let have = text(&mut present.iter());
    let want = text(&mut wanted.addresses.keys());
    let first = wanted.addresses.keys().find(|k| k.dev == link).map(|k| k.net.to_string()).unwrap_or_default();
    Error::internal(format!("failed to set bridge addr: {:?} already has an IP address different from {first}", conf.bridge.as_str()))
        .with_details(format!(
            "{link} holds {have}, this network wants {want}; {ports} pods are still attached to {}. Drain this host's pods of the \
             old subnet (on a bridge that this plugin made it is then replaced by itself), or set \"forceAddress\": true, or: ip addr del {} dev {link}",
            conf.bridge,
            present.iter().find(|k| k.dev == link).map(|k| k.net.to_string()).unwrap_or_default(),
        ))
}

/// The interfaces of the result: bridge, host end and pod end.
pub fn interfaces(conf: &Conf, ends: &Ends, bridge_mac: Option<Mac>, sandbox: &str) -> Vec<Interface> {
    vec![
        interface(&conf.bridge, bridge_mac, ""),
        interface(&ends.host, Some(ends.host_mac), ""),
        interface(&ends.ifname, Some(ends.pod_mac), sandbox),
    ]
}
