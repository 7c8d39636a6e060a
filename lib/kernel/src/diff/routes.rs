//! Routes: which to add, replace, put before others, and delete.
//!
//! Where only routes of one protocol are ours ([`RouteScope::protocol`](crate::state::RouteScope::protocol)), other
//! programs may have routes to the same destinations. Ours precedes theirs, and replaces none of them.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use super::objects::dies;
use super::{Conflict, Plan, Step};
use crate::state::{Route, RouteKey, RouteScope, Scope, State};
use crate::types::{IfName, RouteProtocol};

/// Whether `have` is what `want` requires; fields that `want` leaves to the kernel are ignored.
pub fn satisfies(want: &Route, have: &Route) -> bool {
    want.kind == have.kind
        && (want.dev.is_none() || want.dev == have.dev)
        && want.via == have.via
        && want.onlink == have.onlink
        && want.scope == have.scope
        && (want.src.is_none() || want.src == have.src)
        && want.protocol == have.protocol
        && want.mtu == have.mtu
        && want.advmss == have.advmss
        && want.further == have.further
}

/// The routes of `state` with the destination, table, metric and TOS of `key`; the kernel uses the first.
pub(crate) fn twins<'a>(key: &RouteKey, state: &'a State) -> impl Iterator<Item = (&'a RouteKey, &'a Route)> + use<'a> {
    let (first, last) = (RouteKey { ordinal: 0, ..key.clone() }, RouteKey { ordinal: u8::MAX, ..key.clone() });
    state.routes.range(first..=last)
}

/// The routes that are deleted to be added again before others.
#[derive(Default)]
pub(super) struct Moved(BTreeSet<RouteKey>);

/// Both states, and the result for the links.
#[derive(Clone, Copy)]
pub(super) struct Routes<'a> {
    pub(super) desired: &'a State,
    pub(super) observed: &'a State,
    pub(super) scope: &'a Scope,
    pub(super) links: &'a super::links::Outcome,
}

impl Routes<'_> {
    pub(super) fn put(&self, plan: &mut Plan) -> Moved {
        let mut moved = Moved::default();
        let mut routes: Vec<_> = self.desired.routes.iter().collect();
        // A gateway must be reachable when its route is added. So routes without a gateway come first, then onlink
        // ones last, because IPv6 looks their gateways up in the table, too (ip6_route_check_nh_onlink,
        // net/ipv6/route.c).
        let rank = |route: &Route| match (route.via, route.onlink) {
            (None, _) => 0,
            (Some(_), true) => 1,
            (Some(_), false) => 2,
        };
        routes.sort_by_key(|(key, route)| (rank(route), key.ordinal));
        for (key, want) in routes {
            let among_others = |ours: &RouteScope| ours.protocol.is_some() && ours.table == key.table;
            match &self.scope.routes {
                Some(ours) if among_others(ours) && !self.scope.beside => {
                    self.put_among_others((key, want), plan, &mut moved);
                }
                _ if self.observed.routes.get(key).is_some_and(|have| self.stands(want, have)) => {}
                _ if self.scope.beside => plan.steps.push(Step::AddRoute(key.clone(), want.clone())),
                _ => plan.steps.push(Step::PutRoute(key.clone(), want.clone())),
            }
        }
        moved
    }

    /// Whether a route that leaves its link to the kernel uses a link that is about to be deleted, and would
    /// disappear with it.
    fn lost(&self, want: &Route, have: &Route) -> bool {
        let goes = |dev: &IfName| dies(self.desired, self.scope, dev);
        want.dev.is_none() && !self.scope.keep && have.dev.as_ref().is_some_and(goes)
    }

    fn stands(&self, want: &Route, have: &Route) -> bool {
        satisfies(want, have) && !self.lost(want, have)
    }

    fn put_among_others(&self, (key, want): (&RouteKey, &Route), plan: &mut Plan, moved: &mut Moved) {
        let mut twins = twins(key, self.observed);
        let first = twins.next();
        if first.is_some_and(|(_, have)| self.stands(want, have)) {
            return;
        }
        let replace = first.is_some_and(|(_, have)| self.may_replace(key, have));
        if let (Some((_, have)), false, true) = (first, replace, key.dst.is_ipv6()) {
            // Together with ours it would become one route with two next hops.
            let (wanted, found) = (Box::new(want.clone()), Box::new(have.clone()));
            plan.conflicts.push(Conflict::Route { key: key.clone(), wanted, found });
            return;
        }
        // The kernel has no two equal routes.
        if let Some((behind, have)) = twins.find(|(_, have)| satisfies(want, have)) {
            plan.steps.push(Step::DeleteRoute(key.clone(), have.clone()));
            moved.0.insert(behind.clone());
        }
        let step = if replace { Step::PutRoute } else { Step::CreateRoute };
        plan.steps.push(step(key.clone(), want.clone()));
    }

    /// Whether the route is ours, taken over, or by a link of ours.
    fn may_replace(&self, key: &RouteKey, have: &Route) -> bool {
        let ours = goes(self.scope, key, have) || leaves_by_ours(self.scope, have);
        ours && !self.links.leaves_by_blocked(have)
    }

    pub(super) fn delete(&self, moved: &Moved, steps: &mut Vec<Step>) {
        for (key, route) in &self.observed.routes {
            let wanted = self.desired.routes.contains_key(key) || moved.0.contains(key);
            if !wanted && !self.links.leaves_by_blocked(route) && goes(self.scope, key, route) {
                steps.push(Step::DeleteRoute(key.clone(), route.clone()));
            }
        }
    }
}

fn leaves_by_ours(scope: &Scope, route: &Route) -> bool {
    route.dev.as_ref().is_some_and(|dev| scope.links.contains(dev))
}

fn is_ours(scope: &Scope, ours: &RouteScope, key: &RouteKey, route: &Route) -> bool {
    let inside = || ours.within.is_empty() || ours.within.iter().any(|net| covers(*net, key.dst));
    ours.protocol == Some(route.protocol) && (inside() || leaves_by_ours(scope, route))
}

/// Whether a Go flanneld, or a plugin without a daemon, left the route.
fn is_adopted(scope: &Scope, ours: &RouteScope, key: &RouteKey, route: &Route) -> bool {
    if ![RouteProtocol::BOOT, RouteProtocol::FLANNEL_CNI].contains(&route.protocol) {
        return false;
    }
    let inside = || ours.adopt.within.iter().any(|net| *net != key.dst && covers(*net, key.dst));
    (leaves_by_ours(scope, route) && inside())
        || (route.via.is_some() && ours.adopt.gateways.get(&key.dst).copied() == route.via)
}

/// Whether a route that is not desired must be deleted.
fn goes(scope: &Scope, key: &RouteKey, route: &Route) -> bool {
    let Some(ours) = &scope.routes else { return false };
    if key.table != ours.table || route.protocol == RouteProtocol::KERNEL {
        return false;
    }
    is_ours(scope, ours, key, route)
        || is_adopted(scope, ours, key, route)
        || (ours.dev.is_some() && route.dev == ours.dev)
}

/// Whether `outer` contains `inner` or equals it.
fn covers(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4() && outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}
