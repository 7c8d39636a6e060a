//! The CNI plugins: one executable under many names.

pub mod bridge;
pub mod host_local;
pub mod pod;

use cni::plugin::Plugin;

/// Every plugin of this executable.
pub static SUITE: &[&dyn Plugin] = &[&bridge::Bridge, &host_local::HostLocal];
