//! The wireguard backend: a device per family of the underlay, or one for both; a WireGuard peer per host.
//!
//! Nothing is sent unencrypted: the route to the device covers the whole network, and the device drops packets for
//! subnets that no peer has.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use gojson::{Json, Reader};
use ipnetwork::IpNetwork;
use kernel::state::{Link, LinkKind, RouteKey, Secret, State, WireguardDevice, WireguardPeer};
use kernel::types::{Family, IfName, Mtu, host_net};

use super::{Backend, Conf, Data, Devices, End, Host, Identity, Kind, Mistake, Role, keys};
use crate::lease::WireguardData;
use crate::net::ByFamily;
use crate::peers::{Half, Peer};
use crate::reach::{Mode, Names, Tunnel, Why};
use crate::render::flannel_route;

/// The wireguard backend.
pub static KIND: Kind = Kind {
    name: "wireguard",
    lease_type: "wireguard",
    data: Data::Key,
    v4_only: false,
    tunnel: Some(TUNNEL),
    read,
    left: |name, link| {
        let ours = DEVICES.contains(&name.as_str()) && link.kind == LinkKind::Wireguard;
        ours.then(|| Backend::Wireguard(WireguardConf::default()))
    },
};

/// WireGuard, by the kernel.
pub const TUNNEL: Tunnel = Tunnel::new(&Names { name: "wireguard", title: "WireGuard", direct_routing: false });

/// Upstream's device names; the second is for IPv6 in mode separate.
pub const DEVICES: [&str; 2] = ["flannel-wg", "flannel-wg-v6"];

/// Which device carries which family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WireguardMode {
    /// A device per family of the underlay: IPv4 over IPv4, IPv6 over IPv6.
    #[default]
    Separate,
    /// One device; the family of the underlay is chosen per peer.
    Auto,
    /// One device over IPv4.
    Ipv4,
    /// One device over IPv6.
    Ipv6,
}

/// The wireguard backend's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireguardConf {
    /// `ListenPort`, default 51820.
    pub listen_port: u16,
    /// `ListenPortV6`, default 51821: the port of the IPv6 device in [`WireguardMode::Separate`].
    pub listen_port_v6: u16,
    /// `MTU` of the *underlay*, from which WireGuard's 80 bytes are subtracted; `None` means the underlay interface's
    /// MTU.
    pub mtu: Option<Mtu>,
    /// `PSK`: 32 bytes in base64, mixed into the handshake with every peer.
    pub psk: Option<Secret>,
    /// `PersistentKeepaliveInterval`, in seconds; 0 (the default) is off.
    pub keepalive: u16,
    /// `Mode`
    pub mode: WireguardMode,
}

impl Default for WireguardConf {
    fn default() -> Self {
        Self {
            listen_port: 51820,
            listen_port_v6: 51821,
            mtu: None,
            psk: None,
            keepalive: 0,
            mode: WireguardMode::default(),
        }
    }
}

fn read(reader: &mut Reader<'_>, ipv6: bool, mistakes: &mut Vec<Mistake>) -> Backend {
    let default = WireguardConf::default();
    Backend::Wireguard(WireguardConf {
        listen_port: keys::port(reader, "Backend.ListenPort", mistakes).unwrap_or(default.listen_port),
        listen_port_v6: keys::port(reader, "Backend.ListenPortV6", mistakes).unwrap_or(default.listen_port_v6),
        mtu: read_mtu(reader.take("MTU"), ipv6, mistakes),
        psk: read_psk(reader.take("PSK"), mistakes),
        keepalive: read_keepalive(reader.take("PersistentKeepaliveInterval"), mistakes),
        mode: read_mode(reader.take("Mode"), mistakes).unwrap_or_default(),
    })
}

