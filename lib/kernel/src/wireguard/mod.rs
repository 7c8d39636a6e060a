//! WireGuard devices over generic netlink: what they hold, read and written (linux/wireguard.h; drivers/net/wireguard/netlink.c).
//!
//! The device itself is a link like any other ([`crate::message::link`]).

mod decode;
mod encode;
mod socket;
#[cfg(test)]
mod tests;

pub(crate) use encode::{remove_peer, set_device, set_peer};
pub(crate) use socket::{Generic, Wish};
