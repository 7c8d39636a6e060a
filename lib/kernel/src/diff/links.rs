//! Links: which to create, change, make anew and delete.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::objects::dies;
use super::{Conflict, LinkChange, Plan, Step};
use crate::link::Made;
use crate::state::{Birth, Link, LinkKind, Route, Scope, State};
use crate::types::IfName;

/// What became of the links on the way.
#[derive(Default)]
pub(super) struct Outcome {
    remade: BTreeSet<IfName>,
    blocked: BTreeSet<IfName>,
}

impl Outcome {
    /// `observed` without what goes when links are made anew, and without what must be left alone. Routes by the latter
    /// stay: others' may be to the same destinations.
    pub(super) fn surviving<'a>(&self, observed: &'a State) -> Cow<'a, State> {
        let mut state = without(observed, &self.remade);
        if !self.blocked.is_empty() {
            drop_links(state.to_mut(), &self.blocked);
        }
        state
    }

    /// `desired` without what would hang on links that are something else.
    pub(super) fn possible<'a>(&self, desired: &'a State) -> Cow<'a, State> {
        without(desired, &self.blocked)
    }

    /// The route leaves by a link that must be left alone.
    pub(super) fn leaves_by_blocked(&self, route: &Route) -> bool {
        route.dev.as_ref().is_some_and(|dev| self.blocked.contains(dev))
    }
}

fn without<'a>(state: &'a State, gone: &BTreeSet<IfName>) -> Cow<'a, State> {
    if gone.is_empty() {
        return Cow::Borrowed(state);
    }
    let mut state = state.clone();
    drop_links(&mut state, gone);
    state.routes.retain(|_, route| route.dev.as_ref().is_none_or(|dev| !gone.contains(dev)));
    Cow::Owned(state)
}

fn drop_links(state: &mut State, gone: &BTreeSet<IfName>) {
    state.links.retain(|name, _| !gone.contains(name));
    state.ports.retain(|name, _| !gone.contains(name));
    state.vlans.retain(|key, _| !gone.contains(&key.dev));
    state.addresses.retain(|key, _| !gone.contains(&key.dev));
    state.neighbours.retain(|key, _| !gone.contains(&key.dev));
    state.fdb.retain(|key, _| !gone.contains(&key.dev));
    state.wireguard.retain(|name, _| !gone.contains(name));
    state.sysctls.retain(|path, _| path.split('/').nth(3).is_none_or(|dev| !gone.iter().any(|g| g.as_str() == dev)));
}

/// Links that stand on each other, at the most: the kernel's own limit (MAX_NEST_DEV, include/linux/netdevice.h).
const DEPTH: usize = 8;

/// Creates what is missing and makes anew what cannot be changed; masters and lower links come first.
pub(super) fn compare(desired: &State, observed: &State, scope: &Scope, plan: &mut Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let mut create = Vec::new();
    for (name, want) in &desired.links {
        match (observed.links.get(name), scope.others.get(name)) {
            (None, _) => create.push((name, want)),
            (Some(_), Some(owner)) => {
                plan.conflicts.push(Conflict::Owned { name: name.clone(), owner: owner.clone() });
                outcome.blocked.insert(name.clone());
            }
            (Some(have), None) if changeable(want, have) => {}
            (Some(have), None) if can_be_remade(want, have) && scope.links.contains(name) => {
                plan.steps.push(Step::DeleteLink(name.clone()));
                create.push((name, want));
                outcome.remade.insert(name.clone());
            }
            (Some(have), None) => {
                plan.conflicts.push(Conflict::Link {
                    name: name.clone(),
                    wanted: want.kind.clone(),
                    found: have.kind.clone(),
                });
                outcome.blocked.insert(name.clone());
            }
        }
    }
    create.sort_by_key(|(name, _)| depth(name, desired, DEPTH));
    plan.steps.extend(create.into_iter().map(|(name, link)| Step::CreateLink(name.clone(), link.clone())));
    outcome
}

/// How many wanted links must be there before this one, one upon the other: its master and its lower link.
fn depth(name: &IfName, desired: &State, limit: usize) -> usize {
    let Some(link) = desired.links.get(name) else { return 0 };
    let lower = link.kind.lower().filter(|_| link.birth == Birth::Here);
    let below =
        lower.into_iter().chain(link.master.iter().flatten()).filter(|below| desired.links.contains_key(*below));
    // links that refer to each other in a circle end at the limit
    below.map(|below| if limit == 0 { 0 } else { 1 + depth(below, desired, limit - 1) }).max().unwrap_or(0)
}

/// The same link, but for what can be set on it while it lives.
pub(super) fn changeable(want: &Link, have: &Link) -> bool {
    have.kind.can_become(&want.kind) && same_birth(want, have)
}

/// A link's lower link stays in its namespace. Of a link that was moved here nothing is asked.
fn same_birth(want: &Link, have: &Link) -> bool {
    match want.birth {
        Birth::Moved(_) => true,
        _ => want.kind.lower().is_none() || want.birth == have.birth,
    }
}

