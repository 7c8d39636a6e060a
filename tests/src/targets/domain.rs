//! Targets: the network configuration, leases, subnet.env.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use kernel::types::{Family, Mac};
use overlay::backend::{Backend, vxlan};
use overlay::lease::{LeaseAttrs, Subnets, VxlanData};
use overlay::net::{overlap, within};
use overlay::netconf::NetConf;
use overlay::peers::{Own, check};
use overlay::subnet_env::{Previous, SubnetEnv};

use super::owned;

const DUAL: &str =
    r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"vxlan"}}"#;

/// An accepted configuration has a network with room for subnets, and valid device names.
pub fn net_conf(bytes: &[u8]) {
    let Ok(parsed) = NetConf::parse(bytes) else { return };
    assert!(parsed.conf.families().next().is_some());
    for (family, conf) in parsed.conf.families() {
        assert_eq!(Family::from(conf.network), family);
        assert_eq!(conf.network.ip(), conf.network.network());
        assert!(conf.allocation.min <= conf.allocation.max && conf.allocation.len > conf.network.prefix());
        assert!(conf.network.contains(conf.allocation.min) && conf.network.contains(conf.allocation.max));
        if let Backend::Vxlan(conf) = parsed.conf.backend {
            assert!(vxlan::device(family, conf.vni).is_ok());
        }
    }
}

pub fn net_conf_seeds() -> Vec<Vec<u8>> {
    owned(&[
        DUAL,
        r#"{"network":"10.10.0.0/16","SubnetLen":20,"SubnetMin":"10.10.16.0","SubnetMax":"10.10.224.0",
            "Backend":{"Type":"VXLAN","VNI":42,"Port":4789,"MTU":9000,"GBP":true,"Learning":true,"DirectRouting":true}}"#,
        r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/40","IPv6SubnetLen":56,"Backend":{"Type":"host-gw"}}"#,
    ])
}

/// A key that is read and written again is read the same.
pub fn lease_key(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(subnets) = text.parse::<Subnets>() else { return };
    assert!(!subnets.is_empty());
    let again = subnets.to_string();
    // a mapped address is printed with dots, which a key must not contain
    if !again.contains("::ffff:") {
        assert_eq!(again.parse::<Subnets>(), Ok(subnets), "{text:?}");
    }
}

pub fn lease_key_seeds() -> Vec<Vec<u8>> {
    owned(&["10.5.53.0-24", "10.5.53.0-24&fd05:0:0:65::-64", "0.0.0.0-0&fd05:0:0:65::-64"])
}

/// A value that is read and written again is read the same; so is VXLAN's data.
pub fn lease_value(bytes: &[u8]) {
    let Ok(attrs) = LeaseAttrs::parse(bytes) else { return };
    let text = attrs.to_json();
    assert_eq!(LeaseAttrs::parse(text.as_bytes()).as_ref(), Ok(&attrs), "{text}");
    for family in Family::ALL {
        let Some(Ok(data)) = attrs.data(family).map(VxlanData::parse) else { continue };
        let again = VxlanData::parse(&data.to_json());
        assert!(
            again.is_ok_and(|again| again.vtep_mac == data.vtep_mac && data.vni.is_none_or(|vni| again.speaks(vni)))
        );
    }
}

pub fn lease_value_seeds() -> Vec<Vec<u8>> {
    owned(&[
        r#"{"PublicIP":"10.99.0.3","PublicIPv6":"fd99::3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"4a:ed:0f:9b:24:90"},"BackendV6Data":{"VNI":1,"VtepMAC":"12:a5:0d:d7:d9:76"}}"#,
        r#"{"PublicIP":"10.99.0.2","PublicIPv6":null,"BackendType":"host-gw"}"#,
        r#"{"publicip":"10.99.0.2","BackendType":"wireguard","BackendData":{"PublicKey":"a+/=","Port":51820}}"#,
    ])
}

