//! Chooses this host's own subnets from those that are not leased.
//!
//! Differences from upstream: a lease belongs to this host when *all* addresses that it publishes are this host's, so
//! hosts without IPv4 do not share one lease for their common `0.0.0.0`. A subnet that still fits is kept even if the
//! other family's does not. The free subnet is drawn from the whole range, at the cost of sorting the leases once,
//! however large the range is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use kernel::types::Family;

use crate::lease::{LeaseAttrs, StoredLease, Subnets};
use crate::net;
use crate::netconf::{Allocation, FamilyConf, NetConf};
use crate::peers;

/// The parts of a stored lease that the choice depends on. It is small because a store may hold thousands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The leased subnets, which are the key.
    pub subnets: Subnets,
    /// `PublicIP`, unless it is `0.0.0.0`.
    pub public_ip: Option<Ipv4Addr>,
    /// `PublicIPv6`, unless it is `::`.
    pub public_ipv6: Option<Ipv6Addr>,
}

impl From<&StoredLease> for Stored {
    fn from(lease: &StoredLease) -> Self {
        let StoredLease { subnets, attrs, .. } = lease;
        let (mut public_ip, mut public_ipv6) = (None, None);
        for address in Family::ALL.into_iter().filter_map(|family| attrs.public(family)) {
            match address {
                IpAddr::V4(v4) => public_ip = Some(v4),
                IpAddr::V6(v6) => public_ipv6 = Some(v6),
            }
        }
        Self { subnets: *subnets, public_ip, public_ipv6 }
    }
}

impl Stored {
    fn public(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.public_ip.map(Into::into),
            Family::V6 => self.public_ipv6.map(Into::into),
        }
    }
}

/// The input of [`choose`].
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The network.
    pub conf: &'a NetConf,
    /// The attributes that this host is about to publish; only the addresses matter.
    pub own: &'a LeaseAttrs,
    /// The subnets of the last run (`subnet_env::Previous`): pods may still have addresses in them.
    pub previous: Subnets,
    /// Any number, different at each attempt.
    pub random: u64,
    /// Prefixes of this host's other networks: they are avoided as long as there is another subnet.
    pub avoid: &'a [IpNetwork],
}

/// What to do in the store to get a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Overwrite the value of this key, because it is this host's lease.
    Adopt {
        /// The subnets of that lease.
        subnets: Subnets,
    },
    /// Create a key for `subnets` and delete `old`: this host's lease no longer fits the configuration.
    Replace {
        /// The lease to delete.
        old: Subnets,
        /// The subnets to lease.
        subnets: Subnets,
    },
    /// Create a key for `subnets`. If the key exists by then, choose again.
    Take {
        /// The subnets to lease.
        subnets: Subnets,
    },
}

impl Choice {
    /// The subnets that this host has after the choice is carried out.
    pub fn subnets(&self) -> Subnets {
        match self {
            Self::Adopt { subnets } | Self::Replace { subnets, .. } | Self::Take { subnets } => *subnets,
        }
    }
}

/// Every subnet of a family is leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "out of subnets: every /{} from {} to {} of {network} is leased; remove leases of hosts that are gone, or enlarge \
     the network", .allocation.len, .allocation.min, .allocation.max
)]
pub struct OutOfSubnets {
    /// The network.
    pub network: IpNetwork,
    /// The range that is full.
    pub allocation: Allocation,
}

/// Chooses this host's subnets. `leases` are all leases of the store, in any fixed order; they are iterated once or
/// twice per family.
///
/// # Errors
/// An enabled family has no free subnet.
pub fn choose(inputs: &Inputs<'_>, leases: impl Iterator<Item = Stored> + Clone) -> Result<Choice, OutOfSubnets> {
    let own: Vec<Stored> = leases.clone().filter(|stored| is_own(inputs, stored)).collect();
    let fitting = |stored: &&Stored| fits(inputs.conf, &stored.subnets);
    // If there are several, prefer the one whose addresses the pods of this host use.
    let in_use = own.iter().filter(fitting).find(|stored| stored.subnets == inputs.previous);
    if let Some(stored) = in_use.or_else(|| own.iter().find(fitting)) {
        return Ok(Choice::Adopt { subnets: stored.subnets });
    }
    let old = own.first().map(|stored| stored.subnets);
    let mut subnets = Subnets::default();
    for (family, conf) in inputs.conf.families() {
        let others = leases.clone().filter(|stored| old != Some(stored.subnets));
        subnets.set(subnet(inputs, old, &taken(others, family, conf), (family, conf))?);
    }
    Ok(match old {
        Some(old) => Choice::Replace { old, subnets },
        None => Choice::Take { subnets },
    })
}

