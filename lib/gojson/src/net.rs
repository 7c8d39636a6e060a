//! Addresses as Go's `net` package reads them.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, de};

/// A field of Go's type `net.IP`: a string; `""` means unset. Leading zeros are an error. `::ffff:a.b.c.d` is IPv4.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Ip(pub Option<IpAddr>);

/// A prefix as `net.ParseCIDR` reads it, such as `10.1.2.3/24`. The host bits are kept. A bare address and a dotted
/// mask are errors. For a field that may be absent, use `Option<Cidr>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr(pub IpNetwork);

/// Parses an address as `net.ParseIP` does. `None` if the text is not an address. A zone is not allowed.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// Parses a prefix as `net.ParseCIDR` does and keeps the host bits. `None` if the text is not a prefix.
pub fn parse_cidr(text: &str) -> Option<IpNetwork> {
    let (address, length) = text.split_once('/')?;
    if length.is_empty() || length.len() > 3 || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let address: IpAddr = address.parse().ok()?;
    let length: u8 = length.parse().ok()?;
    match (address, address.to_canonical()) {
        (IpAddr::V6(_), canonical @ IpAddr::V4(_)) => IpNetwork::new(canonical, length.checked_sub(96)?).ok(),
        _ => IpNetwork::new(address, length).ok(),
    }
}

impl From<Ip> for Option<IpAddr> {
    fn from(ip: Ip) -> Self {
        ip.0
    }
}

impl From<Cidr> for IpNetwork {
    fn from(cidr: Cidr) -> Self {
        cidr.0
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Ip {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text("an IP address", |text| {
            if text.is_empty() {
                return Ok(Self(None));
            }
            parse_ip(text).map(|ip| Self(Some(ip))).ok_or("invalid IP address")
        }))
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text("an address and prefix length", |text| {
            parse_cidr(text).map(Self).ok_or("invalid CIDR address")
        }))
    }
}

/// Reads a string. The first part names what is expected, the second parses it.
struct Text<T>(&'static str, fn(&str) -> Result<T, &'static str>);

impl<T> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.1)(text).map_err(|what| E::custom(format_args!("{what}: {text}")))
    }
}
