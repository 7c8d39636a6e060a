//! Addresses of both families as numbers, so that the code below need not distinguish families.

use std::net::{IpAddr, Ipv6Addr};

/// An address as a number: IPv6 unchanged, IPv4 as its IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Number(pub u128);

impl From<IpAddr> for Number {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => Self(v6.to_bits()),
        }
    }
}

impl From<Number> for IpAddr {
    fn from(number: Number) -> Self {
        Ipv6Addr::from_bits(number.0).to_canonical()
    }
}

impl Number {
    /// Reads the file name of a reservation, which is the canonical text of the address. `None` for any other name.
    pub(super) fn from_file_name(name: &str) -> Option<Self> {
        let ip: IpAddr = name.parse().ok()?;
        let canonical = ip.to_canonical();
        (canonical.to_string() == name).then(|| Self::from(canonical))
    }

    /// The next address. The last one wraps.
    pub(super) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// The addresses from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub first: Number,
    pub last: Number,
}

impl Span {
    pub(super) fn contains(self, number: Number) -> bool {
        self.first <= number && number <= self.last
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_canonical_text() {
        for good in ["10.1.2.3", "fd00::1", "::1", "2001:db8::102:304"] {
            let number = Number::from_file_name(good).unwrap();
            assert_eq!(IpAddr::from(number).to_string(), good);
        }
        for other in
            ["lock", "last_reserved_ip.0", "10.1.2", "010.1.2.3", "FD00::1", "fd00:0::1", "::ffff:10.1.2.3", ""]
        {
            assert_eq!(Number::from_file_name(other), None, "{other}");
        }
    }
}
