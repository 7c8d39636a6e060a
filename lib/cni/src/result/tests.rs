use gojson::Json;
use proptest::prelude::*;

use super::*;
use crate::version::Version;

/// A result with every field set, both families, and two IPv4 addresses.
fn full() -> AddResult {
    let ip = |address: &str, gateway: Option<&str>, interface| IpConfig {
        interface,
        address: address.parse().unwrap(),
        gateway: gateway.map(|g| g.parse().unwrap()),
    };
    AddResult {
        interfaces: vec![
            Interface { name: "cni0".into(), mac: "02:00:00:00:00:01".into(), ..Interface::default() },
            Interface {
                name: "eth0".into(),
                mac: "02:00:00:00:00:02".into(),
                mtu: 1450,
                sandbox: "/run/netns/a".into(),
                socket_path: "/s".into(),
                pci_id: "0000:00:1".into(),
            },
        ],
        ips: vec![
            ip("10.1.2.3/24", Some("10.1.2.1"), Some(1)),
            ip("fd00::3/64", Some("fd00::1"), Some(0)),
            ip("10.9.0.3/16", None, None),
        ],
        routes: vec![
            Route { gw: Some("10.1.2.1".parse().unwrap()), ..Route::to("0.0.0.0/0".parse().unwrap()) },
            Route {
                mtu: 1400,
                advmss: 1360,
                priority: 100,
                table: Some(0),
                scope: Some(253),
                ..Route::to("fd01::/48".parse().unwrap())
            },
        ],
        dns: Dns {
            nameservers: vec!["10.0.0.10".into()],
            domain: "cluster.local".into(),
            search: vec!["a".into(), "b".into()],
            options: vec!["ndots:5".into()],
        },
    }
}

/// The printed text without its layout, which has a test of its own.
fn compact(result: &AddResult, version: Version) -> String {
    result.to_json(version).unwrap().compact()
}

#[test]
fn layout_1_1_0() {
    let expected = r#"{"cniVersion":"1.1.0","dns":{"domain":"cluster.local","nameservers":["10.0.0.10"],"options":["ndots:5"],"search":["a","b"]},"interfaces":[{"mac":"02:00:00:00:00:01","name":"cni0"},{"mac":"02:00:00:00:00:02","mtu":1450,"name":"eth0","pciID":"0000:00:1","sandbox":"/run/netns/a","socketPath":"/s"}],"ips":[{"address":"10.1.2.3/24","gateway":"10.1.2.1","interface":1},{"address":"fd00::3/64","gateway":"fd00::1","interface":0},{"address":"10.9.0.3/16"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.1.2.1"},{"advmss":1360,"dst":"fd01::/48","mtu":1400,"priority":100,"scope":253,"table":0}]}"#;
    assert_eq!(compact(&full(), Version::V110), expected);
    assert_eq!(compact(&full(), Version::V100), expected.replace("1.1.0", "1.0.0"));
}

#[test]
fn layout_0_3_and_0_4() {
    let expected = r#"{"cniVersion":"0.4.0","interfaces":[{"name":"cni0","mac":"02:00:00:00:00:01"},{"name":"eth0","mac":"02:00:00:00:00:02","sandbox":"/run/netns/a"}],"ips":[{"version":"4","interface":1,"address":"10.1.2.3/24","gateway":"10.1.2.1"},{"version":"6","interface":0,"address":"fd00::3/64","gateway":"fd00::1"},{"version":"4","address":"10.9.0.3/16"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.1.2.1"},{"dst":"fd01::/48","mtu":1400,"advmss":1360,"priority":100,"table":0,"scope":253}],"dns":{"nameservers":["10.0.0.10"],"domain":"cluster.local","search":["a","b"],"options":["ndots:5"]}}"#;
    for version in [Version::V030, Version::V031, Version::V040] {
        assert_eq!(compact(&full(), version), expected.replace("0.4.0", version.as_str()));
    }
}

