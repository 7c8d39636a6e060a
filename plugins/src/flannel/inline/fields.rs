//! Takes fields of a JSON object and keeps every mistake, instead of stopping at the first.

use std::net::IpAddr;

use cni::json::{Json, parse_cidr, parse_ip};
use ipnetwork::IpNetwork;
use kernel::types::{Family, Mac};

/// One object, and what is wrong with it so far.
pub(super) struct Fields<'a> {
    object: &'a Json,
    /// Before each key in a message: empty, or `peers[0].`
    path: String,
    mistakes: Vec<String>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(object: &'a Json, path: impl Into<String>) -> Self {
        Self { object, path: path.into(), mistakes: Vec::new() }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.object.get(key).is_some()
    }

    pub(super) fn wrong(&mut self, key: &str, what: impl std::fmt::Display) {
        self.mistakes.push(format!("{}{key} {what}", self.path));
    }

    pub(super) fn mistakes(self) -> Vec<String> {
        self.mistakes
    }

    /// Keys that are none of `known`, in any case.
    pub(super) fn unknown(&mut self, known: &[&str]) {
        for (key, _) in self.object.as_object().unwrap_or_default() {
            if !known.iter().any(|known| cni::json::same_key(known, key)) {
                self.wrong(key, format_args!("is not known here; known are {}", known.join(", ")));
            }
        }
    }

    /// A value that `read` understands; absent, `null` and `""` are `None`.
    fn take<T>(&mut self, key: &str, wanted: &str, read: impl FnOnce(&Json) -> Option<T>) -> Option<T> {
        let value = self.object.get(key).filter(|value| **value != Json::from(""))?;
        let taken = read(value);
        if taken.is_none() {
            self.wrong(key, format_args!("must be {wanted}, not {}", value.compact()));
        }
        taken
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        self.take(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        self.take(key, "true or false", Json::as_bool)
    }

    /// A number that `check` lets through; what it says is what the number must be.
    pub(super) fn number<T>(&mut self, key: &str, check: impl FnOnce(u64) -> Result<T, &'static str>) -> Option<T> {
        let read = |value: &Json| if let Json::Number(text) = value { text.parse().ok() } else { None };
        let number: u64 = self.take(key, "a whole number that is not negative", read)?;
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

    /// A MAC address that one device can have.
    pub(super) fn mac(&mut self, key: &str) -> Option<Mac> {
        self.take(key, "the MAC address of one device, like 0e:12:34:56:78:9a", |value| {
            value.as_str()?.parse().ok().filter(|mac: &Mac| mac.is_unicast())
        })
    }
}
