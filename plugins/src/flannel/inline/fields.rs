//! Reads the fields of a JSON object that a person wrote; `""` counts as absent.

use std::net::IpAddr;

use gojson::{Field, Json, Leftovers, Reader, Wrong, parse_cidr, parse_ip};
use ipnetwork::IpNetwork;
use kernel::types::{Family, Mac};

/// An object, and the mistakes found in it so far.
pub(super) struct Fields<'a>(Reader<'a>);

impl<'a> Fields<'a> {
    /// `path` names the object in messages: `peers[0]`, or empty at the top.
    pub(super) fn of(object: &'a Json, path: String) -> Result<Self, Wrong> {
        Reader::new(path, object).map(Self)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.0.has(key)
    }

    pub(super) fn wrong(&mut self, key: &str, what: impl std::fmt::Display) {
        self.0.wrong(key, what);
    }

    /// The mistakes, and the keys that nobody read.
    pub(super) fn finish(self) -> (Vec<String>, Vec<String>) {
        let (wrong, Leftovers { unknown, .. }) = self.0.finish();
        (wrong.iter().map(Wrong::to_string).collect(), unknown)
    }

    /// A value that `read` accepts; `None` when it is absent, `null` or `""`.
    fn take<T>(&mut self, key: &str, wanted: &str, read: impl Fn(&Json) -> Option<T>) -> Option<T> {
        let read = |value: &Json| if value.as_str() == Some("") { Some(None) } else { read(value).map(Some) };
        self.0.take_with(key, wanted, read).flatten()
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        self.take(key, String::WANTED, String::read)
    }

    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        self.take(key, bool::WANTED, bool::read)
    }

    /// A number that `check` accepts; its error says what the number must be.
    pub(super) fn number<T>(&mut self, key: &str, check: impl FnOnce(u64) -> Result<T, &'static str>) -> Option<T> {
        let number = self.take(key, u64::WANTED, u64::read)?;
        check(number)
            .map_err(|wanted| self.wrong(key, format_args!("{number} is out of range: it must be {wanted}")))
            .ok()
    }

    pub(super) fn address(&mut self, key: &str, family: Family) -> Option<IpAddr> {
        let wanted = if family == Family::V4 { "an IPv4 address" } else { "an IPv6 address" };
        let of_family = |addr: &IpAddr| Family::from(*addr) == family;
        self.take(key, wanted, |value| parse_ip(value.as_str()?).filter(of_family))
    }

    /// A prefix without host bits.
    pub(super) fn prefix(&mut self, key: &str, family: Family) -> Option<IpNetwork> {
        let wanted = if family == Family::V4 { "a prefix like 10.244.1.0/24" } else { "a prefix like fd00:1::/64" };
        let net =
            self.take(key, wanted, |value| parse_cidr(value.as_str()?).filter(|net| Family::from(*net) == family))?;
        let base = kernel::types::masked(net);
        if base != net {
            self.wrong(key, format_args!("{net} has bits beyond its prefix length: write {base}"));
            return None;
        }
        Some(net)
    }

    /// A MAC address that a single device can have.
    pub(super) fn mac(&mut self, key: &str) -> Option<Mac> {
        self.take(key, "the MAC address of one device, like 0e:12:34:56:78:9a", |value| {
            value.as_str()?.parse().ok().filter(|mac: &Mac| mac.is_unicast())
        })
    }
}
