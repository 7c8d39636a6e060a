//! WireGuard devices over generic netlink: reads and writes their configuration (linux/wireguard.h;
//! drivers/net/wireguard/netlink.c).
//!
//! The device itself is an ordinary link ([`crate::message::link`]).

mod decode;
mod encode;
mod socket;
#[cfg(test)]
mod tests;

pub(crate) use encode::{remove_peer, set_device, set_peer};
pub(crate) use socket::{Generic, WireguardRequest};
