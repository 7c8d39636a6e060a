//! The desired state of host and pod for one attachment, from configurations as users write them.

use cni::error::Error;
use cni::result::{AddResult, Dns, IpConfig, Route as CniRoute};
use kernel::state::{LinkKind, State, Veth};
use kernel::types::{IfName, Mac, Mtu};

use super::conf::{Conf, Document};
use super::desired::{complete, host, links, pod};
use crate::attach::Ends;

fn checked(fields: &str) -> Result<Conf, Error> {
    let text = format!(r#"{{"cniVersion":"1.1.0","name":"net1","type":"ptp"{fields}}}"#);
    cni::conf::Conf::parse(text.as_bytes()).unwrap().decode::<Document>()?.check()
}

const IPAM: &str = r#","ipam":{"type":"host-local"}"#;

fn conf(fields: &str) -> Conf {
    checked(&format!("{IPAM}{fields}")).unwrap()
}

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn ends() -> Ends {
    let ends = Ends::random(&name("eth0"), Some(Mac([2, 0, 0, 0, 0, 2]))).unwrap();
    Ends { host: name("veth1"), host_mac: Mac([2, 0, 0, 0, 0, 1]), ..ends }
}

/// Addresses, each with its gateway, which may be empty.
fn ipam(ips: &[(&str, &str)]) -> AddResult {
    let ip = |(address, gateway): &(&str, &str)| IpConfig {
        interface: None,
        address: address.parse().unwrap(),
        gateway: gateway.parse().ok(),
    };
    AddResult { ips: ips.iter().map(ip).collect(), ..AddResult::default() }
}

/// Addresses and routes, one per line.
fn lines(state: &State) -> Vec<String> {
    let address = |(key, how): (&kernel::state::AddressKey, &kernel::state::Address)| {
        let kind = if how.noprefixroute { " noprefixroute" } else { "" };
        format!("{} on {} nodad {}{kind}", key.net, key.dev, how.nodad)
    };
    let route = |(key, route): (&kernel::state::RouteKey, &kernel::state::Route)| {
        let via = route.via.map(|via| format!(" via {via}")).unwrap_or_default();
        let src = route.src.map(|src| format!(" src {src}")).unwrap_or_default();
        let scope = route.scope.map(|scope| format!(" scope {scope}")).unwrap_or_default();
        format!("{}{via} dev {}{src}{scope}", key.dst, route.dev.as_ref().unwrap())
    };
    state.addresses.iter().map(address).chain(state.routes.iter().map(route)).collect()
}

const DUAL: [(&str, &str); 2] = [("10.9.1.2/24", "10.9.1.1"), ("fd09:1::2/64", "fd09:1::1")];

#[test]
fn the_pair_is_born_whole_and_down() {
    let state = links(&conf(r#","mtu":1400"#), &ends(), Some(9));
    let veth = &state.links[&name("veth1")];
    assert_eq!((veth.up, veth.mtu, veth.mac, &veth.master), (false, Some(Mtu(1400)), Some(ends().host_mac), &None));
    let LinkKind::Veth(Veth { peer: Some(peer) }) = &veth.kind else { panic!("{:?}", veth.kind) };
    assert_eq!((peer.name.as_str(), peer.mac, peer.netns), ("eth0", Some(ends().pod_mac), Some(9)));
    assert_eq!(state.sysctls["net/ipv6/conf/veth1/accept_ra"], "0", "the pod is no router of the host");
}

#[test]
fn the_host_has_the_gateways_and_routes_to_the_pod() {
    let state = host(&conf(""), &ends(), &ipam(&DUAL));
    assert_eq!(
        lines(&state),
        [
            "10.9.1.1/32 on veth1 nodad true",
            "fd09:1::1/128 on veth1 nodad true",
            "10.9.1.2/32 dev veth1 scope 254",
            "fd09:1::2/128 dev veth1",
        ]
    );
    assert!(state.links[&name("veth1")].up);
    let forwarding: Vec<_> = state.sysctls.keys().filter(|path| path.contains("forward")).collect();
    assert_eq!(forwarding, ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"]);
    let one = host(&conf(""), &ends(), &ipam(&DUAL[..1]));
    assert!(!one.sysctls.contains_key("net/ipv6/conf/all/forwarding"), "only the pod's families");
}

#[test]
fn the_pod_reaches_its_own_network_by_the_gateway() {
    let mut result = ipam(&DUAL);
    result.routes.push(CniRoute::to("0.0.0.0/0".parse().unwrap()));
    let state = pod(&conf(""), &ends(), &result).unwrap();
    assert_eq!(
        lines(&state),
        [
            "10.9.1.2/24 on eth0 nodad true noprefixroute",
            "fd09:1::2/64 on eth0 nodad true noprefixroute",
            "0.0.0.0/0 via 10.9.1.1 dev eth0",
            "10.9.1.0/24 via 10.9.1.1 dev eth0 src 10.9.1.2",
            "10.9.1.1/32 dev eth0 src 10.9.1.2",
            "fd09:1::/64 via fd09:1::1 dev eth0 src fd09:1::2",
            "fd09:1::1/128 dev eth0 src fd09:1::2",
        ]
    );
}

#[test]
fn an_address_without_a_network_needs_only_its_gateway() {
    let state = pod(&conf(""), &ends(), &ipam(&[("10.9.1.2/32", "169.254.1.1")])).unwrap();
    assert_eq!(lines(&state), ["10.9.1.2/32 on eth0 nodad true noprefixroute", "169.254.1.1/32 dev eth0 src 10.9.1.2"]);
}

#[test]
fn ipam_must_give_addresses_with_gateways() {
    let error = |ips: &[(&str, &str)]| complete(&conf(""), ipam(ips)).unwrap_err().to_string();
    assert!(error(&[]).contains("IPAM plugin returned missing IP config"));
    assert!(error(&[("10.9.1.2/24", "")]).contains("IPAM plugin returned no gateway for 10.9.1.2/24"));
    let servers = |server: &str| Dns { nameservers: vec![server.into()], ..Dns::default() };
    let given = AddResult { dns: servers("10.9.1.1"), ..ipam(&DUAL) };
    let of = |conf: &Conf| complete(conf, given.clone()).unwrap();
    assert_eq!(of(&conf("")).dns, servers("10.9.1.1"));
    assert_eq!(of(&conf(r#","dns":{"nameservers":["192.0.2.53"]}"#)).dns, servers("192.0.2.53"));
    assert!(of(&conf("")).ips.iter().all(|ip| ip.interface == Some(1)), "the pod's end is the second interface");
}

#[test]
fn every_mistake_is_reported_at_once() {
    let error = checked(r#","mtu":70000,"ipMasq":true,"ipMasqBackend":"x","ipMasqExclude":["y"]"#).unwrap_err();
    assert_eq!(error.code, 7);
    for part in ["invalid mtu 70000", "unknown ipmasq backend \"x\"", "\"y\" is not a network", "needs an IPAM plugin"]
    {
        assert!(error.msg.contains(part), "{part:?} is not in {:?}", error.msg);
    }
    assert_eq!(conf(r#","ipMasq":true,"ipMasqExclude":["10.0.0.1/8"]"#).masquerade.unwrap().exclude.len(), 1);
    assert!(checked(r#","mtu":"1500""#).is_err() && checked(r#","ipMasq":1"#).is_err());
}
