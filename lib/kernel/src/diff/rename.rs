//! Links that exist under another name.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::Step;
use super::links::changeable;
use crate::state::{FilterAction, RouteKey, Scope, State};
use crate::types::IfName;

/// Renames links, and returns `observed` after that. A name is free once the link that has it is renamed.
pub(super) fn links<'a>(desired: &State, observed: &'a State, scope: &Scope, steps: &mut Vec<Step>) -> Cow<'a, State> {
    let mut observed = Cow::Borrowed(observed);
    while let Some((from, to)) = next(desired, &observed, scope) {
        rename(observed.to_mut(), &from, &to);
        steps.push(Step::RenameLink(from, to));
    }
    observed
}

/// The next link of ours under a former name, if no link has its name and no other link needs the former one.
fn next(desired: &State, observed: &State, scope: &Scope) -> Option<(IfName, IfName)> {
    desired.links.iter().find_map(|(to, want)| {
        let from = want.was.as_ref()?;
        let found = observed.links.get(from)?;
        let belongs = desired.links.get(from).is_some_and(|want| changeable(want, found));
        let ours = scope.links.contains(from) && scope.links.contains(to);
        let free = !observed.links.contains_key(to);
        (ours && free && !belongs && changeable(want, found)).then(|| (from.clone(), to.clone()))
    })
}

/// The objects on a link keep belonging to it.
fn rename(state: &mut State, from: &IfName, to: &IfName) {
    let name = |dev: IfName| if dev == *from { to.clone() } else { dev };
    fn keys<K: Ord, V>(map: &mut BTreeMap<K, V>, change: impl Fn(K) -> K) {
        *map = std::mem::take(map).into_iter().map(|(key, value)| (change(key), value)).collect();
    }
    keys(&mut state.links, name);
    keys(&mut state.ports, name);
    keys(&mut state.wireguard, name);
    keys(&mut state.vlans, |key| crate::state::VlanKey { dev: name(key.dev), ..key });
    keys(&mut state.addresses, |key| crate::state::AddressKey { dev: name(key.dev), ..key });
    keys(&mut state.neighbours, |key| crate::state::NeighbourKey { dev: name(key.dev), ..key });
    keys(&mut state.fdb, |key| crate::state::FdbKey { dev: name(key.dev), ..key });
    keys(&mut state.qdiscs, |key| crate::state::QdiscKey { dev: name(key.dev), ..key });
    keys(&mut state.filters, |key| crate::state::FilterKey { dev: name(key.dev), ..key });
    for filter in state.filters.values_mut() {
        if let FilterAction::Redirect(to) = &mut filter.action {
            *to = to.take().map(name);
        }
    }
    keys(&mut state.sysctls, |path| path.replace(&format!("/conf/{from}/"), &format!("/conf/{to}/")));
    let routes: &mut BTreeMap<RouteKey, _> = &mut state.routes;
    routes.values_mut().for_each(|route| route.dev = route.dev.take().map(name));
    for link in state.links.values_mut() {
        link.master = link.master.take().map(|master| master.map(name));
        if link.kind.lower() == Some(from) {
            link.kind = link.kind.above(Some(to.clone()));
        }
    }
}
