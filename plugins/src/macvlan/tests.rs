//! The desired state of the pod for one attachment, from configurations as users write them.

use cni::error::Error;
use cni::result::{AddResult, Dns, IpConfig};
use kernel::message::link::SeenLink;
use kernel::state::{Birth, Link, LinkKind, MacvlanMode};
use kernel::types::{IfIndex, IfName, Mac, Mtu};

use super::conf::{Conf, Document};
use super::desired::{born, complete, pod};
use crate::attach::Ends;

fn checked(fields: &str, args_mac: &str) -> Result<Conf, Error> {
    let text = format!(r#"{{"cniVersion":"1.1.0","name":"net1","type":"macvlan","master":"up0"{fields}}}"#);
    let parsed = cni::conf::Conf::parse(text.as_bytes()).unwrap();
    parsed.decode::<Document>().unwrap().check(args_mac)
}

fn conf(fields: &str) -> Conf {
    checked(fields, "").unwrap()
}

const LAYER_3: &str = r#","ipam":{"type":"host-local"}"#;

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn ends() -> Ends {
    Ends::random(&name("eth0"), Some(Mac([2, 0, 0, 0, 0, 2]))).unwrap()
}

fn master(mtu: u32) -> SeenLink {
    let link = Link { mtu: Some(Mtu(mtu)), ..Link::up(LinkKind::Dummy) };
    let (index, name, operstate) = (IfIndex(5), name("up0"), "up".to_owned());
    SeenLink {
        index,
        name,
        link,
        master: None,
        lower: None,
        lower_elsewhere: None,
        port: None,
        running: true,
        operstate,
        queue: String::new(),
        ipv6: None,
    }
}

fn answer(addresses: &[&str]) -> AddResult {
    let ip = |text: &&str| IpConfig { interface: None, address: text.parse().unwrap(), gateway: None };
    let dns = Dns { nameservers: vec!["10.9.1.53".into()], ..Dns::default() };
    AddResult { ips: addresses.iter().map(ip).collect(), dns, ..AddResult::default() }
}

#[test]
fn every_mode_is_known_and_bridge_is_the_default() {
    for (fields, mode) in [
        ("", MacvlanMode::Bridge),
        (r#","mode":"bridge""#, MacvlanMode::Bridge),
        (r#","mode":"private""#, MacvlanMode::Private),
        (r#","mode":"vepa""#, MacvlanMode::Vepa),
        (r#","mode":"passthru""#, MacvlanMode::Passthru),
        (r#","mode":"source""#, MacvlanMode::Source),
    ] {
        assert_eq!(conf(fields).mode, mode, "{fields}");
    }
}

#[test]
fn the_mac_is_asked_for_in_four_places() {
    let mac = |fields: &str, args: &str| checked(fields, args).unwrap().mac.map(|mac| mac.0[5]);
    let (own, args) = (r#","mac":"02:00:00:00:00:01""#, "02:00:00:00:00:02");
    let of_args = r#","args":{"cni":{"mac":"02:00:00:00:00:03"}}"#;
    let of_runtime = r#","runtimeConfig":{"mac":"02:00:00:00:00:04"}"#;
    assert_eq!(mac("", ""), None);
    assert_eq!(mac(own, ""), Some(1));
    assert_eq!(mac(own, args), Some(2));
    assert_eq!(mac(&format!("{own}{of_args}"), args), Some(3));
    assert_eq!(mac(&format!("{own}{of_args}{of_runtime}"), args), Some(4));
}

#[test]
fn every_mistake_is_said() {
    let wrong = r#","master":"a/b","mode":"sources","mtu":67,"mac":"01:00:00:00:00:01""#;
    let said = checked(wrong, "").unwrap_err().to_string();
    for part in
        ["\"a/b\" is not an interface name", "unknown macvlan mode: \"sources\"", "invalid MTU 67", "01:00:00:00:00:01"]
    {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    let said = checked(r#","mode":"passthru""#, "02:00:00:00:00:01").unwrap_err().to_string();
    assert!(said.contains("mac: an interface in mode passthru has its master's"), "{said}");
    for mtu in ["-1", "1", "9223372036854775807"] {
        let said = checked(&format!(r#","mtu":{mtu}"#), "").unwrap_err().to_string();
        assert!(said.contains(&format!("invalid MTU {mtu}")), "{said}");
    }
}

#[test]
fn the_interface_is_born_down_in_the_pod_and_no_larger_than_the_master() {
    let ends = ends();
    let state = born(&conf(r#","mtu":1400,"bcqueuelen":50"#), &ends, Some(&master(1400))).unwrap();
    let link = &state.links[&name("eth0")];
    assert_eq!((link.up, link.mtu, link.mac), (false, Some(Mtu(1400)), Some(ends.pod_mac)));
    assert_eq!((&link.birth, link.kind.lower()), (&Birth::Parent, Some(&name("up0"))));
    let LinkKind::Macvlan(kind) = &link.kind else { panic!("{:?}", link.kind) };
    assert_eq!(kind.bc_queue_len, Some(50));
    let said = born(&conf(r#","mtu":1401"#), &ends, Some(&master(1400))).unwrap_err().to_string();
    assert!(said.contains("invalid MTU 1401, must be [0, master MTU(1400)]"), "{said}");
    let said = born(&conf(""), &ends, None).unwrap_err().to_string();
    assert!(said.contains("failed to lookup master \"up0\": Link not found"), "{said}");
}

#[test]
fn the_answer_has_the_configurations_dns_only() {
    let result = complete(&conf(LAYER_3), answer(&["10.9.1.2/24", "fd09:1::2/64"])).unwrap();
    assert!(result.ips.iter().all(|ip| ip.interface == Some(0)) && result.dns.is_empty(), "{result:?}");
    let own = conf(&format!(r#"{LAYER_3},"dns":{{"domain":"a.test"}}"#));
    assert_eq!(complete(&own, answer(&["10.9.1.2/24"])).unwrap().dns.domain, "a.test");
    complete(&conf(LAYER_3), answer(&[])).unwrap_err();
    assert_eq!(complete(&conf(""), AddResult::default()).unwrap(), AddResult::default(), "the second layer alone");
}

#[test]
fn the_pod_has_the_addresses_and_tells_its_neighbours() {
    let result = answer(&["10.9.1.2/24", "fd09:1::2/64"]);
    let state = pod(&conf(LAYER_3), &ends(), &result).unwrap();
    assert!(state.links[&name("eth0")].up);
    assert_eq!(state.addresses.len(), 2);
    assert!(state.addresses.values().all(|address| !address.nodad), "duplicates are looked for");
    for key in ["net/ipv4/conf/eth0/arp_notify", "net/ipv6/conf/eth0/ndisc_notify"] {
        assert_eq!(state.sysctls.get(key).map(String::as_str), Some("1"), "{key}");
    }
    let bare = pod(&conf(""), &ends(), &AddResult::default()).unwrap();
    assert!(bare.links[&name("eth0")].up && bare.sysctls.is_empty() && bare.addresses.is_empty());
}
