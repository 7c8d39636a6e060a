use std::collections::BTreeMap;

use cni::result::IpConfig;

use super::*;

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn answer(ips: &[(&str, &str)], routes: Vec<CniRoute>) -> AddResult {
    let ip = |(address, gateway): &(&str, &str)| IpConfig {
        interface: None,
        address: net(address),
        gateway: gateway.parse().ok(),
    };
    AddResult { ips: ips.iter().map(ip).collect(), routes, ..AddResult::default() }
}

const V4: (&str, &str) = ("10.5.1.7/24", "10.5.1.1");
const V6: (&str, &str) = ("fd05::7/64", "fd05::1");

fn of(result: &AddResult, dad: Dad) -> State {
    desired(&name("eth0"), veth_end(None, None), result, dad).unwrap()
}

/// The routes of a pod with one address per family.
fn routes(routes: Vec<CniRoute>) -> BTreeMap<RouteKey, Route> {
    of(&answer(&[("10.5.0.7/24", ""), V4, V6], routes), Dad::Off).routes
}

fn one(route: CniRoute) -> (RouteKey, Route) {
    routes(vec![route]).into_iter().next().unwrap()
}

#[test]
fn the_pods_end_carries_what_ipam_gave() {
    let link = veth_end(Some(kernel::types::Mac([2, 0, 0, 0, 0, 1])), Some(Mtu(1400)));
    assert_eq!((link.up, link.mac.is_some(), link.mtu), (true, true, Some(Mtu(1400))));
    let state = desired(&name("eth0"), link.clone(), &answer(&[V4, V6], vec![]), Dad::Off).unwrap();
    assert_eq!(state.links, [(name("eth0"), link)].into());
    let addresses: Vec<_> = state.addresses.iter().map(|(key, how)| (key.net, how.nodad)).collect();
    assert_eq!(addresses, [(net("10.5.1.7/24"), true), (net("fd05::7/64"), true)], "in use at once");
    let checked = of(&answer(&[V6], vec![]), Dad::On);
    assert!(checked.addresses.values().all(|how| !how.nodad), "only after its duplicate was looked for");
}

#[test]
fn an_ipv6_address_turns_ipv6_on_and_an_ipv4_address_leaves_it() {
    let sysctls = |ips: &[(&str, &str)], dad| {
        let state = of(&answer(ips, vec![]), dad);
        state.sysctls.iter().map(|(path, value)| format!("{path}={value}")).collect::<Vec<_>>()
    };
    assert_eq!(sysctls(&[V4], Dad::Off), ["net/ipv4/conf/eth0/arp_notify=1", "net/ipv6/conf/eth0/accept_dad=0"]);
    assert_eq!(
        sysctls(&[V4, V6], Dad::On),
        [
            "net/ipv4/conf/eth0/arp_notify=1",
            "net/ipv6/conf/eth0/accept_dad=1",
            "net/ipv6/conf/eth0/disable_ipv6=0",
            "net/ipv6/conf/eth0/enhanced_dad=1",
            "net/ipv6/conf/eth0/keep_addr_on_down=1",
            "net/ipv6/conf/lo/disable_ipv6=0",
        ]
    );
}

#[test]
fn a_route_without_a_gateway_takes_that_of_its_family() {
    let via = |route: CniRoute| one(route).1.via.map(|via| via.to_string()).unwrap_or_default();
    assert_eq!(via(CniRoute::to(net("0.0.0.0/0"))), "10.5.1.1", "the first address that has one");
    assert_eq!(via(CniRoute::to(net("::/0"))), "fd05::1");
    assert_eq!(via(CniRoute { gw: "10.5.1.9".parse().ok(), ..CniRoute::to(net("0.0.0.0/0")) }), "10.5.1.9");
    let none = of(&answer(&[("10.5.1.7/24", "")], vec![CniRoute::to(net("10.0.0.0/8"))]), Dad::Off);
    assert_eq!(none.routes.values().next().unwrap().via, None, "there is none");
}

