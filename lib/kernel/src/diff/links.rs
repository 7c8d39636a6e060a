//! Links: which to create, change, recreate and delete.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::objects::dies;
use super::{Conflict, LinkChange, Plan, Step};
use crate::link::Made;
use crate::state::{Birth, Filter, FilterAction, Link, LinkKind, Route, Scope, State};
use crate::types::IfName;

/// The result for the links.
#[derive(Default)]
pub(super) struct Outcome {
    remade: BTreeSet<IfName>,
    blocked: BTreeSet<IfName>,
}

impl Outcome {
    /// `observed` without the objects that disappear with recreated links, and without those that must be left alone.
    /// Routes by the latter stay, because other programs may have routes to the same destinations.
    pub(super) fn surviving<'a>(&self, observed: &'a State) -> Cow<'a, State> {
        let mut state = without(observed, &self.remade);
        if !self.remade.is_empty() {
            lose_targets(state.to_mut(), &self.remade);
        }
        if !self.blocked.is_empty() {
            drop_links(state.to_mut(), &self.blocked);
        }
        state
    }

    /// `desired` without the objects on links that are something else.
    pub(super) fn possible<'a>(&self, desired: &'a State) -> Cow<'a, State> {
        let mut state = without(desired, &self.blocked);
        if !self.blocked.is_empty() {
            state.to_mut().filters.retain(|_, filter| !leads_to(filter, &self.blocked));
        }
        state
    }

    /// Whether the route uses a link that must be left alone.
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
    state.qdiscs.retain(|key, _| !gone.contains(&key.dev));
    state.filters.retain(|key, _| !gone.contains(&key.dev));
    state.sysctls.retain(|path, _| path.split('/').nth(3).is_none_or(|dev| !gone.iter().any(|g| g.as_str() == dev)));
}

/// A filter stays when the link that it sends packets to is deleted.
fn lose_targets(state: &mut State, gone: &BTreeSet<IfName>) {
    for filter in state.filters.values_mut().filter(|filter| leads_to(filter, gone)) {
        filter.action = FilterAction::Redirect(None);
    }
}

fn leads_to(filter: &Filter, links: &BTreeSet<IfName>) -> bool {
    matches!(&filter.action, FilterAction::Redirect(Some(to)) if links.contains(to))
}

/// The deepest stack of links: the kernel's own limit (MAX_NEST_DEV, include/linux/netdevice.h).
const DEPTH: usize = 8;

/// Creates missing links, and recreates those that cannot be changed; masters and lower links come first.
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

/// The number of desired links that must exist before this one: its master and its lower link, and theirs.
fn depth(name: &IfName, desired: &State, limit: usize) -> usize {
    let Some(link) = desired.links.get(name) else { return 0 };
    let lower = link.kind.lower().filter(|_| link.birth == Birth::Here);
    let below =
        lower.into_iter().chain(link.master.iter().flatten()).filter(|below| desired.links.contains_key(*below));
    // Links that refer to each other in a circle end at the limit.
    below.map(|below| if limit == 0 { 0 } else { 1 + depth(below, desired, limit - 1) }).max().unwrap_or(0)
}

/// Whether the links differ only in fields that can be changed in place.
pub(super) fn changeable(want: &Link, have: &Link) -> bool {
    have.kind.can_become(&want.kind) && same_birth(want, have)
}

/// A link's lower link stays in its namespace. A link that was moved here has no requirements.
fn same_birth(want: &Link, have: &Link) -> bool {
    match want.birth {
        Birth::Moved(_) => true,
        _ => want.kind.lower().is_none() || want.birth == have.birth,
    }
}

/// A link that was moved here is not ours to delete.
fn can_be_remade(want: &Link, have: &Link) -> bool {
    want.kind.is_like(&have.kind) && !matches!(want.birth, Birth::Moved(_))
}

