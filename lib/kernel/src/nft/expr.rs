//! The kernel's expressions, of which rules consist (`nft --debug=netlink` prints them). Names and attribute numbers
//! are those of linux/netfilter/nf_tables.h.

use crate::netlink::wire::{Attributes, Writer, text};
use crate::types::Family;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
/// The register of verdicts (NFT_REG_VERDICT).
const VERDICT_REGISTER: u32 = 0;

/// NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED (linux/netfilter/nf_nat.h): flags that the kernel sets itself,
/// depending on the given registers, and reports.
const NAT_IMPLIED_FLAGS: u32 = 0b11;

/// One of the sixteen 32-bit registers, counted from 0. A longer value continues in the next registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reg(pub u8);

impl Reg {
    /// The number that the kernel reports: every fourth is a 128-bit register (NFT_REG_1 …), the others are
    /// NFT_REG32_01 ….
    fn number(self) -> u32 {
        let slot = u32::from(self.0);
        if slot.is_multiple_of(4) { 1 + slot / 4 } else { 8 + slot }
    }

    fn from_number(number: u32) -> Option<Self> {
        match number {
            1..=4 => Some(Self((number as u8 - 1) * 4)),
            8..=23 => Some(Self(number as u8 - 8)),
            _ => None,
        }
    }
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Accepts the packet; later chains of the same hook still see it.
    Accept,
    /// Drops the packet.
    Drop,
    /// Continues after the rule that jumped here, or with the policy.
    Return,
    /// Continues in a chain and returns.
    Jump(String),
    /// Continues in a chain and does not return.
    Goto(String),
}

impl Verdict {
    fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
            Self::Return => -5,
        }
    }

    /// Writes it as an attribute with NFTA_DATA_VERDICT.
    pub(super) fn encode(&self, w: &mut Writer, kind: u16) {
        w.nest(kind, |w| {
            w.nest(NFTA_DATA_VERDICT, |w| {
                w.be32(NFTA_VERDICT_CODE, self.code() as u32);
                if let Self::Jump(chain) | Self::Goto(chain) = self {
                    w.text(NFTA_VERDICT_CHAIN, chain);
                }
            });
        });
    }

    pub(super) fn decode(data: &Attributes<'_>) -> Option<Self> {
        let verdict = data.nested(NFTA_DATA_VERDICT)?;
        let chain = || verdict.text(NFTA_VERDICT_CHAIN);
        match verdict.be32(NFTA_VERDICT_CODE)? as i32 {
            0 => Some(Self::Drop),
            1 => Some(Self::Accept),
            -3 => Some(Self::Jump(chain()?)),
            -4 => Some(Self::Goto(chain()?)),
            -5 => Some(Self::Return),
            _ => None,
        }
    }
}

/// Writes bytes as an attribute with NFTA_DATA_VALUE.
pub(super) fn encode_data(w: &mut Writer, kind: u16, bytes: &[u8]) {
    w.nest(kind, |w| w.attr(NFTA_DATA_VALUE, bytes));
}

/// The reverse of [`encode_data`], from the inner attributes.
pub(super) fn decode_data<'a>(data: &Attributes<'a>) -> Option<&'a [u8]> {
    data.get(NFTA_DATA_VALUE)
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Is {
    /// `==`
    Eq,
    /// `!=`
    Not,
}

/// Which address of a connection is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NatKind {
    /// `snat`
    Source,
    /// `dnat`
    Destination,
}

/// What `meta` reads or sets (NFT_META_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MetaKey(pub u32);

#[expect(missing_docs, reason = "the names are nft's own: `meta mark`, `meta iifname`, …")]
impl MetaKey {
    pub const PROTOCOL: Self = Self(1);
    pub const MARK: Self = Self(3);
    pub const IIFNAME: Self = Self(6);
    pub const OIFNAME: Self = Self(7);
    pub const IIFTYPE: Self = Self(8);
    pub const NFPROTO: Self = Self(15);
    pub const L4PROTO: Self = Self(16);
}

/// The header from whose start `payload` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PayloadBase(pub u32);

#[expect(missing_docs, reason = "NFT_PAYLOAD_*_HEADER say it")]
impl PayloadBase {
    pub const LINK: Self = Self(0);
    pub const NETWORK: Self = Self(1);
    pub const TRANSPORT: Self = Self(2);
}