#[test]
fn a_gateway_of_the_other_family_is_refused() {
    for (dst, gw) in [("0.0.0.0/0", "fd05::1"), ("::/0", "10.5.1.1")] {
        let route = CniRoute { gw: gw.parse().ok(), ..CniRoute::to(net(dst)) };
        let result = answer(&[V4, V6], vec![route]);
        let said = desired(&name("eth0"), veth_end(None, None), &result, Dad::Off).unwrap_err().to_string();
        assert!(said.contains(&format!("route {dst}: its gateway is of the other family")), "{said}");
    }
}

#[test]
fn what_a_route_does_not_say_is_left_to_the_kernel() {
    let (key, route) = one(CniRoute::to(net("10.7.0.9/16")));
    assert_eq!(key, RouteKey::main(net("10.7.0.0/16")), "without host bits");
    assert_eq!(route, Route { via: "10.5.1.1".parse().ok(), ..Route::by(&name("eth0")) });
    let full = CniRoute {
        mtu: 1400,
        advmss: 1360,
        priority: 7,
        table: Some(100),
        scope: Some(200),
        ..CniRoute::to(net("10.7.0.0/16"))
    };
    let (key, route) = one(full);
    assert_eq!((key.table, key.metric), (TableId(100), Some(7)));
    assert_eq!((route.mtu, route.advmss, route.scope), (Some(Mtu(1400)), Some(1360), Some(200)));
    assert_eq!(one(CniRoute { table: Some(0), ..CniRoute::to(net("10.7.0.0/16")) }).0.table, TableId::MAIN);
}

/// A route that spells out default values is the same route, so CHECK finds it.
#[test]
fn what_is_so_anyhow_is_not_said() {
    let metric = |dst: &str, priority| one(CniRoute { priority, ..CniRoute::to(net(dst)) }).0.metric;
    assert_eq!(metric("fd07::/64", 1024), None, "IPv6's default");
    assert_eq!(metric("10.7.0.0/16", 1024), Some(1024));
    assert_eq!(metric("fd07::/64", 7), Some(7));
    let scope = |scope, ips: &[(&str, &str)]| {
        let route = CniRoute { scope: Some(scope), ..CniRoute::to(net("10.7.0.0/16")) };
        of(&answer(ips, vec![route]), Dad::Off).routes.into_values().next().unwrap().scope
    };
    assert_eq!((scope(0, &[V4]), scope(253, &[V4])), (None, Some(253)), "universe, with a gateway");
    let bare = [("10.5.1.7/24", "")];
    assert_eq!((scope(0, &bare), scope(253, &bare)), (Some(0), None), "link, without");
}

#[test]
fn routes_to_one_prefix_are_told_apart_and_one_said_twice_is_one() {
    let by = |gw: &str| CniRoute { gw: gw.parse().ok(), ..CniRoute::to(net("10.7.0.0/16")) };
    let all = routes(vec![by("10.5.1.2"), by("10.5.1.3"), by("10.5.1.2"), by("10.5.1.4"), by("10.5.1.3")]);
    let found: Vec<_> = all.iter().map(|(key, route)| (key.ordinal, route.via.unwrap().to_string())).collect();
    assert_eq!(found, [(0, "10.5.1.2".into()), (1, "10.5.1.3".into()), (2, "10.5.1.4".into())]);
}

