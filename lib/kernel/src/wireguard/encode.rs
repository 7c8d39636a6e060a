//! Encodes WG_CMD_SET_DEVICE and WG_CMD_GET_DEVICE as attributes. Pure.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;

use crate::netlink::wire::Writer;
use crate::state::{PublicKey, Secret, WireguardPeerChange};
use crate::types::IfName;

pub(super) const IFNAME: u16 = 2;
pub(super) const PRIVATE_KEY: u16 = 3;
pub(super) const LISTEN_PORT: u16 = 6;
pub(super) const PEERS: u16 = 8;

pub(super) mod peer {
    pub(crate) const PUBLIC_KEY: u16 = 1;
    pub(crate) const PRESHARED_KEY: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const ENDPOINT: u16 = 4;
    pub(crate) const KEEPALIVE: u16 = 5;
    pub(crate) const LAST_HANDSHAKE: u16 = 6;
    pub(crate) const ALLOWED_IPS: u16 = 9;
    pub(crate) const REMOVE_ME: u32 = 1;
    pub(crate) const REPLACE_ALLOWED_IPS: u32 = 2;
}

pub(super) mod allowed {
    pub(crate) const FAMILY: u16 = 1;
    pub(crate) const ADDRESS: u16 = 2;
    pub(crate) const PREFIX: u16 = 3;
}

/// `wg set NAME private-key … listen-port …`
pub(crate) fn set_device(writer: &mut Writer, name: &IfName, key: Option<Secret>, port: Option<u16>) {
    writer.text(IFNAME, name.as_str());
    if let Some(Secret(key)) = key {
        writer.attr(PRIVATE_KEY, &key);
    }
    if let Some(port) = port {
        writer.attr(LISTEN_PORT, &port.to_ne_bytes());
    }
}

/// `wg set NAME peer KEY …`: creates the peer if it does not exist.
pub(crate) fn set_peer(writer: &mut Writer, name: &IfName, key: PublicKey, change: &WireguardPeerChange) {
    one_peer(writer, name, key, |writer| {
        if change.replace {
            writer.attr(peer::FLAGS, &peer::REPLACE_ALLOWED_IPS.to_ne_bytes());
        }
        if let Some(preshared) = change.preshared_key {
            // all zeros remove the key
            writer.attr(peer::PRESHARED_KEY, &preshared.map_or([0; 32], |key| key.0));
        }
        if let Some(endpoint) = change.endpoint {
            writer.attr(peer::ENDPOINT, &sockaddr(endpoint));
        }
        if let Some(seconds) = change.keepalive {
            writer.attr(peer::KEEPALIVE, &seconds.to_ne_bytes());
        }
        if !change.allowed_ips.is_empty() {
            writer.nest(peer::ALLOWED_IPS, |writer| {
                change.allowed_ips.iter().for_each(|net| writer.nest(0, |writer| prefix(writer, *net)));
            });
        }
    });
}

/// `wg set NAME peer KEY remove`
pub(crate) fn remove_peer(writer: &mut Writer, name: &IfName, key: PublicKey) {
    one_peer(writer, name, key, |writer| writer.attr(peer::FLAGS, &peer::REMOVE_ME.to_ne_bytes()));
}

fn one_peer(writer: &mut Writer, name: &IfName, key: PublicKey, body: impl FnOnce(&mut Writer)) {
    writer.text(IFNAME, name.as_str());
    writer.nest(PEERS, |writer| {
        writer.nest(0, |writer| {
            writer.attr(peer::PUBLIC_KEY, &key.0);
            body(writer);
        });
    });
}

fn prefix(writer: &mut Writer, net: IpNetwork) {
    let family = if net.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    writer.attr(allowed::FAMILY, &(family as u16).to_ne_bytes());
    match net.ip() {
        IpAddr::V4(v4) => writer.attr(allowed::ADDRESS, &v4.octets()),
        IpAddr::V6(v6) => writer.attr(allowed::ADDRESS, &v6.octets()),
    }
    writer.attr(allowed::PREFIX, &[net.prefix()]);
}

/// `struct sockaddr_in` or `struct sockaddr_in6`
fn sockaddr(addr: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    match addr {
        SocketAddr::V4(v4) => {
            bytes.extend((libc::AF_INET as u16).to_ne_bytes());
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend(v6.flowinfo().to_be_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}
