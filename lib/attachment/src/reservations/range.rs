//! Ranges of addresses and sets of them: what is checked, what is filled in, and the order of allocation.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::types::{Family, masked};

use super::span::{Number, Span};

/// A range as a configuration gives it; what is left out is filled in by [`RangeSet::canonical`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSpec {
    /// The network that the addresses are of. A range without one is a mistake.
    pub subnet: Option<IpNetwork>,
    /// Default: the first address behind the network's own.
    pub first: Option<IpAddr>,
    /// Default: the last address but IPv4's broadcast address.
    pub last: Option<IpAddr>,
    /// Default: the first address behind the network's own. It is never handed out.
    pub gateway: Option<IpAddr>,
}

/// What is wrong with a range, in upstream's words, which tools and people know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// It names no network.
    #[error("a range without subnet")]
    NoSubnet,
    /// Fewer than two addresses besides the network's own and the broadcast address.
    #[error("Network {0} too small to allocate from")]
    TooSmall(IpNetwork),
    /// The network is written with the address of a host.
    #[error("Network has host bits set. For a subnet mask of length {} the network address is {}", .0.prefix(), .0.network())]
    HostBits(IpNetwork),
    /// The first address is of another network.
    #[error("RangeStart {0} not in network {1}")]
    StartOutside(IpAddr, IpNetwork),
    /// The last address is of another network.
    #[error("RangeEnd {0} not in network {1}")]
    EndOutside(IpAddr, IpNetwork),
    /// The first address and the last one are in the wrong order.
    #[error("RangeEnd {1} is before RangeStart {0}")]
    Reversed(IpAddr, IpAddr),
    /// IPv4 in an IPv6 network, or the reverse.
    #[error("gateway {0} is not of the family of {1}")]
    GatewayFamily(IpAddr, IpNetwork),
    /// A set without any range.
    #[error("empty range set")]
    EmptySet,
    /// A set of IPv4 and IPv6.
    #[error("mixed address families")]
    MixedFamilies,
    /// Two ranges of a set have an address in common.
    #[error("subnets {0} and {1} overlap")]
    Overlap(Range, Range),
}

/// Consecutive addresses of one subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The network; an address is handed out with its prefix length.
    pub subnet: IpNetwork,
    /// Handed out with an address of the range, and never as one.
    pub gateway: IpAddr,
    /// What may be handed out, but for the gateway.
    pub(super) span: Span,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", IpAddr::from(self.span.first), IpAddr::from(self.span.last))
    }
}

impl Range {
    /// Fills in what is left out and checks the rest; every mistake is in the error.
    fn canonical(spec: &RangeSpec) -> Result<Self, Vec<RangeError>> {
        let Some(subnet) = spec.subnet else { return Err(vec![RangeError::NoSubnet]) };
        let family = Family::from(subnet);
        if subnet.prefix() > family.bits() - 2 {
            return Err(vec![RangeError::TooSmall(subnet)]);
        }
        if subnet != masked(subnet) {
            return Err(vec![RangeError::HostBits(subnet)]);
        }
        let whole = Span { first: Number::from(subnet.ip()), last: last_of(subnet) };
        let default_last = if family == Family::V4 { Number(whole.last.0 - 1) } else { whole.last };
        let mut wrong = Vec::new();
        let mut inside = |given: Option<IpAddr>, default, error: fn(IpAddr, IpNetwork) -> RangeError| match given {
            Some(ip) if whole.contains(Number::from(ip)) => Number::from(ip),
            Some(ip) => {
                wrong.push(error(ip, subnet));
                default
            }
            None => default,
        };
        let first = inside(spec.first, whole.first.next(), RangeError::StartOutside);
        let last = inside(spec.last, default_last, RangeError::EndOutside);
        if wrong.is_empty() && last < first {
            wrong.push(RangeError::Reversed(first.into(), last.into()));
        }
        let gateway = spec.gateway.unwrap_or_else(|| whole.first.next().into());
        if Family::from(gateway) != family {
            wrong.push(RangeError::GatewayFamily(gateway, subnet));
        }
        if wrong.is_empty() { Ok(Self { subnet, gateway, span: Span { first, last } }) } else { Err(wrong) }
    }

    fn family(&self) -> Family {
        self.subnet.into()
    }

    pub(super) fn contains(&self, number: Number) -> bool {
        self.span.contains(number)
    }
}

fn last_of(net: IpNetwork) -> Number {
    let host_bits = u32::from(Family::from(net).bits() - net.prefix());
    let hosts = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
    Number(Number::from(net.network()).0 | hosts)
}

/// Alternatives, from which one address is taken. Never empty, of one family, without overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            write!(f, "{}{range}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl RangeSet {
    /// The set that a configuration means.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn canonical(specs: &[RangeSpec]) -> Result<Self, Vec<RangeError>> {
        let mut ranges: Vec<Range> = Vec::new();
        let mut wrong = Vec::new();
        for spec in specs {
            match Range::canonical(spec) {
                Ok(range) => ranges.push(range),
                Err(errors) => wrong.extend(errors),
            }
        }
        if specs.is_empty() {
            wrong.push(RangeError::EmptySet);
        }
        if ranges.windows(2).any(|pair| pair[0].family() != pair[1].family()) {
            wrong.push(RangeError::MixedFamilies);
        }
        for (i, a) in ranges.iter().enumerate() {
            let later = ranges[i + 1..].iter().filter(|b| a.span.overlaps(b.span));
            wrong.extend(later.map(|b| RangeError::Overlap(a.clone(), b.clone())));
        }
        if wrong.is_empty() { Ok(Self(ranges)) } else { Err(wrong) }
    }

    /// Its ranges, in the order of the configuration.
    pub fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// The family of all its ranges.
    pub fn family(&self) -> Option<Family> {
        self.0.first().map(Range::family)
    }

    /// The range that holds an address.
    pub fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(ip.into()))
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| a.span.overlaps(b.span)))
    }

    /// The stretches to search one after the other, each address once: after `last` to the end of its range, the
    /// other ranges in their order, then its range up to and with `last`. A `last` of no range counts as none.
    pub(super) fn search_order(&self, last: Option<Number>) -> Vec<(&Range, Span)> {
        let at = last.and_then(|number| Some((self.0.iter().position(|range| range.contains(number))?, number)));
        let Some((index, number)) = at else { return self.0.iter().map(|r| (r, r.span)).collect() };
        let range = &self.0[index];
        let mut order = Vec::with_capacity(self.0.len() + 1);
        if number < range.span.last {
            order.push((range, Span { first: number.next(), last: range.span.last }));
        }
        order.extend(self.0[index + 1..].iter().chain(&self.0[..index]).map(|r| (r, r.span)));
        order.push((range, Span { first: range.span.first, last: number }));
        order
    }
}

#[cfg(test)]
#[path = "range_tests.rs"]
mod tests;
