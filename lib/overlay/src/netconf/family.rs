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
        let min = self.end("SubnetMin", self.min.as_deref(), notes);
        let max = self.end("SubnetMax", self.max.as_deref(), notes);
        let network = network?;
        let len = self.len(network, notes)?;
        let size = net::size(self.family, len);
        let (first, last) = net::bounds(network);
        let default_min = net::address(self.family, first + size);
        let default_max = net::address(self.family, last - (size - 1));
        let allocation = Allocation { len, min: min.unwrap_or(default_min), max: max.unwrap_or(default_max) };
        self.check_range(network, allocation, notes);
        Some(FamilyConf { network, allocation })
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

    /// `SubnetLen`, or else /24 (IPv6: /64) if the network has room for four of them, else a quarter of the network.
    fn len(&self, network: IpNetwork, notes: &mut Notes) -> Option<u8> {
        let family = self.family;
        let (bits, prefix) = (family.bits(), network.prefix());
        let usual = if family == Family::V4 { 24 } else { 64 };
        let mistake = match self.len {
            Some(len) if len > u64::from(bits) - 2 => Mistake::LenTooLong { family },
            Some(len) if len < u64::from(prefix) + 2 => Mistake::LenTooShort { family },
            // The check above compares it with the family's bits.
            Some(len) => return u8::try_from(len).ok(),
            None if prefix > bits - 4 => Mistake::NetworkTooSmall { family },
            None if prefix <= usual - 2 => return Some(usual),
            None => return Some(prefix + 2),
        };
        notes.wrong(mistake);
        None
    }

    fn check_range(&self, network: IpNetwork, allocation: Allocation, notes: &mut Notes) {
        let family = self.family;
        let Allocation { len, min, max } = allocation;
        let before = notes.mistakes.len();
        for (key, value) in [("SubnetMin", min), ("SubnetMax", max)] {
            if !network.contains(value) {
                notes.wrong(Mistake::OutOfNetwork { family, key });
            } else if !net::number(value).is_multiple_of(net::size(family, len)) {
                notes.wrong(Mistake::NotAligned { family, key, value });
            }
        }
        if notes.mistakes.len() == before && min > max {
            notes.wrong(Mistake::EmptyRange { family, min, max });
        }
    }
}
