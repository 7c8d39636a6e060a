use kernel::state::{Address, AddressKey, Link};
use kernel::types::RouteProtocol;

use super::*;

fn link(index: u32, name: &str) -> SeenLink {
    let mut link = Link::up(LinkKind::Other(String::new()));
    link.mtu = Some(Mtu(1500));
    SeenLink {
        index: IfIndex(index),
        name: IfName::new(name).unwrap(),
        link,
        master: None,
        lower: None,
        lower_elsewhere: None,
        port: None,
        running: true,
        operstate: "Up".into(),
        queue: String::new(),
        ipv6: None,
    }
}

fn address(dev: &str, net: &str) -> SeenAddress {
    SeenAddress {
        key: AddressKey { dev: IfName::new(dev).unwrap(), net: net.parse().unwrap() },
        address: Address::default(),
        tentative: false,
        dad_failed: false,
        permanent: true,
        secondary: false,
        deprecated: false,
        global: true,
    }
}

fn route(dst: &str, dev: &str, via: Option<&str>, metric: Option<u32>) -> (RouteKey, Route) {
    let mut route = Route::by(&IfName::new(dev).unwrap());
    route.via = via.map(|via| via.parse().unwrap());
    route.protocol = RouteProtocol::KERNEL;
    (RouteKey { metric, ..RouteKey::main(dst.parse().unwrap()) }, route)
}

/// Two interfaces; the second has the better default route, and addresses of every sort.
fn survey() -> Survey {
    let mut temporary = address("eth1", "2001:db8::aaaa/64");
    temporary.permanent = false;
    temporary.secondary = true;
    let mut deprecated = address("eth1", "2001:db8::dead/64");
    deprecated.deprecated = true;
    let mut tentative = address("eth1", "2001:db8::1/64");
    tentative.tentative = true;
    Survey {
        links: vec![
            SeenLink { link: Link::up(LinkKind::Loopback), ..link(1, "lo") },
            link(2, "eth0"),
            link(3, "eth1"),
            link(4, "dark0"),
        ],
        addresses: vec![
            address("lo", "127.0.0.1/8"),
            address("eth0", "192.0.2.10/24"),
            address("eth1", "169.254.7.7/16"),
            address("eth1", "198.51.100.20/24"),
            address("eth1", "198.51.100.21/24"),
            address("eth1", "fe80::1/64"),
            temporary,
            deprecated,
            tentative,
            address("eth1", "2001:db8::20/64"),
        ],
        routes: vec![
            route("0.0.0.0/0", "eth0", Some("192.0.2.1"), Some(200)),
            route("0.0.0.0/0", "eth1", Some("198.51.100.1"), Some(100)),
            route("192.0.2.0/24", "eth0", None, None),
            route("198.51.100.0/24", "eth1", None, None),
            route("203.0.113.0/24", "eth1", Some("198.51.100.1"), None),
            route("fe80::/64", "eth1", None, Some(256)),
            route("2001:db8::/64", "eth1", None, Some(256)),
            route("::/0", "eth1", Some("fe80::99"), None),
        ],
        ..<Survey as Default>::default()
    }
}

const V4: &[Family] = &[Family::V4];
const V6: &[Family] = &[Family::V6];
const DUAL: &[Family] = &Family::ALL;

fn iface(names: &[&str]) -> Select {
    Select { iface: names.iter().map(|n| n.to_string()).collect(), ..Select::default() }
}

fn regex(patterns: &[&str]) -> Select {
    Select { iface_regex: patterns.iter().map(|n| n.to_string()).collect(), ..Select::default() }
}

fn public(v4: Option<&str>, v6: Option<&str>) -> Select {
    Select {
        public_ip: v4.map(|a| a.parse().unwrap()),
        public_ipv6: v6.map(|a| a.parse().unwrap()),
        ..Select::default()
    }
}

/// The choice at the start.
fn first(select: &Select, families: &[Family], survey: &Survey) -> Result<Found, UnderlayError> {
    let (found, missing) = choose(select, families, survey, None)?;
    assert_eq!(missing, []);
    Ok(found)
}

