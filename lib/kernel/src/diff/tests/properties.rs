//! Properties of the diff between any two states, for any scope. The result is judged directly, not by another diff.

mod hosts;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use proptest::prelude::*;

use crate::diff::{Conflict, Plan, Step, diff, twins};
use crate::state::{Filter, FilterAction, LinkKind, Qdisc, Route, RouteKey, Scope, Selects, State, WireguardPeer};
use crate::types::{IfName, RouteProtocol, TableId};
use hosts::{host, scope};
use world::{as_listed, fits, strip, take};

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn after(observed: &State, plan: &Plan) -> State {
    let mut world = observed.clone();
    plan.steps.iter().for_each(|step| take(&mut world, step));
    world
}

/// The expected fate of the links.
struct Fate {
    /// Another object has the name, so nothing is done.
    blocked: BTreeSet<IfName>,
    /// It is ours, and cannot be changed into the desired link.
    remade: BTreeSet<IfName>,
    /// It is ours, and not desired.
    dead: BTreeSet<IfName>,
}

/// Whether an existing link can be changed into the desired one without being deleted first.
fn can_become(want: &LinkKind, have: &LinkKind) -> bool {
    match (want, have) {
        (LinkKind::Vxlan(w), LinkKind::Vxlan(h)) => {
            let other_family = w.local.is_some_and(|w| h.local.is_none_or(|h| w.is_ipv4() != h.is_ipv4()));
            (w.vni, w.port, w.gbp) == (h.vni, h.port, h.gbp) && !other_family
        }
        (LinkKind::Ipip(w), LinkKind::Ipip(h)) => w.remote == h.remote,
        // The generator makes no device that owns its parent.
        (LinkKind::Macvlan(w), LinkKind::Macvlan(h)) => w.lower == h.lower,
        (LinkKind::TunTap(_), _) => want == have,
        _ => want.word() == have.word(),
    }
}

fn fate(desired: &State, observed: &State, scope: &Scope) -> Fate {
    let mut fate = Fate { blocked: BTreeSet::new(), remade: BTreeSet::new(), dead: BTreeSet::new() };
    for (name, have) in &observed.links {
        let ours = scope.links.contains(name);
        match desired.links.get(name) {
            Some(want) if can_become(&want.kind, &have.kind) => {}
            Some(want) if ours && want.kind.word() == have.kind.word() => drop(fate.remade.insert(name.clone())),
            Some(_) => drop(fate.blocked.insert(name.clone())),
            None if ours && !scope.keep => drop(fate.dead.insert(name.clone())),
            None => {}
        }
    }
    fate
}

/// For one kind of object: desired objects exist, others of ours do not, and everything else is unchanged.
fn judge<K: Ord + Debug, V: PartialEq + Debug>(
    [desired, observed, world]: [&BTreeMap<K, V>; 3],
    fits: impl Fn(&V, &V) -> bool,
    ours: impl Fn(&K, &V) -> bool,
) {
    for (key, want) in desired {
        let have = world.get(key).unwrap_or_else(|| panic!("{key:?} is wanted and not there"));
        assert!(fits(want, have), "{key:?}: wanted {want:?}, there is {have:?}");
    }
    for (key, before) in observed.iter().filter(|(key, _)| !desired.contains_key(key)) {
        match (world.get(key), ours(key, before)) {
            (Some(_), true) => panic!("{key:?} is ours, not wanted, and still there"),
            (None, false) => panic!("{key:?} is not ours, and gone"),
            (now, _) => assert!(now.is_none_or(|now| now == before), "{key:?} is not ours, and changed: {now:?}"),
        }
    }
    for key in world.keys() {
        assert!(desired.contains_key(key) || observed.contains_key(key), "{key:?} came from nowhere");
    }
}

fn route_fits(want: &Route, have: &Route) -> bool {
    let filled =
        Route { dev: want.dev.clone().or_else(|| have.dev.clone()), src: want.src.or(have.src), ..want.clone() };
    filled == *have
}

fn route_is_ours(scope: &Scope, key: &RouteKey, route: &Route) -> bool {
    let Some(ours) = scope.routes.as_ref().filter(|ours| ours.table == key.table) else { return false };
    let inside = |net: &ipnetwork::IpNetwork| match (*net, key.dst) {
        (ipnetwork::IpNetwork::V4(net), ipnetwork::IpNetwork::V4(dst)) => dst.is_subnet_of(net) && dst != net,
        (ipnetwork::IpNetwork::V6(net), ipnetwork::IpNetwork::V6(dst)) => dst.is_subnet_of(net) && dst != net,
        _ => false,
    };
    match route.protocol {
        RouteProtocol::KERNEL => false,
        protocol if ours.protocol == Some(protocol) => true,
        _ if ours.dev.is_some() && ours.dev == route.dev => true,
        RouteProtocol::BOOT => {
            let leased = ours.adopt.gateways.iter().any(|(dst, via)| *dst == key.dst && Some(*via) == route.via);
            leased || (by_ours(scope, route) && ours.adopt.within.iter().any(inside))
        }
        _ => false,
    }
}

