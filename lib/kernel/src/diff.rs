//! Compares the observed state with the desired state, and returns an ordered list of steps. Pure.
//!
//! The order keeps traffic out of half-finished states: names of links first, then links, their settings and sysctls,
//! addresses, then up. A neighbour comes before its forwarding entry, and that before its route. Everything new comes
//! before the removal of anything old.

mod links;
mod nft;
mod objects;
mod queues;
mod rename;
mod routes;
mod step;
mod wireguard;

#[cfg(test)]
pub(crate) mod tests;

pub use nft::NftStep;
pub use routes::satisfies;
pub(crate) use routes::twins;
pub use step::{LinkChange, RouteText, Step};

use crate::nft::TableKey;
use crate::state::{FilterKey, LinkKind, QdiscKey, Route, RouteKey, Scope, State};
use crate::types::IfName;

/// An object under a desired name that is something else. It is left alone, with everything that depends on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// A link of another kind.
    #[error(
        "{name} is a link of kind {}, not {}: if it is yours, rename or delete it (ip link del {name})",
        found.word(),
        wanted.word()
    )]
    Link {
        /// Its name.
        name: IfName,
        /// What it should be.
        wanted: LinkKind,
        /// What it is.
        found: LinkKind,
    },
    /// A link that belongs to somebody else.
    #[error(
        "{name} belongs to {owner}: give each network a device of its own (another VNI or backend); when nobody needs it any \
         more: ip link del {name}"
    )]
    Owned {
        /// Its name.
        name: IfName,
        /// The owner.
        owner: String,
    },
    /// Another program's route to the same destination, which ours cannot precede.
    #[error(
        "another program's route stands in place of ours: found `ip route show {}`: {}; wanted: {}; delete it if it is \
         yours (ip route del {})",
        key.dst,
        RouteText(key, found),
        RouteText(key, wanted),
        RouteText(key, found)
    )]
    Route {
        /// The key of both routes.
        key: RouteKey,
        /// The desired route.
        wanted: Box<Route>,
        /// The existing route.
        found: Box<Route>,
    },
    /// A queueing discipline of another kind.
    #[error(
        "{} has another queueing discipline, {found}, where {wanted} should be: if it is yours, remove it (tc qdisc del dev {} \
         {})",
        key.dev,
        key.dev,
        key.place
    )]
    Qdisc {
        /// The link, and the place on it.
        key: QdiscKey,
        /// The kind that it should be.
        wanted: String,
        /// The kind that it is.
        found: String,
    },
    /// Another program's filter in the place of ours.
    #[error(
        "another program's filter stands in place of ours: tc filter show dev {} ingress prio {}; if it is yours, remove it \
         (tc filter del dev {} ingress prio {})",
        key.dev,
        key.prio,
        key.dev,
        key.prio
    )]
    Filter {
        /// The link, and the place of the filter.
        key: FilterKey,
    },
    /// A chain or set of a shared table has another hook, priority or type.
    #[error("{object} of table {table} is not of the desired kind, and others may use it: nft list table {table}")]
    Nft {
        /// The table.
        table: TableKey,
        /// The chain or set.
        object: String,
    },
    /// Another owner has an element with the desired key.
    #[error("{element} of set {set} in table {table} belongs to another owner")]
    Element {
        /// The table.
        table: TableKey,
        /// The set or map.
        set: String,
        /// The existing element, as `nft` prints it.
        element: String,
    },
}

/// The steps to take, in order, and the conflicts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps, in the order in which they must be taken.
    pub steps: Vec<Step>,
    /// The objects that stand in the way.
    pub conflicts: Vec<Conflict>,
}

impl Plan {
    /// Whether there are no steps and no conflicts.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.conflicts.is_empty()
    }
}

/// The steps from `observed` to `desired`. Only objects in `scope` are deleted, and none while `scope.keep`.
pub fn diff(desired: &State, observed: &State, scope: &Scope) -> Plan {
    let mut plan = Plan::default();
    let observed = &rename::links(desired, observed, scope, &mut plan.steps);
    let links = links::compare(desired, observed, scope, &mut plan);
    // Objects on a link that is recreated disappear with it.
    let observed = &links.surviving(observed);
    let desired = &links.possible(desired);
    nft::put(desired, observed, scope, &mut plan);
    let steps = &mut plan.steps;
    links::settings(desired, observed, steps);
    links::vlans(desired, observed, scope, steps);
    objects::sysctls(desired, observed, steps);
    wireguard::put(desired, observed, steps);
    objects::add_addresses(desired, observed, steps);
    links::raise(desired, observed, steps);
    queues::put(desired, observed, scope, &mut plan);
    let steps = &mut plan.steps;
    wireguard::greet(desired, observed, steps);
    objects::put_neighbours(desired, observed, steps);
    let routes = routes::Routes { desired, observed, scope, links: &links };
    let moved = routes.put(&mut plan);
    if !scope.keep {
        let steps = &mut plan.steps;
        routes.delete(&moved, steps);
        queues::delete(desired, observed, scope, steps);
        objects::delete_neighbours(desired, observed, scope, steps);
        wireguard::delete(desired, observed, scope, steps);
        objects::delete_addresses(desired, observed, scope, steps);
        links::delete(desired, observed, scope, steps);
        nft::delete(desired, observed, scope, &mut plan);
    }
    plan
}
