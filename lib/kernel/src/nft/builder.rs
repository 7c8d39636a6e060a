//! Builds rules, in the order of their `nft` text.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::expr::{Expr, Is, MetaKey, NatKind, PayloadBase, Reg, Verdict, protocol};
use super::types::{NftFamily, Rule};
use super::value::Value;
use crate::netlink::wire::{Writer, align};
use crate::types::{Family, IfName, Mac};

/// NFT_FIB_RESULT_ADDRTYPE.
const FIB_ADDRESS_TYPE: u32 = 3;
/// NFTA_FIB_F_DADDR.
const FIB_DADDR: u32 = 2;
/// RTN_LOCAL (linux/rtnetlink.h).
const RTN_LOCAL: u32 = 2;
/// ARPHRD_ETHER (linux/if_arp.h).
const ARPHRD_ETHER: u16 = 1;
/// NF_NAT_RANGE_PROTO_RANDOM_FULLY (linux/netfilter/nf_nat.h).
const FULLY_RANDOM: u32 = 1 << 4;
/// The register in which every match starts.
const FIRST: Reg = Reg(0);
/// The register after any address, where `nft` puts the port of a NAT.
const SECOND: Reg = Reg(4);

/// `ct state` bits (NF_CT_STATE_BIT, nft's names), to be or-ed.
pub mod ct {
    /// The key of `ct state` in [`Expr::Ct`](super::Expr::Ct) (NFT_CT_STATE)
    pub const STATE: u32 = 0;
    /// `invalid`
    pub const INVALID: u32 = 1;
    /// `established`
    pub const ESTABLISHED: u32 = 1 << 1;
    /// `related`
    pub const RELATED: u32 = 1 << 2;
    /// `new`
    pub const NEW: u32 = 1 << 3;
    /// `untracked`
    pub const UNTRACKED: u32 = 1 << 6;

    /// The key of `ct status` (NFT_CT_STATUS)
    pub const STATUS: u32 = 2;
    /// `ct status dnat`: the connection's destination is translated (IPS_DST_NAT, nf_conntrack_common.h)
    pub const DNAT: u32 = 1 << 5;
}

/// Bits of `iptables -m conntrack --ctstate` (XT_CONNTRACK_STATE_*, linux/netfilter/xt_conntrack.h), to be or-ed.
pub mod xt_ct {
    /// `ESTABLISHED`
    pub const ESTABLISHED: u16 = 1 << 1;
    /// `RELATED`
    pub const RELATED: u16 = 1 << 2;
    /// `DNAT`: the destination was translated.
    pub const DNAT: u16 = 1 << 7;
}

/// `struct xt_conntrack_mtinfo3` with these states and nothing else, at the length of XT_ALIGN.
fn conntrack_info(states: u16) -> [u8; 168] {
    // the places of match_flags and state_mask, and XT_CONNTRACK_STATE
    const FLAGS: usize = 146;
    const STATES: usize = 150;
    let mut info = [0; 168];
    info[FLAGS..FLAGS + 2].copy_from_slice(&1u16.to_ne_bytes());
    info[STATES..STATES + 2].copy_from_slice(&states.to_ne_bytes());
    info
}

/// Source or destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// `saddr`, `sport`
    Source,
    /// `daddr`, `dport`
    Destination,
}

/// A field of a packet that a rule can match, by its `nft` name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// `iifname`
    IifName,
    /// `oifname`
    OifName,
    /// `meta mark`
    Mark,
    /// `meta nfproto`
    NfProto,
    /// `meta protocol`: the EtherType
    Protocol,
    /// `meta l4proto`
    L4Proto,
    /// `ip saddr`, `ip6 daddr`, …
    Addr(Family, Side),
    /// `ether saddr`, `ether daddr`
    Ether(Side),
    /// `th sport`, `th dport`
    Port(Side),
    /// `ct state`
    CtState,
    /// `ct status`
    CtStatus,
    /// `fib daddr type`
    FibDaddrType,
}

impl Field {
    /// The length of the value in bytes.
    pub(super) fn len(self) -> u32 {
        match self {
            Self::IifName | Self::OifName => 16,
            Self::Mark | Self::CtState | Self::CtStatus | Self::FibDaddrType => 4,
            Self::NfProto | Self::L4Proto => 1,
            Self::Protocol | Self::Port(_) => 2,
            Self::Addr(family, _) => u32::from(family.bits()) / 8,
            Self::Ether(_) => 6,
        }
    }

