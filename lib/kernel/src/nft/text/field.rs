//! The fields of a packet that a rule can load: their expressions, names and values.

use super::{hex, protocol};
use crate::nft::builder::{Field, Side, ct};
use crate::nft::expr::Expr;
use crate::nft::value::Type;
use crate::types::Family;

const CT_STATES: [(u32, &str); 5] = [
    (ct::INVALID, "invalid"),
    (ct::ESTABLISHED, "established"),
    (ct::RELATED, "related"),
    (ct::NEW, "new"),
    (ct::UNTRACKED, "untracked"),
];
/// IPS_* (linux/netfilter/nf_conntrack_common.h) by nft's names.
const CT_STATUS: [(u32, &str); 1] = [(ct::DNAT, "dnat")];
const FIELDS: [Field; 17] = [
    Field::IifName,
    Field::OifName,
    Field::Mark,
    Field::NfProto,
    Field::Protocol,
    Field::L4Proto,
    Field::Addr(Family::V4, Side::Source),
    Field::Addr(Family::V4, Side::Destination),
    Field::Addr(Family::V6, Side::Source),
    Field::Addr(Family::V6, Side::Destination),
    Field::Ether(Side::Source),
    Field::Ether(Side::Destination),
    Field::Port(Side::Source),
    Field::Port(Side::Destination),
    Field::CtState,
    Field::CtStatus,
    Field::FibDaddrType,
];

/// The field that `expr` loads. For an address it may be only the first bytes.
pub(super) fn field(expr: &Expr) -> Option<Field> {
    let (dreg, len) = match expr {
        Expr::Meta { dreg, .. } | Expr::Ct { dreg, .. } | Expr::Fib { dreg, .. } => (*dreg, None),
        Expr::Payload { dreg, len, .. } => (*dreg, Some(*len)),
        _ => return None,
    };
    let fits = |field: &Field| match (len, field) {
        (None, _) => true,
        (Some(len), Field::Addr(..)) => len <= field.len(),
        (Some(len), _) => len == field.len(),
    };
    FIELDS.into_iter().find(|field| fits(field) && field.load(dreg, len.unwrap_or(field.len())) == *expr)
}

pub(super) fn name(field: Field) -> &'static str {
    match field {
        Field::IifName => "iifname",
        Field::OifName => "oifname",
        Field::Mark => "meta mark",
        Field::NfProto => "meta nfproto",
        Field::Protocol => "meta protocol",
        Field::L4Proto => "meta l4proto",
        Field::Addr(Family::V4, Side::Source) => "ip saddr",
        Field::Addr(Family::V4, Side::Destination) => "ip daddr",
        Field::Addr(Family::V6, Side::Source) => "ip6 saddr",
        Field::Addr(Family::V6, Side::Destination) => "ip6 daddr",
        Field::Ether(Side::Source) => "ether saddr",
        Field::Ether(Side::Destination) => "ether daddr",
        Field::Port(Side::Source) => "th sport",
        Field::Port(Side::Destination) => "th dport",
        Field::CtState => "ct state",
        Field::CtStatus => "ct status",
        Field::FibDaddrType => "fib daddr type",
    }
}

/// The bytes as the field's value.
pub(super) fn value(field: Field, data: &[u8]) -> String {
    let word = data.try_into().map(u32::from_ne_bytes);
    match (field, data, word) {
        (Field::IifName | Field::OifName, ..) => {
            let name = String::from_utf8_lossy(data);
            // a name without its terminating zero is the prefix of names
            format!("\"{}{}\"", name.trim_end_matches('\0'), if name.ends_with('\0') { "" } else { "*" })
        }
        (Field::NfProto, [2], _) => "ipv4".into(),
        (Field::NfProto, [10], _) => "ipv6".into(),
        (Field::Protocol, [8, 0], _) => "ip".into(),
        (Field::Protocol, [0x86, 0xdd], _) => "ip6".into(),
        (Field::L4Proto, [number], _) => protocol(*number),
        (Field::Mark, _, Ok(word)) => format!("{word:#x}"),
        (Field::FibDaddrType, _, Ok(word)) => address_type(word),
        (Field::CtState, _, Ok(word)) => bits(&CT_STATES, word),
        (Field::CtStatus, _, Ok(word)) => bits(&CT_STATUS, word),
        (Field::Addr(family, _), ..) => address(family, data),
        (Field::Ether(_), ..) => typed(Type::EtherAddr, data),
        (Field::Port(_), ..) => typed(Type::InetService, data),
        _ => hex(data),
    }
}

fn bits(names: &[(u32, &str)], word: u32) -> String {
    let known = names.iter().filter(|(bit, _)| word & bit != 0);
    let other = names.iter().fold(word, |rest, (bit, _)| rest & !bit);
    let other = (other != 0).then(|| format!("{other:#x}"));
    known.map(|(_, name)| (*name).to_owned()).chain(other).collect::<Vec<_>>().join(",")
}

fn typed(kind: Type, data: &[u8]) -> String {
    let values = Type::values(&[kind], data);
    values
        .filter(|_| data.len() == kind.size())
        .map_or_else(|| hex(data), |values| values.iter().map(super::value).collect())
}

/// An address, or a prefix if there are only its first bytes.
pub(super) fn address(family: Family, data: &[u8]) -> String {
    let kind = Type::addr(family);
    let mut whole = data.to_vec();
    whole.resize(kind.size().max(data.len()), 0);
    let length = if data.len() < kind.size() { format!("/{}", data.len() * 8) } else { String::new() };
    typed(kind, &whole) + &length
}

/// RTN_* (linux/rtnetlink.h) by nft's names.
fn address_type(number: u32) -> String {
    const NAMES: [&str; 6] = ["unspec", "unicast", "local", "broadcast", "anycast", "multicast"];
    NAMES.get(number as usize).map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

/// The length of the prefix with this mask.
pub(super) fn prefix(mask: &[u8]) -> Option<u32> {
    let ones: u32 = mask.iter().map(|byte| byte.leading_ones()).sum();
    let bits: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let whole = mask.iter().take_while(|byte| **byte == 0xff).count() * 8;
    let last = mask.get(whole / 8).map_or(0, |byte| byte.leading_ones());
    let length = whole as u32 + last;
    (ones == bits && bits == length).then_some(length)
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
