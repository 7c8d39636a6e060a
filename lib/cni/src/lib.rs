//! The Container Network Interface protocol between a runtime, a plugin and a delegate.
//!
//! A plugin implements [`plugin::Plugin`], and its `main` calls [`plugin::serve`], which handles the whole protocol. A
//! runtime loads a [`runtime::NetworkList`] and runs it with [`runtime::Runtime`]. Nothing here reads the process's
//! environment. The only programs that it executes are delegates ([`delegate`]).

pub mod args;
pub mod conf;
pub mod delegate;
pub mod env;
pub mod error;
pub mod plugin;
mod quote;
pub mod result;
pub mod runtime;
pub mod trace;
pub mod version;

pub use quote::quote;

/// The names under which this project's plugin executable is installed and called, in alphabetical order.
pub const SUITE: [&str; 14] = [
    "bandwidth",
    "bridge",
    "direct-routing",
    "firewall",
    "flannel",
    "host-gw",
    "host-local",
    "loopback",
    "macvlan",
    "portmap",
    "ptp",
    "static",
    "tuning",
    "vxlan",
];

/// Bytes that every version of this project's plugin executable contains. An installer knows it by them.
pub const MARK: &[u8] = b"cni-plugins of the drop-in replacement of flannel and of the CNI reference plugins";