/// One expression. Registers pass values from one to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the kernel's attributes of the same names")]
pub enum Expr {
    /// Loads a property of the packet.
    Meta { key: MetaKey, dreg: Reg },
    /// Sets a property of the packet.
    MetaSet { key: MetaKey, sreg: Reg },
    /// Loads bytes of a header.
    Payload { dreg: Reg, base: PayloadBase, offset: u32, len: u32 },
    /// Ends the rule unless the comparison holds.
    Cmp { sreg: Reg, is: Is, data: Vec<u8> },
    /// `dreg = (sreg & mask) ^ xor`
    Bitwise { sreg: Reg, dreg: Reg, mask: Vec<u8>, xor: Vec<u8> },
    /// Ends the rule unless the set contains the key.
    Lookup { set: String, sreg: Reg, is: Is },
    /// Ends the rule unless the map contains the key. Loads its data.
    LookupData { set: String, sreg: Reg, dreg: Reg },
    /// Ends the rule unless the verdict map contains the key. Applies its verdict.
    LookupVerdict { set: String, sreg: Reg },
    /// Loads a constant.
    Immediate { dreg: Reg, data: Vec<u8> },
    /// Applies a verdict.
    Verdict(Verdict),
    /// Source NAT to the address of the outgoing interface. Flags are NF_NAT_RANGE_*.
    Masquerade { flags: u32 },
    /// NAT to the address and port in the registers.
    Nat { kind: NatKind, family: Family, addr: Option<Reg>, port: Option<Reg>, flags: u32 },
    /// Loads a property of the connection (NFT_CT_*).
    Ct { key: u32, dreg: Reg },
    /// Looks up the routing table (NFT_FIB_RESULT_*, NFTA_FIB_F_*).
    Fib { dreg: Reg, result: u32, flags: u32 },
    /// Counts packets and bytes. The counts are not part of the rule.
    Counter,
    /// An expression that this module cannot write, found when reading: its name and attributes.
    Other { name: String, data: Vec<u8> },
}

impl Expr {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Meta { .. } | Self::MetaSet { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Cmp { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::Lookup { .. } | Self::LookupData { .. } | Self::LookupVerdict { .. } => "lookup",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Masquerade { .. } => "masq",
            Self::Nat { .. } => "nat",
            Self::Ct { .. } => "ct",
            Self::Fib { .. } => "fib",
            Self::Counter => "counter",
            Self::Other { name, .. } => name,
        }
    }

    /// Writes it as one NFTA_LIST_ELEM.
    pub(super) fn encode(&self, w: &mut Writer) {
        w.nest(NFTA_LIST_ELEM, |w| {
            w.text(NFTA_EXPR_NAME, self.name());
            w.nest(NFTA_EXPR_DATA, |w| self.attributes(w));
        });
    }

    fn attributes(&self, w: &mut Writer) {
        match self {
            Self::Meta { key, dreg } => numbers(w, &[(2, key.0), (1, dreg.number())]),
            Self::MetaSet { key, sreg } => numbers(w, &[(2, key.0), (3, sreg.number())]),
            Self::Payload { dreg, base, offset, len } => {
                numbers(w, &[(1, dreg.number()), (2, base.0), (3, *offset), (4, *len)]);
            }
            Self::Cmp { sreg, is, data } => {
                numbers(w, &[(1, sreg.number()), (2, (*is == Is::Not).into())]);
                encode_data(w, 3, data);
            }
            Self::Bitwise { sreg, dreg, mask, xor } => {
                // without an operation (6) the kernel does this one; kernels before 5.6 know no other
                numbers(w, &[(1, sreg.number()), (2, dreg.number()), (3, mask.len() as u32)]);
                encode_data(w, 4, mask);
                encode_data(w, 5, xor);
            }
            Self::Lookup { set, sreg, is } => {
                w.be32(2, sreg.number());
                w.text(1, set);
                if *is == Is::Not {
                    w.be32(5, 1);
                }
            }
            Self::LookupData { set, sreg, dreg } => encode_map(w, set, *sreg, dreg.number()),
            Self::LookupVerdict { set, sreg } => encode_map(w, set, *sreg, VERDICT_REGISTER),
            Self::Immediate { dreg, data } => {
                w.be32(1, dreg.number());
                encode_data(w, 2, data);
            }
            Self::Verdict(verdict) => {
                w.be32(1, VERDICT_REGISTER);
                verdict.encode(w, 2);
            }
            Self::Masquerade { flags: 0 } | Self::Counter => {}
            Self::Masquerade { flags } => w.be32(1, *flags),
            Self::Nat { kind, family, addr, port, flags } => {
                numbers(w, &[(1, (*kind == NatKind::Destination).into()), (2, protocol(*family))]);
                let optional =
                    [(3, addr.map(Reg::number)), (5, port.map(Reg::number)), (7, Some(*flags).filter(|f| *f != 0))];
                optional.iter().filter_map(|(kind, n)| n.map(|n| (*kind, n))).for_each(|(kind, n)| w.be32(kind, n));
            }
            Self::Ct { key, dreg } => numbers(w, &[(2, *key), (1, dreg.number())]),
            Self::Fib { dreg, result, flags } => numbers(w, &[(3, *flags), (2, *result), (1, dreg.number())]),
            Self::Other { data, .. } => w.raw(data),
        }
    }

    /// Decodes NFTA_RULE_EXPRESSIONS into the expressions that this module writes.
    pub(super) fn decode_all(list: &[u8]) -> Vec<Self> {
        let one = |(_, element): (u16, &[u8])| {
            let element = Attributes::read(element);
            let name = element.get(NFTA_EXPR_NAME).unwrap_or_default();
            let data = element.get(NFTA_EXPR_DATA).unwrap_or_default();
            Self::decode(name, &Attributes::read(data))
                .unwrap_or_else(|| Self::Other { name: text(name), data: data.into() })
        };
        Attributes::read(list).iter().map(one).collect()
    }