/// The inner MTU must still carry the smallest packet of its family: 68 bytes (RFC 791 §3.2), 1280 (RFC 8200 §5).
fn read_mtu(value: Option<u64>, ipv6: bool, mistakes: &mut Vec<Mistake>) -> Option<Mtu> {
    let range = if ipv6 {
        (1360, 65535, "1360 to 65535: it is the underlay's MTU, and IPv6 needs 1280 bytes inside WireGuard's 80")
    } else {
        (148, 65535, "148 to 65535: it is the underlay's MTU, and IPv4 needs 68 bytes inside WireGuard's 80")
    };
    keys::number(value, "Backend.MTU", range, mistakes).and_then(|mtu| u32::try_from(mtu).ok()).map(Mtu)
}

fn read_psk(value: Option<String>, mistakes: &mut Vec<Mistake>) -> Option<Secret> {
    let text = value.filter(|text| !text.is_empty())?;
    // The message must not contain the value, which is half a secret.
    text.parse().map_err(|error| mistakes.push(Mistake::Psk(error))).ok()
}

fn read_keepalive(value: Option<u64>, mistakes: &mut Vec<Mistake>) -> u16 {
    let range = (1, 65535, "0 (off) to 65535 seconds");
    let value = keys::number(value, "Backend.PersistentKeepaliveInterval", range, mistakes);
    value.and_then(|value| u16::try_from(value).ok()).unwrap_or_default()
}

fn read_mode(value: Option<String>, mistakes: &mut Vec<Mistake>) -> Option<WireguardMode> {
    match value?.as_str() {
        "" | "separate" => Some(WireguardMode::Separate),
        "auto" => Some(WireguardMode::Auto),
        "ipv4" => Some(WireguardMode::Ipv4),
        "ipv6" => Some(WireguardMode::Ipv6),
        other => {
            mistakes.push(Mistake::WireguardMode { value: other.to_owned() });
            None
        }
    }
}

impl WireguardConf {
    /// The port on which this host listens for a family. In modes with one device it is `ListenPort`; Go publishes
    /// `ListenPortV6` for IPv6 even then.
    fn port(&self, family: Family) -> u16 {
        match (self.mode, family) {
            (WireguardMode::Separate, Family::V6) => self.listen_port_v6,
            _ => self.listen_port,
        }
    }

    fn device(&self, family: Family) -> Option<IfName> {
        let separate = self.mode == WireguardMode::Separate && family == Family::V6;
        IfName::new(DEVICES[usize::from(separate)]).ok()
    }

    /// The device's MTU: IPv6 and UDP headers and WireGuard's own 32 bytes, for both families of the underlay (the
    /// WireGuard paper §5.4.6).
    fn device_mtu(&self, underlay: Mtu) -> Mtu {
        let outer = self.mtu.map_or(underlay, |mtu| mtu.min(underlay));
        Mtu(outer.0.saturating_sub(80))
    }
}

impl Conf for WireguardConf {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn mode(&self) -> Option<Mode> {
        Some(Mode::Encrypted)
    }

    fn pod_mtu(&self, underlay: Mtu) -> Mtu {
        self.device_mtu(underlay)
    }

    fn needs_key(&self) -> bool {
        true
    }

    /// A host has the same key in both families.
    fn lease_data(&self, identity: &Identity, family: Family) -> Option<Json> {
        let public_key = identity.wireguard?.public;
        Some(WireguardData { public_key, port: Some(self.port(family)) }.to_json())
    }

    fn names(&self, _role: Role) -> Vec<IfName> {
        DEVICES.iter().filter_map(|name| IfName::new(name).ok()).collect()
    }

    /// A device that is only kept stays unchanged: the peers know its port and its key.
    fn stays_as_it_is(&self) -> bool {
        true
    }

    /// A device that is only kept still receives: its peers stay.
    fn end(&self, host: &Host, role: Role) -> Option<Box<dyn End>> {
        let device = || Wireguard {
            conf: *self,
            networks: host.networks,
            bases: ByFamily { v4: base(host, Family::V4), v6: base(host, Family::V6) },
            mtu: self.device_mtu(host.underlay.mtu),
            mark: host.mark(),
            private_key: host.identity.wireguard.map(|keys| keys.private),
            underlay_v6: host.underlay.addresses.v6,
        };
        (role == Role::Current).then(|| Box::new(device()) as Box<dyn End>)
    }

