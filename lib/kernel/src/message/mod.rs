//! Converts between the types of [`crate::state`] and rtnetlink messages, in both directions.

pub mod address;
pub mod link;
pub mod neighbour;
pub(crate) mod queue;
mod read;
pub mod route;
pub mod rule;
mod socket;
pub mod vlan;

pub use queue::{read_queues, write_queues};
pub(crate) use read::object;
pub use read::read_datagram;
pub use socket::{Answer, Request, Socket, What};
pub(crate) use socket::{Body, Encoded};

use netlink_packet_route::AddressFamily;

use crate::types::{Family, IfIndex, IfName};

/// NLM_F_CREATE | NLM_F_EXCL: add, and fail if it exists.
pub const ADD: u16 = netlink_packet_core::NLM_F_CREATE | netlink_packet_core::NLM_F_EXCL;
/// NLM_F_CREATE | NLM_F_REPLACE: add or replace in one step.
pub const PUT: u16 = netlink_packet_core::NLM_F_CREATE | netlink_packet_core::NLM_F_REPLACE;
/// NLM_F_CREATE | NLM_F_APPEND: add after the existing ones.
pub const APPEND: u16 = netlink_packet_core::NLM_F_CREATE | netlink_packet_core::NLM_F_APPEND;

/// NLM_F_CREATE: add before the existing ones. For IPv6, where order does not matter, it equals [`APPEND`].
pub const PREPEND: u16 = netlink_packet_core::NLM_F_CREATE;

/// The kernel's number for a family.
pub fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// Maps between the names and indexes of links in one network namespace.
pub trait Names {
    /// The name of the link with `index`; `None` if it is unknown.
    fn name(&self, index: u32) -> Option<IfName>;
    /// The index of the link called `name`; `None` if it is unknown.
    fn index(&self, name: &IfName) -> Option<IfIndex>;
}
