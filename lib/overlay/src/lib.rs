//! The domain: network configuration, leases, and what they want of a host's kernel.
//!
//! Everything here is pure: no file, no socket, no clock, no randomness. What such things yield is an argument.
//!
//! The way of a lease: [`netconf`] says which network there is, [`allocate`] chooses this host's part of it, [`lease`]
//! is how it is published, [`peers`] decides which other hosts' leases are followed, [`reach`] how each of them is reached,
//! [`backend`] and [`render`] what the kernel must look like for that, [`keep`] what stays while that changes,
//! [`ownership`] which of its objects are this network's, [`settings`] what makes it forward, and [`subnet_env`] what the
//! CNI plugin reads. [`plan`] puts all of it together: from the facts to one plan.

pub mod allocate;
pub mod backend;
pub mod keep;
pub mod lease;
pub mod limits;
pub mod net;
pub mod netconf;
pub mod ownership;
pub mod peers;
pub mod plan;
pub mod reach;
pub mod render;
pub mod settings;
pub mod status;
pub mod subnet_env;
pub mod underlay;
pub mod ways;
pub mod words;
