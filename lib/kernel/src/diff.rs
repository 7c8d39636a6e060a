//! From what is there to what is wanted: an ordered list of steps. Pure.
//!
//! The order keeps traffic out of half states: links, their settings and sysctls, addresses, then up; neighbour before
//! forwarding entry before route, and everything new before anything old goes.

mod links;
mod objects;
mod step;
mod wireguard;

#[cfg(test)]
pub(crate) mod tests;

pub use objects::satisfies;
pub use step::{LinkChange, Step};

use crate::state::{LinkKind, Scope, State};
use crate::types::IfName;

/// A link under a wanted name that is something else: nothing is done to it, nor to what was to hang on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name} is a link of kind {}, wanted is {}: rename or delete it (ip link del {name})",
    word(found),
    word(wanted)
)]
pub struct Conflict {
    /// Its name.
    pub name: IfName,
    /// What it should be.
    pub wanted: LinkKind,
    /// What it is.
    pub found: LinkKind,
}

/// The kernel's word for a kind of link.
pub fn word(kind: &LinkKind) -> &str {
    match kind {
        LinkKind::Bridge { .. } => "bridge",
        LinkKind::Veth { .. } => "veth",
        LinkKind::Vxlan(_) => "vxlan",
        LinkKind::Ipip(_) => "ipip",
        LinkKind::Wireguard => "wireguard",
        LinkKind::Macvlan { .. } => "macvlan",
        LinkKind::TunTap(_) => "tun",
        LinkKind::Loopback => "loopback",
        LinkKind::Other(word) if word.is_empty() => "device",
        LinkKind::Other(word) => word,
    }
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
    let links = links::compare(desired, observed, scope, &mut plan);
    // what hung on a link that is made anew goes with it
    let observed = &links.surviving(observed);
    let desired = &links.possible(desired);
    let steps = &mut plan.steps;
    links::settings(desired, observed, steps);
    links::vlans(desired, observed, scope, steps);
    objects::sysctls(desired, observed, steps);
    wireguard::put(desired, observed, steps);
    objects::add_addresses(desired, observed, steps);
    links::raise(desired, observed, steps);
    objects::put_neighbours(desired, observed, steps);
    objects::put_routes(desired, observed, steps);
    if !scope.keep {
        objects::delete_routes(desired, observed, scope, steps);
        objects::delete_neighbours(desired, observed, scope, steps);
        wireguard::delete(desired, observed, scope, steps);
        objects::delete_addresses(desired, observed, scope, steps);
        links::delete(desired, observed, scope, steps);
    }
    plan
}