fn by_ours(scope: &Scope, route: &Route) -> bool {
    route.dev.as_ref().is_some_and(|dev| scope.links.contains(dev))
}

fn may_be_replaced(scope: &Scope, key: &RouteKey, route: &Route) -> bool {
    route_is_ours(scope, key, route) || by_ours(scope, route)
}

/// Where other programs have routes to the same destinations, ours come first, and theirs are unchanged.
fn routes_among_others(
    [desired, observed, world]: [&State; 3],
    scope: &Scope,
    blocked: impl Fn(&Route) -> bool,
    found: impl Fn(&RouteKey) -> Option<Route>,
) {
    let may_be_replaced =
        |scope: &Scope, key: &RouteKey, route: &Route| !blocked(route) && may_be_replaced(scope, key, route);
    let keys: BTreeSet<_> = [desired, observed, world].iter().flat_map(|state| state.routes.keys()).collect();
    for key in keys.into_iter().filter(|key| key.ordinal == 0) {
        let all = |state: &State| twins(key, state).map(|(_, route)| route.clone()).collect::<Vec<_>>();
        let (before, now, want) = (all(observed), all(world), desired.routes.get(key));
        let theirs = |routes: &[Route]| -> Vec<Route> {
            let theirs = |route: &&Route| !may_be_replaced(scope, key, route);
            routes.iter().filter(theirs).cloned().collect()
        };
        assert_eq!(theirs(&before), theirs(&now), "{key:?}");
        let first = found(key);
        let refused = key.dst.is_ipv6() && first.is_some_and(|first| !may_be_replaced(scope, key, &first));
        match want {
            Some(want) if refused => assert_eq!(before.first(), now.first(), "{key:?}: wanted {want:?}"),
            Some(want) => assert!(now.first().is_some_and(|now| route_fits(want, now)), "{key:?}: {want:?}: {now:?}"),
            None => {}
        }
        let unwanted = now.iter().skip(usize::from(want.is_some()));
        let left = unwanted.filter(|route| !scope.keep && !blocked(route) && route_is_ours(scope, key, route));
        assert_eq!(left.count(), 0, "{key:?}: {now:?}");
    }
}

fn peer_fits(want: &WireguardPeer, have: &WireguardPeer) -> bool {
    let endpoint = want.endpoint.or(have.endpoint);
    WireguardPeer { endpoint, live: have.live, ..want.clone() } == *have
}

fn same<T: PartialEq>(want: &T, have: &T) -> bool {
    want == have
}

/// Whether other programs may have routes to the same destinations.
fn among_others(scope: &Scope) -> bool {
    scope.routes.as_ref().is_some_and(|routes| routes.protocol.is_some())
}

