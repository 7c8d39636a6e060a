//! Turns a rule's expressions back into the matches and statements of `nft`.

use super::field::{address, field, is_zero, name, prefix, value};
use super::{hex, verdict};
use crate::nft::builder::Field;
use crate::nft::expr::{Expr, Is, MetaKey, NatKind};
use crate::nft::types::NftFamily;
use crate::types::Family;

/// NF_NAT_RANGE_* (linux/netfilter/nf_nat.h) by nft's names.
const NAT_FLAGS: [(u32, &str); 3] = [(1 << 2, "random"), (1 << 3, "persistent"), (1 << 4, "fully-random")];

/// What the previous expressions have loaded into registers.
enum Loaded<'a> {
    Field(Field),
    Masked(Field, &'a [u8], &'a [u8]),
    Constant(&'a [u8]),
    /// The data of a map for these fields.
    Mapped(String),
    /// The result of an expression that has no text here, by its name.
    Unknown(&'a str),
}

/// The rule's matches and statements, in order.
pub(super) fn statements(family: NftFamily, exprs: &[Expr]) -> Vec<String> {
    let (mut words, mut loaded) = (Vec::new(), Vec::new());
    let mut rest = exprs;
    while let [expr, after @ ..] = rest {
        rest = match after {
            [_, then @ ..] if is_implied(family, expr, after) => then,
            _ => {
                words.extend(statement(family, expr, &mut loaded));
                after
            }
        };
    }
    // loaded and not used
    words.extend(loaded.iter().map(subject));
    words
}

/// The text of the match or statement that `expr` completes. `None` if it only loads.
fn statement<'a>(family: NftFamily, expr: &'a Expr, loaded: &mut Vec<Loaded<'a>>) -> Option<String> {
    if let Some(load) = load(expr, loaded) {
        loaded.push(load);
        return None;
    }
    match expr {
        Expr::Verdict(to) => return Some(verdict(to)),
        Expr::Counter => return Some("counter".into()),
        Expr::Masquerade { flags } => return Some(format!("masquerade{}", nat_flags(*flags))),
        _ => {}
    }
    let from = std::mem::take(loaded);
    Some(match expr {
        _ if from.is_empty() => unknown(&from, expr),
        Expr::Cmp { is, data, .. } => match &from[..] {
            [one] => compare(one, *is, data),
            _ => unknown(&from, expr),
        },
        Expr::Lookup { set, is, .. } => format!("{} {}@{set}", concat(&from), if *is == Is::Not { "!= " } else { "" }),
        Expr::LookupVerdict { set, .. } => format!("{} vmap @{set}", concat(&from)),
        Expr::MetaSet { key: MetaKey::MARK, .. } => format!("meta mark set {}", new_mark(&from)),
        Expr::Nat { kind, family: of, flags, .. } => {
            let kind = if *kind == NatKind::Source { "snat" } else { "dnat" };
            let of = match (family, of) {
                (NftFamily::Ip | NftFamily::Ip6, _) => "",
                (_, Family::V4) => " ip",
                (_, Family::V6) => " ip6",
            };
            format!("{kind}{of} to {}{}", target(&from), nat_flags(*flags))
        }
        _ => unknown(&from, expr),
    })
}

/// What the expression loads into a register.
fn load<'a>(expr: &'a Expr, loaded: &mut Vec<Loaded<'a>>) -> Option<Loaded<'a>> {
    match expr {
        Expr::Meta { .. } | Expr::Payload { .. } | Expr::Ct { .. } | Expr::Fib { .. } => {
            Some(field(expr).map_or(Loaded::Unknown(expr.name()), Loaded::Field))
        }
        Expr::Immediate { data, .. } => Some(Loaded::Constant(data)),
        Expr::Bitwise { mask, xor, .. } => Some(match loaded.pop() {
            Some(Loaded::Field(field)) => Loaded::Masked(field, mask, xor),
            _ => Loaded::Unknown(expr.name()),
        }),
        Expr::LookupData { set, .. } => Some(Loaded::Mapped(format!("{} map @{set}", concat(&std::mem::take(loaded))))),
        _ => None,
    }
}

