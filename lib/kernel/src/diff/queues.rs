//! Queueing disciplines and filters.

use super::objects::dies;
use super::{Conflict, Plan, Step};
use crate::state::{Filter, FilterAction, FilterKey, Qdisc, Scope, Selects, State};
use crate::types::IfName;

/// Disciplines come before filters: a filter sends packets to a link whose rate is limited by then.
pub(super) fn put(desired: &State, observed: &State, scope: &Scope, plan: &mut Plan) {
    for (key, want) in &desired.qdiscs {
        match observed.qdiscs.get(key) {
            None => plan.steps.push(Step::AddQdisc(key.clone(), want.clone())),
            Some(have) if want.agrees(have) => {}
            Some(Qdisc::Tbf(_)) if matches!(want, Qdisc::Tbf(_)) => {
                plan.steps.push(Step::ChangeQdisc(key.clone(), want.clone()));
            }
            Some(have) => plan.conflicts.push(Conflict::Qdisc {
                key: key.clone(),
                wanted: want.word().to_owned(),
                found: have.word().to_owned(),
            }),
        }
    }
    for (key, want) in &desired.filters {
        match observed.filters.get(key) {
            Some(have) if have == want => {}
            // Another's stays in its place, and the kernel refuses ours.
            Some(have) if is_ours(have, scope) => {
                plan.steps.push(Step::DeleteFilter(key.clone()));
                plan.steps.push(Step::AddFilter(key.clone(), want.clone()));
            }
            Some(_) => plan.conflicts.push(Conflict::Filter { key: key.clone() }),
            None => plan.steps.push(Step::AddFilter(key.clone(), want.clone())),
        }
    }
}

/// A filter of ours sends packets to a link of ours or to one that is gone, or lets packets to a network pass.
fn is_ours(filter: &Filter, scope: &Scope) -> bool {
    match &filter.action {
        FilterAction::Redirect(to) => to.as_ref().is_none_or(|to| scope.links.contains(to)),
        FilterAction::Pass => matches!(filter.selects, Selects::To(_)),
        FilterAction::Other => false,
    }
}

/// Filters first: without its discipline, the link that a filter sends packets to would not limit them. An ingress
/// discipline stays if others have filters there.
pub(super) fn delete(desired: &State, observed: &State, scope: &Scope, steps: &mut Vec<Step>) {
    let stays = |dev: &IfName| scope.queues.contains(dev) && !dies(desired, scope, dev);
    for (key, filter) in &observed.filters {
        if stays(&key.dev) && is_ours(filter, scope) && !desired.filters.contains_key(key) {
            steps.push(Step::DeleteFilter(key.clone()));
        }
    }
    for (key, have) in &observed.qdiscs {
        let ours = match have {
            Qdisc::Tbf(_) => true,
            Qdisc::Ingress => is_free(observed, desired, scope, &key.dev),
            Qdisc::Clsact | Qdisc::Other(_) => false,
        };
        if ours && stays(&key.dev) && !desired.qdiscs.contains_key(key) {
            steps.push(Step::DeleteQdisc(key.clone()));
        }
    }
}

/// Whether no filter on the link is desired or belongs to others.
fn is_free(observed: &State, desired: &State, scope: &Scope, dev: &IfName) -> bool {
    let wanted = desired.filters.keys().any(|key| key.dev == *dev);
    let foreign = |(key, filter): (&FilterKey, &Filter)| key.dev == *dev && !is_ours(filter, scope);
    !wanted && !observed.filters.iter().any(foreign)
}
