//! Arithmetic on prefixes, with one path for both families: every address is a `u128`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use kernel::types::{Family, masked};

/// One value per family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByFamily<T> {
    /// The value for IPv4.
    pub v4: T,
    /// The value for IPv6.
    pub v6: T,
}

impl<T> ByFamily<T> {
    /// The value for a family.
    pub fn get(&self, family: Family) -> &T {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// The value for a family, mutably.
    pub fn get_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// Parses `ADDRESS/LENGTH` like Go's `net.ParseCIDR`, keeping host bits. Unlike `IpNetwork::from_str` it refuses a
/// bare address or a netmask: `10.0.0.0/255.0.0.0` in a configuration is a mistake.
pub fn parse_cidr(text: &str) -> Option<IpNetwork> {
    let (addr, len) = text.split_once('/')?;
    IpNetwork::new(addr.parse().ok()?, parse_len(len)?).ok()
}

/// Parses a prefix length: one to three decimal digits without a sign.
pub(crate) fn parse_len(text: &str) -> Option<u8> {
    let digits = (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// The address as a number.
pub fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The address of `family` with this number; an IPv4 address takes the low 32 bits.
pub fn address(family: Family, number: u128) -> IpAddr {
    match family {
        #[expect(clippy::cast_possible_truncation, reason = "an IPv4 address is 32 bits")]
        Family::V4 => Ipv4Addr::from(number as u32).into(),
        Family::V6 => Ipv6Addr::from(number).into(),
    }
}

/// The prefix of this length that contains `addr`; `None` when the family has no such length.
pub fn prefix(addr: IpAddr, len: u8) -> Option<IpNetwork> {
    IpNetwork::new(addr, len).ok().map(masked)
}

/// The first and the last address of a prefix.
pub fn bounds(net: IpNetwork) -> (u128, u128) {
    let host_bits = Family::from(net).bits().saturating_sub(net.prefix());
    let first = number(net.network());
    let host_mask = 1_u128.checked_shl(host_bits.into()).map_or(u128::MAX, |size| size - 1);
    (first, first | host_mask)
}

/// The number of addresses in a prefix of this length; saturates for `::/0`.
pub fn size(family: Family, len: u8) -> u128 {
    let host_bits = family.bits().saturating_sub(len);
    1_u128.checked_shl(host_bits.into()).unwrap_or(u128::MAX)
}

/// Whether `outer` contains `inner` or equals it. False across families.
pub fn within(inner: IpNetwork, outer: IpNetwork) -> bool {
    let (first, last) = bounds(inner);
    let (low, high) = bounds(outer);
    Family::from(inner) == Family::from(outer) && low <= first && last <= high
}

/// Whether the two share an address. False across families.
pub fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    let (a_first, a_last) = bounds(a);
    let (b_first, b_last) = bounds(b);
    Family::from(a) == Family::from(b) && a_first <= b_last && b_first <= a_last
}

/// `net`'s first address plus one, with the same length: the host's own address in text forms.
pub fn base_plus_one(net: IpNetwork) -> IpNetwork {
    let (first, last) = bounds(net);
    let addr = address(Family::from(net), first.saturating_add(1).min(last));
    // The length comes from a network of the same family.
    IpNetwork::new(addr, net.prefix()).unwrap_or(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> IpNetwork {
        parse_cidr(text).unwrap()
    }

    #[test]
    fn only_address_slash_length_is_a_cidr() {
        assert_eq!(cidr("10.1.2.3/16").to_string(), "10.1.2.3/16");
        assert_eq!(cidr("FD05::/56").to_string(), "fd05::/56");
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/+8",
            "010.0.0.0/8",
            "10.0.0/8",
            " 10.0.0.0/8",
            "fd05::/129",
            "10.0.0.0/8/8",
            "null",
        ] {
            assert_eq!(parse_cidr(bad), None, "{bad}");
        }
    }

    #[test]
    fn bounds_reach_both_ends_of_the_address_space() {
        assert_eq!(bounds(cidr("255.255.255.0/24")), (0xffff_ff00, 0xffff_ffff));
        assert_eq!(bounds(cidr("::/0")), (0, u128::MAX));
        assert!(within(cidr("10.5.1.0/24"), cidr("10.5.0.0/16")) && !within(cidr("10.5.0.0/15"), cidr("10.5.0.0/16")));
        assert!(
            overlap(cidr("10.5.0.0/16"), cidr("10.5.9.0/24")) && !overlap(cidr("10.5.0.0/24"), cidr("10.5.1.0/24"))
        );
        assert!(!overlap(cidr("0.0.0.0/0"), cidr("::/0")) && !within(cidr("10.0.0.0/8"), cidr("::/0")));
        assert_eq!(base_plus_one(cidr("fd05:0:0:4d::/64")).to_string(), "fd05:0:0:4d::1/64");
    }
}
