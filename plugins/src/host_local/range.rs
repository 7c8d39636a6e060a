//! Ranges of addresses and sets of them: what is checked, what is filled in, and the order of allocation.

use std::fmt;
use std::net::IpAddr;

use gojson::{Cidr, Ip};
use ipnetwork::IpNetwork;
use kernel::types::{Family, masked};
use serde::Deserialize;

use super::span::{Key, Span};

/// A range as it is configured.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RawRange {
    pub subnet: Option<Cidr>,
    pub range_start: Ip,
    pub range_end: Ip,
    pub gateway: Ip,
}

/// What is wrong with a range, in upstream's words, which tools and people know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RangeError {
    #[error("a range without subnet")]
    NoSubnet,
    #[error("Network {0} too small to allocate from")]
    TooSmall(IpNetwork),
    #[error("Network has host bits set. For a subnet mask of length {} the network address is {}", .0.prefix(), .0.network())]
    HostBits(IpNetwork),
    #[error("RangeStart {0} not in network {1}")]
    StartOutside(IpAddr, IpNetwork),
    #[error("RangeEnd {0} not in network {1}")]
    EndOutside(IpAddr, IpNetwork),
    #[error("RangeEnd {1} is before RangeStart {0}")]
    Reversed(IpAddr, IpAddr),
    #[error("gateway {0} is not of the family of {1}")]
    GatewayFamily(IpAddr, IpNetwork),
    #[error("empty range set")]
    EmptySet,
    #[error("mixed address families")]
    MixedFamilies,
    #[error("subnets {0} and {1} overlap")]
    Overlap(Range, Range),
}

/// Consecutive addresses of one subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub subnet: IpNetwork,
    /// What may be handed out, but for the gateway.
    pub span: Span,
    pub gateway: IpAddr,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", IpAddr::from(self.span.first), IpAddr::from(self.span.last))
    }
}

impl Range {
    /// Fills in what is left out and checks the rest; every mistake is in the error.
    fn canonical(raw: &RawRange) -> Result<Self, Vec<RangeError>> {
        let Some(Cidr(subnet)) = raw.subnet else { return Err(vec![RangeError::NoSubnet]) };
        let family = Family::from(subnet);
        if subnet.prefix() > family.bits() - 2 {
            return Err(vec![RangeError::TooSmall(subnet)]);
        }
        if subnet != masked(subnet) {
            return Err(vec![RangeError::HostBits(subnet)]);
        }
        let whole = Span { first: Key::from(subnet.ip()), last: last_of(subnet) };
        let default_last = if family == Family::V4 { Key(whole.last.0 - 1) } else { whole.last };
        let mut wrong = Vec::new();
        let mut inside = |given: Ip, default: Key, error: fn(IpAddr, IpNetwork) -> RangeError| match given.0 {
            Some(ip) if whole.contains(Key::from(ip)) => Key::from(ip),
            Some(ip) => {
                wrong.push(error(ip, subnet));
                default
            }
            None => default,
        };
        let first = inside(raw.range_start, whole.first.next(), RangeError::StartOutside);
        let last = inside(raw.range_end, default_last, RangeError::EndOutside);
        if wrong.is_empty() && last < first {
            wrong.push(RangeError::Reversed(first.into(), last.into()));
        }
        let gateway = raw.gateway.0.unwrap_or_else(|| whole.first.next().into());
        if Family::from(gateway) != family {
            wrong.push(RangeError::GatewayFamily(gateway, subnet));
        }
        if wrong.is_empty() { Ok(Self { subnet, span: Span { first, last }, gateway }) } else { Err(wrong) }
    }

    pub(super) fn family(&self) -> Family {
        self.subnet.into()
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.span.contains(key)
    }
}

fn last_of(net: IpNetwork) -> Key {
    let host_bits = u32::from(Family::from(net).bits() - net.prefix());
    let hosts = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
    Key(Key::from(net.network()).0 | hosts)
}

/// Alternatives, from which one address is taken. Never empty, of one family, without overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RangeSet(Vec<Range>);

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            write!(f, "{}{range}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl RangeSet {
    pub(super) fn canonical(raw: &[RawRange]) -> Result<Self, Vec<RangeError>> {
        let mut ranges: Vec<Range> = Vec::new();
        let mut wrong = Vec::new();
        for range in raw {
            match Range::canonical(range) {
                Ok(range) => ranges.push(range),
                Err(errors) => wrong.extend(errors),
            }
        }
        if raw.is_empty() {
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

    pub(super) fn ranges(&self) -> &[Range] {
        &self.0
    }

    pub(super) fn family(&self) -> Option<Family> {
        self.0.first().map(Range::family)
    }

    /// The range that holds an address.
    pub(super) fn range_of(&self, key: Key) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(key))
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| a.span.overlaps(b.span)))
    }

    /// The stretches to search one after the other, each address once: after `last` to the end of its range, the
    /// other ranges in their order, then its range up to and with `last`. A `last` of no range counts as none.
    pub(super) fn search_order(&self, last: Option<Key>) -> Vec<(&Range, Span)> {
        let at = last.and_then(|key| Some((self.0.iter().position(|range| range.contains(key))?, key)));
        let Some((index, key)) = at else { return self.0.iter().map(|r| (r, r.span)).collect() };
        let range = &self.0[index];
        let mut order = Vec::with_capacity(self.0.len() + 1);
        if key < range.span.last {
            order.push((range, Span { first: key.next(), last: range.span.last }));
        }
        order.extend(self.0[index + 1..].iter().chain(&self.0[..index]).map(|r| (r, r.span)));
        order.push((range, Span { first: range.span.first, last: key }));
        order
    }
}

#[cfg(test)]
#[path = "range_tests.rs"]
mod tests;