#[test]
fn what_is_ours_in_the_pod_is_the_interface_and_what_is_by_it() {
    let elsewhere = CniRoute { table: Some(100), ..CniRoute::to(net("10.7.0.0/16")) };
    let lower = CniRoute { table: Some(7), ..CniRoute::to(net("10.8.0.0/16")) };
    let state = of(&answer(&[V4], vec![elsewhere.clone(), lower, elsewhere, CniRoute::to(net("0.0.0.0/0"))]), Dad::Off);
    let parts = by_table(&name("eth0"), &state);
    let tables = |parts: &[(State, Scope)]| -> Vec<TableId> {
        parts.iter().map(|(_, scope)| scope.routes.as_ref().unwrap().table).collect()
    };
    assert_eq!(tables(&parts), [TableId(7), TableId(100), TableId::MAIN]);
    assert_eq!(tables(&by_table(&name("eth0"), &State::default())), [TableId::MAIN], "always");
    let (_, ours) = &parts[2];
    assert_eq!((&ours.links[..], &ours.addresses[..]), (&[name("eth0")][..], &[name("eth0")][..]));
    assert_eq!(ours.routes.as_ref().unwrap().dev, Some(name("eth0")));
    assert_eq!(ours.sysctls, state.sysctls.keys().cloned().collect::<Vec<_>>());
    let routes: Vec<usize> = parts.iter().map(|(state, _)| state.routes.len()).collect();
    assert_eq!((routes, parts[0].0.links.len(), parts[2].0.links.len()), (vec![1, 1, 1], 0, 1), "the rest once");
}

#[test]
fn what_others_may_change_is_not_checked() {
    let mut state =
        of(&answer(&[V4], vec![CniRoute::to(net("0.0.0.0/0")), CniRoute::to(net("10.7.0.0/16"))]), Dad::Off);
    state.links.get_mut(&name("eth0")).unwrap().mtu = Some(Mtu(1400));
    leave_to_others(&mut state);
    assert_eq!((state.sysctls.len(), state.links[&name("eth0")].mtu, state.addresses.len()), (0, None, 1));
    assert_eq!(state.routes.keys().map(|key| key.dst).collect::<Vec<_>>(), [net("10.7.0.0/16")]);
}

#[test]
fn an_unspecified_gateway_is_none() {
    for (dst, gw) in [("10.7.0.0/16", "0.0.0.0"), ("fd07::/64", "::")] {
        let route = CniRoute { gw: gw.parse().ok(), ..CniRoute::to(net(dst)) };
        let state = of(&answer(&[V4, V6], vec![route]), Dad::Off);
        assert_eq!(state.routes.into_values().next().unwrap().via, None, "{dst}");
    }
}

#[test]
fn a_default_route_goes_to_all_addresses() {
    assert!(is_default(net("0.0.0.0/0")) && is_default(net("::/0")));
    assert!(!is_default(net("0.0.0.0/1")) && !is_default(net("10.0.0.0/8")) && !is_default(net("::/128")));
}

/// `count` routes to `dst`, each with a different gateway.
fn many(dst: &str, count: u16) -> Result<State, Error> {
    let dst: IpNetwork = dst.parse().unwrap();
    let gateway = |n: u16| match dst {
        IpNetwork::V4(_) => std::net::IpAddr::from([10, 9, n.to_be_bytes()[0], n.to_be_bytes()[1]]),
        IpNetwork::V6(_) => std::net::IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 0, n]),
    };
    let routes = (0..count).map(|n| CniRoute { gw: Some(gateway(n + 1)), ..CniRoute::to(dst) }).collect();
    let dev = IfName::new("eth0").unwrap();
    desired(&dev, veth_end(None, None), &AddResult { routes, ..AddResult::default() }, Dad::Off)
}

#[test]
fn so_many_routes_to_one_destination_and_no_more() {
    for dst in ["0.0.0.0/0", "192.0.2.0/24", "fd00:1::/64"] {
        assert_eq!(many(dst, 256).unwrap().routes.len(), 256, "{dst}");
        for count in [257, 1000] {
            let error = many(dst, count).unwrap_err();
            assert!(error.code == 7 && error.msg.contains(dst) && error.msg.contains("256"), "{count}: {error:?}");
        }
    }
}

#[test]
fn a_route_that_is_given_often_is_one() {
    let dst: IpNetwork = "192.0.2.0/24".parse().unwrap();
    let result = AddResult { routes: vec![CniRoute::to(dst); 1000], ..AddResult::default() };
    let dev = IfName::new("eth0").unwrap();
    assert_eq!(desired(&dev, veth_end(None, None), &result, Dad::Off).unwrap().routes.len(), 1);
}
