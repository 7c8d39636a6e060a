//! What to do about this host's lease. Pure.

use overlay::allocate::{self, Choice, Inputs, OutOfSubnets, fits};
use overlay::lease::{LeaseAttrs, Subnets};
use overlay::netconf::NetConf;
use tokio::time::Instant;

use crate::compare::Term;
use crate::index::{Entry, Index, Mark};

/// This host's lease, as this host wrote or adopted it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Own {
    pub(super) subnets: Subnets,
    pub(super) value: Vec<u8>,
    pub(super) term: Term,
    /// When it was written or renewed last.
    pub(super) renewed: Instant,
}

/// How this host's lease is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// As it was written.
    Held,
    /// With another value.
    Altered,
    /// Not at all.
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

    /// What it publishes.
    pub(super) fn published(&self) -> Option<LeaseAttrs> {
        LeaseAttrs::parse(&self.value).ok()
    }
}

/// What is decided from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) conf: &'a NetConf,
    pub(super) attrs: &'a LeaseAttrs,
    pub(super) previous: Subnets,
    pub(super) random: u64,
    pub(super) index: &'a Index,
    pub(super) own: Option<&'a Own>,
    /// Whether the host that the lease is of wrote it again, where this host adopted it for its address alone.
    pub(super) usurped: Usurped,
}

/// An adopted lease may be another host's, which then writes it again at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usurped {
    /// It was adopted for a better reason, or long enough ago.
    No,
    /// It may be, and the store is not asked yet: what is known of it may be older than this host's write.
    Unknown,
    /// The store has another value.
    Yes,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Decision {
    /// The lease is as it was written, and fits.
    Keep,
    /// Ask the store whether it holds another value than what was written, and decide again.
    Ask,
    /// Write in the store what is chosen.
    Write {
        choice: Choice,
        /// How the lease is that the host had.
        standing: Option<Standing>,
        /// The lease is another host's: it is given up.
        given_up: bool,
    },
    /// Another host holds these subnets.
    Lost(Subnets),
    /// There is no subnet to be had.
    Full(OutOfSubnets),
}

/// Decides.
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
        // the addresses may have changed since: the lease is known by those that were published
        Some(own) => (own.published().unwrap_or_else(|| facts.attrs.clone()), own.subnets),
        // nothing with this host's addresses is this host's
        None if given_up => (LeaseAttrs::default(), Subnets::default()),
        None => (facts.attrs.clone(), facts.previous),
    };
    let inputs = Inputs { conf: facts.conf, own: &identity, previous, random: facts.random };
    let choice = match allocate::choose(&inputs, facts.index.stored()) {
        Ok(choice) => choice,
        Err(error) => return Decision::Full(error),
    };
    match own {
        // the subnet that pods here have addresses of must not silently become another
        Some(own) if fits(facts.conf, &own.subnets) && choice.subnets() != own.subnets => Decision::Lost(own.subnets),
        _ => Decision::Write { choice, standing, given_up },
    }
}
