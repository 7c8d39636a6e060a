//! Decides what to do about this host's lease. Pure.

use ipnetwork::IpNetwork;
use overlay::allocate::{self, Choice, Inputs, OutOfSubnets, fits};
use overlay::lease::{LeaseAttrs, Subnets};
use overlay::netconf::NetConf;
use tokio::time::Instant;

use crate::compare::Term;
use crate::index::{Entry, Index, Mark};

/// This host's lease, as this host last wrote or adopted it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Own {
    pub(super) subnets: Subnets,
    pub(super) value: Vec<u8>,
    pub(super) term: Term,
    /// When this host last wrote or renewed the lease.
    pub(super) renewed: Instant,
}

/// The state of this host's lease in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The store has the value that this host wrote.
    Held,
    /// The store has another value.
    Altered,
    /// The store has no such lease.
    Gone,
}

impl Own {
    pub(super) fn standing(&self, entry: Option<&Entry>) -> Standing {
        match entry {
            Some(entry) if entry.mark == Mark::of(&self.value) => Standing::Held,
            Some(_) => Standing::Altered,
            None => Standing::Gone,
        }
    }

    /// The attributes that the lease publishes; `None` when its value is not a lease.
    pub(super) fn published(&self) -> Option<LeaseAttrs> {
        LeaseAttrs::parse(&self.value).ok()
    }
}

/// The input of [`decide`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) conf: &'a NetConf,
    pub(super) attrs: &'a LeaseAttrs,
    pub(super) previous: Subnets,
    pub(super) random: u64,
    pub(super) avoid: &'a [IpNetwork],
    pub(super) index: &'a Index,
    pub(super) own: Option<&'a Own>,
    /// Whether another host has written an adopted lease again.
    pub(super) usurped: Usurped,
}

/// A lease that this host adopted only because of its address may belong to another host, which then writes it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usurped {
    /// This host adopted the lease for a better reason, or long enough ago.
    No,
    /// It is possible. The index may be older than the other host's write, so the store must be asked.
    Unknown,
    /// The store has a value that this host did not write.
    Yes,
}

/// The next thing to do about the lease.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Decision {
    /// Nothing: the lease has the value that this host wrote, and fits the configuration.
    Keep,
    /// Ask the store whether its value differs from what this host wrote, then decide again.
    Ask,
    /// Write the chosen lease to the store.
    Write {
        choice: Choice,
        /// The state of the lease that this host had, if it had one.
        standing: Option<Standing>,
        /// This host gives its lease up, because the lease belongs to another host.
        given_up: bool,
    },
    /// Another host holds these subnets.
    Lost(Subnets),
    /// No subnet is free.
    Full(OutOfSubnets),
}

/// Decides; see [`Decision`].
pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    let standing = facts.own.map(|own| own.standing(facts.index.get(&own.subnets)));
    let given_up = match (standing, facts.usurped) {
        (Some(Standing::Altered), Usurped::Unknown) => return Decision::Ask,
        (Some(Standing::Altered), Usurped::Yes) => true,
        _ => false,
    };
    let own = facts.own.filter(|_| !given_up);
    let (identity, previous) = match own {
        Some(own) if standing == Some(Standing::Held) && fits(facts.conf, &own.subnets) => return Decision::Keep,
        // The host's addresses may have changed since: the attributes that it published identify the lease.
        Some(own) => (own.published().unwrap_or_else(|| facts.attrs.clone()), own.subnets),
        // Another host publishes the same addresses, so an equal address no longer identifies a lease of this host.
        None if given_up => (LeaseAttrs::default(), Subnets::default()),
        None => (facts.attrs.clone(), facts.previous),
    };
    let inputs = Inputs { conf: facts.conf, own: &identity, previous, random: facts.random, avoid: facts.avoid };
    let choice = match allocate::choose(&inputs, facts.index.stored()) {
        Ok(choice) => choice,
        Err(error) => return Decision::Full(error),
    };
    match own {
        // Pods on this host have addresses in this subnet, so it must not change silently.
        Some(own) if fits(facts.conf, &own.subnets) && choice.subnets() != own.subnets => Decision::Lost(own.subnets),
        _ => Decision::Write { choice, standing, given_up },
    }
}
