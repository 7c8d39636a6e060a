//! From what is there to what is wanted: an ordered list of steps. Pure.
//!
//! The order keeps traffic out of half states: names of links, then links, their settings and sysctls, addresses, then up; neighbour before
//! forwarding entry before route, and everything new before anything old goes.

mod links;
mod nft;
mod objects;
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
use crate::state::{LinkKind, Route, RouteKey, Scope, State};
use crate::types::IfName;

/// Something under a wanted name that is something else: nothing is done to it, nor to what was to hang on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// A link of another kind.
    #[error(
        "{name} is a link of kind {}, wanted is {}: if it is yours, rename or delete it (ip link del {name})",
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
    /// A link of somebody else's.
    #[error(
        "{name} belongs to {owner}: give each network a device of its own (another VNI or backend); when nobody needs it any \
         more: ip link del {name}"
    )]
    Owned {
        /// Its name.
        name: IfName,
        /// Whose it is.
        owner: String,
    },
    /// A route of somebody else's to the same destination, where ours cannot stand before it.
    #[error(
        "another program's route stands in place of ours: found `ip route show {}`: {}; wanted: {}; delete it if it is \
         yours (ip route del {})",
        key.dst,
        RouteText(key, found),
        RouteText(key, wanted),
        RouteText(key, found)
    )]
    Route {
        /// Which.
        key: RouteKey,
        /// How it should be.
        wanted: Box<Route>,
        /// How it is.
        found: Box<Route>,
    },
    /// A chain or set of a table that others use too, with another hook, priority or type.
    #[error(
        "{object} of table {table} is not of the kind that is wanted, and others may use it: nft list table {table}"
    )]
    Nft {
        /// The table.
        table: TableKey,
        /// The chain or set.
        object: String,
    },
}

/// What is to be done, in order, and what cannot be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps, in the order in which they must be taken.
    pub steps: Vec<Step>,
    /// Links that stand in the way.
    pub conflicts: Vec<Conflict>,
}

impl Plan {
    /// Nothing to do and nothing in the way.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.conflicts.is_empty()
    }
}

/// The steps from `observed` to `desired`. Only objects in `scope` are deleted, and none while `scope.keep`.
pub fn diff(desired: &State, observed: &State, scope: &Scope) -> Plan {
    let mut plan = Plan::default();
    let observed = &rename::links(desired, observed, scope, &mut plan.steps);
    let links = links::compare(desired, observed, scope, &mut plan);
    // what hung on a link that is made anew goes with it
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
    wireguard::greet(desired, observed, steps);
    objects::put_neighbours(desired, observed, steps);
    let routes = routes::Routes { desired, observed, scope, links: &links };
    let moved = routes.put(&mut plan);
    if !scope.keep {
        let steps = &mut plan.steps;
        routes.delete(&moved, steps);
        objects::delete_neighbours(desired, observed, scope, steps);
        wireguard::delete(desired, observed, scope, steps);
        objects::delete_addresses(desired, observed, scope, steps);
        links::delete(desired, observed, scope, steps);
        nft::delete(desired, observed, scope, &mut plan);
    }
    plan
}
