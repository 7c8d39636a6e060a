//! Between the vocabulary of [`crate::state`] and rtnetlink messages, both ways.

pub mod address;
pub mod link;
pub mod neighbour;
mod read;
pub mod route;
mod socket;
pub mod vlan;

pub(crate) use read::object;
pub use read::read_datagram;
pub use socket::{Answer, Request, Socket, What};

use netlink_packet_route::AddressFamily;

use crate::types::{Family, IfIndex, IfName};

/// NLM_F_CREATE | NLM_F_EXCL: add, and fail when it is there.
pub const ADD: u16 = netlink_packet_core::NLM_F_CREATE | netlink_packet_core::NLM_F_EXCL;
/// NLM_F_CREATE | NLM_F_REPLACE: make it so in one stroke.
pub const PUT: u16 = netlink_packet_core::NLM_F_CREATE | netlink_packet_core::NLM_F_REPLACE;
/// NLM_F_CREATE | NLM_F_APPEND: one more beside those that are there.
pub const APPEND: u16 = netlink_packet_core::NLM_F_CREATE | netlink_packet_core::NLM_F_APPEND;

/// NLM_F_CREATE alone: one more before those that are there; to IPv6, where order does not count, the same as [`APPEND`].
pub const PREPEND: u16 = netlink_packet_core::NLM_F_CREATE;

/// The kernel's number for a family.
pub fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// Names for indexes and indexes for names, in one network namespace.
pub trait Names {
    /// The name of the link with `index`, if it was seen.
    fn name(&self, index: u32) -> Option<IfName>;
    /// The index of the link called `name`, if it was seen.
    fn index(&self, name: &IfName) -> Option<IfIndex>;
}