    /// Loads the first `len` bytes of the value into `dreg`.
    pub(super) fn load(self, dreg: Reg, len: u32) -> Expr {
        let meta = |key| Expr::Meta { key, dreg };
        let payload = |base, offset| Expr::Payload { dreg, base, offset, len };
        match self {
            Self::IifName => meta(MetaKey::IIFNAME),
            Self::OifName => meta(MetaKey::OIFNAME),
            Self::Mark => meta(MetaKey::MARK),
            Self::NfProto => meta(MetaKey::NFPROTO),
            Self::Protocol => meta(MetaKey::PROTOCOL),
            Self::L4Proto => meta(MetaKey::L4PROTO),
            // offsets of the addresses: RFC 791 §3.1, RFC 8200 §3
            Self::Addr(Family::V4, Side::Source) => payload(PayloadBase::NETWORK, 12),
            Self::Addr(Family::V4, Side::Destination) => payload(PayloadBase::NETWORK, 16),
            Self::Addr(Family::V6, Side::Source) => payload(PayloadBase::NETWORK, 8),
            Self::Addr(Family::V6, Side::Destination) => payload(PayloadBase::NETWORK, 24),
            Self::Ether(Side::Destination) => payload(PayloadBase::LINK, 0),
            Self::Ether(Side::Source) => payload(PayloadBase::LINK, 6),
            Self::Port(Side::Source) => payload(PayloadBase::TRANSPORT, 0),
            Self::Port(Side::Destination) => payload(PayloadBase::TRANSPORT, 2),
            Self::CtState => Expr::Ct { key: ct::STATE, dreg },
            Self::CtStatus => Expr::Ct { key: ct::STATUS, dreg },
            Self::FibDaddrType => Expr::Fib { dreg, result: FIB_ADDRESS_TYPE, flags: FIB_DADDR },
        }
    }
}

/// Builds a [`Rule`]. Each method appends what `nft` would write at that place.
///
/// Conditions on which a match depends are added as `nft` does: `ip saddr` in an `inet` table first matches IPv4.
///
/// ```
/// use kernel::nft::{Is, NftFamily, RuleBuilder, Side};
/// // ip saddr 10.1.2.3 ip daddr != 10.1.2.0/24 masquerade comment "…"
/// let rule = RuleBuilder::new(NftFamily::Inet)
///     .addr(Side::Source, Is::Eq, "10.1.2.3".parse()?)
///     .addr(Side::Destination, Is::Not, "10.1.2.0/24".parse()?)
///     .masquerade(false)
///     .comment("net: n");
/// # Ok::<(), ipnetwork::IpNetworkError>(())
/// ```
#[derive(Debug, Clone)]
pub struct RuleBuilder {
    family: NftFamily,
    /// The IP version that an earlier match requires.
    version: Option<Family>,
    ethernet: bool,
    exprs: Vec<Expr>,
}

impl RuleBuilder {
    /// An empty rule for a table of `family`.
    pub fn new(family: NftFamily) -> Self {
        let version = match family {
            NftFamily::Ip => Some(Family::V4),
            NftFamily::Ip6 => Some(Family::V6),
            _ => None,
        };
        let ethernet = matches!(family, NftFamily::Bridge | NftFamily::Netdev);
        Self { family, version, ethernet, exprs: Vec::new() }
    }

    /// `FIELD == VALUE`, `FIELD != VALUE`.
    pub fn field(self, field: Field, is: Is, value: &Value) -> Self {
        self.needs(field).compare(field, is, value.bytes())
    }

    /// `iifname NAME`
    pub fn iifname(self, is: Is, name: &IfName) -> Self {
        self.field(Field::IifName, is, &name.clone().into())
    }

    /// `oifname NAME`
    pub fn oifname(self, is: Is, name: &IfName) -> Self {
        self.field(Field::OifName, is, &name.clone().into())
    }

    /// `meta mark VALUE`: the whole mark.
    pub fn mark(self, is: Is, mark: u32) -> Self {
        self.field(Field::Mark, is, &Value::Word(mark))
    }

    /// `meta mark & MASK == VALUE`
    pub fn mark_masked(self, is: Is, mask: u32, value: u32) -> Self {
        self.masked(Field::Mark, is, mask.to_ne_bytes().into(), value.to_ne_bytes().into())
    }

    /// `meta l4proto PROTO`: 6 is TCP, 17 UDP, 132 SCTP.
    pub fn l4proto(self, is: Is, proto: u8) -> Self {
        self.field(Field::L4Proto, is, &Value::Proto(proto))
    }

    /// `meta nfproto ipv4|ipv6`, in `inet` tables.
    pub fn nfproto(mut self, family: Family) -> Self {
        self.version = Some(family);
        self.compare(Field::NfProto, Is::Eq, vec![protocol(family) as u8])
    }