/// What was moved here is not ours to delete.
fn can_be_remade(want: &Link, have: &Link) -> bool {
    want.kind.is_like(&have.kind) && !matches!(want.birth, Birth::Moved(_))
}

/// What to set on a link to make `have` into `want`, up apart.
pub(super) fn change(want: &Link, have: &Link) -> LinkChange {
    fn differs<T: PartialEq + Clone>(want: &Option<T>, have: &Option<T>) -> Option<T> {
        want.clone().filter(|_| want != have)
    }
    LinkChange {
        up: None,
        mtu: differs(&want.mtu, &have.mtu),
        mac: differs(&want.mac, &have.mac),
        master: differs(&want.master, &have.master),
        // the kernel does not show an empty one
        alias: differs(&want.alias, &Some(have.alias.clone().unwrap_or_default())),
        promisc: want.promisc.filter(|p| *p != have.promisc.unwrap_or_default()),
        arp: differs(&want.arp, &have.arp),
        multicast: differs(&want.multicast, &have.multicast),
        protodown: want.protodown.filter(|p| *p != have.protodown.unwrap_or_default()),
        kind: kind_change(want, have),
    }
}

/// A lower link in another namespace has no name here: it is taken for the one that is wanted, and is not set.
fn kind_change(want: &Link, have: &Link) -> Option<LinkKind> {
    if have.birth != Birth::Parent {
        return want.kind.change(&have.kind);
    }
    let change = want.kind.change(&have.kind.above(want.kind.lower().cloned()));
    change.map(|kind| kind.above(None))
}

/// What a new link does not have yet.
fn finish(want: &Link) -> LinkChange {
    let moved = matches!(want.birth, Birth::Moved(_));
    if !moved && want.kind.as_kind().made() == Made::Message {
        return after_birth(want);
    }
    // an ioctl takes the name alone; a link that was moved here is as it was there, but for name and alias
    LinkChange {
        mtu: want.mtu,
        mac: want.mac,
        master: want.master.clone().filter(Option::is_some),
        alias: want.alias.clone().filter(|_| !moved),
        promisc: want.promisc.filter(|promisc| *promisc || moved),
        arp: want.arp,
        multicast: want.multicast,
        protodown: want.protodown.filter(|protodown| *protodown),
        ..LinkChange::default()
    }
}

/// The kernel takes all but these at creation (rtnl_create_link, net/core/rtnetlink.c).
fn after_birth(want: &Link) -> LinkChange {
    LinkChange {
        promisc: want.promisc.filter(|p| *p),
        alias: want.alias.clone(),
        protodown: want.protodown.filter(|p| *p),
        ..LinkChange::default()
    }
}

/// Settings of links that stay, and of ports.
pub(super) fn settings(desired: &State, observed: &State, steps: &mut Vec<Step>) {
    for (name, want) in &desired.links {
        let mut change = match observed.links.get(name) {
            Some(have) => change(want, have),
            None => finish(want),
        };
        // a vxlan device refuses "mtu" beside attributes of its kind (vxlan_nl2conf, drivers/net/vxlan/vxlan_core.c)
        let kind = LinkChange { kind: change.kind.take(), ..LinkChange::default() };
        for change in [kind, change] {
            if change != LinkChange::default() {
                steps.push(Step::ChangeLink(name.clone(), change));
            }
        }
    }
    for (name, want) in &desired.ports {
        if !want.is_met_by(&observed.ports.get(name).copied().unwrap_or_default()) {
            steps.push(Step::SetPort(name.clone(), *want));
        }
    }
}

/// VLANs of ports: a port must never carry none that is wanted, so those go last that nobody wants.
pub(super) fn vlans(desired: &State, observed: &State, scope: &Scope, steps: &mut Vec<Step>) {
    for (key, want) in &desired.vlans {
        if observed.vlans.get(key) != Some(want) {
            steps.push(Step::AddVlan(key.clone(), *want));
        }
    }
    if scope.keep {
        return;
    }
    for key in observed.vlans.keys() {
        if scope.vlans.contains(&key.dev) && !dies(desired, scope, &key.dev) && !desired.vlans.contains_key(key) {
            steps.push(Step::DeleteVlan(key.clone()));
        }
    }
}

/// Ups and downs, last: sysctls and addresses are in place by then.
pub(super) fn raise(desired: &State, observed: &State, steps: &mut Vec<Step>) {
    for (name, want) in &desired.links {
        if want.up != observed.links.get(name).is_some_and(|have| have.up) {
            steps.push(Step::ChangeLink(name.clone(), LinkChange { up: Some(want.up), ..LinkChange::default() }));
        }
    }
}

/// Our links that nobody wants any more.
pub(super) fn delete(desired: &State, observed: &State, scope: &Scope, steps: &mut Vec<Step>) {
    for name in &scope.links {
        if observed.links.contains_key(name) && !desired.links.contains_key(name) {
            steps.push(Step::DeleteLink(name.clone()));
        }
    }
}