fn text(addresses: &ByFamily<Option<IpAddr>>) -> String {
    let list = Family::ALL.into_iter().filter_map(|family| *addresses.get(family));
    list.map(|addr| addr.to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn choices() {
    let nat = Select { public_ip: Some("203.0.113.9".parse().unwrap()), ..iface(&["eth0"]) };
    for (select, families, dev, addresses, published) in [
        (Select::default(), V4, "eth1", "198.51.100.20", "198.51.100.20"),
        (Select::default(), V6, "eth1", "2001:db8::20", "2001:db8::20"),
        (Select::default(), DUAL, "eth1", "198.51.100.20 2001:db8::20", "198.51.100.20 2001:db8::20"),
        (iface(&["eth0"]), V4, "eth0", "192.0.2.10", "192.0.2.10"),
        (iface(&["none", "eth0", "eth1"]), V4, "eth0", "192.0.2.10", "192.0.2.10"),
        (iface(&["198.51.100.21"]), V4, "eth1", "198.51.100.21", "198.51.100.21"),
        (iface(&["198.51.100.21"]), DUAL, "eth1", "198.51.100.21 2001:db8::20", "198.51.100.21 2001:db8::20"),
        (iface(&["2001:db8::aaaa"]), DUAL, "eth1", "198.51.100.20 2001:db8::aaaa", "198.51.100.20 2001:db8::aaaa"),
        (regex(&["^eth0$"]), V4, "eth0", "192.0.2.10", "192.0.2.10"),
        (regex(&["^192\\.0\\.", "eth1"]), V4, "eth0", "192.0.2.10", "192.0.2.10"),
        (regex(&["\\.21$"]), V4, "eth1", "198.51.100.21", "198.51.100.21"),
        (regex(&["\\.21$|::aaaa$"]), DUAL, "eth1", "198.51.100.21 2001:db8::aaaa", "198.51.100.21 2001:db8::aaaa"),
        (public(Some("192.0.2.10"), None), V4, "eth0", "192.0.2.10", "192.0.2.10"),
        (public(None, Some("2001:db8::20")), V6, "eth1", "2001:db8::20", "2001:db8::20"),
        (nat, V4, "eth0", "192.0.2.10", "203.0.113.9"),
    ] {
        let chosen = first(&select, families, &survey()).unwrap_or_else(|e| panic!("{select:?}: {e}"));
        assert_eq!(chosen.underlay.dev.as_str(), dev, "{select:?}");
        assert_eq!(text(&chosen.underlay.addresses), addresses, "{select:?} {families:?}");
        assert_eq!(text(&chosen.public), published, "{select:?}");
        assert_eq!((chosen.underlay.mtu, chosen.carries), (Mtu(1500), Ok(())));
    }
}

#[test]
fn what_cannot_be_says_why() {
    let empty = Survey { routes: vec![], ..survey() };
    let mut no_mtu = survey();
    no_mtu.links[2].link.mtu = Some(Mtu(0));
    for (select, families, survey, said) in [
        (
            iface(&["eth9"]),
            V4,
            survey(),
            "Failed to find interface to use that matches the interfaces and/or regexes provided; there are: \
             eth0 (192.0.2.10), eth1 (169.254.7.7",
        ),
        (regex(&["^wlan"]), V4, survey(), "Failed to find interface to use"),
        (public(Some("203.0.113.9"), None), V4, survey(), "--public-ip 203.0.113.9 is not an address of this host"),
        (Select::default(), V4, empty.clone(), "unable to find default route"),
        (Select::default(), V6, empty, "unable to find default v6 route"),
        (iface(&["eth0"]), DUAL, survey(), "eth0 has no usable IPv6 address"),
        (iface(&["dark0"]), V4, survey(), "dark0 has no usable IPv4 address"),
        (Select::default(), V4, no_mtu, "failed to determine MTU for eth1 interface"),
    ] {
        let error = first(&select, families, &survey).unwrap_err().to_string();
        assert!(error.starts_with(said), "{error}");
    }
}

#[test]
fn the_metric_decides_and_is_named() {
    let why = first(&Select::default(), V4, &survey()).unwrap().why;
    assert!(why.contains("lowest metric") && why.contains("100"), "{why}");
    let mut one = survey();
    one.routes.remove(0);
    assert_eq!(first(&Select::default(), V4, &one).unwrap().why, "it has the default route");
    let mut equal = survey();
    equal.routes[1].0.metric = Some(200);
    assert_eq!(first(&Select::default(), V4, &equal).unwrap().underlay.dev.as_str(), "eth0", "the first of equals");
}

#[test]
fn reach_takes_the_kernels_word() {
    let mut seen = survey();
    let mut answer = Route::by(&IfName::new("eth1").unwrap());
    answer.src = "198.51.100.21".parse().ok();
    seen.reach = Some(answer);
    let select = Select { can_reach: "203.0.113.1".parse().ok(), ..iface(&["eth9"]) };
    let chosen = first(&select, DUAL, &seen).unwrap();
    assert_eq!(text(&chosen.underlay.addresses), "198.51.100.21 2001:db8::20");
}

#[test]
fn link_local_is_better_than_nothing_and_connected_is_what_no_router_is_between() {
    let mut seen = survey();
    seen.addresses.retain(|a| a.key.net.prefix() == 16);
    assert_eq!(text(&first(&Select::default(), V4, &seen).unwrap().underlay.addresses), "169.254.7.7");
    let connected = first(&iface(&["eth1"]), V4, &survey()).unwrap().underlay.connected;
    let connected: Vec<_> = connected.iter().map(ToString::to_string).collect();
    assert_eq!(connected, ["198.51.100.0/24", "2001:db8::/64"]);
}

#[test]
fn a_link_that_carries_nothing_says_why() {
    let mut seen = survey();
    seen.links[1].running = false;
    let carries = |seen: &Survey| first(&iface(&["eth0"]), V4, seen).unwrap().carries.map_err(|down| down.to_string());
    assert_eq!(carries(&seen), Err("eth0 has no carrier: ip link show eth0".into()));
    seen.links[1].link.up = false;
    assert_eq!(carries(&seen), Err("eth0 is down: ip link set eth0 up".into()));
    let mut seen = survey();
    seen.links[1].link.arp = Some(false);
    assert_eq!(carries(&seen), Ok(()), "a kind whose frames need no neighbour");
    seen.links[1].link = Link { mac: Some(Mac([2; 6])), ..seen.links[1].link.clone() };
    seen.links[1].link.kind = LinkKind::Other(String::new());
    assert_eq!(carries(&seen), Err("eth0 resolves no neighbours: ip link set eth0 arp on".into()));
    let mut seen = survey();
    seen.links[1].master = Some(4);
    assert_eq!(carries(&seen), Ok(()), "a port of a link that takes nothing");
    seen.links[3].link.kind = LinkKind::Bridge(kernel::state::Bridge::default());
    let port = "eth0 is a port of dark0, which takes what eth0 receives: ip link set eth0 nomaster, or --iface dark0";
    assert_eq!(carries(&seen), Err(port.into()));
    let mut seen = survey();
    seen.unheard.insert("198.51.100.20".parse().unwrap());
    assert_eq!(carries(&seen), Ok(()), "another link's address");
    seen.unheard.insert("192.0.2.10".parse().unwrap());
    assert!(carries(&seen).unwrap_err().ends_with("ip route add local 192.0.2.10 dev eth0 table local"));
}

#[test]
fn a_family_that_is_missing_keeps_its_address() {
    let whole = survey();
    let before = first(&iface(&["eth1"]), DUAL, &whole).unwrap();
    let without = |gone: &dyn Fn(IpAddr) -> bool| {
        let mut survey = whole.clone();
        survey.addresses.retain(|seen| !gone(seen.key.net.ip()));
        survey
    };
    let global_v6 = |ip: IpAddr| ip.is_ipv6() && !survey::is_link_local(ip);
    let none = |family| UnderlayError::NoAddress { dev: IfName::new("eth1").unwrap(), family };
    for (gone, what) in
        [(without(&|ip| ip.is_ipv6()), "no IPv6 address"), (without(&global_v6), "a link-local one is no other")]
    {
        let (kept, missing) = choose(&iface(&["eth1"]), DUAL, &gone, Some(&before)).unwrap();
        assert_eq!((&kept, missing), (&before, vec![none(Family::V6)]), "{what}");
        assert_eq!(choose(&iface(&["eth1"]), V6, &gone, Some(&before)), Err(none(Family::V6)), "{what}, and no other");
    }
    let renumbered = without(&|ip| ip.to_string() == "198.51.100.20");
    let (found, missing) = choose(&iface(&["eth1"]), DUAL, &renumbered, Some(&before)).unwrap();
    assert_eq!((text(&found.underlay.addresses), missing), ("198.51.100.21 2001:db8::20".to_owned(), vec![]));
    // at the start, and on another link, nothing is kept
    let start = first(&iface(&["eth1"]), DUAL, &without(&global_v6)).unwrap();
    assert_eq!(text(&start.underlay.addresses), "198.51.100.20 fe80::1");
    assert_eq!(first(&iface(&["eth1"]), DUAL, &without(&|ip| ip.is_ipv6())), Err(none(Family::V6)));
    let elsewhere =
        Found { underlay: Underlay { dev: IfName::new("eth0").unwrap(), ..before.underlay.clone() }, ..before };
    let moved = choose(&iface(&["eth1"]), DUAL, &without(&|ip| ip.is_ipv6()), Some(&elsewhere));
    assert_eq!(moved, Err(none(Family::V6)));
}