    /// `meta protocol ip|ip6`, in `bridge` and `netdev` tables.
    pub fn protocol(mut self, family: Family) -> Self {
        // linux/if_ether.h: ETH_P_IP, ETH_P_IPV6
        let ethertype: u16 = if family == Family::V4 { 0x0800 } else { 0x86dd };
        self.version = Some(family);
        self.compare(Field::Protocol, Is::Eq, ethertype.to_be_bytes().into())
    }

    /// `ip saddr NET`, `ip6 daddr != NET`, …: the family is that of `net`. A single address is a /32 or /128. Host bits
    /// are ignored.
    pub fn addr(self, side: Side, is: Is, net: IpNetwork) -> Self {
        let field = Field::Addr(net.into(), side);
        let (bits, prefix) = (Family::from(net).bits(), net.prefix());
        let rule = self.needs(field);
        let address = Value::from(net.network()).bytes();
        if prefix > 0 && prefix % 8 == 0 {
            return rule.compare(field, is, address[..usize::from(prefix / 8)].into());
        }
        let mask = (0..bits / 8).map(|byte| (0xff00_u16 >> prefix.saturating_sub(byte * 8).min(8)) as u8).collect();
        rule.masked(field, is, mask, address)
    }

    /// `ether saddr MAC`, `ether daddr MAC`
    pub fn ether(self, side: Side, is: Is, mac: Mac) -> Self {
        self.field(Field::Ether(side), is, &mac.into())
    }

    /// `th dport PORT`, `th sport PORT`. Call [`l4proto`](Self::l4proto) first: other protocols have other bytes there.
    pub fn port(self, side: Side, is: Is, port: u16) -> Self {
        self.field(Field::Port(side), is, &Value::Port(port))
    }

    /// `ct state established,related`: any (`Is::Eq`) or none (`Is::Not`) of the states in [`ct`].
    pub fn ct_state(self, is: Is, states: u32) -> Self {
        self.any_bit(Field::CtState, is, states)
    }

    /// `iptables -m conntrack --ctstate STATES`: any of the states in [`xt_ct`], in the form that `iptables` stores and
    /// prints. It refuses a table with `ct state`.
    pub fn xt_ct_state(self, states: u16) -> Self {
        let mut w = Writer::default();
        // NFTA_MATCH_NAME, NFTA_MATCH_REV, NFTA_MATCH_INFO
        w.text(1, "conntrack");
        w.be32(2, 3);
        w.attr(3, &conntrack_info(states));
        self.push(Expr::Other { name: "match".into(), data: w.finish().unwrap_or_default() })
    }

    /// `ct status dnat`: any (`Is::Eq`) or none (`Is::Not`) of the bits, such as [`ct::DNAT`].
    pub fn ct_status(self, is: Is, bits: u32) -> Self {
        self.any_bit(Field::CtStatus, is, bits)
    }

    fn any_bit(self, field: Field, is: Is, bits: u32) -> Self {
        let any = if is == Is::Eq { Is::Not } else { Is::Eq };
        self.masked(field, any, bits.to_ne_bytes().into(), vec![0; 4])
    }

    /// `fib daddr type local`: the destination is an address of this host.
    pub fn daddr_is_local(self, is: Is) -> Self {
        self.field(Field::FibDaddrType, is, &Value::Word(RTN_LOCAL))
    }

    /// `FIELD . FIELD @SET`, `FIELD != @SET`
    pub fn in_set(self, fields: &[Field], is: Is, set: &str) -> Self {
        self.load(fields).push(Expr::Lookup { set: set.into(), sreg: FIRST, is })
    }

    /// `FIELD . FIELD vmap @MAP`
    pub fn vmap(self, fields: &[Field], map: &str) -> Self {
        self.load(fields).push(Expr::LookupVerdict { set: map.into(), sreg: FIRST })
    }

    /// `counter`
    pub fn counter(self) -> Self {
        self.push(Expr::Counter)
    }

    /// `meta mark set mark & ~MASK | VALUE`; with a full mask, `meta mark set VALUE`.
    pub fn set_mark(self, mask: u32, value: u32) -> Self {
        let data = value.to_ne_bytes().to_vec();
        let rule = if mask == u32::MAX {
            self.push(Expr::Immediate { dreg: FIRST, data })
        } else {
            let mask = (!mask).to_ne_bytes().into();
            self.load(&[Field::Mark]).push(Expr::Bitwise { sreg: FIRST, dreg: FIRST, mask, xor: data })
        };
        rule.push(Expr::MetaSet { key: MetaKey::MARK, sreg: FIRST })
    }

