//! Conditions on the packets of host ports (`conditionsV4`, `conditionsV6`): words in the syntax of `nft` or of
//! `iptables`. Those of `nft` are read here, as far as a rule of ours can have them.

use ipnetwork::IpNetwork;
use kernel::nft::{Is, RuleBuilder, Side};
use kernel::types::{Family, IfName, Mac};
use serde::{Deserialize, Serialize};

/// What can be read.
const KNOWN: &str = "ip saddr, ip daddr, ip6 saddr, ip6 daddr, ether saddr, ether daddr, iifname, oifname, meta mark, \
                     meta l4proto, tcp|udp|sctp sport and dport, each with one value, == or !=";

/// The conditions of both families.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// For IPv4: the words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub v4: Vec<String>,
    /// For IPv6.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub v6: Vec<String>,
}

impl Conditions {
    /// The words for one family.
    pub fn of(&self, family: Family) -> &[String] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// Whether the words are options of `iptables`, by upstream's rule.
pub fn are_of_iptables(words: &[String]) -> bool {
    words.first().is_some_and(|word| word.starts_with(['-', '!']))
}

/// Adds the conditions to a rule for packets of `family`.
///
/// # Errors
/// The first condition that is not known, or that no packet of the family meets.
pub fn add(mut rule: RuleBuilder, family: Family, words: &[String]) -> Result<RuleBuilder, String> {
    let text = words.join(" ").replace('"', "");
    let mut words = text.split_ascii_whitespace().peekable();
    while let Some(first) = words.next() {
        let first = if first == "meta" { words.next().unwrap_or_default() } else { first };
        let has_second = ["ip", "ip6", "ether", "tcp", "udp", "sctp", "th"].contains(&first);
        let second = if has_second { words.next().unwrap_or_default() } else { "" };
        let is = match words.peek() {
            Some(&("!=" | "ne")) => Is::Not,
            _ => Is::Eq,
        };
        if words.peek().is_some_and(|word| ["==", "eq", "!=", "ne"].contains(word)) {
            words.next();
        }
        let value = words.next().unwrap_or_default();
        rule = match one(rule, family, (first, second), (is, value)) {
            Some(rule) => rule,
            None => {
                return Err(format!(
                    "{} {value}: is not known here; known are {KNOWN}",
                    [first, second].join(" ").trim_end()
                ));
            }
        };
    }
    Ok(rule)
}

fn one(rule: RuleBuilder, family: Family, field: (&str, &str), (is, value): (Is, &str)) -> Option<RuleBuilder> {
    let side = match field.1 {
        "saddr" | "sport" => Some(Side::Source),
        "daddr" | "dport" => Some(Side::Destination),
        _ => None,
    };
    let net = || value.parse::<IpNetwork>().ok().filter(|net| Family::from(*net) == family);
    match field {
        ("ip", "saddr" | "daddr") if family == Family::V4 => Some(rule.addr(side?, is, net()?)),
        ("ip6", "saddr" | "daddr") if family == Family::V6 => Some(rule.addr(side?, is, net()?)),
        ("ether", "saddr" | "daddr") => Some(rule.ether(side?, is, value.parse::<Mac>().ok()?)),
        ("iifname", _) => Some(rule.iifname(is, &IfName::new(value).ok()?)),
        ("oifname", _) => Some(rule.oifname(is, &IfName::new(value).ok()?)),
        ("mark", _) => Some(rule.mark(is, number(value)?)),
        ("l4proto", _) => Some(rule.l4proto(is, protocol(value)?)),
        ("tcp" | "udp" | "sctp", "sport" | "dport") => {
            Some(rule.l4proto(Is::Eq, protocol(field.0)?).port(side?, is, value.parse().ok()?))
        }
        _ => None,
    }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn protocol(name: &str) -> Option<u8> {
    let known = super::PROTOCOLS.into_iter().find(|(known, _)| *known == name);
    known.map_or_else(|| name.parse().ok(), |(_, number)| Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::nft::NftFamily;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn read(family: Family, text: &str) -> Result<kernel::nft::Rule, String> {
        add(RuleBuilder::new(NftFamily::Inet).nfproto(family), family, &words(text)).map(RuleBuilder::done)
    }

    #[test]
    fn conditions_become_matches() {
        let rule = || RuleBuilder::new(NftFamily::Inet).nfproto(Family::V4);
        let net: IpNetwork = "192.0.2.0/24".parse().unwrap();
        let expected = rule().addr(Side::Source, Is::Not, net).iifname(Is::Eq, &IfName::new("eth0").unwrap()).done();
        assert_eq!(read(Family::V4, "ip saddr != 192.0.2.0/24 iifname \"eth0\""), Ok(expected));
        assert_eq!(read(Family::V4, "meta mark 0x10"), Ok(rule().mark(Is::Eq, 16).done()));
        let expected = rule().l4proto(Is::Eq, 6).port(Side::Source, Is::Not, 80).done();
        assert_eq!(read(Family::V4, "tcp sport ne 80"), Ok(expected));
        let v6 = RuleBuilder::new(NftFamily::Inet).nfproto(Family::V6);
        let expected = v6.addr(Side::Destination, Is::Eq, "fd00::/8".parse().unwrap()).done();
        assert_eq!(read(Family::V6, "ip6 daddr == fd00::/8"), Ok(expected));
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (family, text) in [
            (Family::V4, "ip saddr { 10.0.0.1, 10.0.0.2 }"),
            (Family::V4, "ip6 saddr fd00::/8"),
            (Family::V4, "ip saddr fd00::/8"),
            (Family::V4, "ip saddr"),
            (Family::V6, "ct state new"),
            (Family::V4, "accept"),
        ] {
            let error = read(family, text).unwrap_err();
            assert!(error.contains("known are ip saddr"), "{error}");
        }
    }
}
