//! The kernel's announcements, as objects of [`crate::state`], and whether they contradict the desired state.
//!
//! [`listen`] adds a socket to the groups, [`Reader`] turns an [`Announcement`] into [`News`], and [`contradicts`]
//! decides whether the news matters. It is pure, and its answer is that of [`diff`](crate::diff::diff) for the one
//! object.

mod announcement;
mod compare;
mod echo;
mod netconf;
mod port;
mod read;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use announcement::{Announcement, Listener, announcements, listen};
pub use compare::contradicts;
pub use echo::pass_over;
pub use netconf::is_announced;
pub use read::Reader;

use crate::message::address::SeenAddress;
use crate::message::link::SeenLink;
use crate::message::neighbour::Forwarding;
use crate::state::{AddressKey, Fdb, FdbKey, NeighbourKey, Port, Route, RouteKey, Vlan};
use crate::types::{IfName, Mac, VlanId};

/// One object and its new value. `None`: no object of [`State`](crate::state::State) has that key any more. Either
/// the object is gone, or it has become something that `State` cannot express: a neighbour that is not permanent, or
/// a route with several next hops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A link; its objects share its fate. Its master and lower link have their names.
    Link(IfName, Option<Box<SeenLink>>),
    /// The flags of a bridge port.
    Port(IfName, Option<Port>),
    /// All VLANs of a bridge port.
    Vlans(IfName, BTreeMap<VlanId, Vlan>),
    /// An address.
    Address(AddressKey, Option<SeenAddress>),
    /// A permanent neighbour.
    Neighbour(NeighbourKey, Option<Mac>),
    /// A permanent forwarding entry of a VXLAN device.
    Fdb(FdbKey, Option<Fdb>),
    /// An entry in the table of a bridge, and whether it stays where it is, whatever the bridge learns.
    Forwarding(Forwarding, bool),
    /// A route. Ordinal 1 stands for any route but the first of its destination, table and metric.
    Route(RouteKey, Option<Route>),
    /// A sysctl that the kernel announces (RTM_NEWNETCONF): its path below `/proc/sys`, and its value.
    Sysctl(String, String),
    /// The queueing discipline of a link, a class or a filter has changed.
    Queue(IfName),
    /// The routing policy (`ip rule`): some rule has come or gone.
    Policy,
    /// An unreadable announcement, with the reason: any object may have changed.
    Unreadable(String),
}
