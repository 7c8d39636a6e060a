//! News contradicts the desired state exactly when a diff of the whole state finds a step.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{News, contradicts};
use crate::diff::diff;
use crate::diff::tests::{name, scope, state, take};
use crate::message::address::SeenAddress;
use crate::message::link::SeenLink;
use crate::state::{
    Address, AddressKey, Fdb, FdbKey, Link, LinkKind, NeighbourKey, Passing, Port, Route, RouteKey, RouteKind, Scope,
    State, Vlan, VlanKey,
};
use crate::types::{IfIndex, IfName, Mac, Mtu, RouteProtocol, TableId, VlanId, Vni};

/// A change to the kernel: its announcement, and the state after it.
type Change = (News, State);

fn port() -> IfName {
    name("veth1")
}

/// Adds what the generators of the diff do not have: a bridge port, sysctls, and routes by a link that is not ours.
fn with_more(mut state: State) -> State {
    let eth0 = name("eth0");
    let passing = Some(Passing::default());
    state.ports.insert(port(), Port { hairpin: true, isolated: false, passing });
    state.vlans.insert(VlanKey { dev: port(), id: VlanId::new(10).unwrap() }, Vlan { pvid: true, untagged: true });
    state.sysctls.insert("net/ipv4/ip_forward".into(), "1".into());
    if state.links.contains_key(&name("flannel.1")) {
        state.conf("ipv6", &name("flannel.1"), "accept_ra", "0");
    }
    let direct = Route { via: Some([192, 0, 2, 77].into()), protocol: RouteProtocol::FLANNEL, ..Route::by(&eth0) };
    state.routes.insert(RouteKey::main("10.5.77.0/24".parse().unwrap()), direct);
    state
}

fn wide() -> Scope {
    let sysctls = vec!["net/ipv4/ip_forward".into(), "net/ipv6/conf/flannel.1/accept_ra".into()];
    Scope { read_links: vec![name("eth0")], vlans: vec![port()], sysctls, ..scope() }
}

fn seen_link(name: &IfName, link: Link) -> Box<SeenLink> {
    Box::new(SeenLink {
        index: IfIndex(9),
        name: name.clone(),
        link,
        master: None,
        lower: None,
        lower_elsewhere: None,
        port: None,
        running: true,
        operstate: String::new(),
        queue: String::new(),
        ipv6: None,
    })
}

fn seen_address(key: &AddressKey, address: Address) -> SeenAddress {
    SeenAddress {
        key: key.clone(),
        address,
        tentative: false,
        dad_failed: false,
        permanent: true,
        secondary: false,
        deprecated: false,
        global: true,
    }
}

fn changed<T>(there: &State, news: News, change: impl FnOnce(&mut State) -> T) -> Change {
    let mut after = there.clone();
    let _ = change(&mut after);
    (news, after)
}

/// All objects on a link disappear with it.
fn drop_link(state: &mut State, name: &IfName) {
    state.links.remove(name);
    state.addresses.retain(|key, _| key.dev != *name);
    state.neighbours.retain(|key, _| key.dev != *name);
    state.fdb.retain(|key, _| key.dev != *name);
    state.vlans.retain(|key, _| key.dev != *name);
    state.ports.remove(name);
    drop_routes(state, name);
    state.sysctls.retain(|path, _| path.split('/').nth(3) != Some(name.as_str()));
}

fn drop_routes(state: &mut State, name: &IfName) {
    state.routes.retain(|_, route| route.dev.as_ref() != Some(name));
}

/// A link with one other field at a time, and unchanged.
fn other_links(link: &Link) -> Vec<Link> {
    let mut other_kind = link.clone();
    other_kind.kind = match &link.kind {
        LinkKind::Vxlan(vxlan) => LinkKind::Vxlan(crate::state::Vxlan { learning: !vxlan.learning, ..vxlan.clone() }),
        _ => LinkKind::Bridge(crate::state::Bridge::default()),
    };
    vec![
        link.clone(),
        Link { up: !link.up, ..link.clone() },
        Link { mtu: Some(Mtu(1234)), ..link.clone() },
        Link { mac: Some(Mac([2, 0, 0, 0, 0, 0x99])), ..link.clone() },
        Link { alias: Some("somebody's".into()), ..link.clone() },
        Link { master: Some(Some(name("br7"))), ..link.clone() },
        Link { promisc: Some(true), ..link.clone() },
        Link { kind: LinkKind::Other("dummy".into()), ..link.clone() },
        other_kind,
    ]
}

