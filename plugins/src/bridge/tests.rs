//! What one attachment wants of the host and of the pod, from configurations as users write them.

use std::net::IpAddr;

use cni::result::{AddResult, Dns, IpConfig, Route};
use ipnetwork::IpNetwork;
use kernel::state::{AddressKey, LinkKind, Port, State, Vlan, VlanKey};
use kernel::types::{IfName, Mac, Mtu};

use super::conf::{Conf, Document};
use super::desired::{address_conflict, complete, conflicting, host, interfaces, links, pod, vlan_gateway, vlan_port};
use crate::attach::Ends;

fn conf(fields: &str) -> Conf {
    let text = format!(r#"{{"cniVersion":"1.1.0","name":"net1","type":"bridge","bridge":"br1"{fields}}}"#);
    let parsed = cni::conf::Conf::parse(text.as_bytes()).unwrap();
    parsed.decode::<Document>().unwrap().check("").unwrap()
}

const GATEWAY: &str = r#","isGateway":true,"ipam":{"type":"host-local"}"#;
const DEFAULT: &str = r#","isDefaultGateway":true,"ipam":{"type":"host-local"}"#;

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn ends() -> Ends {
    let mac = |n| Mac([2, 0, 0, 0, 0, n]);
    Ends {
        host: name("veth1"),
        host_mac: mac(1),
        ifname: name("eth0"),
        pod_mac: mac(2),
        shared_mac: mac(3),
        spare: name("veth2"),
    }
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

/// IPAM's answer, each address with its gateway where one is named.
fn ipam(ips: &[(&str, &str)], routes: &[&str]) -> AddResult {
    let ip = |(address, gateway): &(&str, &str)| IpConfig {
        interface: None,
        address: net(address),
        gateway: gateway.parse().ok(),
    };
    AddResult {
        ips: ips.iter().map(ip).collect(),
        routes: routes.iter().map(|dst| Route::to(net(dst))).collect(),
        ..AddResult::default()
    }
}

fn gateways(result: &AddResult) -> Vec<Option<String>> {
    result.ips.iter().map(|ip| ip.gateway.map(|gateway| gateway.to_string())).collect()
}

fn routes(result: &AddResult) -> Vec<String> {
    let text = |gw: Option<IpAddr>| gw.map(|gw| format!(" via {gw}")).unwrap_or_default();
    result.routes.iter().map(|route| format!("{}{}", route.dst, text(route.gw))).collect()
}

#[test]
fn a_gateway_is_the_first_address_unless_ipam_names_one() {
    let given = ipam(&[("10.5.1.7/24", ""), ("10.6.1.7/24", "10.6.1.254"), ("fd05::7/64", "")], &[]);
    let result = complete(&conf(GATEWAY), given.clone()).unwrap();
    assert_eq!(gateways(&result), [Some("10.5.1.1".into()), Some("10.6.1.254".into()), Some("fd05::1".into())]);
    assert!(result.ips.iter().all(|ip| ip.interface == Some(2)), "the pod's end is the third interface");
    let switch = complete(&conf(r#","ipam":{"type":"host-local"}"#), given).unwrap();
    assert_eq!(gateways(&switch), [None, Some("10.6.1.254".into()), None], "a bridge that is no gateway makes none up");
}

#[test]
fn ipam_must_answer_with_an_address() {
    let said = complete(&conf(GATEWAY), AddResult::default()).unwrap_err();
    assert!(said.to_string().contains("IPAM plugin returned missing IP config"), "{said}");
    assert_eq!(complete(&conf(""), AddResult::default()).unwrap(), AddResult::default(), "without IPAM it need not");
}

#[test]
fn the_default_route_is_added_where_there_is_none() {
    let dual = [("10.5.1.7/24", ""), ("fd05::7/64", "")];
    let made = |given: AddResult| routes(&complete(&conf(DEFAULT), given).unwrap());
    assert_eq!(made(ipam(&dual, &[])), ["0.0.0.0/0 via 10.5.1.1", "::/0 via fd05::1"]);
    assert_eq!(made(ipam(&dual[1..], &[])), ["::/0 via fd05::1"], "one family");
    assert_eq!(made(ipam(&dual, &["0.0.0.0/0"])), ["0.0.0.0/0", "::/0 via fd05::1"], "one is there");
    assert_eq!(made(ipam(&dual[..1], &["10.0.0.0/8"])), ["10.0.0.0/8", "0.0.0.0/0 via 10.5.1.1"], "another is there");
    let plain = complete(&conf(GATEWAY), ipam(&dual, &[])).unwrap();
    assert_eq!(routes(&plain), Vec::<String>::new(), "isGateway alone");
}

#[test]
fn the_networks_name_servers_replace_ipams() {
    let servers = |server: &str| Dns { nameservers: vec![server.into()], ..Dns::default() };
    let given = AddResult { dns: servers("10.5.1.1"), ..ipam(&[("10.5.1.7/24", "")], &[]) };
    let of = |conf: &Conf| complete(conf, given.clone()).unwrap().dns;
    assert_eq!(of(&conf(GATEWAY)), servers("10.5.1.1"));
    assert_eq!(of(&conf(&format!(r#"{GATEWAY},"dns":{{"nameservers":["192.0.2.53"]}}"#))), servers("192.0.2.53"));
}

#[test]
fn a_new_bridge_is_set_up_and_one_that_is_there_keeps_its_settings() {
    let conf = conf(r#","mtu":1400,"promiscMode":true"#);
    let (made, found) = (links(&conf, &ends(), Some(9), true), links(&conf, &ends(), Some(9), false));
    let bridge = |state: &State| state.links[&name("br1")].clone();
    assert_eq!((bridge(&made).mac, bridge(&made).mtu), (Some(ends().shared_mac), Some(Mtu(1400))));
    assert_eq!((bridge(&found).mac, bridge(&found).mtu), (None, None), "another attachment's MTU and MAC");
    assert_eq!((bridge(&made).promisc, bridge(&found).promisc), (Some(true), Some(true)));
    let deaf = ["net/ipv6/conf/br1/accept_ra", "net/ipv6/conf/veth1/accept_ra"];
    assert_eq!(made.sysctls.keys().collect::<Vec<_>>(), deaf, "neither takes router advertisements");
    assert_eq!(found.sysctls.keys().collect::<Vec<_>>(), deaf, "whoever made the bridge");
}

#[test]
fn the_pair_is_born_whole_and_down() {
    let conf = conf(r#","mtu":1400,"hairpinMode":true,"portIsolation":true"#);
    let state = links(&conf, &ends(), Some(9), false);
    let veth = &state.links[&name("veth1")];
    assert_eq!((veth.up, veth.mtu, veth.mac), (false, Some(Mtu(1400)), Some(ends().host_mac)));
    assert_eq!(veth.master, Some(Some(name("br1"))));
    let LinkKind::Veth(kernel::state::Veth { peer: Some(peer) }) = &veth.kind else { panic!("{:?}", veth.kind) };
    assert_eq!((peer.name.as_str(), peer.mac, peer.mtu), ("eth0", Some(ends().pod_mac), Some(Mtu(1400))));
    assert_eq!(peer.netns, Some(9), "in the pod's namespace");
    assert_eq!(state.ports[&name("veth1")], Port { hairpin: true, isolated: true, passing: None });
}

fn addresses(state: &State) -> Vec<String> {
    state.addresses.keys().map(|key| format!("{} {}", key.dev, key.net)).collect()
}

#[test]
fn a_gateway_has_its_addresses_and_forwards_their_families() {
    let host_of = |fields: &str, ips: &[(&str, &str)]| {
        let conf = conf(fields);
        host(&conf, &ends(), &complete(&conf, ipam(ips, &[])).unwrap())
    };
    let forwarding = |state: &State| {
        let of = |path: &str| state.sysctls.get(path).map(String::as_str) == Some("1");
        (of("net/ipv4/ip_forward"), of("net/ipv6/conf/all/forwarding"))
    };
    let dual = [("10.5.1.7/24", ""), ("fd05::7/64", "")];
    let state = host_of(GATEWAY, &dual);
    assert_eq!(addresses(&state), ["br1 10.5.1.1/24", "br1 fd05::1/64"]);
    assert_eq!(forwarding(&state), (true, true));
    assert!(state.links[&name("veth1")].up, "the pair is raised with the rest");
    assert_eq!(forwarding(&host_of(GATEWAY, &dual[..1])), (true, false));
    assert_eq!(forwarding(&host_of(GATEWAY, &dual[1..])), (false, true));
    let switch = host_of(r#","ipam":{"type":"host-local"}"#, &[("10.5.1.7/24", "10.5.1.1")]);
    assert_eq!((addresses(&switch), forwarding(&switch)), (vec![], (false, false)), "IPAM's gateway is elsewhere");
}

fn vlans(state: &State) -> Vec<String> {
    let flags = |vlan: &Vlan| match (vlan.pvid, vlan.untagged) {
        (true, true) => " pvid untagged",
        (false, false) => "",
        _ => " odd",
    };
    state.vlans.iter().map(|(VlanKey { dev, id }, vlan)| format!("{dev} {id}{}", flags(vlan))).collect()
}

#[test]
fn a_port_carries_its_vlan_untagged_and_a_trunks_tagged() {
    let of = |fields: &str| vlans(&host(&conf(fields), &ends(), &AddResult::default()));
    assert_eq!(of(""), Vec::<String>::new());
    assert_eq!(of(r#","vlan":5"#), ["veth1 5 pvid untagged"]);
    let trunk = r#","vlanTrunk":[{"minID":7,"maxID":9},{"id":20}]"#;
    assert_eq!(of(trunk), ["veth1 1 pvid untagged", "veth1 7", "veth1 8", "veth1 9", "veth1 20"]);
    assert_eq!(of(&format!(r#"{trunk},"vlan":8"#)), ["veth1 7", "veth1 8 pvid untagged", "veth1 9", "veth1 20"]);
}

#[test]
fn a_vlans_gateway_is_a_pair_between_bridge_and_host() {
    let conf = conf(&format!(r#"{GATEWAY},"vlan":5,"mtu":1400"#));
    let made = vlan_gateway(&conf, &ends());
    let link = &made.links[&name("br1.5")];
    assert_eq!((link.up, link.mtu, &link.master), (false, Some(Mtu(1400)), &None));
    let LinkKind::Veth(kernel::state::Veth { peer: Some(peer) }) = &link.kind else { panic!("{:?}", link.kind) };
    assert_eq!((peer.name.as_str(), peer.mtu, peer.netns), ("veth2", Some(Mtu(1400)), None));
    let settled = vlan_port(&conf, &ends());
    assert_eq!(settled.links[&name("veth2")].master, Some(Some(name("br1"))));
    assert!(settled.links.values().all(|link| link.up) && settled.links.contains_key(&name("br1.5")));
    assert_eq!(vlans(&settled), ["veth2 5 pvid untagged"]);
    let result = complete(&conf, ipam(&[("10.5.1.7/24", "")], &[])).unwrap();
    assert_eq!(
        addresses(&host(&conf, &ends(), &result)),
        ["br1.5 10.5.1.1/24"],
        "the address is the VLAN's, not the bridge's"
    );
}

#[test]
fn the_pods_end_is_raised_and_with_ipam_configured() {
    let given = ipam(&[("10.5.1.7/24", "10.5.1.1")], &[]);
    let in_pod = |fields: &str| pod(&conf(fields), &ends(), &given).unwrap();
    let full = in_pod(GATEWAY);
    assert_eq!((full.links.len(), addresses(&full)), (1, vec!["eth0 10.5.1.7/24".to_owned()]));
    let bare = in_pod("");
    let link = &bare.links[&name("eth0")];
    assert_eq!((link.up, link.mac, bare.addresses.len()), (true, Some(ends().pod_mac), 0));
    assert_eq!(in_pod(r#","disableContainerInterface":true"#), State::default());
}

fn keys(of: &[(&str, &str)]) -> Vec<AddressKey> {
    of.iter().map(|(dev, address)| AddressKey { dev: name(dev), net: net(address) }).collect()
}

#[test]
fn an_address_of_another_subnet_is_a_conflict() {
    let mut wanted = State::default();
    for address in ["10.5.1.1/24", "fd05::1/64"] {
        wanted.address(&name("br1"), net(address), true);
    }
    let rivals = |present: &[(&str, &str)]| conflicting(&wanted, &keys(present));
    assert_eq!(rivals(&[("br1", "10.5.1.1/24"), ("br1", "fd05::1/64")]), [], "what is wanted");
    for rival in ["10.5.2.1/24", "10.5.1.2/24", "fd05::2/64", "fd05::2/48", "fd05::2/128"] {
        assert_eq!(rivals(&[("br1", rival)]), keys(&[("br1", rival)]), "{rival}");
    }
    for other in [("br1", "fd06::1/64"), ("br1", "fe80::1/64"), ("br2", "10.5.2.1/24"), ("br2", "fd05::2/64")] {
        assert_eq!(rivals(&[other]), [], "{other:?} may stay");
    }
    let mut v6 = State::default();
    v6.address(&name("br1"), net("fd05::1/64"), true);
    assert_eq!(conflicting(&v6, &keys(&[("br1", "10.5.2.1/24")])), [], "the other family's");
    let mut v4 = State::default();
    v4.address(&name("br1"), net("10.5.1.1/24"), true);
    assert_eq!(conflicting(&v4, &keys(&[("br1", "fd05::2/64")])), [], "the other family's");
    // A network that contains all link-local addresses is no reason to delete the kernel's own ones.
    let mut all = State::default();
    all.address(&name("br1"), net("fe00::1/7"), true);
    assert_eq!(conflicting(&all, &keys(&[("br1", "fe80::1/64")])), []);
}

#[test]
fn a_conflict_is_said_with_both_subnets_and_the_way_out() {
    let said = |fields: &str, link: &str| {
        let mut wanted = State::default();
        wanted.address(&name(link), net("10.5.1.1/24"), true);
        wanted.address(&name("aaa"), net("10.9.9.9/24"), true);
        let present = keys(&[("aaa", "10.8.8.8/24"), (link, "10.5.2.1/24")]);
        address_conflict(&conf(fields), &wanted, &present, 3)
    };
    let error = said(GATEWAY, "br1");
    let first = r#"failed to set bridge addr: "br1" already has an IP address different from 10.5.1.1/24"#;
    assert_eq!(error.msg, first, "upstream's words");
    let holds = "holds 10.5.2.1/24 (10.5.2.0/24), this network wants 10.5.1.1/24 (10.5.1.0/24); 3 pods are still attached to br1.";
    assert!(error.details.starts_with(&format!("br1 {holds}")), "{}", error.details);
    assert!(error.details.ends_with("or: ip addr del 10.5.2.1/24 dev br1"), "{}", error.details);
    // A VLAN's gateway address is on another link, so the command must name that link.
    let error = said(&format!(r#"{GATEWAY},"vlan":5"#), "br1.5");
    assert!(error.details.starts_with(&format!("br1.5 {holds}")), "{}", error.details);
    assert!(error.details.ends_with("or: ip addr del 10.5.2.1/24 dev br1.5"), "{}", error.details);
}

#[test]
fn the_answer_names_bridge_host_end_and_pod_end() {
    let all = interfaces(&conf(GATEWAY), &ends(), None, "/run/netns/pod");
    let of = |n: usize| (all[n].name.as_str(), all[n].mac.as_str(), all[n].sandbox.as_str());
    assert_eq!(of(0), ("br1", "", ""), "a bridge whose MAC is not known");
    assert_eq!(of(1), ("veth1", "02:00:00:00:00:01", ""));
    assert_eq!(of(2), ("eth0", "02:00:00:00:00:02", "/run/netns/pod"));
    assert_eq!(all.len(), 3);
}
