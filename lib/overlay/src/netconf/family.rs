//! One family's network, and the range of its subnets.

use std::net::IpAddr;

use gojson::{Json, Reader};
use ipnetwork::IpNetwork;
use kernel::types::{Family, masked};

use super::error::Keys;
use super::{Mistake, Notes, Warning};
use crate::net;

/// The configuration of an enabled family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FamilyConf {
    /// `Network` or `IPv6Network`, host bits zero.
    pub network: IpNetwork,
    /// The subnets that are leased.
    pub allocation: Allocation,
}

/// The subnets of a network that are leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// Their prefix length: `SubnetLen`, `IPv6SubnetLen`.
    pub len: u8,
    /// The first address of the first subnet: `SubnetMin`.
    pub min: IpAddr,
    /// The first address of the last subnet: `SubnetMax`. Not below `min`.
    pub max: IpAddr,
}

/// A family's keys before they are checked.
pub(super) struct Raw {
    pub(super) family: Family,
    /// A value of any type: everything that is not a CIDR, even `null`, gives the same message.
    network: Option<Json>,
    len: Option<u64>,
    min: Option<String>,
    max: Option<String>,
}

impl Raw {
    pub(super) fn take(reader: &mut Reader<'_>, family: Family) -> Self {
        let key = |name: &str| format!("{}{name}", Keys(family));
        Self {
            family,
            network: reader.take(&key("Network")),
            // 0 means "not set", as in Go.
            len: reader.take(&key("SubnetLen")).filter(|len| *len != 0),
            min: reader.take(&key("SubnetMin")),
            max: reader.take(&key("SubnetMax")),
        }
    }

    /// Checks the keys. Returns `None` only together with a mistake in `notes`.
    pub(super) fn check(self, notes: &mut Notes) -> Option<FamilyConf> {
        let network = self.network(notes);
        let len = self.len(network, notes);
        let min = self.end("SubnetMin", self.min.as_deref(), notes);
        let max = self.end("SubnetMax", self.max.as_deref(), notes);
        // one mistake does not hide another: what stands by itself is checked without a network, too
        let before = notes.mistakes.len();
        self.check_ends(network, len, [("SubnetMin", min), ("SubnetMax", max)], notes);
        let (first, last) = network.zip(len).map(|(network, len)| self.all(network, len)).unzip();
        let (min, max) = (min.or(first), max.or(last));
        if let (Some(min), Some(max)) = (min, max)
            && min > max
            && notes.mistakes.len() == before
        {
            notes.wrong(Mistake::EmptyRange { family: self.family, min, max });
        }
        Some(FamilyConf { network: network?, allocation: Allocation { len: len?, min: min?, max: max? } })
    }

    /// The first address of the first subnet and of the last one, where nothing else is configured.
    fn all(&self, network: IpNetwork, len: u8) -> (IpAddr, IpAddr) {
        let size = net::size(self.family, len);
        let (first, last) = net::bounds(network);
        (net::address(self.family, first + size), net::address(self.family, last - (size - 1)))
    }

    fn network(&self, notes: &mut Notes) -> Option<IpNetwork> {
        let family = self.family;
        let Some(value) = &self.network else {
            notes.wrong(Mistake::NoNetwork { family });
            return None;
        };
        let given = value.as_str().and_then(net::parse_cidr);
        let Some(given) = given.filter(|net| Family::from(*net) == family) else {
            notes.wrong(Mistake::BadNetwork { family, value: value.to_string() });
            return None;
        };
        let used = masked(given);
        if used == family.default_net() {
            notes.wrong(Mistake::NoNetwork { family });
            return None;
        }
        if used != given {
            notes.warnings.push(Warning::HostBits { family, given, used });
        }
        Some(used)
    }

    fn end(&self, key: &'static str, text: Option<&str>, notes: &mut Notes) -> Option<IpAddr> {
        let text = text?;
        let family = self.family;
        match text.parse::<IpAddr>().ok().filter(|addr| Family::from(*addr) == family) {
            // An unspecified address means "not set" in Go.
            Some(addr) if addr.is_unspecified() => None,
            Some(addr) => Some(addr),
            None => {
                notes.wrong(Mistake::BadAddress { family, key, value: text.to_owned() });
                None
            }
        }
    }

    /// `SubnetLen`, or /24 (IPv6: /64) where the network has room for four of them, else a quarter of the network.
    fn len(&self, network: Option<IpNetwork>, notes: &mut Notes) -> Option<u8> {
        let family = self.family;
        let (bits, prefix) = (family.bits(), network.map(|network| network.prefix()));
        let usual = if family == Family::V4 { 24 } else { 64 };
        let mistake = match (self.len, prefix) {
            (Some(len), _) if len > u64::from(bits) - 2 => Mistake::LenTooLong { family },
            (Some(len), Some(prefix)) if len < u64::from(prefix) + 2 => Mistake::LenTooShort { family },
            // checked against the family's bits just above
            (Some(len), _) => return u8::try_from(len).ok(),
            (None, None) => return None,
            (None, Some(prefix)) if prefix > bits - 4 => Mistake::NetworkTooSmall { family },
            (None, Some(prefix)) if prefix <= usual - 2 => return Some(usual),
            (None, Some(prefix)) => return Some(prefix + 2),
        };
        notes.wrong(mistake);
        None
    }

    fn check_ends(
        &self,
        network: Option<IpNetwork>,
        len: Option<u8>,
        ends: [(&'static str, Option<IpAddr>); 2],
        notes: &mut Notes,
    ) {
        let family = self.family;
        for (key, value) in ends.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            if network.is_some_and(|network| !network.contains(value)) {
                notes.wrong(Mistake::OutOfNetwork { family, key });
            } else if len.is_some_and(|len| !net::number(value).is_multiple_of(net::size(family, len))) {
                notes.wrong(Mistake::NotAligned { family, key, value });
            }
        }
    }
}
