//! What the kernel announces, in the vocabulary of [`crate::state`], and whether it contradicts what is desired.
//!
//! [`listen`] joins a socket to the groups, [`Reader`] turns an [`Announcement`] into [`News`], and [`contradicts`] is
//! the one question that is asked of it. It is pure, and its answer is that of [`diff`](crate::diff::diff) on the one
//! object.

mod announcement;
mod compare;
mod netconf;
mod port;
mod read;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use announcement::{Announcement, Ear, announcements, listen};
pub use compare::contradicts;
pub use read::Reader;

use crate::message::address::SeenAddress;
use crate::message::link::SeenLink;
use crate::state::{AddressKey, Fdb, FdbKey, NeighbourKey, Port, Route, RouteKey, Vlan};
use crate::types::{IfName, Mac, VlanId};

/// One object, and how it is now. `None`: nothing of the vocabulary is under that key any more. That is so when the object
/// is gone, and when it has become something that [`State`](crate::state::State) has no words for: a neighbour that is
/// not permanent, a route with several next hops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A link, and with it all that hangs on it. Its master and the link below have their names.
    Link(IfName, Option<Box<SeenLink>>),
    /// The flags of a bridge port.
    Port(IfName, Option<Port>),
    /// All VLANs of a bridge port.
    Vlans(IfName, BTreeMap<VlanId, Vlan>),
    /// An address.
    Address(AddressKey, Option<SeenAddress>),
    /// A permanent neighbour.
    Neighbour(NeighbourKey, Option<Mac>),
    /// A permanent forwarding entry of a VXLAN device's own.
    Fdb(FdbKey, Option<Fdb>),
    /// A route. Ordinal 1 stands for any but the first of its destination, table and metric.
    Route(RouteKey, Option<Route>),
    /// A sysctl that the kernel announces (RTM_NEWNETCONF): path below `/proc/sys` and value.
    Sysctl(String, String),
    /// The queueing discipline of a link is another.
    Queue(IfName),
    /// The routing policy (`ip rule`): some rule has come or gone.
    Policy,
    /// An announcement that cannot be read, and why not: any object may be another now.
    Unreadable(String),
}
