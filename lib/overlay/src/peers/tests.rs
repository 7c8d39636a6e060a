use std::collections::BTreeSet;
use std::sync::Arc;

use kernel::types::Mac;
use proptest::prelude::*;

use super::*;
use crate::net::{overlap, within};
use crate::netconf::NetConf;

fn conf() -> NetConf {
    let text = br#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/56","Backend":{"Type":"vxlan"}}"#;
    NetConf::parse(text).unwrap().conf
}

fn addresses(all: &[&str]) -> Arc<BTreeSet<IpAddr>> {
    all.iter().map(|address| address.parse().unwrap()).collect::<BTreeSet<_>>().into()
}

fn own() -> Own {
    Own {
        subnets: "10.5.1.0-24&fd05:0:0:1::-64".parse().unwrap(),
        addresses: addresses(&["10.99.0.1", "fd99::1", "10.5.200.7"]),
        macs: vec!["02:00:00:00:00:01".parse().unwrap()],
        ..Own::default()
    }
}

fn vxlan(ip: &str, mac: &str) -> String {
    format!(
        r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    )
}

fn host_gw(ip: &str) -> String {
    format!(r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"host-gw"}}"#)
}

fn judge(leases: &[(&str, String)]) -> Peers {
    let forward = check(&conf(), &own(), leases.iter().map(|(key, value)| (*key, value)));
    let backward = check(&conf(), &own(), leases.iter().rev().map(|(key, value)| (*key, value)));
    assert_eq!(forward, backward, "the order of the leases does not matter");
    forward
}

fn keys(peers: &Peers) -> Vec<String> {
    peers.good.iter().map(Peer::key).collect()
}

/// The only rejection's text.
fn reason(key: &str, value: &str) -> String {
    let peers = judge(&[(key, value.to_owned()), ("10.5.100.0-24", host_gw("10.99.0.100"))]);
    assert_eq!(keys(&peers), ["10.5.100.0-24"], "{key} {value}: the good one stays, the bad one goes");
    assert_eq!(peers.rejected.len(), 1, "{:?}", peers.rejected);
    assert_eq!(peers.rejected[0].key, key);
    peers.rejected[0].reason.to_string()
}

#[test]
fn a_good_lease_is_followed_in_both_families() {
    let value = r#"{"PublicIP":"10.99.0.3","PublicIPv6":"fd99::3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"4a:ed:0f:9b:24:90"},"BackendV6Data":{"VNI":1,"VtepMAC":"12:a5:0d:d7:d9:76"}}"#;
    let peers = judge(&[("10.5.53.0-24&fd05:0:0:65::-64", value.into())]);
    assert_eq!((peers.rejected.len(), peers.shared.len()), (0, 0));
    let v6 = peers.good[0].half(Family::V6).unwrap();
    assert_eq!((v6.subnet.to_string(), v6.public.to_string()), ("fd05:0:0:65::/64".into(), "fd99::3".into()));
    assert_eq!(v6.vtep.unwrap().vtep_mac.to_string(), "12:a5:0d:d7:d9:76");
    assert_eq!(peers.good[0].half(Family::V4).unwrap().vtep.unwrap().vtep_mac.to_string(), "4a:ed:0f:9b:24:90");
}

#[test]
fn the_own_lease_is_neither_good_nor_bad() {
    let mine = vxlan("10.99.0.1", "02:00:00:00:00:01");
    let peers = judge(&[("10.5.1.0-24&fd05:0:0:1::-64", mine.clone()), ("10.5.1.0-24", mine)]);
    assert_eq!(peers, Peers::default());
    assert!(reason("10.5.1.0-24", &host_gw("10.99.0.9")).contains("overlaps this host's own 10.5.1.0/24"));
}

