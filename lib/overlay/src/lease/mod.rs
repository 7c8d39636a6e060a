//! A lease: the subnets of a host, and what other hosts need to reach it.
//!
//! The text forms are upstream's etcd layout: the last part of a key below `<prefix>/subnets/`, and its value.

mod attrs;
mod data;
mod key;
mod node;
mod stored;
mod wireguard;

pub use attrs::{AttrsError, LeaseAttrs, VxlanData};
pub use data::{BackendData, LeaseType, StoredAttrs};
pub use key::{KeyError, Subnets};
pub use node::{Annotations, NodeError, NodeKeys, PrefixError, assigned};
pub use stored::{LeaseChanges, Refusal, StoredLease};
pub use wireguard::WireguardData;

/// A host's claim to its subnets.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// The claimed subnets, which are the key.
    pub subnets: Subnets,
    /// How to reach the host: the value.
    pub attrs: LeaseAttrs,
}