    fn devices(&self) -> Option<Devices> {
        Some(Devices { kind: KIND.name, name: 0, fixed: 0 })
    }

    /// WireGuard distinguishes hosts behind one address by their ports.
    fn shares_addresses(&self) -> bool {
        true
    }
}

fn base(host: &Host, family: Family) -> Option<IpAddr> {
    host.own.get(family).map(|own| own.network())
}

#[derive(Debug)]
struct Wireguard {
    conf: WireguardConf,
    networks: ByFamily<Option<IpNetwork>>,
    /// The first addresses of this host's subnets.
    bases: ByFamily<Option<IpAddr>>,
    mtu: Mtu,
    mark: String,
    private_key: Option<Secret>,
    /// This host's own underlay address.
    underlay_v6: Option<IpAddr>,
}

impl End for Wireguard {
    fn write(&self, state: &mut State) {
        for family in Family::ALL {
            let (network, base) = (*self.networks.get(family), *self.bases.get(family));
            let Some(((dev, network), base)) = self.conf.device(family).zip(network).zip(base) else { continue };
            let link = Link { mtu: Some(self.mtu), alias: Some(self.mark.clone()), ..Link::up(LinkKind::Wireguard) };
            state.links.insert(dev.clone(), link);
            let (private_key, listen_port) = (self.private_key, Some(self.conf.port(family)));
            state.wireguard.insert(dev.clone(), WireguardDevice { private_key, listen_port, peers: BTreeMap::new() });
            state.address(&dev, host_net(base), true);
            state.routes.insert(RouteKey::main(network), flannel_route(&dev));
        }
    }

    fn tunnel(&self) -> Tunnel {
        TUNNEL
    }

    fn reaches(&self, peer: &Peer, half: &Half) -> Result<(), Why> {
        self.endpoint(peer, half).map(drop)
    }

    /// Adds the subnet to the peer with the host's key. A host that left an old lease behind has two subnets.
    fn write_peer(&self, peer: &Peer, half: &Half, state: &mut State) {
        let device = self.conf.device(half.subnet.into()).map(|dev| state.wireguard.entry(dev).or_default());
        let Some(((device, data), endpoint)) = device.zip(half.wireguard).zip(self.endpoint(peer, half).ok()) else {
            return;
        };
        let new = || WireguardPeer {
            endpoint: Some(endpoint),
            preshared_key: self.conf.psk,
            keepalive: self.conf.keepalive,
            // The peer may send from an address that its lease does not name, for example from behind a NAT.
            roams: true,
            ..WireguardPeer::default()
        };
        device.peers.entry(data.public_key).or_insert_with(new).allowed_ips.insert(half.subnet);
    }
}

impl Wireguard {
    /// The address and port to send to. A peer that publishes no port listens on this host's port.
    ///
    /// # Errors
    /// The peer has no key, or no address that this host can send to.
    fn endpoint(&self, peer: &Peer, half: &Half) -> Result<SocketAddr, Why> {
        let data = half.wireguard.ok_or(Why::NotIn(TUNNEL))?;
        if self.conf.mode == WireguardMode::Separate {
            let port = data.port.unwrap_or_else(|| self.conf.port(half.subnet.into()));
            return Ok(SocketAddr::new(half.public, port));
        }
        let public = ByFamily { v4: public(peer, Family::V4), v6: public(peer, Family::V6) };
        let family = underlay_family(self.conf.mode, public, self.underlay_v6);
        let address = (*public.get(family)).ok_or(Why::NoEndpoint(family))?;
        // Its one device listens on one port, which Go publishes correctly only in the IPv4 data.
        let port = Family::ALL.iter().find_map(|family| peer.half(*family)?.wireguard?.port);
        Ok(SocketAddr::new(address, port.unwrap_or(self.conf.listen_port)))
    }
}

fn public(peer: &Peer, family: Family) -> Option<IpAddr> {
    peer.half(family).map(|half| half.public)
}

/// Upstream's rule: use IPv6 only when both hosts have public IPv6 addresses and the peer's IPv4 address is private.
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

/// Whether the address is in RFC 1918 or RFC 4193, or link-local.
fn is_private(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}