#[test]
fn each_bad_lease_has_its_reason() {
    let good = host_gw("10.99.0.9");
    let mac = "02:00:00:00:00:09";
    for (key, value, said) in [
        ("garbage", good.as_str(), "its key is not a subnet; a key is ADDRESS-LENGTH, "),
        ("10.5.9.0-24", "\u{0}", "its value cannot be read: the lease is not JSON: "),
        ("10.5.9.0-24", r#"{"PublicIP":1}"#, "its value cannot be read: the lease: PublicIP must be a string, not 1"),
        ("10.5.9.0-24", "{}", "it publishes no address of this family"),
        ("10.5.9.7-24", &good, "its subnet 10.5.9.7/24 has bits beyond its prefix length"),
        ("10.6.9.0-24", &good, "its subnet 10.6.9.0/24 is not inside the network 10.5.0.0/16"),
        ("10.4.0.0-15", &good, "its subnet 10.4.0.0/15 is not inside the network 10.5.0.0/16"),
        ("10.5.0.0-16", &good, "its subnet 10.5.0.0/16 is the whole network"),
        ("10.5.0.0-17", &good, "its subnet 10.5.0.0/17 overlaps this host's own 10.5.1.0/24"),
        ("10.5.200.0-24", &good, "its subnet 10.5.200.0/24 contains this host's address 10.5.200.7"),
        ("10.5.9.0-24", &host_gw("127.0.0.1"), "its address 127.0.0.1 is a loopback address"),
        ("10.5.9.0-24", &host_gw("224.0.0.1"), "its address 224.0.0.1 is a multicast address"),
        ("10.5.9.0-24", &host_gw("255.255.255.255"), "its address 255.255.255.255 is the broadcast address"),
        ("10.5.9.0-24", &host_gw("0.0.0.0"), "it publishes no address of this family"),
        ("10.5.9.0-24", &host_gw("0.1.2.3"), "its address 0.1.2.3 is a reserved address"),
        ("10.5.9.0-24", &host_gw("10.99.0.1"), "its address 10.99.0.1 is this host's own"),
        ("10.5.9.0-24", &host_gw("10.5.9.1"), "its address 10.5.9.1 is inside the leased subnet 10.5.9.0/24"),
        ("10.5.9.0-24", &host_gw("10.5.1.1"), "its address 10.5.1.1 is inside the leased subnet 10.5.1.0/24"),
        ("10.5.9.0-24", &host_gw("10.5.100.1"), "its address 10.5.100.1 is inside the leased subnet 10.5.100.0/24"),
        (
            "10.5.9.0-24",
            &good.replace("host-gw", "vxlan"),
            "its type is vxlan, but it publishes no VTEP for this family",
        ),
        ("10.5.9.0-24", &vxlan("10.99.0.9", "x"), r#"its VTEP cannot be read: VtepMAC "x" is not a MAC address"#),
        (
            "10.5.9.0-24",
            &vxlan("10.99.0.9", "01:00:5e:00:00:01"),
            "its VTEP's MAC address 01:00:5e:00:00:01 is not one ",
        ),
        (
            "10.5.9.0-24",
            &vxlan("10.99.0.9", "00:00:00:00:00:00"),
            "its VTEP's MAC address 00:00:00:00:00:00 is not one ",
        ),
        (
            "10.5.9.0-24",
            &vxlan("10.99.0.9", "02:00:00:00:00:01"),
            "its VTEP's MAC address 02:00:00:00:00:01 is this host's own",
        ),
        (
            "10.5.99.128-25",
            &vxlan("10.5.99.129", mac),
            "its address 10.5.99.129 is inside the leased subnet 10.5.99.128/25",
        ),
    ] {
        let found = reason(key, value);
        assert!(found.starts_with(said), "{key} {value}\n found {found}\nwanted {said}");
    }
}

#[test]
fn a_lease_takes_no_host_away_that_this_one_needs() {
    let hosts = [
        ("10.5.9.1", Service::Gateway),
        ("10.5.9.53", Service::Dns),
        ("fd05:0:0:9::2379", Service::Store),
        ("192.0.2.254", Service::Gateway),
    ];
    let hosts = hosts.map(|(address, service)| (address.parse().unwrap(), service)).to_vec();
    let own = Own { hosts, ..own() };
    let value = r#"{"PublicIP":"10.99.0.9","PublicIPv6":"fd99::9","BackendType":"host-gw"}"#;
    let said = |key: &str| {
        let peers = check(&conf(), &own, [(key, value), ("10.5.8.0-24", &host_gw("10.99.0.8"))]);
        assert_eq!(keys(&peers), ["10.5.8.0-24"]);
        peers.rejected.iter().map(|rejected| rejected.reason.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(said("10.5.9.0-26"), ["its subnet 10.5.9.0/26 contains 10.5.9.1, this host's gateway"]);
    assert_eq!(said("10.5.9.32-27"), ["its subnet 10.5.9.32/27 contains 10.5.9.53, this host's DNS server"]);
    assert_eq!(
        said("0.0.0.0-0&fd05:0:0:9::-64"),
        ["its subnet fd05:0:0:9::/64 contains fd05:0:0:9::2379, this host's store"]
    );
}

#[test]
fn an_address_of_the_underlay_itself_is_no_hosts() {
    let said = |prefix: &str, public: &str| {
        let own = Own { underlay: vec![prefix.parse().unwrap()], ..Own::default() };
        let value = format!(r#"{{"PublicIP":"{public}","PublicIPv6":"{public}","BackendType":"host-gw"}}"#);
        let six = public.contains(':');
        let (key, value) = match six {
            true => ("0.0.0.0-0&fd05:0:0:9::-64", value.replacen(public, "0.0.0.0", 1)),
            false => ("10.5.9.0-24", value.replace(&format!(r#""PublicIPv6":"{public}""#), r#""PublicIPv6":null"#)),
        };
        let peers = check(&conf(), &own, [(key, value)]);
        assert_eq!(peers.good.len() + peers.rejected.len(), 1);
        peers.rejected.first().map(|rejected| rejected.reason.to_string())
    };
    for (prefix, public, what) in [
        ("192.0.2.0/24", "192.0.2.0", Some("network address")),
        ("192.0.2.0/24", "192.0.2.255", Some("broadcast address")),
        ("192.0.2.128/30", "192.0.2.131", Some("broadcast address")),
        ("192.0.2.0/24", "192.0.2.9", None),
        ("192.0.2.0/24", "198.51.100.255", None),
        ("192.0.2.0/31", "192.0.2.1", None),
        ("192.0.2.0/32", "192.0.2.0", None),
        ("2001:db8::/64", "2001:db8::", Some("routers' anycast address")),
        ("2001:db8::/64", "2001:db8::ffff:ffff:ffff:ffff", None),
        ("2001:db8::/127", "2001:db8::", None),
    ] {
        let wanted = what.map(|what| format!("its address {public} is the {what} of the underlay's {prefix}"));
        assert_eq!(said(prefix, public), wanted, "{prefix} {public}");
    }
}

#[test]
fn an_ipv6_address_is_one_that_a_single_host_has() {
    for (address, what) in [
        ("::", "it publishes no address of this family"),
        ("::1", "its address ::1 is a loopback address"),
        ("ff02::1", "its address ff02::1 is a multicast address"),
        ("::ffff:192.0.2.9", "its address ::ffff:192.0.2.9 is an IPv4 address in IPv6 form"),
    ] {
        let value = format!(r#"{{"PublicIP":"10.99.0.9","PublicIPv6":"{address}","BackendType":"host-gw"}}"#);
        let peers = judge(&[("10.5.9.0-24&fd05:0:0:9::-64", value)]);
        assert!(peers.good[0].half(Family::V4).is_some() && peers.good[0].half(Family::V6).is_none(), "{address}");
        let said = peers.rejected[0].reason.to_string();
        assert_eq!(said, what, "{address}");
    }
}

#[test]
fn data_for_commands_is_text() {
    let text = br#"{"Network":"10.5.0.0/16","Backend":{"Type":"extension"}}"#;
    let conf = NetConf::parse(text).unwrap().conf;
    let lease = |data: &str| {
        format!(r#"{{"PublicIP":"10.99.0.9","PublicIPv6":null,"BackendType":"extension","BackendData":{data}}}"#)
    };
    for data in ["7", r#"{"a":"b"}"#, r#"["text"]"#] {
        let peers = check(&conf, &Own::default(), [("10.5.9.0-24", lease(data))]);
        assert_eq!(peers.good, []);
        assert!(matches!(peers.rejected[0].reason, Reason::Extension(_)), "{data}: {:?}", peers.rejected);
    }
}

#[test]
fn a_bad_half_does_not_lose_the_other() {
    let value = r#"{"PublicIP":"10.99.0.3","PublicIPv6":"ff02::1","BackendType":"host-gw"}"#;
    let peers = judge(&[("10.5.53.0-24&fd05:0:0:65::-64", value.into())]);
    assert!(peers.good[0].half(Family::V4).is_some() && peers.good[0].half(Family::V6).is_none());
    assert_eq!(peers.rejected[0].family, Some(Family::V6));
    let peers = judge(&[("10.4.53.0-24&fd05:0:0:65::-64", value.replace("ff02::1", "fd99::3"))]);
    assert!(peers.good[0].half(Family::V4).is_none() && peers.good[0].half(Family::V6).is_some());
    let peers = judge(&[("10.5.53.0-24&fd05:0:0:65::3-64", value.replace("ff02::1", "fd99::3"))]);
    assert_eq!(peers.rejected[0].reason.to_string(), "its subnet fd05:0:0:65::3/64 has bits beyond its prefix length");
    assert!(peers.good[0].half(Family::V4).is_some());
}

#[test]
fn of_overlapping_claims_the_configured_length_wins_then_the_smaller_key() {
    let leases = [
        ("10.5.128.0-18", host_gw("10.99.0.66")),
        ("10.5.129.0-24", host_gw("10.99.0.3")),
        ("10.5.129.0-25", host_gw("10.99.0.67")),
        ("10.5.64.0-18", host_gw("10.99.0.4")),
        ("10.5.64.0-19", host_gw("10.99.0.5")),
    ];
    let peers = judge(&leases);
    assert_eq!(keys(&peers), ["10.5.64.0-18", "10.5.129.0-24"]);
    let said: Vec<String> = peers.rejected.iter().map(|r| r.reason.to_string()).collect();
    assert_eq!(
        said,
        [
            "its subnet 10.5.64.0/19 overlaps that of the lease 10.5.64.0-18, which comes first",
            "its subnet 10.5.128.0/18 overlaps that of the lease 10.5.129.0-24, which comes first",
            "its subnet 10.5.129.0/25 overlaps that of the lease 10.5.129.0-24, which comes first",
        ]
    );
}

#[test]
fn a_mac_belongs_to_one_address_but_an_address_may_be_shared() {
    let mac = "4a:ed:0f:9b:24:90";
    let peers = judge(&[
        ("10.5.2.0-24", vxlan("10.99.0.2", mac)),
        ("10.5.3.0-24", vxlan("10.99.0.3", mac)),
        ("10.5.4.0-24", vxlan("10.99.0.2", "4a:ed:0f:9b:24:91")),
        ("10.5.5.0-24", vxlan("10.99.0.2", mac)),
    ]);
    assert_eq!(keys(&peers), ["10.5.2.0-24", "10.5.4.0-24", "10.5.5.0-24"], "5 is a left-over lease of 2's host");
    let said = "its VTEP's MAC address 4a:ed:0f:9b:24:90 belongs to the lease 10.5.2.0-24, which comes first";
    assert_eq!(peers.rejected[0].reason.to_string(), said);
    let shared: Vec<_> = peers.shared.iter().map(|s| (s.key.to_string(), s.with.to_string())).collect();
    let with = |key: &str| (key.to_owned(), "10.5.2.0-24".to_owned());
    assert_eq!(shared, [with("10.5.4.0-24"), with("10.5.5.0-24")]);
}

#[test]
fn peers_of_other_backends_are_followed_without_a_vtep() {
    let with_data = |kind: &str, data: &str| {
        format!(r#"{{"PublicIP":"10.99.0.7","PublicIPv6":null,"BackendType":"{kind}","BackendData":{data}}}"#)
    };
    for (value, vtep) in [
        (r#"{"PublicIP":"10.99.0.7","PublicIPv6":null}"#.to_owned(), false),
        (with_data("wireguard", r#"{"PublicKey":"a","Port":51820}"#), false),
        (with_data("extension", r#""text""#), false),
        (with_data("host-gw", r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:07"}"#), true),
        (with_data("host-gw", r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}"#), false),
    ] {
        let peers = judge(&[("10.5.7.0-24", value.clone())]);
        assert_eq!(peers.good[0].half(Family::V4).unwrap().vtep.is_some(), vtep, "{value}");
    }
    let v4_only = NetConf::parse(br#"{"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}"#).unwrap().conf;
    let peers = check(&v4_only, &Own::default(), [("0.0.0.0-0&fd05:0:0:65::-64", "{}")]);
    assert_eq!(peers.rejected[0].reason, Reason::FamilyOff);
}

#[test]
fn a_hundred_thousand_leases_are_no_problem() {
    let text = br#"{"Network":"10.0.0.0/8","SubnetLen":28,"Backend":{"Type":"vxlan"}}"#;
    let conf = NetConf::parse(text).unwrap().conf;
    let lease = |i: u32| {
        let subnet = std::net::Ipv4Addr::from(0x0a00_0000 + i * 16);
        let public = std::net::Ipv4Addr::from(0xac10_0000 + i);
        (
            format!("{subnet}-28"),
            vxlan(&public.to_string(), &Mac::local([2, 0, 0, (i >> 16) as u8, (i >> 8) as u8, i as u8]).to_string()),
        )
    };
    let mut leases: Vec<(String, String)> = (1..=100_000).map(lease).collect();
    // and some that contradict one of them each
    leases.extend((1..=20_000).map(|i| (lease(i).0.replace("-28", "-29"), lease(i).1)));
    // comparing each with each would be 4·10^10 steps
    let peers = check(&conf, &Own::default(), leases.iter().map(|(key, value)| (key, value)));
    assert_eq!((peers.good.len(), peers.rejected.len()), (100_000, 20_000));
}

/// Leases that are mostly well-formed and often contradict each other.
fn some_leases() -> impl Strategy<Value = Vec<(String, String)>> {
    let lease = (0_u8..4, any::<u8>(), 14_u8..32, 0_u8..12, 0_u8..8, any::<bool>()).prop_map(|(net, third, len, host, mac, six)| {
        let v4 = format!("10.{}.{}.0-{len}", 4 + net, third);
        let key = if six { format!("{v4}&fd05:0:0:{:x}::-{}", third % 16, len * 4) } else { v4 };
        let data = format!(r#"{{"VNI":1,"VtepMAC":"02:00:00:00:00:0{mac}"}}"#);
        let value = format!(r#"{{"PublicIP":"10.{}.0.{host}","PublicIPv6":"fd99::{host}","BackendType":"vxlan","BackendData":{data},"BackendV6Data":{data}}}"#,
            if host > 9 { 5 } else { 99 });
        (key, value)
    });
    proptest::collection::vec(lease, 0..40)
}

proptest! {
    #[test]
    fn subnets_that_are_followed_are_apart_and_inside(leases in some_leases()) {
        let (conf, own) = (conf(), own());
        let peers = check(&conf, &own, leases.clone());
        for family in Family::ALL {
            let halves: Vec<Half> = peers.good.iter().filter_map(|peer| peer.half(family)).collect();
            let network = conf.family(family).unwrap().network;
            for (i, half) in halves.iter().enumerate() {
                prop_assert!(within(half.subnet, network) && half.subnet.prefix() > network.prefix());
                prop_assert!(!overlap(half.subnet, own.subnets.get(family).unwrap()));
                prop_assert!(!own.addresses.contains(&half.public) && !own.macs.contains(&half.vtep.unwrap().vtep_mac));
                for other in &halves[..i] {
                    prop_assert!(!overlap(half.subnet, other.subnet));
                    prop_assert!(!other.subnet.contains(half.public) && !half.subnet.contains(other.public));
                    let same_mac = half.vtep.unwrap().vtep_mac == other.vtep.unwrap().vtep_mac;
                    prop_assert!(!same_mac || half.public == other.public);
                }
            }
        }
        let mut backward = leases;
        backward.sort();
        backward.dedup_by(|a, b| a.0 == b.0);
        let forward = check(&conf, &own, backward.clone());
        backward.reverse();
        prop_assert_eq!(forward, check(&conf, &own, backward));
    }

    #[test]
    fn no_bytes_panic(leases in proptest::collection::vec((".{0,30}|[0-9.&:-]{5,30}", proptest::collection::vec(any::<u8>(), 0..60)), 0..8)) {
        let peers = check(&conf(), &own(), leases.clone());
        prop_assert!(peers.good.is_empty() || !leases.is_empty());
    }
}

#[test]
fn a_key_is_one_hosts() {
    const KEY: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
    const OWN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let text =
        br#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/56","Backend":{"Type":"wireguard"}}"#;
    let conf = NetConf::parse(text).unwrap().conf;
    let v4 = |public: &str, data: &str| {
        format!(r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"wireguard","BackendData":{data}}}"#)
    };
    let key = |key: &str| format!(r#"{{"PublicKey":"{key}","Port":51820}}"#);
    let v6 = format!(
        r#"{{"PublicIP":"0.0.0.0","PublicIPv6":"fd99::9","BackendType":"wireguard","BackendV6Data":{}}}"#,
        key(KEY)
    );
    let bare = r#"{"PublicIP":"10.99.0.8","PublicIPv6":null,"BackendType":"wireguard"}"#.to_owned();
    let leases = [
        ("10.5.2.0-24", v4("10.99.0.3", &key(KEY))),
        ("10.5.3.0-24", v4("10.99.0.3", &key(KEY))),
        ("10.5.4.0-24", v4("10.99.0.4", &key(KEY))),
        ("10.5.5.0-24", v4("10.99.0.5", &key(OWN))),
        ("10.5.6.0-24", v4("10.99.0.6", r#"{"PublicKey":"no key"}"#)),
        ("10.5.7.0-24", v4("10.99.0.7", &key(KEY).replace("51820", "70000"))),
        ("10.5.8.0-24", bare),
    ];
    let own = Own { key: OWN.parse().ok(), ..Own::default() };
    let peers = check(&conf, &own, leases.iter().map(|(k, v)| (k, v)));
    assert_eq!(keys(&peers), ["10.5.2.0-24", "10.5.3.0-24"], "one host, and what it left behind");
    let said: Vec<String> = peers.rejected.iter().map(|r| r.reason.to_string()).collect();
    let others =
        format!("its WireGuard key {KEY} belongs to the lease 10.5.2.0-24, whose host uses it or which comes first");
    assert_eq!(
        said,
        [
            others,
            format!("its WireGuard key {OWN} is this host's own"),
            "its WireGuard data cannot be read: PublicKey \"no key\" is not a WireGuard key".to_owned(),
            "its WireGuard data cannot be read: Port 70000 is not a port".to_owned(),
            "its type is wireguard, but it publishes no key for this family".to_owned(),
        ]
    );
    // a key is one for both families
    let peers = check(&conf, &own, [leases[0].clone(), ("0.0.0.0-0&fd05:0:0:9::-64", v6)]);
    assert_eq!(keys(&peers), ["0.0.0.0-0&fd05:0:0:9::-64"]);
    assert_eq!(peers.rejected[0].key, "10.5.2.0-24");
}

/// A thief can copy a public key, and come first; but it cannot speak with it.
#[test]
fn a_key_is_whose_host_speaks_with_it() {
    const KEY: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
    let text = br#"{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard"}}"#;
    let conf = NetConf::parse(text).unwrap().conf;
    let lease = |public: &str| {
        format!(
            r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"wireguard","BackendData":{{"PublicKey":"{KEY}"}}}}"#
        )
    };
    let leases = [("10.5.0.0-24", lease("10.99.0.66")), ("10.5.2.0-24", lease("10.99.0.3"))];
    let good = |from: &[&str]| {
        let from = from.iter().map(|addr| addr.parse().unwrap()).collect();
        let own = Own { endpoints: [(KEY.parse().unwrap(), from)].into(), ..Own::default() };
        let peers = check(&conf, &own, leases.iter().map(|(k, v)| (k, v)));
        assert_eq!((peers.good.len(), peers.rejected.len()), (1, 1));
        assert!(matches!(peers.rejected[0].reason, Reason::SameKey { .. }));
        peers.good[0].key()
    };
    assert_eq!(good(&[]), "10.5.0.0-24", "who comes first, while nobody has spoken");
    assert_eq!(good(&["10.99.0.3"]), "10.5.2.0-24");
    assert_eq!(good(&["10.99.0.66"]), "10.5.0.0-24");
    assert_eq!(good(&["10.99.0.77"]), "10.5.0.0-24", "neither");
}
