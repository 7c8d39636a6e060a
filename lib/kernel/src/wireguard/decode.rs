//! Decodes a dump of WG_CMD_GET_DEVICE. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::encode::{LISTEN_PORT, PEERS, PRIVATE_KEY, allowed, peer};
use crate::netlink::wire::Attributes;
use crate::state::{PublicKey, Secret, WireguardDevice, WireguardPeer};

/// How long keys may be used after the handshake (REJECT_AFTER_TIME).
const FRESH: Duration = Duration::from_secs(180);

/// Adds one message of the dump to `device`. A device with many peers takes several messages, and a peer with many
/// prefixes may continue in the next one. `now` is the time since 1970. `None`: a needed value cannot be decoded. If it
/// counted as missing, it would be written again and again.
pub(super) fn add(device: &mut WireguardDevice, message: &Attributes<'_>, now: Duration) -> Option<()> {
    if let Some(bytes) = message.get(PRIVATE_KEY) {
        device.private_key = Some(Secret(key(bytes)?));
    }
    if let Some(bytes) = message.get(LISTEN_PORT) {
        device.listen_port = Some(half(bytes)?);
    }
    for (_, bytes) in message.nested(PEERS).into_iter().flat_map(|peers| peers.iter()) {
        let attributes = Attributes::read(bytes);
        let public = PublicKey(key(attributes.get(peer::PUBLIC_KEY)?)?);
        add_to_peer(device.peers.entry(public).or_default(), &attributes, now)?;
    }
    Some(())
}

fn add_to_peer(to: &mut WireguardPeer, attributes: &Attributes<'_>, now: Duration) -> Option<()> {
    for (kind, value) in attributes.iter() {
        match kind {
            peer::PRESHARED_KEY => to.preshared_key = Some(key(value)?).filter(|key| *key != [0; 32]).map(Secret),
            peer::ENDPOINT => to.endpoint = Some(sockaddr(value)?),
            peer::KEEPALIVE => to.keepalive = half(value)?,
            peer::LAST_HANDSHAKE => to.live = handshake(value)?.is_some_and(|at| now.saturating_sub(at) < FRESH),
            peer::ALLOWED_IPS => {
                for (_, net) in Attributes::read(value).iter() {
                    to.allowed_ips.insert(prefix(net)?);
                }
            }
            _ => {}
        }
    }
    Some(())
}

fn key(bytes: &[u8]) -> Option<[u8; 32]> {
    bytes.try_into().ok()
}

fn half(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_ne_bytes)
}

/// Decodes `struct __kernel_timespec`; zero means never.
fn handshake(bytes: &[u8]) -> Option<Option<Duration>> {
    let seconds = i64::from_ne_bytes(*bytes.first_chunk()?);
    Some(u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs))
}

fn sockaddr(bytes: &[u8]) -> Option<SocketAddr> {
    let [f0, f1, p0, p1, rest @ ..] = bytes else { return None };
    let port = u16::from_be_bytes([*p0, *p1]);
    match i32::from(u16::from_ne_bytes([*f0, *f1])) {
        libc::AF_INET => Some(SocketAddr::from((*rest.first_chunk::<4>()?, port))),
        libc::AF_INET6 => {
            let address = Ipv6Addr::from(*rest.get(4..)?.first_chunk::<16>()?);
            let scope = rest.get(20..)?.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
            Some(SocketAddrV6::new(address, port, 0, scope).into())
        }
        _ => None,
    }
}

fn prefix(bytes: &[u8]) -> Option<IpNetwork> {
    let attributes = Attributes::read(bytes);
    let address = attributes.get(allowed::ADDRESS)?;
    let address: IpAddr = match address.len() {
        4 => (*address.first_chunk::<4>()?).into(),
        _ => (*address.first_chunk::<16>()?).into(),
    };
    IpNetwork::new(address, *attributes.get(allowed::PREFIX)?.first()?).ok()
}