    /// The comment, if it is the match of `iptables -m comment` (NFTA_MATCH_NAME, NFTA_MATCH_INFO), which matches every
    /// packet.
    pub(super) fn match_comment(&self) -> Option<String> {
        let Self::Other { name, data } = self else { return None };
        let attributes = Attributes::read(data);
        let is_comment = name == "match" && attributes.is_text(1, "comment");
        is_comment.then(|| attributes.get(3).map(text)).flatten()
    }

    /// Whether it is the target `name` of iptables (NFTA_TARGET_NAME).
    pub(super) fn is_target(&self, target: &str) -> bool {
        matches!(self, Self::Other { name, data } if name == "target" && Attributes::read(data).is_text(1, target))
    }

    fn decode(name: &[u8], a: &Attributes<'_>) -> Option<Self> {
        let reg = |kind| a.be32(kind).and_then(Reg::from_number);
        let bytes = |kind| a.nested(kind).as_ref().and_then(decode_data).map(<[u8]>::to_vec);
        Some(match name {
            b"meta\0" => {
                let key = MetaKey(a.be32(2)?);
                match reg(1) {
                    Some(dreg) => Self::Meta { key, dreg },
                    None => Self::MetaSet { key, sreg: reg(3)? },
                }
            }
            b"payload\0" => {
                Self::Payload { dreg: reg(1)?, base: PayloadBase(a.be32(2)?), offset: a.be32(3)?, len: a.be32(4)? }
            }
            b"cmp\0" => Self::Cmp { sreg: reg(1)?, is: decode_is(a.be32(2)?)?, data: bytes(3)? },
            b"bitwise\0" if a.be32(6).unwrap_or_default() == 0 => {
                Self::Bitwise { sreg: reg(1)?, dreg: reg(2)?, mask: bytes(4)?, xor: bytes(5)? }
            }
            b"lookup\0" => decode_lookup(a)?,
            b"immediate\0" if a.be32(1)? == VERDICT_REGISTER => Self::Verdict(Verdict::decode(&a.nested(2)?)?),
            b"immediate\0" => Self::Immediate { dreg: reg(1)?, data: bytes(2)? },
            // a range of ports, which is not written here
            b"masq\0" if a.get(2).is_some() => return None,
            b"masq\0" => Self::Masquerade { flags: a.be32(1).unwrap_or_default() },
            b"nat\0" => decode_nat(a)?,
            // a direction, which is not written here
            b"ct\0" if a.get(3).is_some() => return None,
            b"ct\0" => Self::Ct { key: a.be32(2)?, dreg: reg(1)? },
            b"fib\0" => Self::Fib { dreg: reg(1)?, result: a.be32(2)?, flags: a.be32(3)? },
            b"counter\0" => Self::Counter,
            _ => return None,
        })
    }
}

fn numbers(w: &mut Writer, all: &[(u16, u32)]) {
    all.iter().for_each(|(kind, n)| w.be32(*kind, *n));
}

fn encode_map(w: &mut Writer, set: &str, sreg: Reg, dreg: u32) {
    numbers(w, &[(2, sreg.number()), (3, dreg)]);
    w.text(1, set);
}

fn decode_is(number: u32) -> Option<Is> {
    match number {
        0 => Some(Is::Eq),
        1 => Some(Is::Not),
        _ => None,
    }
}

fn decode_lookup(a: &Attributes<'_>) -> Option<Expr> {
    let (set, sreg) = (a.text(1)?, Reg::from_number(a.be32(2)?)?);
    Some(match a.be32(3) {
        Some(VERDICT_REGISTER) => Expr::LookupVerdict { set, sreg },
        Some(dreg) => Expr::LookupData { set, sreg, dreg: Reg::from_number(dreg)? },
        None => Expr::Lookup { set, sreg, is: decode_is(a.be32(5).unwrap_or_default())? },
    })
}

fn decode_nat(a: &Attributes<'_>) -> Option<Expr> {
    let reg = |kind| a.be32(kind).map(Reg::from_number);
    // the kernel also reports the largest address and port if they equal the smallest; a real range is not written here
    let single = |min, max| a.be32(max).is_none_or(|m| a.be32(min) == Some(m));
    if !single(3, 4) || !single(5, 6) {
        return None;
    }
    let kind = if a.be32(1)? == 0 { NatKind::Source } else { NatKind::Destination };
    let family = Family::ALL.into_iter().find(|f| Some(protocol(*f)) == a.be32(2))?;
    let flags = a.be32(7).unwrap_or_default() & !NAT_IMPLIED_FLAGS;
    Some(Expr::Nat { kind, family, addr: reg(3).flatten(), port: reg(5).flatten(), flags })
}

/// NFPROTO_IPV4 or NFPROTO_IPV6.
pub(super) fn protocol(family: Family) -> u32 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}
