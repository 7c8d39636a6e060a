//! Bytes that Linux 6.1 accepted and returned: the attributes after `struct genlmsghdr`, little endian.

#![cfg(target_endian = "little")]

use std::time::Duration;

use super::decode;
use super::encode::{LISTEN_PORT, PEERS, allowed, peer, remove_peer, set_device, set_peer};
use crate::netlink::wire::{Attributes, Writer};
use crate::state::{PublicKey, Secret, WireguardDevice, WireguardPeer, WireguardPeerChange};
use crate::types::IfName;

/// `wg set flannel-wg private-key … listen-port 51820`
const DEVICE: &[&str] = &[
    "0f000200666c616e6e656c2d776700002400030040404040404040404040404040404040404040404040404040404040",
    "40404040060006006cca0000",
];

/// A peer with every attribute.
const RICH: &[&str] = &[
    "0f000200666c616e6e656c2d77670000b4000880b0000080240001000101010101010101010101010101010101010101",
    "010101010101010101010101240002000707070707070707070707070707070707070707070707070707070707070707",
    "1400040002000fa0c000020100000000000000000600050019000000480009801c000080060001000200000008000200",
    "0a050200050003001800000028000080060001000a00000014000200fd05000000000002000000000000000005000300",
    "40000000",
];

/// Removes the same peer's preshared key and a subnet.
const POORER: &[&str] = &[
    "0f000200666c616e6e656c2d776700007800088074000080240001000101010101010101010101010101010101010101",
    "010101010101010101010101080003000200000024000200000000000000000000000000000000000000000000000000",
    "0000000000000000200009801c0000800600010002000000080002000a0502000500030018000000",
];

/// Removes a peer.
const GONE: &[&str] = &[
    "0f000200666c616e6e656c2d776700003400088030000080240001000202020202020202020202020202020202020202",
    "0202020202020202020202020800030001000000",
];

/// The dump of a device with two peers: the four bytes of `struct genlmsghdr`, and attributes.
const DUMP: &[&str] = &[
    "00010000060006006cca0000080007000000000008000100020000000f000200666c616e6e656c2d7767000024000300",
    "404040404040404040404040404040404040404040404040404040404040404024000400d7b5e81d336e578b13b8d706",
    "e82d061e3038c96bce66cdcf50d566b96ddbba10b0010880e40000802400010001010101010101010101010101010101",
    "010101010101010101010101010101012400020007070707070707070707070707070707070707070707070707070707",
    "07070707140006000000000000000000000000000000000006000500190000000c00080000000000000000000c000700",
    "000000000000000008000a00010000001400040002000fa0c00002010000000000000000480009801c00008005000300",
    "180000000600010002000000080002000a050200280000800500030040000000060001000a00000014000200fd050000",
    "000000020000000000000000c80000802400010002020202020202020202020202020202020202020202020202020202",
    "020202022400020000000000000000000000000000000000000000000000000000000000000000001400060000000000",
    "00000000000000000000000006000500000000000c00080000000000000000000c000700000000000000000008000a00",
    "01000000200004000a000fa10000000020010db800000000000000000000000100000000200009801c00008005000300",
    "180000000600010002000000080002000a050300",
];

