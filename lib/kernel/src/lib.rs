//! All access to Linux: links, addresses, routes, neighbours, forwarding entries, sysctls, namespaces.
//!
//! [`state`] is the vocabulary. [`Kernel::observe`](kernel::Kernel::observe) reads the objects of a scope,
//! [`diff::diff`] compares them with the desired state and returns ordered steps, and
//! [`Kernel::apply`](kernel::Kernel::apply) takes the steps. `diff` is pure, `observe` only reads, and `apply` is the
//! only writer.
//!
//! This crate has no JSON, no CNI, no leases, reads no environment variable, and runs no program.

pub mod apply;
pub mod arena;
mod birth;
pub mod child;
pub mod conntrack;
pub mod converge;
pub mod diff;
pub mod kernel;
pub mod link;
pub mod message;
pub mod netlink;
pub mod netns;
pub mod news;
pub mod nft;
pub mod observe;
mod observe_queues;
pub mod release;
pub mod removal;
pub mod start;
pub mod state;
pub mod survey;
pub mod sysctl;
pub mod tuntap;
pub mod types;
pub mod udp_socket;
pub mod wait;
mod wireguard;

pub use apply::Report;
pub use converge::{Assumed, Convergence, Failure, Outcome};
pub use kernel::Kernel;
pub use netlink::{Errno, KernelError};
