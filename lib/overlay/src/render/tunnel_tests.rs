//! ipip, wireguard and extension: what they want of the kernel.

use kernel::diff::diff;
use kernel::state::{Adopt, Secret};

use super::*;
use crate::backend::{Identity, WireguardKeys};
use crate::keep::publish;
use crate::netconf::NetConf;
use crate::ownership::NOBODY;
use crate::peers::{self, Own};
use crate::underlay::Underlay;

const V4: &str = r#""Network":"10.5.0.0/16""#;
const DUAL: &str = r#""Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/56""#;
const KEY: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
const OTHER: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn conf(families: &str, backend: &str) -> NetConf {
    NetConf::parse(format!(r#"{{{families},"Backend":{backend}}}"#).as_bytes()).unwrap().conf
}

fn underlay() -> Underlay {
    Underlay {
        dev: IfName::new("eth0").unwrap(),
        mtu: Mtu(1500),
        addresses: ByFamily { v4: "10.99.0.2".parse().ok(), v6: "2001:db8::2".parse().ok() },
        connected: vec!["10.99.0.0/24".parse().unwrap(), "2001:db8::/64".parse().unwrap()],
    }
}

fn identity() -> Identity {
    let keys = WireguardKeys { private: Secret([64; 32]), public: KEY.parse().unwrap() };
    Identity { wireguard: Some(keys), ..Identity::default() }
}

/// The desired state for these leases, none of them rejected, of a host that keeps the devices of `kept`.
fn want_with(conf: &NetConf, own: &str, leases: &[(&str, String)], kept: &[&NetConf], left: &[&str]) -> Desired {
    let subnets = own.parse().unwrap();
    let judged = peers::check(conf, &Own { subnets, ..Own::default() }, leases.iter().map(|(k, v)| (k, v)));
    assert_eq!(judged.rejected, []);
    let known: Vec<IfName> = left.iter().map(|name| IfName::new(name).unwrap()).collect();
    let host = Host { networks: conf.network_by_family(), own: subnets, identity: identity(), underlay: underlay() };
    let kept: Vec<Kept> = kept.iter().map(|conf| Kept { backend: conf.backend.clone(), leads: false }).collect();
    Renderer::new(&host, &conf.backend, &kept)
        .desired(&judged.good, Ours { devices: &known, owner: &NOBODY, complete: true })
}

fn want(conf: &NetConf, own: &str, leases: &[(&str, String)]) -> Desired {
    want_with(conf, own, leases, &[], &[])
}

fn steps(wanted: &Desired) -> Vec<String> {
    let plan = diff(&wanted.state, &State::default(), &wanted.scope);
    assert_eq!(plan.conflicts, []);
    plan.steps.iter().map(ToString::to_string).collect()
}

fn ways(wanted: &Desired) -> Vec<String> {
    wanted.paths.iter().map(|path| format!("{} {}: {}", path.peer, path.reach, path.reason)).collect()
}

fn lease(public: &str, backend: &str) -> String {
    format!(r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"{backend}"}}"#)
}

fn wireguard(v4: &str, v6: Option<&str>, key: &str, ports: (u16, u16)) -> String {
    let data = |port: u16| match port {
        0 => format!(r#"{{"PublicKey":"{key}"}}"#),
        port => format!(r#"{{"PublicKey":"{key}","Port":{port}}}"#),
    };
    let (v6, data_v6) = match v6 {
        Some(v6) => (format!("\"{v6}\""), format!(r#","BackendV6Data":{}"#, data(ports.1))),
        None => ("null".to_owned(), String::new()),
    };
    format!(
        r#"{{"PublicIP":"{v4}","PublicIPv6":{v6},"BackendType":"wireguard","BackendData":{}{data_v6}}}"#,
        data(ports.0)
    )
}

#[test]
fn ipip_has_one_device_and_a_route_per_peer() {
    let leases = [("10.5.2.0-24", lease("10.99.0.3", "ipip")), ("10.5.3.0-24", lease("10.98.0.4", "ipip"))];
    let wanted = want(&conf(V4, r#"{"Type":"ipip"}"#), "10.5.1.0-24", &leases);
    assert_eq!(wanted.mtu, Mtu(1480));
    assert_eq!(
        steps(&wanted),
        [
            "ip link add flannel.ipip mtu 1480 type ipip local 10.99.0.2 remote any ttl inherit nopmtudisc",
            "ip link set flannel.ipip alias \"flannel 10.5.0.0/16\"",
            "ip addr add 10.5.1.0/32 dev flannel.ipip",
            "ip link set flannel.ipip up",
            "ip route prepend 10.5.2.0/24 via 10.99.0.3 dev flannel.ipip onlink proto 70",
            "ip route prepend 10.5.3.0/24 via 10.98.0.4 dev flannel.ipip onlink proto 70",
        ]
    );
    let link = &wanted.state.links[&IfName::new("flannel.ipip").unwrap()];
    let kind = kernel::state::Ipip { local: "10.99.0.2".parse().ok(), ..Default::default() };
    assert_eq!((&link.kind, link.mtu), (&kernel::state::LinkKind::Ipip(kind), Some(Mtu(1480))));
}

#[test]
fn ipip_goes_directly_where_it_may_and_where_it_must() {
    let leases = [
        ("10.5.2.0-24", lease("10.99.0.3", "ipip")),
        ("10.5.3.0-24", lease("10.98.0.4", "ipip")),
        ("10.5.4.0-24", lease("10.99.0.5", "host-gw")),
        ("10.5.5.0-24", lease("10.98.0.6", "host-gw")),
    ];
    let wanted = want(&conf(V4, r#"{"Type":"ipip"}"#), "10.5.1.0-24", &leases);
    let other = "the peer runs another backend than ipip";
    assert_eq!(
        ways(&wanted),
        [
            "10.5.2.0-24 ipip: the backend is ipip without DirectRouting".to_owned(),
            "10.5.3.0-24 ipip: the backend is ipip without DirectRouting".to_owned(),
            format!("10.5.4.0-24 direct: {other}"),
            format!("10.5.5.0-24 unreachable: {other}"),
        ]
    );
    let wanted = want(&conf(V4, r#"{"Type":"ipip","DirectRouting":true}"#), "10.5.1.0-24", &leases[..2]);
    assert_eq!(ways(&wanted), ["10.5.2.0-24 direct: on the same segment", "10.5.3.0-24 ipip: a router is between"]);
    let routes = steps(&wanted).into_iter().filter(|step| step.contains("route")).collect::<Vec<_>>();
    assert_eq!(
        routes,
        [
            "ip route prepend 10.5.3.0/24 via 10.98.0.4 dev flannel.ipip onlink proto 70",
            "ip route prepend 10.5.2.0/24 via 10.99.0.3 dev eth0 proto 70",
        ]
    );
}

#[test]
fn another_link_of_the_name_is_said_with_the_way_out() {
    let wanted = want(&conf(V4, r#"{"Type":"ipip"}"#), "10.5.1.0-24", &[]);
    let mut observed = State::default();
    let kind = kernel::state::LinkKind::Other("dummy".into());
    observed.links.insert(IfName::new("flannel.ipip").unwrap(), kernel::state::Link::up(kind));
    let plan = diff(&wanted.state, &observed, &wanted.scope);
    assert_eq!(
        plan.conflicts[0].to_string(),
        "flannel.ipip is a link of kind dummy, not ipip: if it is yours, rename or delete it (ip link del flannel.ipip)"
    );
    assert_eq!(plan.steps, []);
}

#[test]
fn wireguard_has_a_device_per_family() {
    let backend = r#"{"Type":"wireguard","PersistentKeepaliveInterval":25}"#;
    let near = wireguard("10.99.0.3", Some("2001:db8::3"), KEY, (4000, 4001));
    let old = wireguard("10.98.0.4", Some("2001:db8:1::4"), OTHER, (0, 0));
    let leases = [("10.5.2.0-24&fd05:0:0:2::-64", near), ("10.5.3.0-24&fd05:0:0:3::-64", old)];
    let wanted = want(&conf(DUAL, backend), "10.5.1.0-24&fd05:0:0:1::-64", &leases);
    assert_eq!(wanted.mtu, Mtu(1420));
    let peer = |dev: &str, key: &str, at: &str, net: &str| {
        format!("wg set {dev} peer {key} endpoint {at} persistent-keepalive 25 allowed-ips +{net}")
    };
    let keepalive =
        |dev: &str, key: &str, seconds: u16| format!("wg set {dev} peer {key} persistent-keepalive {seconds}");
    assert_eq!(
        steps(&wanted),
        [
            "ip link add flannel-wg mtu 1420 type wireguard".to_owned(),
            "ip link add flannel-wg-v6 mtu 1420 type wireguard".to_owned(),
            "ip link set flannel-wg alias \"flannel 10.5.0.0/16 fd05::/56\"".to_owned(),
            "ip link set flannel-wg-v6 alias \"flannel 10.5.0.0/16 fd05::/56\"".to_owned(),
            "wg set flannel-wg private-key (secret) listen-port 51820".to_owned(),
            peer("flannel-wg", OTHER, "10.98.0.4:51820", "10.5.3.0/24"),
            peer("flannel-wg", KEY, "10.99.0.3:4000", "10.5.2.0/24"),
            "wg set flannel-wg-v6 private-key (secret) listen-port 51821".to_owned(),
            peer("flannel-wg-v6", OTHER, "[2001:db8:1::4]:51821", "fd05:0:0:3::/64"),
            peer("flannel-wg-v6", KEY, "[2001:db8::3]:4001", "fd05:0:0:2::/64"),
            "ip addr add 10.5.1.0/32 dev flannel-wg".to_owned(),
            "ip addr add fd05:0:0:1::/128 dev flannel-wg-v6 nodad".to_owned(),
            "ip link set flannel-wg up".to_owned(),
            "ip link set flannel-wg-v6 up".to_owned(),
            keepalive("flannel-wg", OTHER, 0),
            keepalive("flannel-wg", OTHER, 25),
            keepalive("flannel-wg", KEY, 0),
            keepalive("flannel-wg", KEY, 25),
            keepalive("flannel-wg-v6", OTHER, 0),
            keepalive("flannel-wg-v6", OTHER, 25),
            keepalive("flannel-wg-v6", KEY, 0),
            keepalive("flannel-wg-v6", KEY, 25),
            "ip route prepend 10.5.0.0/16 dev flannel-wg proto 70".to_owned(),
            "ip route add fd05::/56 dev flannel-wg-v6 proto 70".to_owned(),
        ]
    );
    assert_eq!(ways(&wanted)[0], "10.5.2.0-24&fd05:0:0:2::-64 wireguard: the backend is wireguard");
}

/// The endpoint of the one peer, whose addresses and ports these are.
fn endpoint(mode: &str, v4: &str, v6: &str, ports: (u16, u16)) -> String {
    let backend = format!(r#"{{"Type":"wireguard","Mode":"{mode}","ListenPort":5000,"ListenPortV6":6000}}"#);
    let leases = [("10.5.2.0-24&fd05:0:0:2::-64", wireguard(v4, Some(v6), KEY, ports))];
    let wanted = want(&conf(DUAL, &backend), "10.5.1.0-24&fd05:0:0:1::-64", &leases);
    let devices: Vec<_> =
        wanted.state.wireguard.iter().map(|(dev, device)| (dev.to_string(), device.listen_port)).collect();
    assert_eq!(devices, [("flannel-wg".to_owned(), Some(5000))]);
    let peer = wanted.state.wireguard.values().next().unwrap().peers.values().next().unwrap();
    let nets: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.5.2.0/24", "fd05:0:0:2::/64"]);
    peer.endpoint.unwrap().to_string()
}

#[test]
fn one_device_chooses_the_underlay_per_peer() {
    let (private, public) = ("10.98.0.3", "198.51.100.3");
    let (ula, global) = ("fd99::3", "2001:db8:1::3");
    let ports = (4000, 4000);
    assert_eq!(endpoint("ipv4", public, global, ports), "198.51.100.3:4000");
    assert_eq!(endpoint("ipv6", public, global, ports), "[2001:db8:1::3]:4000");
    assert_eq!(endpoint("auto", public, global, ports), "198.51.100.3:4000");
    assert_eq!(endpoint("auto", private, global, ports), "[2001:db8:1::3]:4000");
    assert_eq!(endpoint("auto", private, ula, ports), "10.98.0.3:4000");
    // Go says ListenPortV6 for a device that listens on ListenPort alone
    assert_eq!(endpoint("ipv6", public, global, (51820, 51821)), "[2001:db8:1::3]:51820");
    assert_eq!(endpoint("ipv6", public, global, (0, 0)), "[2001:db8:1::3]:5000");
}

#[test]
fn what_a_host_says_is_where_it_listens() {
    let said = |families: &str, mode: &str| {
        let conf = conf(families, &format!(r#"{{"Type":"wireguard","Mode":"{mode}"}}"#));
        let on = conf.network_by_family();
        let public = ByFamily {
            v4: underlay().addresses.v4.filter(|_| on.v4.is_some()),
            v6: underlay().addresses.v6.filter(|_| on.v6.is_some()),
        };
        let attrs = publish(&conf.backend, &[], public, &identity());
        [attrs.backend_data, attrs.backend_v6_data].map(|data| data.map(|data| data.compact()))
    };
    let text = |port| Some(format!(r#"{{"PublicKey":"{KEY}","Port":{port}}}"#));
    assert_eq!(said(DUAL, "separate"), [text(51820), text(51821)]);
    assert_eq!(said(DUAL, "auto"), [text(51820), text(51820)]);
    assert_eq!(said(V4, "separate"), [text(51820), None]);
}

#[test]
fn a_peer_without_the_family_of_the_mode_is_not_reached() {
    let leases = [("10.5.2.0-24", wireguard("10.99.0.3", None, KEY, (4000, 0)))];
    let backend = r#"{"Type":"wireguard","Mode":"ipv6"}"#;
    let wanted = want(&conf(DUAL, backend), "10.5.1.0-24&fd05:0:0:1::-64", &leases);
    assert_eq!(ways(&wanted), ["10.5.2.0-24 unreachable: the peer publishes no IPv6 address, which Mode requires"]);
}

/// On the same segment, and yet: it would be in clear.
#[test]
fn what_is_encrypted_stays_so() {
    let leases = [("10.5.2.0-24", lease("10.99.0.3", "host-gw")), ("10.5.3.0-24", lease("10.99.0.4", ""))];
    let wanted = want(&conf(V4, r#"{"Type":"wireguard"}"#), "10.5.1.0-24", &leases);
    let other = "unreachable: the peer runs another backend than wireguard";
    assert_eq!(ways(&wanted), [format!("10.5.2.0-24 {other}"), format!("10.5.3.0-24 {other}")]);
    let routes: Vec<String> = wanted.state.routes.keys().map(|key| key.dst.to_string()).collect();
    assert_eq!(routes, ["10.5.0.0/16"], "what has no peer ends in the device");
}

#[test]
fn a_hosts_left_over_lease_is_one_peer_with_two_subnets() {
    let value = wireguard("10.98.0.3", None, KEY, (4000, 0));
    let leases = [("10.5.2.0-24", value.clone()), ("10.5.3.0-24", value)];
    let wanted = want(&conf(V4, r#"{"Type":"wireguard"}"#), "10.5.1.0-24", &leases);
    let peers = &wanted.state.wireguard.values().next().unwrap().peers;
    assert_eq!((peers.len(), peers.values().next().unwrap().allowed_ips.len()), (1, 2));
}

#[test]
fn wireguard_devices_that_stay_are_left_as_they_are() {
    let (ipip, wireguard) = (conf(V4, r#"{"Type":"ipip"}"#), conf(V4, r#"{"Type":"wireguard"}"#));
    let left = ["flannel-wg", "flannel-wg-v6", "flannel.1"];
    let scope = |kept: &[&NetConf]| {
        let links = want_with(&ipip, "10.5.1.0-24", &[], kept, &left).scope.links;
        links.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(scope(&[&wireguard]), ["flannel.1", "flannel.ipip"]);
    assert_eq!(scope(&[]), ["flannel-wg", "flannel-wg-v6", "flannel.1", "flannel.ipip"]);
}

/// To host-gw, while a peer behind a router still runs ipip.
#[test]
fn an_ipip_device_that_stays_still_sends() {
    let (plain, ipip) = (conf(V4, r#"{"Type":"host-gw"}"#), conf(V4, r#"{"Type":"ipip"}"#));
    let leases = [("10.5.2.0-24", lease("10.98.0.3", "ipip")), ("10.5.3.0-24", lease("10.99.0.3", "ipip"))];
    let wanted = want_with(&plain, "10.5.1.0-24", &leases, &[&ipip], &["flannel.ipip"]);
    let routes = steps(&wanted).into_iter().filter(|step| step.contains("route")).collect::<Vec<_>>();
    assert_eq!(
        routes,
        [
            "ip route prepend 10.5.2.0/24 via 10.98.0.3 dev flannel.ipip onlink proto 70",
            "ip route prepend 10.5.3.0/24 via 10.99.0.3 dev eth0 proto 70",
        ]
    );
    // what has to be encrypted goes by nothing else
    let wireguard = conf(V4, r#"{"Type":"wireguard"}"#);
    let wanted = want_with(&wireguard, "10.5.1.0-24", &leases[..1], &[&ipip], &[]);
    assert_eq!(ways(&wanted), ["10.5.2.0-24 unreachable: the peer runs another backend than wireguard"]);
}

#[test]
fn a_wireguard_device_has_what_the_configuration_says_and_no_peer_that_is_gone() {
    let backend = format!(r#"{{"Type":"wireguard","MTU":1400,"PSK":"{OTHER}"}}"#);
    let leases = [("10.5.2.0-24", wireguard("10.98.0.3", None, KEY, (4000, 0)))];
    let conf = conf(V4, &backend);
    let (before, now) = (want(&conf, "10.5.1.0-24", &leases), want(&conf, "10.5.1.0-24", &[]));
    let dev = IfName::new("flannel-wg").unwrap();
    assert_eq!((before.state.links[&dev].mtu, before.mtu), (Some(Mtu(1320)), Mtu(1320)));
    let psk = before.state.wireguard[&dev].peers.values().next().unwrap().preshared_key;
    assert_eq!(psk, OTHER.parse().ok());
    let steps: Vec<String> =
        diff(&now.state, &before.state, &now.scope).steps.iter().map(ToString::to_string).collect();
    assert_eq!(steps, [format!("wg set flannel-wg peer {KEY} remove")]);
}

#[test]
fn extension_leaves_everything_to_commands() {
    let text = |data: &str| format!(r#"{{"PublicIP":"10.98.0.3","PublicIPv6":null,"BackendType":"extension"{data}}}"#);
    let leases = [
        ("10.5.2.0-24", text(r#","BackendData":"mac 1\nmac 2""#)),
        ("10.5.3.0-24", text("").replace("98.0.3", "98.0.4")),
        ("10.5.4.0-24", lease("10.99.0.5", "host-gw")),
    ];
    let conf = conf(V4, r#"{"Type":"extension"}"#);
    let wanted = want(&conf, "10.5.1.0-24", &leases);
    assert_eq!(
        ways(&wanted),
        [
            "10.5.2.0-24 extension: the backend is extension",
            "10.5.3.0-24 extension: the backend is extension",
            "10.5.4.0-24 unreachable: the peer runs another backend than extension",
        ]
    );
    assert_eq!((steps(&wanted), wanted.mtu), (vec![], Mtu(1500)));
    assert_eq!(wanted.scope.routes.unwrap().adopt, Adopt::default(), "the commands' own routes");
    let peers = peers::check(&conf, &Own::default(), leases.iter().map(|(k, v)| (k, v))).good;
    let said: Vec<_> = peers.iter().map(|peer| peer.extension()).collect();
    assert_eq!(said, [Some("mac 1\nmac 2"), Some(""), None]);
}