/// Whether the load at `expr` belongs to a comparison (the first of `after`) that `nft` adds itself before the next
/// match.
fn is_implied(family: NftFamily, expr: &Expr, after: &[Expr]) -> bool {
    let (Expr::Meta { key, .. }, [Expr::Cmp { is: Is::Eq, data, .. }, then @ ..]) = (expr, after) else {
        return false;
    };
    let version = match (family, *key, &data[..]) {
        (NftFamily::Inet, MetaKey::IIFTYPE, _) => return fields(then).any(|field| matches!(field, Field::Ether(_))),
        (NftFamily::Inet, MetaKey::NFPROTO, [2]) => Family::V4,
        (NftFamily::Inet, MetaKey::NFPROTO, [10]) => Family::V6,
        (NftFamily::Bridge | NftFamily::Netdev, MetaKey::PROTOCOL, [8, 0]) => Family::V4,
        (NftFamily::Bridge | NftFamily::Netdev, MetaKey::PROTOCOL, [0x86, 0xdd]) => Family::V6,
        _ => return false,
    };
    fields(then).any(|field| matches!(field, Field::Addr(of, _) if of == version))
}

/// The fields that are loaded for the next match.
fn fields(exprs: &[Expr]) -> impl Iterator<Item = Field> {
    exprs.iter().map_while(field)
}

fn unknown(from: &[Loaded<'_>], expr: &Expr) -> String {
    let words = from.iter().map(subject).chain([format!("({})", expr.name())]);
    words.collect::<Vec<_>>().join(" ")
}

fn concat(fields: &[Loaded<'_>]) -> String {
    fields.iter().map(subject).collect::<Vec<_>>().join(" . ")
}

fn subject(loaded: &Loaded<'_>) -> String {
    match loaded {
        Loaded::Field(field) => name(*field).into(),
        Loaded::Masked(field, mask, xor) if is_zero(xor) => format!("{} & {}", name(*field), value(*field, mask)),
        Loaded::Masked(..) => "(bitwise)".into(),
        Loaded::Constant(data) => hex(data),
        Loaded::Mapped(text) => text.clone(),
        Loaded::Unknown(name) => format!("({name})"),
    }
}

fn compare(left: &Loaded<'_>, is: Is, data: &[u8]) -> String {
    let not = if is == Is::Not { "!= " } else { "" };
    match left {
        Loaded::Field(field) => format!("{} {not}{}", name(*field), value(*field, data)),
        // any of the states (`Is::Not`), or none
        Loaded::Masked(field @ (Field::CtState | Field::CtStatus), mask, xor) if is_zero(xor) && is_zero(data) => {
            format!("{} {}{}", name(*field), if is == Is::Eq { "! " } else { "" }, value(*field, mask))
        }
        Loaded::Masked(field @ Field::Addr(..), mask, xor) if is_zero(xor) && prefix(mask).is_some() => {
            let length = prefix(mask).unwrap_or_default();
            format!("{} {not}{}/{length}", name(*field), value(*field, data))
        }
        Loaded::Masked(field, _, xor) if is_zero(xor) => {
            format!("{} {} {}", subject(left), if is == Is::Not { "!=" } else { "==" }, value(*field, data))
        }
        _ => format!("{} {not}{}", subject(left), hex(data)),
    }
}

/// `0x1`, `mark or 0x2000`, `mark and 0xffff0fff or 0x2000`
fn new_mark(from: &[Loaded<'_>]) -> String {
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_ne_bytes);
    match from {
        [Loaded::Constant(data)] if data.len() == 4 => format!("{:#x}", word(data)),
        [Loaded::Masked(Field::Mark, mask, xor)] => match (word(mask), word(xor)) {
            (mask, xor) if mask == !xor => format!("mark or {xor:#x}"),
            (mask, 0) => format!("mark and {mask:#x}"),
            (mask, xor) if mask & xor == 0 => format!("mark and {mask:#x} or {xor:#x}"),
            (mask, xor) => format!("mark and {mask:#x} xor {xor:#x}"),
        },
        _ => concat(from),
    }
}

/// `10.1.1.1:8080`, `[fd00::1]:8080`, `th dport map @m`
fn target(from: &[Loaded<'_>]) -> String {
    let ip = |data: &[u8]| address(if data.len() == 4 { Family::V4 } else { Family::V6 }, data);
    let port = |data: &[u8]| data.try_into().map_or(0, u16::from_be_bytes);
    match from {
        [Loaded::Constant(to)] if to.len() == 2 => format!(":{}", port(to)),
        [Loaded::Constant(addr)] => ip(addr),
        [Loaded::Constant(addr), Loaded::Constant(to)] if addr.len() == 4 => format!("{}:{}", ip(addr), port(to)),
        [Loaded::Constant(addr), Loaded::Constant(to)] => format!("[{}]:{}", ip(addr), port(to)),
        _ => concat(from),
    }
}

fn nat_flags(flags: u32) -> String {
    let names: Vec<_> = NAT_FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { String::new() } else { format!(" {}", names.join(",")) }
}
