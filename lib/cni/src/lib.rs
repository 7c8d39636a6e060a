//! The Container Network Interface protocol: what passes between a runtime, a plugin and a delegate.
//!
//! A plugin implements [`plugin::Plugin`]; its `main` calls [`plugin::serve`], which is the whole protocol. A runtime
//! loads a [`runtime::NetworkList`] and runs it with [`runtime::Runtime`]. Nothing here reads the process environment
//! and the only program ever executed is a delegate ([`delegate`]).

pub mod args;
pub mod conf;
pub mod delegate;
pub mod env;
pub mod error;
pub mod plugin;
mod quote;
pub mod result;
pub mod runtime;
pub mod version;

pub use quote::quote;

/// The names under which this project's plugin executable is installed and called, in the order of the alphabet.
pub const SUITE: [&str; 8] =
    ["bridge", "direct-routing", "flannel", "host-gw", "host-local", "loopback", "macvlan", "vxlan"];
