//! WireGuard devices: keys and peers.

use super::Step;
use super::objects::dies;
use crate::state::{Scope, State, WireguardDevice, WireguardPeer, WireguardPeerChange};
use crate::types::IfName;

/// Sets up the device before its peers. A prefix that moves to another peer is taken from the previous one in the
/// same step.
pub(super) fn put(desired: &State, observed: &State, steps: &mut Vec<Step>) {
    for (name, want) in &desired.wireguard {
        let nothing = WireguardDevice::default();
        let have = observed.wireguard.get(name).unwrap_or(&nothing);
        let key = want.private_key.filter(|key| Some(*key) != have.private_key);
        let port = want.listen_port.filter(|port| Some(*port) != have.listen_port);
        if key.is_some() || port.is_some() {
            steps.push(Step::SetWireguard(name.clone(), key, port));
        }
        for (public, peer) in &want.peers {
            if let Some(change) = change(peer, have.peers.get(public)) {
                steps.push(Step::PutWireguardPeer(name.clone(), *public, change));
            }
        }
    }
}

fn change(want: &WireguardPeer, have: Option<&WireguardPeer>) -> Option<WireguardPeerChange> {
    let new = WireguardPeer::default();
    let old = have.unwrap_or(&new);
    let follows = want.roams && old.live && old.endpoint.is_some();
    let replace = old.allowed_ips.difference(&want.allowed_ips).next().is_some();
    let change = WireguardPeerChange {
        endpoint: want.endpoint.filter(|endpoint| Some(*endpoint) != old.endpoint && !follows),
        preshared_key: (want.preshared_key != old.preshared_key).then_some(want.preshared_key),
        keepalive: (want.keepalive != old.keepalive).then_some(want.keepalive),
        allowed_ips: match replace {
            true => want.allowed_ips.clone(),
            false => want.allowed_ips.difference(&old.allowed_ips).copied().collect(),
        },
        replace,
    };
    (have.is_none() || change != WireguardPeerChange::default()).then_some(change)
}

/// A new device has no sessions, while its peers still send into their sessions with the previous device, for about
/// 15 s or until this device sends something. WireGuard sends a first packet, and so starts a handshake, when a
/// keepalive is enabled while the device is up (`set_peer`, drivers/net/wireguard/netlink.c).
pub(super) fn greet(desired: &State, observed: &State, steps: &mut Vec<Step>) {
    let is_new = |name: &IfName| desired.links.contains_key(name) && !observed.links.contains_key(name);
    for (name, device) in desired.wireguard.iter().filter(|(name, _)| is_new(name)) {
        for (public, peer) in device.peers.iter().filter(|(_, peer)| peer.endpoint.is_some()) {
            let keepalive = |seconds| {
                let change = WireguardPeerChange { keepalive: Some(seconds), ..WireguardPeerChange::default() };
                Step::PutWireguardPeer(name.clone(), *public, change)
            };
            // A keepalive that is on was enabled before the device was up.
            let off = (peer.keepalive != 0).then(|| keepalive(0));
            let on = keepalive(peer.keepalive.max(1));
            let as_before = (peer.keepalive == 0).then(|| keepalive(0));
            steps.extend(off.into_iter().chain([on]).chain(as_before));
        }
    }
}

/// Removes surplus peers of devices that stay.
pub(super) fn delete(desired: &State, observed: &State, scope: &Scope, steps: &mut Vec<Step>) {
    let stays = |dev: &IfName| !dies(desired, scope, dev);
    for (name, have) in observed.wireguard.iter().filter(|(name, _)| scope.wireguard.contains(name) && stays(name)) {
        let wanted = desired.wireguard.get(name).map(|device| &device.peers);
        let unwanted = have.peers.keys().filter(|key| wanted.is_none_or(|peers| !peers.contains_key(key)));
        steps.extend(unwanted.map(|key| Step::DeleteWireguardPeer(name.clone(), *key)));
    }
}
