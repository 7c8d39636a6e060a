//! A store in which most leases are hostile: the good ones are followed, and the work grows with the number of leases.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use kernel::types::{Family, Mac};

use super::{Own, Peers, check};
use crate::netconf::NetConf;

const CONF: &[u8] =
    br#"{"Network":"10.0.0.0/8","EnableIPv6":true,"IPv6Network":"fd00::/16","Backend":{"Type":"vxlan"}}"#;
const OUR_SUBNET: &str = "10.255.255.0-24&fd00:ffff::-64";
const OUR_MAC: Mac = Mac([2, 0xff, 0, 0, 0, 1]);

/// This host, with as many addresses as one whose proxy binds every service's.
fn own(addresses: u32) -> Own {
    let services = (0..addresses).map(|n| IpAddr::V4(Ipv4Addr::from(0xac80_0000 + n)));
    Own {
        subnets: OUR_SUBNET.parse().unwrap(),
        addresses: [IpAddr::from([10, 255, 255, 1]), IpAddr::from([192, 0, 2, 1])]
            .into_iter()
            .chain(services)
            .collect::<BTreeSet<_>>()
            .into(),
        macs: vec![OUR_MAC],
        ..Own::default()
    }
}

/// A lease of vxlan.
fn vxlan(public: &str, mac: Mac) -> String {
    format!(
        r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    )
}

fn public(n: u32) -> String {
    Ipv4Addr::from(0x6440_0000 + n).to_string()
}

fn mac(n: u32) -> Mac {
    let [_, a, b, c] = n.to_be_bytes();
    Mac([2, 0, 0, a, b, c])
}

/// The n-th subnet of the good ones: 10.100.0.0/24 and up, whose keys come before those of the hostile ones.
fn subnet(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a64_0000 + (n << 8))
}

/// The n-th hostile lease; `good` is how many honest hosts there are.
fn hostile(n: u32, good: u32) -> (String, String) {
    let (victim, free) = (n % good, Ipv4Addr::from(0x0ac8_0000 + ((n % 12_000) << 8)));
    let (some_mac, key) = (mac(0x80_0000 + n), format!("{free}-24&fd00:{:x}:{:x}::-64", n >> 16, n & 0xffff));
    let claim = |public: &str| vxlan(public, some_mac);
    match n % 16 {
        0 => (key, format!("{{\"PublicIP\":\"{}\"", public(n))),
        1 => (key, String::from_utf8_lossy(&n.to_be_bytes()).into_owned()),
        2 => (format!("{free}-{n}-24"), claim(&public(n))),
        // everything, half of everything, and the victim with its neighbours
        3 => (format!("0.0.0.0-0&::-{}", n % 127), claim(&public(n))),
        4 => (format!("0.0.0.0-{}&fd00:1:{:x}::-64", n % 31, n & 0xffff), claim("0.0.0.0")),
        5 => (format!("{}-{}&fd00:2:{:x}::-64", subnet(victim & !63), 18 + n % 5, n & 0xffff), claim(&public(n))),
        // the victim's own subnet again, and with bits beyond its length
        6 => (format!("{}-24&fd00:3:{:x}::-64", subnet(victim), n & 0xffff), claim(&public(n))),
        7 => (format!("10.100.{}.{}-24", n % 256, 1 + n % 255), claim(&public(n))),
        // ours: the subnet, the address, the MAC
        8 => (format!("10.255.255.0-{}&fd00:4:{:x}::-64", 24 + n % 7, n & 0xffff), claim(&public(n))),
        9 => (key, claim("192.0.2.1")),
        10 => (key, vxlan(&public(n), OUR_MAC)),
        // the victim's MAC and address, addresses that nobody can have
        11 => (key, vxlan(&public(0x20_0000 + n), mac(victim))),
        12 => (key, claim(&format!("224.0.{}.1", n % 256))),
        13 => (key, claim(&format!("127.0.{}.1", n % 256))),
        14 => (key, vxlan(&public(n), Mac([1, 0, 0x5e, 0, 0, 1]))),
        // among the victim's pods: a loop
        _ => (key, claim(&Ipv4Addr::from(u32::from(subnet(victim)) + 7).to_string())),
    }
}

/// `total` leases, a quarter of them good, in an order that says nothing.
fn leases(total: u32) -> Vec<(String, String)> {
    let good = total / 4;
    let hosts = (0..good).map(|n| (format!("{}-24", subnet(n)), vxlan(&public(n), mac(n))));
    let mut leases: Vec<_> = hosts.chain((0..total - good).map(|n| hostile(n, good))).collect();
    leases.sort_by_cached_key(|(key, value)| (key.bytes().rev().collect::<Vec<_>>(), value.len()));
    leases
}

/// Comparing each with each, or with each address of this host, would take far longer than any test may.
#[test]
fn a_hundred_thousand_leases_are_judged_and_the_good_ones_survive() {
    let (total, good) = (100_000, 25_000);
    let (conf, own, leases) = (NetConf::parse(CONF).unwrap().conf, own(10_000), leases(total));
    let peers = check(&conf, &own, leases.iter().map(|(key, value)| (key, value)));
    let wanted = (0..good).map(|n| format!("{}-24", subnet(n)));
    let found: Vec<String> = peers.good.iter().map(super::Peer::key).collect();
    assert_eq!(found.len(), wanted.len());
    assert!(found.iter().zip(wanted).all(|(found, wanted)| *found == wanted));
    assert!(peers.good.iter().all(|peer| peer.half(Family::V4).is_some() && peer.half(Family::V6).is_none()));
    assert!(peers.rejected.len() >= (total - good) as usize, "each hostile one is named, some in both families");
    assert!(peers.shared.is_empty());
}

#[test]
fn claims_over_each_other_are_no_more_work() {
    // runs of claims of five lengths over each other, with seven addresses and eleven MACs between them
    let lease = |n: u32| {
        let (first, len) = (0x0a00_0000 + (n << 6), 26 + n % 5);
        (format!("{}-{len}", Ipv4Addr::from(first)), vxlan(&public(n % 7), mac(n % 11)))
    };
    let (conf, own) = (NetConf::parse(CONF).unwrap().conf, own(10));
    let leases: Vec<_> = (0..50_000).map(lease).collect();
    let Peers { good, rejected, .. } = check(&conf, &own, leases.iter().map(|(key, value)| (key, value)));
    // a MAC stays with the address that published it first
    assert!(!good.is_empty() && good.len() + rejected.len() == 50_000);
}