/// The changes that turn `have` into `want`, except for up.
pub(super) fn change(want: &Link, have: &Link) -> LinkChange {
    fn differs<T: PartialEq + Clone>(want: &Option<T>, have: &Option<T>) -> Option<T> {
        want.clone().filter(|_| want != have)
    }
    LinkChange {
        up: None,
        mtu: differs(&want.mtu, &have.mtu),
        mac: differs(&want.mac, &have.mac),
        master: differs(&want.master, &have.master),
        // The kernel does not report an empty alias.
        alias: differs(&want.alias, &Some(have.alias.clone().unwrap_or_default())),
        promisc: want.promisc.filter(|p| *p != have.promisc.unwrap_or_default()),
        allmulti: want.allmulti.filter(|all| *all != have.allmulti.unwrap_or_default()),
        queue_len: differs(&want.queue_len, &have.queue_len),
        arp: differs(&want.arp, &have.arp),
        multicast: differs(&want.multicast, &have.multicast),
        protodown: want.protodown.filter(|p| *p != have.protodown.unwrap_or_default()),
        kind: kind_change(want, have),
    }
}

/// A lower link in another namespace has no name here: it counts as the desired one, and is not set.
fn kind_change(want: &Link, have: &Link) -> Option<LinkKind> {
    if have.birth != Birth::Parent {
        return want.kind.change(&have.kind);
    }
    let change = want.kind.change(&have.kind.above(want.kind.lower().cloned()));
    change.map(|kind| kind.above(None))
}

/// The settings that a new link does not have yet.
fn finish(want: &Link) -> LinkChange {
    let moved = matches!(want.birth, Birth::Moved(_));
    if !moved && want.kind.as_kind().made() == Made::Message {
        return after_birth(want);
    }
    // An ioctl takes only the name. A link that was moved here keeps its settings, except for name and alias.
    LinkChange {
        mtu: want.mtu,
        mac: want.mac,
        master: want.master.clone().filter(Option::is_some),
        alias: want.alias.clone().filter(|_| !moved),
        promisc: want.promisc.filter(|promisc| *promisc || moved),
        allmulti: want.allmulti.filter(|all| *all || moved),
        queue_len: want.queue_len,
        arp: want.arp,
        multicast: want.multicast,
        protodown: want.protodown.filter(|protodown| *protodown),
        ..LinkChange::default()
    }
}

/// The settings that the kernel does not accept at creation (rtnl_create_link, net/core/rtnetlink.c).
fn after_birth(want: &Link) -> LinkChange {
    LinkChange {
        promisc: want.promisc.filter(|p| *p),
        allmulti: want.allmulti.filter(|all| *all),
        queue_len: want.queue_len,
        alias: want.alias.clone(),
        protodown: want.protodown.filter(|p| *p),
        ..LinkChange::default()
    }
}

/// Settings of existing links, and of ports.
pub(super) fn settings(desired: &State, observed: &State, steps: &mut Vec<Step>) {
    for (name, want) in &desired.links {
        let mut change = match observed.links.get(name) {
            Some(have) => change(want, have),
            None => finish(want),
        };
        // A vxlan device refuses "mtu" together with attributes of its kind (vxlan_nl2conf,
        // drivers/net/vxlan/vxlan_core.c).
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

/// VLANs of ports. Those that are not desired are removed last, so that a port never misses one that is.
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

/// Raises and lowers links, last: by then sysctls and addresses are in place.
pub(super) fn raise(desired: &State, observed: &State, steps: &mut Vec<Step>) {
    for (name, want) in &desired.links {
        if want.up != observed.links.get(name).is_some_and(|have| have.up) {
            steps.push(Step::ChangeLink(name.clone(), LinkChange { up: Some(want.up), ..LinkChange::default() }));
        }
    }
}

/// Deletes links of ours that are not desired.
pub(super) fn delete(desired: &State, observed: &State, scope: &Scope, steps: &mut Vec<Step>) {
    for name in &scope.links {
        if observed.links.contains_key(name) && !desired.links.contains_key(name) {
            steps.push(Step::DeleteLink(name.clone()));
        }
    }
}