/// The world is what the diff promises.
fn settled(desired: &State, observed: &State, world: &State, scope: &Scope) {
    let fate = fate(desired, observed, scope);
    let (mut want, mut before) = (desired.clone(), observed.clone());
    for dev in &fate.blocked {
        want.links.remove(dev);
        strip(&mut want, dev);
    }
    fate.remade.iter().chain(&fate.dead).for_each(|dev| strip(&mut before, dev));
    let mine = |list: &[IfName], dev: &IfName| !scope.keep && list.contains(dev) && !fate.blocked.contains(dev);
    judge([&want.links, &before.links, &world.links], fits, |name, _| fate.dead.contains(name));
    judge([&want.ports, &before.ports, &world.ports], same, |_, _| false);
    judge([&want.vlans, &before.vlans, &world.vlans], same, |key, _| mine(&scope.vlans, &key.dev));
    judge([&want.sysctls, &before.sysctls, &world.sysctls], same, |_, _| false);
    let link_local = |net| matches!(net, ipnetwork::IpNetwork::V6(v6) if v6.ip().segments()[0] == 0xfe80);
    let address = |key: &crate::state::AddressKey| mine(&scope.addresses, &key.dev) && !link_local(key.net);
    judge([&want.addresses, &before.addresses, &world.addresses], |_, _| true, |key, _| address(key));
    judge([&want.neighbours, &before.neighbours, &world.neighbours], same, |key, _| mine(&scope.neighbours, &key.dev));
    judge([&want.fdb, &before.fdb, &world.fdb], same, |key, _| mine(&scope.neighbours, &key.dev));
    let blocked = |route: &Route| route.dev.as_ref().is_some_and(|dev| fate.blocked.contains(dev));
    if among_others(scope) {
        // A route by a link that is deleted at the end exists until then.
        let mut found = observed.clone();
        fate.remade.iter().for_each(|dev| strip(&mut found, dev));
        let first = |key: &RouteKey| twins(key, &found).next().map(|(_, route)| route.clone());
        routes_among_others([&want, &before, world], scope, blocked, first);
    } else {
        judge([&want.routes, &before.routes, &world.routes], route_fits, |key, route| {
            !scope.keep && !blocked(route) && route_is_ours(scope, key, route)
        });
    }
    queues_are_settled([&want, &before, world], scope, |dev| mine(&scope.queues, dev));
    for (dev, device) in &world.wireguard {
        let (want, before) = (want.wireguard.get(dev).cloned(), before.wireguard.get(dev).cloned());
        let (wanted, known) = (want.clone().unwrap_or_default(), before.clone().unwrap_or_default());
        judge([&wanted.peers, &stolen(&wanted.peers, known.peers), &device.peers], peer_fits, |_, _| {
            mine(&scope.wireguard, dev)
        });
        assert_eq!(device.private_key, wanted.private_key.or(known.private_key));
        assert_eq!(device.listen_port, wanted.listen_port.or(known.listen_port));
    }
    assert!(want.wireguard.keys().all(|dev| world.wireguard.contains_key(dev)));
}

/// What another program has in a place of ours stays there.
fn queues_are_settled([want, before, world]: [&State; 3], scope: &Scope, mine: impl Fn(&IfName) -> bool) {
    let our_filter = |filter: &Filter| match &filter.action {
        FilterAction::Redirect(Some(to)) => scope.links.contains(to),
        FilterAction::Redirect(None) => true,
        FilterAction::Pass => matches!(filter.selects, Selects::To(_)),
        FilterAction::Other => false,
    };
    let in_the_way = |want: &Qdisc, have: &Qdisc| want.word() != have.word() && !want.agrees(have);
    let mut want = want.clone();
    // a filter to a link that is something else is not made
    want.filters.retain(|_, filter| filter.action != FilterAction::Redirect(None));
    want.qdiscs.retain(|key, want| !before.qdiscs.get(key).is_some_and(|have| in_the_way(want, have)));
    want.filters.retain(|key, want| before.filters.get(key).is_none_or(|have| have == want || our_filter(have)));
    let free = |dev: &IfName| {
        let wanted = want.filters.keys().any(|key| key.dev == *dev);
        let foreign = before.filters.iter().any(|(key, filter)| key.dev == *dev && !our_filter(filter));
        !wanted && !foreign
    };
    judge([&want.qdiscs, &before.qdiscs, &world.qdiscs], Qdisc::agrees, |key, have| {
        mine(&key.dev) && (matches!(have, Qdisc::Tbf(_)) || (*have == Qdisc::Ingress && free(&key.dev)))
    });
    judge([&want.filters, &before.filters, &world.filters], same, |key, have| mine(&key.dev) && our_filter(have));
}

type WireguardPeers = BTreeMap<crate::state::PublicKey, WireguardPeer>;

/// A prefix belongs to one peer: desired peers have lost none, others may have.
fn stolen(wanted: &WireguardPeers, mut before: WireguardPeers) -> WireguardPeers {
    for (key, peer) in &mut before {
        let others = wanted.iter().filter(|(other, _)| *other != key);
        let taken: BTreeSet<_> = others.flat_map(|(_, other)| &other.allowed_ips).collect();
        peer.allowed_ips.retain(|net| !taken.contains(net));
    }
    before
}

/// The link that a removing step is about.
fn taken_from(step: &Step) -> Option<&IfName> {
    match step {
        Step::DeleteVlan(key) => Some(&key.dev),
        Step::DeleteQdisc(key) => Some(&key.dev),
        Step::DeleteFilter(key) => Some(&key.dev),
        Step::DeleteNeighbour(key) => Some(&key.dev),
        Step::DeleteFdb(key) => Some(&key.dev),
        Step::DeleteAddress(key) => Some(&key.dev),
        Step::DeleteWireguardPeer(name, _) => Some(name),
        _ => None,
    }
}