#[test]
fn layout_0_1_and_0_2() {
    let expected = r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.1.2.3/24","gateway":"10.1.2.1","routes":[{"dst":"0.0.0.0/0","gw":"10.1.2.1"}]},"ip6":{"ip":"fd00::3/64","gateway":"fd00::1","routes":[{"dst":"fd01::/48"}]},"dns":{"nameservers":["10.0.0.10"],"domain":"cluster.local","search":["a","b"],"options":["ndots:5"]}}"#;
    for version in [Version::V010, Version::V020] {
        assert_eq!(compact(&full(), version), expected.replace("0.2.0", version.as_str()));
    }
}

#[test]
fn empty_results() {
    let empty = AddResult::default();
    assert_eq!(empty.encode(Version::V110).unwrap(), "{\n    \"cniVersion\": \"1.1.0\"\n}");
    assert_eq!(empty.encode(Version::V031).unwrap(), "{\n    \"cniVersion\": \"0.3.1\",\n    \"dns\": {}\n}");
    let error = empty.encode(Version::V020).unwrap_err();
    assert_eq!((error.code, error.msg.as_str()), (999, "cannot convert: no valid IP addresses"));
}

#[test]
fn routes_of_a_family_without_address_are_lost_in_0_2() {
    let mut result = full();
    result.ips.retain(|ip| ip.address.is_ipv4());
    let text = compact(&result, Version::V020);
    assert!(!text.contains("ip6") && !text.contains("fd01"), "{text}");
}

#[test]
fn a_full_result_survives_1_x() {
    for version in [Version::V100, Version::V110] {
        let text = full().encode(version).unwrap();
        assert_eq!(AddResult::parse(text.as_bytes(), version).unwrap(), full());
    }
}

#[test]
fn upward_from_0_2() {
    let text = br#"{"ip6":{"ip":"fd00::3/64","routes":[{"dst":"fd01::/48"}]},
        "ip4":{"ip":"10.1.2.3/24","gateway":"10.1.2.1","routes":[{"dst":"0.0.0.0/0"}]},"dns":{"domain":"d"}}"#;
    let result = AddResult::parse(text, Version::V020).unwrap();
    assert_eq!(
        compact(&result, Version::V100),
        r#"{"cniVersion":"1.0.0","dns":{"domain":"d"},"ips":[{"address":"10.1.2.3/24","gateway":"10.1.2.1"},{"address":"fd00::3/64"}],"routes":[{"dst":"0.0.0.0/0"},{"dst":"fd01::/48"}]}"#
    );
}

#[test]
fn the_documents_own_version_says_its_shape() {
    let old = br#"{"cniVersion":"0.2.0","ip4":{"ip":"10.1.2.3/24"}}"#;
    assert_eq!(AddResult::parse(old, Version::V110).unwrap().ips.len(), 1);
    let none = br#"{"ips":[{"version":"4","address":"10.1.2.3/24"}]}"#;
    assert_eq!(AddResult::parse(none, Version::V040).unwrap().ips.len(), 1);
    assert_eq!(AddResult::parse(none, Version::V020).unwrap().ips.len(), 0);
    assert_eq!(AddResult::parse(b"null", Version::V110).unwrap(), AddResult::default());
}

