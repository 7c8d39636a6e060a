use gojson::Wrong;

use super::*;
use crate::backend::extension::ExtensionConf;
use crate::backend::ipip::IpipConf;
use crate::backend::udp::UdpConf;
use crate::backend::vxlan::VxlanConf;
use crate::backend::wireguard::{WireguardConf, WireguardMode};
use kernel::types::{Mtu, Vni};

fn parse(text: &str) -> Result<Parsed, ConfigError> {
    NetConf::parse(text.as_bytes())
}

fn conf(text: &str) -> NetConf {
    parse(text).unwrap().conf
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn warnings(text: &str) -> Vec<String> {
    parse(text).unwrap().warnings.iter().map(ToString::to_string).collect()
}

/// A configuration with these top-level fields and the host-gw backend.
fn with(fields: &str) -> String {
    format!(r#"{{{fields},"Backend":{{"Type":"host-gw"}}}}"#)
}

/// A configuration with this `Backend`.
fn backend(text: &str) -> String {
    format!(r#"{{"Network":"10.5.0.0/16","Backend":{text}}}"#)
}

#[test]
fn subnets_default_as_upstream_does() {
    for (network, len, min, max) in [
        ("10.0.0.0/8", 24, "10.0.1.0", "10.255.255.0"),
        ("10.3.0.0/16", 24, "10.3.1.0", "10.3.255.0"),
        ("10.3.0.0/22", 24, "10.3.1.0", "10.3.3.0"),
        ("10.3.0.0/24", 26, "10.3.0.64", "10.3.0.192"),
        ("10.3.0.0/28", 30, "10.3.0.4", "10.3.0.12"),
        ("255.255.0.0/16", 24, "255.255.1.0", "255.255.255.0"),
    ] {
        let conf = conf(&with(&format!(r#""Network":"{network}""#)));
        let wanted = Allocation { len, min: min.parse().unwrap(), max: max.parse().unwrap() };
        assert_eq!(conf.v4.unwrap().allocation, wanted, "{network}");
        assert!(conf.v6.is_none() && !conf.enable_nftables);
    }
    for (network, len, min, max) in [
        ("fc00::/48", 64, "fc00:0:0:1::", "fc00:0:0:ffff::"),
        ("fc00::/63", 65, "fc00:0:0:0:8000::", "fc00:0:0:1:8000::"),
        ("fc00::/124", 126, "fc00::4", "fc00::c"),
    ] {
        let text = with(&format!(r#""EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"{network}""#));
        let wanted = Allocation { len, min: min.parse().unwrap(), max: max.parse().unwrap() };
        assert_eq!(conf(&text).family(Family::V6).unwrap().allocation, wanted, "{network}");
        assert!(conf(&text).family(Family::V4).is_none());
    }
}

#[test]
fn what_is_set_is_used() {
    let text = with(
        r#""enableNFTables":true,"network":"10.5.1.2/16","SubnetLen":28,"SubnetMin":"10.5.0.16","SUBNETMAX":"10.5.9.0",
        "EnableIPv6":true,"IPv6Network":"fd05::/56","IPv6SubnetMin":"fd05:0:0:2::","IPv6SubnetLen":null,"SubnetLen":26"#,
    )
    .replace("10.5.0.16", "10.5.0.64");
    let parsed = parse(&text).unwrap();
    assert!(parsed.conf.enable_nftables);
    let said: Vec<String> = parsed.conf.networks().iter().map(ToString::to_string).collect();
    assert_eq!(said, ["10.5.0.0/16", "fd05::/56"]);
    let v4 = parsed.conf.v4.unwrap().allocation;
    assert_eq!((v4.len, v4.min.to_string(), v4.max.to_string()), (26, "10.5.0.64".into(), "10.5.9.0".into()));
    assert_eq!(parsed.conf.v6.unwrap().allocation.min.to_string(), "fd05:0:0:2::");
    assert_eq!(
        warnings(&text),
        [
            "Network 10.5.1.2/16 has bits beyond its prefix length; using 10.5.0.0/16",
            "key SubnetLen occurs more than once; the last one counts",
        ]
    );
}

#[test]
fn mistakes_have_upstreams_words() {
    for (fields, said) in [
        (r#""EnableIPv4":true"#, "please define a correct Network parameter in the flannel config"),
        (r#""Network":"0.0.0.0/0""#, "please define a correct Network parameter in the flannel config"),
        (r#""Network":"10.0.0.0/16","SubnetLen":31"#, "SubnetLen must be less than /31"),
        (r#""Network":"10.0.0.0/16","SubnetLen":17"#, "network must be able to accommodate at least four subnets"),
        (r#""Network":"10.0.0.0/29""#, "network is too small. Minimum useful network prefix is /28"),
        (r#""Network":"10.0.0.0/16","SubnetMin":"10.1.0.0""#, "SubnetMin is not in the range of the Network"),
        (r#""Network":"10.0.0.0/16","SubnetMax":"10.1.0.0""#, "SubnetMax is not in the range of the Network"),
        (r#""Network":"10.0.0.0/16","SubnetMin":"10.0.0.7""#, "SubnetMin is not on a SubnetLen boundary: 10.0.0.7"),
        (
            r#""Network":"10.0.0.0/16","SubnetMin":"10.0.9.0","SubnetMax":"10.0.3.0""#,
            "SubnetMin 10.0.9.0 is above SubnetMax 10.0.3.0: the range contains no subnet",
        ),
        (r#""Network":"10.0.0.0""#, r#"Network "10.0.0.0" is not an IPv4 CIDR like 10.244.0.0/16"#),
        (r#""Network":null"#, "Network null is not an IPv4 CIDR like 10.244.0.0/16"),
        (r#""EnableIPv4":false"#, "none defined stack: EnableIPv4 and EnableIPv6 are both false"),
    ] {
        assert_eq!(error(&with(fields)), said);
    }
    for (fields, said) in [
        (r#""IPv6SubnetLen":0"#, "please define a correct IPv6Network parameter in the flannel config"),
        (r#""IPv6Network":"fd05::/56","IPv6SubnetLen":127"#, "SubnetLen must be less than /127"),
        (r#""IPv6Network":"fd05::/125""#, "IPv6Network is too small. Minimum useful network prefix is /124"),
        (
            r#""IPv6Network":"fd05::/56","IPv6SubnetMin":"fd06::""#,
            "IPv6SubnetMin is not in the range of the IPv6Network",
        ),
        (
            r#""IPv6Network":"fd05::/56","IPv6SubnetMax":"fd05::1""#,
            "IPv6SubnetMax is not on a SubnetLen boundary: fd05::1",
        ),
        (r#""IPv6Network":"10.0.0.0/8""#, r#"IPv6Network "10.0.0.0/8" is not an IPv6 CIDR like fd00:10:244::/56"#),
        (r#""IPv6Network":"fd05::/56","IPv6SubnetMin":"x""#, r#"IPv6SubnetMin "x" is not an IPv6 address"#),
    ] {
        assert_eq!(error(&with(&format!(r#""EnableIPv4":false,"EnableIPv6":true,{fields}"#))), said);
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let text = r#"{"EnableIPv6":"yes","Network":7,"SubnetLen":-1,"Backend":{"Type":"vxlan","Port":"8472","VNI":99999999,"MTU":60}}"#;
    let all = parse(text).unwrap_err();
    assert_eq!(all.mistakes().len(), 6, "{all}");
    assert!(matches!(&all.mistakes()[..1], [Mistake::BadNetwork { family: Family::V4, .. }]), "{all}");
    let wrong = |field: &str| {
        all.mistakes().iter().any(|m| matches!(m, Mistake::WrongType(Wrong { field: f, .. }) if f == field))
    };
    for field in ["EnableIPv6", "SubnetLen", "Backend.Port"] {
        assert!(wrong(field), "{field}: {all}");
    }
    for (others, also) in [
        (r#""SubnetLen":24,"SubnetMin":"10.0.9.7""#, "SubnetMin is not on a SubnetLen boundary: 10.0.9.7"),
        (
            r#""SubnetMin":"10.0.9.0","SubnetMax":"10.0.3.0""#,
            "SubnetMin 10.0.9.0 is above SubnetMax 10.0.3.0: the range contains no subnet",
        ),
        (r#""SubnetLen":31"#, "SubnetLen must be less than /31"),
    ] {
        let said = error(&with(&format!(r#""Network":"10.0.0.0",{others}"#)));
        assert_eq!(said, format!(r#"Network "10.0.0.0" is not an IPv4 CIDR like 10.244.0.0/16; {also}"#));
    }
    assert!(matches!(parse("{}{}").unwrap_err(), ConfigError::Json(_)));
    assert_eq!(error("[]").as_str(), "the whole must be an object, not []");
}

#[test]
fn vxlan_has_upstreams_keys_and_defaults() {
    let plain = conf(&backend(r#"{"type":"VXLAN"}"#));
    assert_eq!(plain.backend, Backend::Vxlan(VxlanConf::default()));
    assert_eq!((plain.backend.name(), plain.backend.lease_type()), ("vxlan", "vxlan"));
    let full = r#"{"Type":"vxlan","VNI":7,"Port":4789,"MTU":9000,"GBP":true,"Learning":true,"DirectRouting":true}"#;
    assert_eq!(
        conf(&backend(full)).backend,
        Backend::Vxlan(VxlanConf {
            vni: Vni::new(7).unwrap(),
            port: Some(4789),
            mtu: Some(Mtu(9000)),
            gbp: true,
            learning: true,
            direct_routing: true,
        })
    );
    assert_eq!(conf(&backend(r#"{"Type":"alloc"}"#)).backend.lease_type(), "");
    assert_eq!(conf(&backend(r#"{"Type":"host-gw"}"#)).backend, Backend::HostGw);
}

#[test]
fn numbers_out_of_range_are_refused() {
    let v6 =
        r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd05::/56","Backend":{"Type":"vxlan","KEY":VALUE}}"#;
    let v4 = backend(r#"{"Type":"vxlan","KEY":VALUE}"#);
    for (key, good4, bad4, good6, bad6) in [
        ("VNI", 9_999_999, 10_000_000, 9999, 10_000),
        ("Port", 65535, 65536, 1, 70000),
        ("MTU", 118, 117, 1350, 1349),
        ("MTU", 65535, 65536, 0, 65536),
    ] {
        let fill = |text: &str, value: u64| text.replace("KEY", key).replace("VALUE", &value.to_string());
        assert!(parse(&fill(&v4, good4)).is_ok() && parse(&fill(v6, good6)).is_ok(), "{key}");
        for text in [fill(&v4, bad4), fill(v6, bad6)] {
            let said = error(&text);
            assert!(said.starts_with(&format!("Backend.{key} ")) && said.contains("out of range"), "{said}");
        }
    }
}

#[test]
fn the_other_backends_have_upstreams_keys_and_defaults() {
    let of = |text: &str| conf(&backend(text)).backend;
    assert_eq!(of(r#"{"Type":"udp"}"#), Backend::Udp(UdpConf { port: 8285 }));
    assert_eq!(of(r#"{"Type":"UDP","port":7000}"#), Backend::Udp(UdpConf { port: 7000 }));
    assert_eq!(of(r#"{"Type":"ipip","DirectRouting":true}"#), Backend::Ipip(IpipConf { direct_routing: true }));
    assert_eq!(of(r#"{"Type":"wireguard"}"#), Backend::Wireguard(WireguardConf::default()));
    let psk = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
    let full = format!(
        r#"{{"Type":"wireguard","ListenPort":1,"ListenPortV6":2,"MTU":1400,"PSK":"{psk}","PersistentKeepaliveInterval":25,"Mode":"auto"}}"#
    );
    let Backend::Wireguard(wg) = of(&full) else { panic!() };
    assert_eq!((wg.listen_port, wg.listen_port_v6, wg.mtu, wg.keepalive), (1, 2, Some(Mtu(1400)), 25));
    assert_eq!((wg.psk.unwrap().reveal(), wg.mode), (psk.to_owned(), WireguardMode::Auto));
    assert!(!format!("{wg:?}").contains(&psk[..8]));
    assert_eq!(of(r#"{"Type":"extension"}"#), Backend::Extension(ExtensionConf::default()));
    let Backend::Extension(commands) =
        of(r#"{"Type":"extension","SubnetAddCommand":"ip route add $SUBNET","PreStartupCommand":" "}"#)
    else {
        panic!()
    };
    assert_eq!(commands.subnet_add.unwrap().words.len(), 4);
    assert!(commands.pre_startup.is_none());
    let names = ["udp", "ipip", "wireguard", "extension"].map(|name| of(&format!(r#"{{"Type":"{name}"}}"#)));
    assert_eq!(names.each_ref().map(Backend::lease_type), ["", "ipip", "wireguard", "extension"]);
    assert_eq!(names.each_ref().map(Backend::name), ["udp", "ipip", "wireguard", "extension"]);
}

#[test]
fn mistakes_of_the_other_backends_are_named() {
    for (text, said) in [
        (r#"{"Type":"udp","Port":65536}"#, "Backend.Port 65536 is out of range: it must be 0 (the default) to 65535"),
        (
            r#"{"Type":"wireguard","Mode":"both","ListenPort":70000}"#,
            "Backend.ListenPort 70000 is out of range: it must be 0 (the default) to 65535; no valid Mode configured: \
             Backend.Mode \"both\" is none of separate, auto, ipv4, ipv6",
        ),
        (
            r#"{"Type":"wireguard","PSK":"c2VjcmV0"}"#,
            "Backend.PSK is not a key of 32 bytes in base64 (44 characters, the last one =): make one with wg genpsk",
        ),
        (
            r#"{"Type":"extension","SubnetAddCommand":"echo 'x"}"#,
            "Backend.SubnetAddCommand cannot be split into words: a single quote is not closed",
        ),
    ] {
        assert_eq!(error(&backend(text)), said);
    }
    let v6 = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/56","Backend":{"Type":"ipip"}}"#;
    assert!(error(v6).starts_with("backend type ipip carries only IPv4: set EnableIPv6 to false"));
    assert!(error(&v6.replace(r#","Backend":{"Type":"ipip"}"#, "")).starts_with("backend type udp carries only IPv4"));
}

#[test]
fn backends_that_are_not_there_are_refused_by_name() {
    for name in ["ipsec", "tencent-vpc"] {
        let said = error(&backend(&format!(r#"{{"Type":"{name}","Mode":"auto"}}"#)));
        assert!(said.starts_with(&format!("backend type {name} is not supported: ")), "{said}");
    }
    let absent = r#"{"Network":"10.5.0.0/16"}"#;
    assert_eq!(conf(absent).backend, Backend::Udp(UdpConf { port: 8285 }));
    assert!(warnings(absent)[0].contains("no Backend key, which means udp"));
    assert_eq!(error(&backend(r#"{"Type":"Foo"}"#)), "unknown backend type: foo");
    for text in ["{}", "null", r#"{"Type":null}"#] {
        assert_eq!(error(&backend(text)), "unknown backend type: ");
    }
    assert_eq!(error(&backend(r#"{"Type":7}"#)), "Backend.Type must be a string, not 7");
    assert_eq!(error(&backend("\"vxlan\"")), "Backend must be an object, not \"vxlan\"");
}

#[test]
fn unknown_keys_are_warned_about() {
    let text = r#"{"Network":"10.5.0.0/16","Netwrok":1,"Backend":{"Type":"vxlan","Prot":4789,"Port":null}}"#;
    assert_eq!(warnings(text), ["unknown key Backend.Prot is ignored", "unknown key Netwrok is ignored"]);
}

proptest::proptest! {
    #[test]
    fn a_configuration_that_is_accepted_has_room(bits: u32, prefix in 1_u8..=32, len in proptest::option::of(proptest::prelude::any::<u8>())) {
        let network = std::net::Ipv4Addr::from(bits);
        let len = len.map_or("null".to_owned(), |len| len.to_string());
        if let Ok(Parsed { conf, .. }) = parse(&with(&format!(r#""Network":"{network}/{prefix}","SubnetLen":{len}"#))) {
            let FamilyConf { network, allocation } = conf.v4.unwrap();
            let first = IpNetwork::new(allocation.min, allocation.len).unwrap();
            let last = IpNetwork::new(allocation.max, allocation.len).unwrap();
            proptest::prop_assert!(crate::net::within(first, network) && crate::net::within(last, network));
            proptest::prop_assert!(allocation.min <= allocation.max && allocation.len >= network.prefix() + 2);
        }
    }

    #[test]
    fn no_text_panics(text in "[{}\\[\\]\":,a-zA-Z0-9./ ]{0,60}") {
        let _ = parse(&text);
    }
}