fn links(there: &State) -> Vec<Change> {
    let mut changes = Vec::new();
    for (name, link) in &there.links {
        for other in other_links(link) {
            let news = News::Link(name.clone(), Some(seen_link(name, other.clone())));
            changes.push(changed(there, news, |state| {
                // IPv4 routes disappear without an announcement.
                if !other.up {
                    drop_routes(state, name);
                }
                state.links.insert(name.clone(), other);
            }));
        }
        changes.push(changed(there, News::Link(name.clone(), None), |state| drop_link(state, name)));
    }
    for new in ["flannel.1", "flannel.2", "kube-ipvs0"].map(name).into_iter().filter(|n| !there.links.contains_key(n)) {
        let link = Link::up(LinkKind::Other("dummy".into()));
        let news = News::Link(new.clone(), Some(seen_link(&new, link.clone())));
        changes.push(changed(there, news, |state| state.links.insert(new.clone(), link)));
        changes.push((News::Link(new, None), there.clone()));
    }
    changes
}

fn addresses(there: &State) -> Vec<Change> {
    let mut changes = Vec::new();
    for key in there.addresses.keys() {
        let news = News::Address(key.clone(), None);
        changes.push(changed(there, news, |state| state.addresses.remove(key)));
    }
    for dev in ["flannel.1", "eth0", "kube-ipvs0"].map(name).into_iter().filter(|d| there.links.contains_key(d)) {
        for net in ["10.5.200.1/32", "fe80::7/64"] {
            let key = AddressKey { dev: dev.clone(), net: net.parse().unwrap() };
            let news = News::Address(key.clone(), Some(seen_address(&key, Address::default())));
            changes.push(changed(there, news, |state| state.addresses.insert(key, Address::default())));
        }
    }
    changes
}

fn elsewhere() -> Fdb {
    IpAddr::from([192, 0, 2, 99]).into()
}

/// A forwarding entry that is gone, and ones with one other field each.
fn other_ways() -> [Option<Fdb>; 6] {
    let to = Fdb::from(IpAddr::from([192, 0, 2, 1]));
    let others = [
        elsewhere(),
        Fdb { port: Some(9999), ..to },
        Fdb { vni: Vni::new(7).ok(), ..to },
        Fdb { via: Some(IfIndex(3)), ..to },
        Fdb { nexthop: Some(5), ..to },
    ];
    let [a, b, c, d, e] = others.map(Some);
    [None, a, b, c, d, e]
}

fn entries(there: &State) -> Vec<Change> {
    let mut changes = Vec::new();
    let mac = Mac([2, 0, 0, 0, 0, 0x99]);
    for key in there.neighbours.keys() {
        for other in [None, Some(mac)] {
            let news = News::Neighbour(key.clone(), other);
            changes.push(changed(there, news, |state| {
                state.neighbours.remove(key);
                state.neighbours.extend(other.map(|mac| (key.clone(), mac)));
            }));
        }
    }
    for key in there.fdb.keys() {
        for other in other_ways() {
            changes.push(changed(there, News::Fdb(key.clone(), other), |state| {
                state.fdb.remove(key);
                state.fdb.extend(other.map(|entry| (key.clone(), entry)));
            }));
        }
    }
    for dev in there.links.keys() {
        let key = NeighbourKey { dev: dev.clone(), addr: [10, 5, 200, 0].into() };
        let news = News::Neighbour(key.clone(), Some(mac));
        changes.push(changed(there, news, |state| state.neighbours.extend([(key.clone(), mac)])));
        changes.push((News::Neighbour(key, None), there.clone()));
        let (key, entry) = (FdbKey { dev: dev.clone(), mac: Mac([0; 6]) }, elsewhere());
        let news = News::Fdb(key.clone(), Some(entry));
        changes.push(changed(there, news, |state| state.fdb.extend([(key, entry)])));
    }
    changes
}