/// Whether the lease publishes, in every enabled family, this host's address or none, and at least one address in
/// all.
fn is_own(inputs: &Inputs<'_>, stored: &Stored) -> bool {
    let known = |addr: Option<IpAddr>| addr.filter(|addr| !addr.is_unspecified());
    let mut same = 0;
    for (family, _) in inputs.conf.families() {
        match (known(stored.public(family)), known(inputs.own.public(family))) {
            (None, _) => {}
            (Some(theirs), Some(ours)) if theirs == ours => same += 1,
            _ => return false,
        }
    }
    same > 0
}

/// Whether these are exactly the enabled families, each with a subnet that could have been allocated.
pub fn fits(conf: &NetConf, subnets: &Subnets) -> bool {
    Family::ALL.into_iter().all(|family| match (conf.family(family), subnets.get(family)) {
        (None, None) => true,
        (Some(conf), Some(net)) => allocatable(conf.allocation, net),
        _ => false,
    })
}

fn allocatable(allocation: Allocation, net: IpNetwork) -> bool {
    let Allocation { len, min, max } = allocation;
    net.prefix() == len && net.ip() == net.network() && (min..=max).contains(&net.ip())
}

/// The subnet of one family: that of the host's old lease or of its last run if possible, else a free one.
fn subnet(
    inputs: &Inputs<'_>,
    old: Option<Subnets>,
    taken: &[IpNetwork],
    (family, conf): (Family, &FamilyConf),
) -> Result<IpNetwork, OutOfSubnets> {
    let kept = [old.and_then(|subnets| subnets.get(family)), inputs.previous.get(family)];
    let free = |net: &IpNetwork| !taken.iter().any(|other| net::overlap(*net, *other));
    if let Some(net) = kept.into_iter().flatten().filter(|net| allocatable(conf.allocation, *net)).find(free) {
        return Ok(net);
    }
    let random = if family == Family::V4 { inputs.random } else { inputs.random.rotate_left(32) };
    let beside: Vec<IpNetwork> =
        taken.iter().chain(inputs.avoid).copied().filter(|net| Family::from(*net) == family).collect();
    let net = draw(conf.allocation, &beside, random).or_else(|| draw(conf.allocation, taken, random));
    net.ok_or(OutOfSubnets { network: conf.network, allocation: conf.allocation })
}

/// The family's subnets that `others` hold. A lease that no host accepts ([`peers::shape`]) holds nothing: otherwise
/// a claim to the whole network would keep every new host out.
fn taken(others: impl Iterator<Item = Stored>, family: Family, conf: &FamilyConf) -> Vec<IpNetwork> {
    let nets = others.filter_map(|stored| stored.subnets.get(family));
    nets.filter(|net| peers::shape(*net, conf.network).is_ok()).collect()
}

/// The free subnet that `random` selects; all are equally likely.
fn draw(allocation: Allocation, taken: &[IpNetwork], random: u64) -> Option<IpNetwork> {
    let Allocation { len, min, max } = allocation;
    let family = Family::from(min);
    let size = net::size(family, len);
    let (low, high) = (net::number(min) / size, net::number(max) / size);
    // The taken subnets as ranges of slots; a slot is one subnet of our length.
    let slots = |net: &IpNetwork| {
        let (first, last) = net::bounds(*net);
        ((first / size).max(low), (last / size).min(high))
    };
    let mut ranges: Vec<(u128, u128)> = taken.iter().map(slots).filter(|(first, last)| first <= last).collect();
    ranges.sort_unstable();
    let mut gaps = Vec::with_capacity(ranges.len() + 1);
    let mut next = low;
    for (first, last) in ranges {
        if first > next {
            gaps.push((next, first - next));
        }
        next = next.max(last + 1);
    }
    if next <= high {
        gaps.push((next, high - next + 1));
    }
    let free: u128 = gaps.iter().map(|(_, count)| count).sum();
    let mut pick = u128::from(random).checked_rem(free)?;
    for (first, count) in gaps {
        if pick < count {
            return net::prefix(net::address(family, (first + pick) * size), len);
        }
        pick -= count;
    }
    None
}

#[cfg(test)]
mod tests;