/// Each conflict names what exists and what is desired.
fn conflicts_are_named(desired: &State, observed: &State, scope: &Scope, plan: &Plan) {
    let mut blocked = BTreeSet::new();
    for conflict in &plan.conflicts {
        match conflict {
            Conflict::Link { name, wanted, found } => {
                assert_eq!((wanted, found), (&desired.links[name].kind, &observed.links[name].kind));
                blocked.insert(name.clone());
            }
            Conflict::Route { key, wanted, found } => {
                assert!(key.dst.is_ipv6(), "{conflict}");
                assert_eq!(**wanted, desired.routes[key]);
                assert!(twins(key, observed).any(|(_, route)| *route == **found), "{conflict}");
            }
            Conflict::Qdisc { key, wanted, found } => {
                let words = [desired, observed].map(|state| state.qdiscs[key].word());
                assert_eq!([wanted.as_str(), found.as_str()], words);
                assert_ne!(wanted, found);
            }
            Conflict::Filter { key } => assert_ne!(desired.filters[key], observed.filters[key]),
            other => panic!("{other}"),
        }
    }
    assert_eq!(blocked, fate(desired, observed, scope).blocked);
}

fn is_replaced((step, next): (&Step, &Step)) -> bool {
    match (step, next) {
        (Step::DeleteFdb(gone), Step::PutFdb(new, _)) => gone == new,
        (Step::DeleteFilter(gone), Step::AddFilter(new, _)) => gone == new,
        (Step::DeleteRoute(gone, _), Step::CreateRoute(new, _) | Step::PutRoute(new, _)) => gone == new,
        _ => false,
    }
}

/// Links are recreated before anything else; then everything new comes before the removal of anything old. A port's
/// surplus VLANs are removed before the port is up, and an unchangeable forwarding entry right before its successor.
fn in_order(steps: &[Step], remade: &BTreeSet<IfName>) {
    let replaced = steps.iter().zip(steps.iter().skip(1)).filter(|pair| is_replaced(*pair)).map(|(step, _)| step);
    let replaced: Vec<_> = replaced.collect();
    let anew = |step: &Step| matches!(step, Step::DeleteLink(name) if remade.contains(name));
    assert!(steps.iter().skip_while(|step| anew(step)).all(|step| !anew(step)), "{steps:#?}");
    let others =
        steps.iter().filter(|step| !anew(step) && !matches!(step, Step::DeleteVlan(_)) && !replaced.contains(step));
    assert!(others.map(Step::is_delete).is_sorted(), "something old goes before something new is there: {steps:#?}");
    let raised = steps.iter().position(|step| matches!(step, Step::ChangeLink(_, change) if change.up.is_some()));
    let unwanted = steps.iter().rposition(|step| matches!(step, Step::DeleteVlan(_)));
    assert!(raised.is_none_or(|raised| unwanted.is_none_or(|unwanted| unwanted < raised)), "{steps:#?}");
}

/// An object that disappears with its link is not deleted separately.
fn in_one_stroke(desired: &State, scope: &Scope, steps: &[Step]) {
    let goes = |dev: &IfName| !desired.links.contains_key(dev) && scope.links.contains(dev);
    for step in steps {
        assert!(!taken_from(step).is_some_and(goes), "{step}");
    }
}

/// While the view is incomplete, nothing is deleted except what is recreated.
fn kept(scope: &Scope, steps: &[Step], remade: &BTreeSet<IfName>) {
    let nexts = steps.iter().skip(1).map(Some).chain([None]);
    for (step, next) in steps.iter().zip(nexts).filter(|(step, _)| scope.keep && step.is_delete()) {
        let anew = matches!(step, Step::DeleteLink(name) if remade.contains(name));
        assert!(anew || next.is_some_and(|next| is_replaced((step, next))), "{step} while the view is incomplete");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_diff_of_any_two_states_keeps_its_promises(desired in host(false), observed in host(true), scope in scope()) {
        let (mut desired, mut observed) = (desired, observed);
        if among_others(&scope) {
            desired.routes.retain(|key, _| key.ordinal == 0 && key.table == TableId::MAIN);
            desired.routes.values_mut().for_each(|route| route.protocol = RouteProtocol::FLANNEL);
            as_listed(&mut observed);
        }
        let plan = diff(&desired, &observed, &scope);
        let mut world = after(&observed, &plan);
        if among_others(&scope) {
            as_listed(&mut world);
        }
        settled(&desired, &observed, &world, &scope);
        conflicts_are_named(&desired, &observed, &scope, &plan);
        let remade = fate(&desired, &observed, &scope).remade;
        in_order(&plan.steps, &remade);
        in_one_stroke(&desired, &scope, &plan.steps);
        kept(&scope, &plan.steps, &remade);
        prop_assert_eq!(diff(&desired, &world, &scope).steps, vec![], "the second diff");
    }
}
