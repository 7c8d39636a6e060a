//! The subnets of a lease, and their text form as a key.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use kernel::types::{Family, masked};

use crate::net::parse_len;

/// At most one subnet per family. The default is none.
///
/// As text it is the key of a lease: `10.5.53.0-24`, with both families `10.5.53.0-24&fd05:0:0:65::-64`, with IPv6
/// only `0.0.0.0-0&fd05:0:0:65::-64`. The order is by address, not by text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subnets {
    /// The IPv4 subnet.
    pub v4: Option<Ipv4Network>,
    /// The IPv6 subnet.
    pub v6: Option<Ipv6Network>,
}

/// A text that is not the key of a lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a subnet; a key is ADDRESS-LENGTH, or IPV4-LENGTH&IPV6-LENGTH in lower case with lengths up to 31 and 127"
)]
pub struct KeyError;

impl Subnets {
    /// The subnet of a family.
    pub fn get(&self, family: Family) -> Option<IpNetwork> {
        match family {
            Family::V4 => self.v4.map(IpNetwork::V4),
            Family::V6 => self.v6.map(IpNetwork::V6),
        }
    }

    /// Sets the subnet of `net`'s family.
    pub fn set(&mut self, net: IpNetwork) {
        match net {
            IpNetwork::V4(v4) => self.v4 = Some(v4),
            IpNetwork::V6(v6) => self.v6 = Some(v6),
        }
    }

    /// The subnets, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpNetwork> {
        Family::ALL.into_iter().filter_map(|family| self.get(family))
    }

    /// Whether there are no subnets.
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// A copy with all host bits cleared.
    pub fn masked(&self) -> Self {
        self.iter().map(masked).collect()
    }
}

impl FromIterator<IpNetwork> for Subnets {
    /// Takes the last network of each family.
    fn from_iter<I: IntoIterator<Item = IpNetwork>>(nets: I) -> Self {
        let mut subnets = Self::default();
        nets.into_iter().for_each(|net| subnets.set(net));
        subnets
    }
}

impl fmt::Display for Subnets {
    /// Prints the key of the lease. An empty one prints as `0.0.0.0-0`, which does not parse.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.v4 {
            Some(v4) => write!(f, "{}-{}", v4.ip(), v4.prefix())?,
            None => f.write_str("0.0.0.0-0")?,
        }
        match self.v6 {
            Some(v6) => write!(f, "&{}-{}", v6.ip(), v6.prefix()),
            None => Ok(()),
        }
    }
}

impl FromStr for Subnets {
    type Err = KeyError;

    /// Parses a key: the part of an etcd key after the last `/`. It keeps host bits, because host bits in one half do
    /// not make the other half wrong; `peers::check` checks each half.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (first, second) = match text.split_once('&') {
            Some((first, second)) => (first, Some(second)),
            None => (text, None),
        };
        let v4 = half(first, 31).and_then(|net| if let IpNetwork::V4(v4) = net { Some(v4) } else { None });
        let v4 = v4.ok_or(KeyError)?;
        let none = v4.ip() == Ipv4Addr::UNSPECIFIED && v4.prefix() == 0;
        let v6 = match second.map(|text| half(text, 127)) {
            None => None,
            Some(Some(IpNetwork::V6(v6))) => Some(v6),
            Some(_) => return Err(KeyError),
        };
        if none && v6.is_none() { Err(KeyError) } else { Ok(Self { v4: (!none).then_some(v4), v6 }) }
    }
}

fn half(text: &str, max_len: u8) -> Option<IpNetwork> {
    let (addr, len) = text.split_once('-')?;
    if addr.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    let len = parse_len(len).filter(|len| *len <= max_len)?;
    let addr: IpAddr = addr.parse().ok()?;
    // Upstream's pattern allows no dots in the IPv6 part.
    if addr.is_ipv6() && text.contains('.') { None } else { IpNetwork::new(addr, len).ok() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_upstreams() {
        for (text, v4, v6) in [
            ("10.5.53.0-24", Some("10.5.53.0/24"), None),
            ("10.5.53.0-24&fd05:0:0:65::-64", Some("10.5.53.0/24"), Some("fd05:0:0:65::/64")),
            ("0.0.0.0-0&fd05:0:0:65::-64", None, Some("fd05:0:0:65::/64")),
        ] {
            let subnets: Subnets = text.parse().unwrap();
            assert_eq!(subnets.v4.map(|net| net.to_string()).as_deref(), v4);
            assert_eq!(subnets.v6.map(|net| net.to_string()).as_deref(), v6);
            assert_eq!(subnets.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bad in [
            "",
            "0.0.0.0-0",
            "10.5.53.0",
            "10.5.53.0-32",
            "10.5.53.0/24",
            "10.5.53.0-24&",
            "10.5.53.0-24&fd05::-128",
            "10.5.53.0-24&FD05::-64",
            "&fd05::-64",
            "fd05::-64",
            "10.5.53.0-24&10.5.54.0-24",
            "10.5.53.0--1",
            "subnets/10.5.53.0-24",
            "10.5.53.0-24 ",
            "10.5.53.0-24&::ffff:1.2.3.4-64",
            "10.05.53.0-24",
        ] {
            assert_eq!(bad.parse::<Subnets>(), Err(KeyError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_lease_has_a_key(v4: Option<(u32, u8)>, v6: Option<(u128, u8)>) {
            let subnets = Subnets {
                v4: v4.map(|(addr, len)| Ipv4Network::new(addr.into(), len % 32).unwrap()),
                v6: v6.map(|(addr, len)| Ipv6Network::new(addr.into(), len % 128).unwrap()),
            };
            prop_assume!(!subnets.is_empty() && subnets.v4 != Some("0.0.0.0/0".parse().unwrap()));
            // Go prints some addresses with dots, and its own pattern does not accept those.
            prop_assume!(!subnets.v6.is_some_and(|net| net.ip().to_string().contains('.')));
            prop_assert_eq!(subnets.to_string().parse::<Subnets>().unwrap(), subnets);
        }

        #[test]
        fn no_text_panics(text in "[0-9a-f.:&-]{0,40}") {
            let _ = text.parse::<Subnets>();
        }
    }
}