fn other_routes(route: &Route) -> Vec<Route> {
    vec![
        route.clone(),
        Route { kind: RouteKind::Blackhole, dev: None, via: None, ..route.clone() },
        Route { dev: Some(name("br7")), ..route.clone() },
        Route { via: Some([192, 0, 2, 98].into()), ..route.clone() },
        Route { onlink: !route.onlink, ..route.clone() },
        Route { scope: Some(200), ..route.clone() },
        Route { src: Some([192, 0, 2, 1].into()), ..route.clone() },
        Route { protocol: RouteProtocol::BOOT, ..route.clone() },
        Route { protocol: RouteProtocol(186), ..route.clone() },
        Route { mtu: Some(Mtu(1200)), ..route.clone() },
        Route { advmss: Some(1000), ..route.clone() },
    ]
}

fn routes(there: &State) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut put = |key: &RouteKey, route: Route| {
        let news = News::Route(key.clone(), Some(route.clone()));
        changes.push(changed(there, news, |state| state.routes.insert(key.clone(), route)));
    };
    for (key, route) in &there.routes {
        other_routes(route).into_iter().for_each(|other| put(key, other));
    }
    let via = Route { via: Some([192, 0, 2, 254].into()), ..Route::by(&name("eth0")) };
    // Inside the network, outside it, and in another table.
    for (dst, table) in [("10.5.200.0/24", 254), ("10.7.0.0/24", 254), ("10.5.200.0/24", 100)] {
        let key = RouteKey { table: TableId(table), ..RouteKey::main(dst.parse().unwrap()) };
        other_routes(&via).into_iter().for_each(|other| put(&key, other));
        put(&key, Route { protocol: RouteProtocol::FLANNEL, ..via.clone() });
    }
    for key in there.routes.keys() {
        // Another program's route after ours.
        let behind = RouteKey { ordinal: 1, ..key.clone() };
        put(&behind, Route { protocol: RouteProtocol(186), ..via.clone() });
    }
    for key in there.routes.keys() {
        let news = News::Route(key.clone(), None);
        changes.push(changed(there, news, |state| state.routes.remove(key)));
    }
    changes
}

fn ports(there: &State) -> Vec<Change> {
    let mut changes = Vec::new();
    let id = |id| VlanId::new(id).unwrap();
    for dev in [port(), name("veth2")] {
        let locked = Some(Passing { locked: true, ..Passing::default() });
        let hairpin = Port { hairpin: true, ..Port::default() };
        for flags in [None, Some(Port::default()), Some(hairpin), Some(Port { passing: locked, ..hairpin })] {
            changes.push(changed(there, News::Port(dev.clone(), flags), |state| {
                state.ports.remove(&dev);
                state.ports.extend(flags.map(|port| (dev.clone(), port)));
            }));
        }
        let (usual, tagged) = (Vlan { pvid: true, untagged: true }, Vlan::default());
        for vlans in [vec![], vec![(10, usual)], vec![(10, tagged)], vec![(10, usual), (20, tagged)]] {
            let news = News::Vlans(dev.clone(), vlans.iter().map(|(n, vlan)| (id(*n), *vlan)).collect());
            changes.push(changed(there, news, |state| {
                state.vlans.retain(|key, _| key.dev != dev);
                let key = |n| VlanKey { dev: dev.clone(), id: id(n) };
                state.vlans.extend(vlans.into_iter().map(|(n, vlan)| (key(n), vlan)));
            }));
        }
    }
    for path in ["net/ipv4/ip_forward", "net/ipv4/conf/eth0/forwarding", "net/ipv6/conf/flannel.1/accept_ra"] {
        for value in ["0", "1"] {
            let news = News::Sysctl(path.into(), value.into());
            changes.push(changed(there, news, |state| state.sysctls.insert(path.into(), value.into())));
        }
    }
    changes
}

proptest! {
    #[test]
    fn news_contradicts_when_a_diff_is_not_empty(desired in state(false), observed in state(true), keep: bool) {
        let desired = with_more(desired);
        let mut there = observed;
        diff(&desired, &there, &wide()).steps.iter().for_each(|step| take(&mut there, step));
        let scope = Scope { keep, ..wide() };
        prop_assert!(diff(&desired, &there, &scope).is_empty());
        for (news, after) in [links, addresses, entries, routes, ports].iter().flat_map(|all| all(&there)) {
            let plan = diff(&desired, &after, &scope);
            prop_assert_eq!(contradicts(&news, &desired, &scope), !plan.is_empty(), "{:?}\n{:#?}", news, plan);
        }
        prop_assert!(contradicts(&News::Unreadable(String::new()), &desired, &scope));
    }
}