fn bytes(hex: &[&str]) -> Vec<u8> {
    let hex = hex.concat();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn written(body: impl FnOnce(&mut Writer, &IfName)) -> Vec<u8> {
    let mut writer = Writer::default();
    body(&mut writer, &IfName::new("flannel-wg").unwrap());
    writer.finish().unwrap()
}

fn rich() -> WireguardPeer {
    WireguardPeer {
        endpoint: Some("192.0.2.1:4000".parse().unwrap()),
        preshared_key: Some(Secret([7; 32])),
        keepalive: 25,
        allowed_ips: ["10.5.2.0/24".parse().unwrap(), "fd05:0:0:2::/64".parse().unwrap()].into(),
        ..WireguardPeer::default()
    }
}

#[test]
fn what_is_written_is_what_linux_accepted() {
    assert_eq!(written(|w, name| set_device(w, name, Some(Secret([64; 32])), Some(51820))), bytes(DEVICE));
    let peer = rich();
    let change = WireguardPeerChange {
        endpoint: peer.endpoint,
        preshared_key: Some(peer.preshared_key),
        keepalive: Some(peer.keepalive),
        allowed_ips: peer.allowed_ips,
        replace: false,
    };
    assert_eq!(written(|w, name| set_peer(w, name, PublicKey([1; 32]), &change)), bytes(RICH));
    let change = WireguardPeerChange {
        preshared_key: Some(None),
        allowed_ips: ["10.5.2.0/24".parse().unwrap()].into(),
        replace: true,
        ..WireguardPeerChange::default()
    };
    assert_eq!(written(|w, name| set_peer(w, name, PublicKey([1; 32]), &change)), bytes(POORER));
    assert_eq!(written(|w, name| remove_peer(w, name, PublicKey([2; 32]))), bytes(GONE));
}

fn read(dump: &[u8], now: Duration) -> WireguardDevice {
    let mut device = WireguardDevice::default();
    decode::add(&mut device, &Attributes::read(&dump[4..]), now).unwrap();
    device
}

#[test]
fn a_dump_is_read() {
    let plain = WireguardPeer {
        endpoint: Some("[2001:db8::1]:4001".parse().unwrap()),
        allowed_ips: ["10.5.3.0/24".parse().unwrap()].into(),
        ..WireguardPeer::default()
    };
    let wanted = WireguardDevice {
        private_key: Some(Secret([64; 32])),
        listen_port: Some(51820),
        peers: [(PublicKey([1; 32]), rich()), (PublicKey([2; 32]), plain)].into(),
    };
    assert_eq!(read(&bytes(DUMP), Duration::ZERO), wanted);
    // a device with many peers comes in several messages
    let mut twice = read(&bytes(DUMP), Duration::ZERO);
    decode::add(&mut twice, &Attributes::read(&bytes(DUMP)[4..]), Duration::ZERO).unwrap();
    assert_eq!(twice, wanted);
}

#[test]
fn a_handshake_of_three_minutes_ago_is_too_old() {
    let dump = bytes(DUMP);
    // the first peer's LAST_HANDSHAKE_TIME: length 20, type 6
    let at = dump.windows(4).position(|four| four == [20, 0, 6, 0]).unwrap() + 4;
    let live = |then: i64, now: u64| {
        let mut dump = dump.clone();
        dump[at..at + 8].copy_from_slice(&then.to_ne_bytes());
        read(&dump, Duration::from_secs(now)).peers[&PublicKey([1; 32])].live
    };
    assert!(live(1000, 1000) && live(1000, 1179) && live(1010, 1000));
    assert!(!live(1000, 1180) && !live(0, 10) && !live(-5, 10));
}

#[test]
fn cut_dumps_are_not_accepted() {
    let dump = bytes(DUMP);
    for end in 4..dump.len() {
        let mut device = WireguardDevice::default();
        decode::add(&mut device, &Attributes::read(&dump[4..end]), Duration::ZERO);
        assert!(device.peers.len() <= 2);
    }
}

/// If it counted as missing, it would be written again at each look.
#[test]
fn what_is_not_understood_is_not_absent() {
    let one = |body: &dyn Fn(&mut Writer)| {
        let mut w = Writer::default();
        w.nest(PEERS, |w| w.nest(0, body));
        w.finish().unwrap()
    };
    let read = |bytes: &[u8]| decode::add(&mut WireguardDevice::default(), &Attributes::read(bytes), Duration::ZERO);
    let peer = |kind: u16, value: &[u8]| {
        one(&|w| {
            w.attr(peer::PUBLIC_KEY, &[1; 32]);
            w.attr(kind, value);
        })
    };
    let allowed = |attributes: &[(u16, &[u8])]| {
        one(&|w| {
            w.attr(peer::PUBLIC_KEY, &[1; 32]);
            w.nest(peer::ALLOWED_IPS, |w| {
                w.nest(0, |w| attributes.iter().for_each(|(kind, value)| w.attr(*kind, value)))
            });
        })
    };
    let (address, length) = ((allowed::ADDRESS, &[10, 0, 0, 0][..]), (allowed::PREFIX, &[8][..]));
    for good in [peer(99, &[1]), peer(peer::ENDPOINT, &[2, 0, 0, 1, 10, 0, 0, 1]), allowed(&[address, length])] {
        assert!(read(&good).is_some(), "{good:?}");
    }
    let mut short_port = Writer::default();
    short_port.attr(LISTEN_PORT, &[1]);
    for bad in [
        short_port.finish().unwrap(),
        one(&|w| w.attr(peer::KEEPALIVE, &[1, 0])),
        peer(peer::ENDPOINT, &[1, 0, 0, 1, 10, 0, 0, 1]),
        peer(peer::KEEPALIVE, &[1]),
        peer(peer::PRESHARED_KEY, &[1; 31]),
        peer(peer::LAST_HANDSHAKE, &[0; 7]),
        allowed(&[address]),
        allowed(&[length]),
        allowed(&[address, (allowed::PREFIX, &[])]),
        allowed(&[address, (allowed::PREFIX, &[33])]),
        allowed(&[(allowed::ADDRESS, &[10, 0, 0]), length]),
    ] {
        assert!(read(&bad).is_none(), "{bad:?}");
    }
}
