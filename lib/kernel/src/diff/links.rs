//! Links: which to create, change, make anew and delete.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::objects::dies;
use super::{Conflict, LinkChange, Plan, Step};
use crate::state::{Link, LinkKind, Scope, State};
use crate::types::IfName;

/// What became of the links on the way.
#[derive(Default)]
pub(super) struct Outcome {
    remade: BTreeSet<IfName>,
    blocked: BTreeSet<IfName>,
}

impl Outcome {
    /// `observed` without what goes when links are made anew, and without what must be left alone.
    pub(super) fn surviving<'a>(&self, observed: &'a State) -> Cow<'a, State> {
        without(observed, self.remade.union(&self.blocked))
    }

    /// `desired` without what would hang on links that are something else.
    pub(super) fn possible<'a>(&self, desired: &'a State) -> Cow<'a, State> {
        without(desired, self.blocked.iter())
    }
}

fn without<'a, 'b>(state: &'a State, links: impl Iterator<Item = &'b IfName>) -> Cow<'a, State> {
    let gone: BTreeSet<&IfName> = links.collect();
    if gone.is_empty() {
        return Cow::Borrowed(state);
    }
    let mut state = state.clone();
    drop_links(&mut state, &gone);
    Cow::Owned(state)
}

fn drop_links(state: &mut State, gone: &BTreeSet<&IfName>) {
    state.links.retain(|name, _| !gone.contains(name));
    state.ports.retain(|name, _| !gone.contains(name));
    state.vlans.retain(|key, _| !gone.contains(&key.dev));
    state.addresses.retain(|key, _| !gone.contains(&key.dev));
    state.neighbours.retain(|key, _| !gone.contains(&key.dev));
    state.fdb.retain(|key, _| !gone.contains(&key.dev));
    state.wireguard.retain(|name, _| !gone.contains(name));
    state.routes.retain(|_, route| route.dev.as_ref().is_none_or(|dev| !gone.contains(dev)));
    state.sysctls.retain(|path, _| path.split('/').nth(3).is_none_or(|dev| !gone.iter().any(|g| g.as_str() == dev)));
}

/// Creates what is missing and makes anew what cannot be changed; masters and lower links come first.
pub(super) fn compare(desired: &State, observed: &State, scope: &Scope, plan: &mut Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let mut create = Vec::new();
    for (name, want) in &desired.links {
        match observed.links.get(name) {
            None => create.push((name, want)),
            Some(have) if changeable(&want.kind, &have.kind) => {}
            Some(have) if same_kind(&want.kind, &have.kind) && scope.links.contains(name) => {
                plan.steps.push(Step::DeleteLink(name.clone()));
                create.push((name, want));
                outcome.remade.insert(name.clone());
            }
            Some(have) => {
                plan.conflicts.push(Conflict::Link {
                    name: name.clone(),
                    wanted: want.kind.clone(),
                    found: have.kind.clone(),
                });
                outcome.blocked.insert(name.clone());
            }
        }
    }
    // stable: a link that others refer to has no reference itself in anything we build but bridges under bridges
    create.sort_by_key(|(_, link)| link.master.is_some() || matches!(link.kind, LinkKind::Macvlan { .. }));
    plan.steps.extend(create.into_iter().map(|(name, link)| Step::CreateLink(name.clone(), link.clone())));
    outcome
}

fn same_kind(want: &LinkKind, have: &LinkKind) -> bool {
    super::word(want) == super::word(have)
}

/// The same link, but for what can be set on it while it lives.
fn changeable(want: &LinkKind, have: &LinkKind) -> bool {
    match (want, have) {
        (LinkKind::Vxlan(want), LinkKind::Vxlan(have)) => {
            let family = |v: &crate::state::Vxlan| v.local.map(|ip| ip.is_ipv4());
            want.vni == have.vni
                && want.port == have.port
                && want.gbp == have.gbp
                && (want.local.is_none() || family(want) == family(have))
        }
        // a tunnel to one host cannot become one to many (ip_tunnel_changelink, net/ipv4/ip_tunnel.c)
        (LinkKind::Ipip(want), LinkKind::Ipip(have)) => want.remote == have.remote,
        (LinkKind::Macvlan { lower, mode }, LinkKind::Macvlan { lower: have_lower, mode: have_mode }) => {
            lower == have_lower && mode == have_mode
        }
        // a program attaches to a device of one queue in another way than to one of several
        (LinkKind::TunTap(want), LinkKind::TunTap(have)) => {
            want.tap == have.tap && want.multi_queue == have.multi_queue
        }
        _ => same_kind(want, have),
    }
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
        master: differs(&want.master, &have.master).map(Some),
        alias: differs(&want.alias, &have.alias),
        promisc: want.promisc.filter(|p| *p != have.promisc.unwrap_or_default()),
        kind: kind_change(&want.kind, &have.kind),
    }
}

fn kind_change(want: &LinkKind, have: &LinkKind) -> Option<LinkKind> {
    match (want, have) {
        (LinkKind::Vxlan(w), LinkKind::Vxlan(h)) => {
            let moved = |w: &Option<_>, h| w.is_some() && w != h;
            let local = w.local.is_some() && w.local != h.local;
            (moved(&w.lower, &h.lower) || local || w.learning != h.learning).then(|| want.clone())
        }
        (LinkKind::Ipip(w), LinkKind::Ipip(h)) => (w.local.is_some() && w != h).then(|| want.clone()),
        (LinkKind::Bridge { vlan_filtering: true }, LinkKind::Bridge { vlan_filtering: false }) => Some(want.clone()),
        _ => None,
    }
}

/// Settings of links that stay, and of ports.
pub(super) fn settings(desired: &State, observed: &State, steps: &mut Vec<Step>) {
    for (name, want) in &desired.links {
        let mut change = match observed.links.get(name) {
            Some(have) => change(want, have),
            // the kernel takes all but these at creation (rtnl_create_link, net/core/rtnetlink.c)
            None => LinkChange {
                promisc: want.promisc.filter(|p| *p),
                alias: want.alias.clone(),
                // a TUN is not made by a message, but by an ioctl that takes the name alone
                mtu: want.mtu.filter(|_| matches!(want.kind, LinkKind::TunTap(_))),
                ..LinkChange::default()
            },
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
        if observed.ports.get(name).copied().unwrap_or_default() != *want {
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
