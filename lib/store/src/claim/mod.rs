//! This host's own lease: taken, kept, renewed and published.
//!
//! Upstream stops with success when its lease is gone, and waits for a supervisor that restarts it even so. Here a lease
//! that is gone is taken again; only when another host holds the subnet by now, the daemon must stop with an error.

mod decide;
mod keeper;
#[cfg(test)]
mod tests;

use overlay::allocate::OutOfSubnets;
use overlay::lease::{LeaseAttrs, Subnets};
use overlay::netconf::NetConf;
use tokio::time::Instant;

pub(crate) use keeper::Keeper;

use crate::clock::Moment;
use crate::error::StoreError;

/// What a host wants of a store: a lease for itself.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The network.
    pub conf: &'a NetConf,
    /// What this host publishes. Its addresses say which leases are this host's.
    pub attrs: &'a LeaseAttrs,
    /// The subnets of the last run (`subnet_env::Previous`): pods may still have addresses in them.
    pub previous: Subnets,
    /// The host was as desired once: from then on what goes wrong is waited for.
    pub started: bool,
    /// The time.
    pub now: Instant,
    /// Any number; another one for each call.
    pub random: u64,
}

/// A lease that this host holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// What is leased: the lease's key.
    pub subnets: Subnets,
    /// The lease does not end, and is not made to.
    pub reservation: bool,
    /// When the lease ends unless it is renewed; `None` for a reservation, and while it is not known.
    pub expires: Option<Moment>,
    /// This call gave the host other subnets than these, which it had before: its pods must be made anew.
    pub moved_from: Option<Subnets>,
    /// Call again at this time at the latest: the lease may have to be renewed.
    pub look_again: Option<Instant>,
    /// What a person should know, for as long as it is so.
    pub note: Option<String>,
}

/// Why a host has no lease, or cannot keep the one that it has.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Nothing can be done before the store changes.
    #[error(transparent)]
    Wait(#[from] Waiting),
    /// To be tried again, after a back-off. A lease that the host has is still its own.
    #[error(transparent)]
    Retry(#[from] Trouble),
    /// Another host holds the subnet of these pods now: what runs here must not go on with it.
    #[error("the lease {0} is another host's now")]
    Lost(Subnets),
    /// At the start: there is no subnet to be had.
    #[error(transparent)]
    OutOfSubnets(OutOfSubnets),
}

/// What a claim waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Waiting {
    /// Not all leases are known, so that none can be chosen.
    #[error("the store cannot be read")]
    Unread,
}

/// What made a claim fail this time.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The store has changed meanwhile.
    #[error("another host was faster to write this lease")]
    Raced,
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no subnet to be had; one may become free.
    #[error(transparent)]
    Full(OutOfSubnets),
}

/// What became of a lease's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The store has it already, or this host has no lease.
    Unchanged,
    /// It was written.
    Written,
    /// Another host writes the same lease again and again, so that this one waits: call again at this time.
    After(Instant),
}
