//! Ranges of addresses, and sets of ranges: their checks, their defaults, and the order of allocation.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::types::{Family, masked};

use super::span::{Number, Span};

/// A range as a configuration gives it. [`RangeSet::canonical`] fills in the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSpec {
    /// The network of the addresses. A range without it is an error.
    pub subnet: Option<IpNetwork>,
    /// The first address to hand out. Default: the one after the network's address.
    pub first: Option<IpAddr>,
    /// The last address to hand out. Default: the network's last, except IPv4's broadcast address.
    pub last: Option<IpAddr>,
    /// The gateway, which is never handed out. Default: the address after the network's address.
    pub gateway: Option<IpAddr>,
}

/// What is wrong with a range. The messages are upstream's, which tools and people know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The range has no network.
    #[error("a range without subnet")]
    NoSubnet,
    /// The network has fewer than two addresses besides its own and the broadcast address.
    #[error("Network {0} too small to allocate from")]
    TooSmall(IpNetwork),
    /// The network's host bits are not zero.
    #[error("Network has host bits set. For a subnet mask of length {} the network address is {}", .0.prefix(), .0.network())]
    HostBits(IpNetwork),
    /// The first address is outside the network.
    #[error("RangeStart {0} not in network {1}")]
    StartOutside(IpAddr, IpNetwork),
    /// The last address is outside the network.
    #[error("RangeEnd {0} not in network {1}")]
    EndOutside(IpAddr, IpNetwork),
    /// The last address is before the first.
    #[error("RangeEnd {1} is before RangeStart {0}")]
    Reversed(IpAddr, IpAddr),
    /// The gateway is IPv4 in an IPv6 network, or the reverse.
    #[error("gateway {0} is not of the family of {1}")]
    GatewayFamily(IpAddr, IpNetwork),
    /// The set has no range.
    #[error("empty range set")]
    EmptySet,
    /// The set has IPv4 and IPv6 ranges.
    #[error("mixed address families")]
    MixedFamilies,
    /// Two ranges of a set have an address in common.
    #[error("subnets {0} and {1} overlap")]
    Overlap(Range, Range),
}

/// Consecutive addresses of one subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The network. An address is handed out with its prefix length.
    pub subnet: IpNetwork,
    /// The gateway, which is returned with each address of the range and never handed out itself.
    pub gateway: IpAddr,
    /// The addresses that may be handed out, except the gateway.
    pub(super) span: Span,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", IpAddr::from(self.span.first), IpAddr::from(self.span.last))
    }
}

impl Range {
    /// Fills in the defaults and checks the rest. The error contains every mistake.
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

/// Alternative ranges, from which one address is taken. Never empty, all of one family, none overlap.
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
    /// Builds the set that a configuration describes.
    ///
    /// # Errors
    /// Every mistake in the configuration.
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

    /// The ranges in the order of the configuration.
    pub fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// The family of all ranges.
    pub fn family(&self) -> Option<Family> {
        self.0.first().map(Range::family)
    }

    /// The range that contains an address.
    pub fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(ip.into()))
    }

    /// Whether the two sets have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| a.span.overlaps(b.span)))
    }

    /// The spans to search in order; they contain each address once: from after `last` to the end of its range, then
    /// the other ranges in order, then its range up to and including `last`. A `last` outside all ranges is ignored.
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
