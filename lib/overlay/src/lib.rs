//! The domain: network configuration, leases, and the kernel state that follows from them.
//!
//! Everything here is pure: no files, sockets, clocks or randomness. Their results are arguments.
//!
//! The way of a lease: [`netconf`] reads the network's configuration, [`allocate`] chooses this host's subnets,
//! [`lease`] is their published form, [`peers`] decides which other hosts' leases to accept, and [`reach`] how to
//! reach each of them. [`backend`] and [`render`] say what the kernel must contain for that, [`keep`] what stays
//! while it changes, [`ownership`] which of its objects belong to this network, [`settings`] what makes the host
//! forward, [`rules`] its packet rules, and [`subnet_env`] what the CNI plugin reads. [`plan`] puts all of it
//! together: facts in, one plan out.

pub mod allocate;
pub mod backend;
pub mod keep;
pub mod lans;
pub mod lease;
pub mod limits;
pub mod net;
pub mod netconf;
pub mod ownership;
pub mod peers;
pub mod plan;
pub mod reach;
pub mod render;
pub mod rules;
pub mod settings;
pub mod status;
pub mod subnet_env;
pub mod taken;
pub mod underlay;
pub mod ways;
pub mod words;
