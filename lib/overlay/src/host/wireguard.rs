//! The wireguard backend: a device per family of the underlay, or one for both; a peer per host.
//!
//! Nothing goes to a peer in clear: the route to the device is the whole network's, and what no peer has is dropped there.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use kernel::state::{Link, LinkKind, PublicKey, RouteKey, Secret, State, WireguardDevice as Device, WireguardPeer};
use kernel::types::{Family, IfName, Mtu, host_net};

use super::HostInputs;
use super::desired::flannel_route;
use crate::lease::WireguardData;
use crate::net::ByFamily;
use crate::netconf::{Backend, NetConf, WireguardConf, WireguardMode};
use crate::peers::{Half, Peer};
use crate::reach::{Tunnel, Why};

/// Upstream's names of the devices; the second is IPv6's in mode separate.
pub const DEVICES: [&str; 2] = ["flannel-wg", "flannel-wg-v6"];

/// This host's pair of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireguardKeys {
    /// The private one, clamped as the kernel keeps it.
    pub private: Secret,
    /// What the peers are told.
    pub public: PublicKey,
}

/// IPv6 and UDP headers and WireGuard's own 32 bytes, for both families of the underlay (the WireGuard paper §5.4.6).
pub(super) fn mtu(inputs: &HostInputs<'_>, conf: &WireguardConf) -> Mtu {
    let outer = conf.mtu.map_or(inputs.underlay.mtu, |mtu| mtu.min(inputs.underlay.mtu));
    Mtu(outer.0.saturating_sub(80))
}

/// What this host publishes per family that is on: its key, and the port on which it listens for that family. The one
/// device of the other modes listens on `ListenPort` alone; Go says `ListenPortV6` for IPv6 even there.
pub fn wireguard_data(conf: &NetConf, public_key: PublicKey) -> ByFamily<Option<WireguardData>> {
    let mut data = ByFamily::default();
    if let Backend::Wireguard(wireguard) = &conf.backend {
        for (family, _) in conf.families() {
            let port = Some(own_port(wireguard, family));
            *data.get_mut(family) = Some(WireguardData { public_key, port });
        }
    }
    data
}

fn own_port(conf: &WireguardConf, family: Family) -> u16 {
    match (conf.mode, family) {
        (WireguardMode::Separate, Family::V6) => conf.listen_port_v6,
        _ => conf.listen_port,
    }
}

fn device(conf: &WireguardConf, family: Family) -> Option<IfName> {
    let separate = conf.mode == WireguardMode::Separate && family == Family::V6;
    IfName::new(DEVICES[usize::from(separate)]).ok()
}

/// The devices, with their addresses and routes; peers come one by one.
pub(super) fn write(state: &mut State, inputs: &HostInputs<'_>, conf: &WireguardConf) {
    for (family, of_family) in inputs.conf.families() {
        let Some((dev, own)) = device(conf, family).zip(inputs.own.get(family)) else { continue };
        let link =
            Link { mtu: Some(mtu(inputs, conf)), alias: Some(inputs.owner.mark()), ..Link::up(LinkKind::Wireguard) };
        state.links.insert(dev.clone(), link);
        let private_key = inputs.wireguard_keys.map(|keys| keys.private);
        let listen_port = Some(own_port(conf, family));
        state.wireguard.insert(dev.clone(), Device { private_key, listen_port, peers: BTreeMap::new() });
        state.address(&dev, host_net(own.network()), true);
        state.routes.insert(RouteKey::main(of_family.network), flannel_route(&dev));
    }
}

/// One family of a peer: its subnet becomes one of those of the peer with its key.
pub(super) fn write_peer(state: &mut State, conf: &WireguardConf, half: &Half, endpoint: SocketAddr) {
    let device = device(conf, half.subnet.into()).and_then(|dev| state.wireguard.get_mut(&dev));
    let Some((device, data)) = device.zip(half.wireguard) else { return };
    let new = || WireguardPeer {
        endpoint: Some(endpoint),
        preshared_key: conf.psk,
        keepalive: conf.keepalive,
        ..WireguardPeer::default()
    };
    // a host that left a lease behind has two
    device.peers.entry(data.public_key).or_insert_with(new).allowed_ips.insert(half.subnet);
}

/// Where the peer is sent to. A peer without a port listens where this host does.
///
/// # Errors
/// It has no key, or no address that this host could send to.
pub(super) fn endpoint(
    inputs: &HostInputs<'_>,
    conf: &WireguardConf,
    peer: &Peer,
    half: &Half,
) -> Result<SocketAddr, Why> {
    let data = half.wireguard.ok_or(Why::NotIn(Tunnel::Wireguard))?;
    if conf.mode == WireguardMode::Separate {
        let port = data.port;
        return Ok(SocketAddr::new(half.public, port.unwrap_or_else(|| own_port(conf, half.subnet.into()))));
    }
    let public = ByFamily { v4: public(peer, Family::V4), v6: public(peer, Family::V6) };
    let family = underlay_family(conf.mode, public, inputs.underlay.addresses.v6);
    let address = (*public.get(family)).ok_or(Why::NoEndpoint(family))?;
    // its one device listens on one port, and Go says that only in IPv4's data
    let port = Family::ALL.iter().find_map(|family| peer.half(*family)?.wireguard?.port);
    Ok(SocketAddr::new(address, port.unwrap_or(conf.listen_port)))
}

fn public(peer: &Peer, family: Family) -> Option<IpAddr> {
    peer.half(family).map(|half| half.public)
}

/// Upstream's rule: IPv6 only when it is certain to be routed at both ends and IPv4 is not at the peer's.
fn underlay_family(mode: WireguardMode, peer: ByFamily<Option<IpAddr>>, own_v6: Option<IpAddr>) -> Family {
    match (mode, peer.v4, peer.v6) {
        (WireguardMode::Ipv4 | WireguardMode::Separate, ..) => Family::V4,
        (WireguardMode::Ipv6, ..) => Family::V6,
        (WireguardMode::Auto, None, _) => Family::V6,
        (WireguardMode::Auto, Some(v4), Some(v6))
            if is_private(v4) && !is_private(v6) && own_v6.is_some_and(|own| !is_private(own)) =>
        {
            Family::V6
        }
        (WireguardMode::Auto, ..) => Family::V4,
    }
}

/// RFC 1918, RFC 4193, and link-local addresses.
fn is_private(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// Lets a peer roam that speaks with this host from another endpoint than its lease says. A lease that says another endpoint
/// than `before`, what was wanted last, is news and rules.
pub fn follow_roaming(desired: &mut State, before: &BTreeMap<IfName, Device>) {
    for (dev, device) in &mut desired.wireguard {
        for (key, peer) in &mut device.peers {
            let told = before.get(dev).and_then(|device| device.peers.get(key));
            peer.roams = told.is_none_or(|told| told.endpoint == peer.endpoint);
        }
    }
}