/// Lines of key and value. For any lines, the accepted subnets are inside the network and overlap neither each other
/// nor this host's subnet. No MAC belongs to two addresses or equals this host's.
pub fn leases(bytes: &[u8]) {
    let Ok(NetConf { v4, v6, .. }) = NetConf::parse(DUAL.as_bytes()).map(|parsed| parsed.conf) else { return };
    let Ok(conf) = NetConf::parse(DUAL.as_bytes()).map(|parsed| parsed.conf) else { return };
    let networks: Vec<IpNetwork> = [v4, v6].into_iter().flatten().map(|family| family.network).collect();
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let own = Own {
        subnets: "10.5.1.0-24&fd05:0:0:1::-64".parse().unwrap_or_default(),
        addresses: BTreeSet::from([[192, 0, 2, 1].into(), [10, 5, 1, 1].into()]).into(),
        macs: vec![mac],
        ..Own::default()
    };
    let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()?.split_once(' '));
    let peers = check(&conf, &own, lines);
    let halves: Vec<_> = peers.good.iter().flat_map(|p| Family::ALL.into_iter().filter_map(|f| p.half(f))).collect();
    for (index, half) in halves.iter().enumerate() {
        assert!(networks.iter().any(|network| within(half.subnet, *network) && half.subnet != *network));
        assert!(own.subnets.iter().all(|subnet| !overlap(half.subnet, subnet)));
        assert!(!own.addresses.contains(&half.public) && !half.public.is_loopback() && !half.public.is_multicast());
        assert!(own.addresses.iter().all(|addr| !half.subnet.contains(*addr)));
        assert!(half.vtep.is_none_or(|vtep| vtep.vtep_mac.is_unicast() && vtep.vtep_mac != mac));
        for other in &halves[..index] {
            assert!(!overlap(half.subnet, other.subnet), "{half:?} {other:?}");
            assert!(!half.subnet.contains(other.public) && !other.subnet.contains(half.public));
            let same_family = half.subnet.is_ipv4() == other.subnet.is_ipv4();
            if let (Some(a), Some(b), true) = (half.vtep, other.vtep, same_family && half.public != other.public) {
                assert_ne!(a.vtep_mac, b.vtep_mac);
            }
        }
    }
}

pub fn leases_seeds() -> Vec<Vec<u8>> {
    let value = |host: u8| {
        format!(
            r#"{{"PublicIP":"192.0.2.{host}","PublicIPv6":"fd99::{host}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:0{host}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"02:00:00:00:06:0{host}"}}}}"#
        )
    };
    let line = |host: u8| format!("10.5.{host}.0-24&fd05:0:0:{host}::-64 {}\n", value(host));
    let large = format!("10.5.0.0-22&fd05::-52 {}\n10.5.2.0-25 {}\n", value(7), value(2));
    vec![[line(1), line(2), line(3)].concat().into_bytes(), [line(2), large].concat().into_bytes()]
}

/// A file that is read and written again is read the same. The daemon accepts no more than the plugin does.
pub fn subnet_env(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let previous = Previous::parse(&text);
    let Ok(env) = SubnetEnv::parse("subnet.env", &text) else { return };
    assert_eq!((&previous.networks, previous.subnets), (&env.networks, env.subnets));
    assert!(!env.networks.is_empty() && !env.subnets.is_empty());
    let again = env.format();
    assert_eq!(SubnetEnv::parse("subnet.env", &again).as_ref(), Ok(&env), "{again}");
}

pub fn subnet_env_seeds() -> Vec<Vec<u8>> {
    owned(&[
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.97.1/24\nFLANNEL_IPV6_NETWORK=fd05::/56\nFLANNEL_IPV6_SUBNET=fd05:0:0:4d::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
        "# made by hand\nexport FLANNEL_NETWORK=\"10.5.0.0/16,10.6.0.0/16\"\nFLANNEL_SUBNET='10.5.97.1/24'\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n",
    ])
}