#[test]
fn unusable_results() {
    let fail = |text: &str| AddResult::parse(text.as_bytes(), Version::V110).unwrap_err().to_string();
    assert_eq!(fail(""), "unexpected end of JSON input");
    assert_eq!(
        fail(r#"{"cniVersion":"7"}"#),
        r#"unsupported CNI result version: "7" is not a version of the CNI specification"#
    );
    assert_eq!(fail(r#"{"ips":[{"address":"10.0.0.1/8"},{}]}"#), "ips[1] has no address");
    assert_eq!(fail(r#"{"cniVersion":"0.2.0","ip4":{"ip":"::/0","routes":[{}]}}"#), "ip4.routes[0] has no address");
    assert_eq!(fail(r#"{"cniVersion":"0.2.0","ip6":{}}"#), "ip6 has no address");
    assert_eq!(fail(r#"{"ips":[{"address":"10.0.0.1"}]}"#), "ips[0].address: invalid CIDR address: 10.0.0.1");
    assert!(fail(r#"{"routes":[{"dst":"::/0","scope":300}]}"#).contains("routes[0].scope"));
}

fn prefixes() -> impl Strategy<Value = IpNetwork> {
    let v6 = any::<u128>().prop_map(|bits| IpAddr::V6(bits.into()).to_canonical());
    let ip = prop_oneof![any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())), v6];
    (ip, 0..=128u8).prop_map(|(ip, n)| IpNetwork::new(ip, if ip.is_ipv4() { n % 33 } else { n }).unwrap())
}

fn routes() -> impl Strategy<Value = Route> {
    let gw = prop::option::of(prefixes().prop_map(|p| p.ip()));
    let numbers = (any::<u32>(), any::<u32>(), any::<u32>());
    (prefixes(), gw, numbers, any::<Option<u32>>(), any::<Option<u8>>()).prop_map(
        |(dst, gw, (mtu, advmss, priority), table, scope)| Route { dst, gw, mtu, advmss, priority, table, scope },
    )
}

fn results() -> impl Strategy<Value = AddResult> {
    let texts = || prop::collection::vec(any::<String>(), 0..3);
    let interface =
        (any::<[String; 5]>(), any::<u32>()).prop_map(|([name, mac, sandbox, socket_path, pci_id], mtu)| Interface {
            name,
            mac,
            mtu,
            sandbox,
            socket_path,
            pci_id,
        });
    let ip = (any::<Option<i64>>(), prefixes(), prop::option::of(prefixes()))
        .prop_map(|(interface, address, gw)| IpConfig { interface, address, gateway: gw.map(|g| g.ip()) });
    let dns = (texts(), any::<String>(), texts(), texts()).prop_map(|(nameservers, domain, search, options)| Dns {
        nameservers,
        domain,
        search,
        options,
    });
    use prop::collection::vec as list;
    (list(interface, 0..3), list(ip, 0..4), list(routes(), 0..4), dns)
        .prop_map(|(interfaces, ips, routes, dns)| AddResult { interfaces, ips, routes, dns })
}

/// The part of a result that a version can express.
fn kept(mut result: AddResult, version: Version) -> AddResult {
    if version < Version::V100 {
        for interface in &mut result.interfaces {
            interface.mtu = 0;
            interface.socket_path.clear();
            interface.pci_id.clear();
        }
    }
    if version < Version::V030 {
        result.interfaces.clear();
        let first = |v4: bool| result.ips.iter().find(|ip| ip.address.is_ipv4() == v4).cloned();
        let ips: Vec<_> = [first(true), first(false)].into_iter().flatten().collect();
        let routes = ips.iter().flat_map(|ip| {
            let of_family = |r: &&Route| r.dst.is_ipv4() == ip.address.is_ipv4();
            let bare = |r: &Route| Route { gw: r.gw, ..Route::to(r.dst) };
            result.routes.iter().filter(of_family).map(bare).collect::<Vec<_>>()
        });
        result.routes = routes.collect();
        result.ips = ips.into_iter().map(|ip| IpConfig { interface: None, ..ip }).collect();
    }
    result
}

proptest! {
    #[test]
    fn every_version_gives_back_what_it_can_hold(result in results()) {
        for &version in Version::ALL {
            let expected = kept(result.clone(), version);
            match result.encode(version) {
                Ok(text) => {
                    prop_assert_eq!(&AddResult::parse(text.as_bytes(), Version::V110).unwrap(), &expected);
                    let tree = Json::parse(text.as_bytes()).unwrap();
                    prop_assert_eq!(&AddResult::parse_prev(&tree, version).unwrap(), &expected);
                }
                Err(_) => prop_assert!(version < Version::V030 && result.ips.is_empty()),
            }
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = AddResult::parse(&bytes, Version::V110);
    }
}