    /// `masquerade`, `masquerade fully-random`
    pub fn masquerade(self, fully_random: bool) -> Self {
        self.push(Expr::Masquerade { flags: if fully_random { FULLY_RANDOM } else { 0 } })
    }

    /// `dnat ip to ADDR:PORT`, `snat ip6 to ADDR`
    pub fn nat(self, kind: NatKind, addr: IpAddr, port: Option<u16>) -> Self {
        let family = Family::from(addr);
        let mut rule = self.push(Expr::Immediate { dreg: FIRST, data: Value::from(addr).bytes() });
        if let Some(port) = port {
            rule = rule.push(Expr::Immediate { dreg: SECOND, data: Value::Port(port).bytes() });
        }
        rule.push(Expr::Nat { kind, family, addr: Some(FIRST), port: port.map(|_| SECOND), flags: 0 })
    }

    /// `dnat ip to FIELD . FIELD map @MAP`: the map's data is an address of `family`, with a port if [`MapData`] says
    /// so.
    pub fn nat_map(self, kind: NatKind, family: Family, fields: &[Field], map: (&str, MapData)) -> Self {
        let (set, data) = map;
        let port = (data == MapData::AddrPort).then(|| Reg(family.bits() / 32));
        self.load(fields).push(Expr::LookupData { set: set.into(), sreg: FIRST, dreg: FIRST }).push(Expr::Nat {
            kind,
            family,
            addr: Some(FIRST),
            port,
            flags: 0,
        })
    }

    /// `accept`
    pub fn accept(self) -> Self {
        self.verdict(Verdict::Accept)
    }

    /// `drop`
    pub fn drop(self) -> Self {
        self.verdict(Verdict::Drop)
    }

    /// `return`
    pub fn back(self) -> Self {
        self.verdict(Verdict::Return)
    }

    /// `jump CHAIN`
    pub fn jump(self, chain: impl Into<String>) -> Self {
        self.verdict(Verdict::Jump(chain.into()))
    }

    /// `goto CHAIN`
    pub fn goto(self, chain: impl Into<String>) -> Self {
        self.verdict(Verdict::Goto(chain.into()))
    }

    /// Ends the rule with `comment "…"`.
    pub fn comment(self, comment: impl Into<String>) -> Rule {
        Rule { exprs: self.exprs, comment: Some(comment.into()) }
    }

    /// Ends the rule without a comment.
    pub fn done(self) -> Rule {
        Rule { exprs: self.exprs, comment: None }
    }

    fn verdict(self, verdict: Verdict) -> Self {
        self.push(Expr::Verdict(verdict))
    }

    fn push(mut self, expr: Expr) -> Self {
        self.exprs.push(expr);
        self
    }

    fn compare(self, field: Field, is: Is, data: Vec<u8>) -> Self {
        // a whole name is compared with its terminating zeros, a prefix without them
        self.push(field.load(FIRST, data.len() as u32)).push(Expr::Cmp { sreg: FIRST, is, data })
    }

    fn masked(self, field: Field, is: Is, mask: Vec<u8>, data: Vec<u8>) -> Self {
        let xor = vec![0; mask.len()];
        self.push(field.load(FIRST, field.len()))
            .push(Expr::Bitwise { sreg: FIRST, dreg: FIRST, mask, xor })
            .push(Expr::Cmp { sreg: FIRST, is, data })
    }

    /// Loads fields into consecutive registers, as keys of sets are compared.
    fn load(self, fields: &[Field]) -> Self {
        let mut rule = fields.iter().fold(self, |rule, field| rule.needs(*field));
        let mut slot = 0;
        for field in fields {
            rule = rule.push(field.load(Reg(slot), field.len()));
            slot += (align(field.len() as usize) / 4) as u8;
        }
        rule
    }

    /// Adds the conditions on which `field` depends.
    fn needs(self, field: Field) -> Self {
        match field {
            Field::Addr(family, _) => self.version(family),
            Field::Ether(_) if !self.ethernet => self.of_ethernet(),
            _ => self,
        }
    }

    fn version(self, family: Family) -> Self {
        match self.family {
            _ if self.version == Some(family) => self,
            NftFamily::Inet => self.nfproto(family),
            _ => self.protocol(family),
        }
    }

    fn of_ethernet(mut self) -> Self {
        self.ethernet = true;
        let iiftype = Expr::Meta { key: MetaKey::IIFTYPE, dreg: FIRST };
        self.push(iiftype).push(Expr::Cmp { sreg: FIRST, is: Is::Eq, data: ARPHRD_ETHER.to_ne_bytes().into() })
    }
}

/// The data of a NAT map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MapData {
    /// An address.
    Addr,
    /// An address and a port.
    AddrPort,
}
