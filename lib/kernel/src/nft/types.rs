//! The objects of nf_tables as plain data, both for writing and for reading.

use std::fmt;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::expr::{Expr, Verdict};
use super::value::{Type, Value};
use crate::types::IfName;

/// Which packets a table sees (`table inet …`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NftFamily {
    /// IPv4 and IPv6
    Inet,
    /// IPv4
    Ip,
    /// ARP
    Arp,
    /// One device's ingress or egress
    Netdev,
    /// Frames inside bridges
    Bridge,
    /// IPv6
    Ip6,
}

impl NftFamily {
    const ALL: [Self; 6] = [Self::Inet, Self::Ip, Self::Arp, Self::Netdev, Self::Bridge, Self::Ip6];

    /// NFPROTO_* of linux/netfilter.h.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Arp => 3,
            Self::Netdev => 5,
            Self::Bridge => 7,
            Self::Ip6 => 10,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.number() == number)
    }
}

impl fmt::Display for NftFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Arp => "arp",
            Self::Netdev => "netdev",
            Self::Bridge => "bridge",
            Self::Ip6 => "ip6",
        })
    }
}

/// Identifies a table, such as `inet cni_plugins_masquerade`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableKey {
    /// The family.
    pub family: NftFamily,
    /// The name, unique within the family; at most 255 bytes.
    pub name: String,
}

impl TableKey {
    /// The table `name` of `family`.
    pub fn new(family: NftFamily, name: impl Into<String>) -> Self {
        Self { family, name: name.into() }
    }
}

impl fmt::Display for TableKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// A table (`nft add table`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The family and the name.
    pub key: TableKey,
    /// `comment "…"`, cut to [`COMMENT_MAX`](super::COMMENT_MAX) bytes. Not changed on an existing table.
    pub comment: Option<String>,
    /// `flags dormant`: no packet meets its chains. Only read.
    pub dormant: bool,
}

/// A chain (`nft add chain`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The name, unique within its table.
    pub name: String,
    /// The hook where packets enter it; `None` if it is reached only by jumps.
    pub base: Option<Base>,
    /// `comment "…"`, cut as a table's.
    pub comment: Option<String>,
}

impl Chain {
    /// A chain that is reached only by jumps.
    pub fn regular(name: impl Into<String>) -> Self {
        Self { name: name.into(), base: None, comment: None }
    }

    /// A chain that packets enter at a hook.
    pub fn base(name: impl Into<String>, base: Base) -> Self {
        Self { name: name.into(), base: Some(base), comment: None }
    }

    /// Sets the comment.
    pub fn comment(self, comment: impl Into<String>) -> Self {
        Self { comment: Some(comment.into()), ..self }
    }
}

/// The hook of a base chain (`{ type nat hook postrouting priority srcnat; policy accept; }`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// `type`
    pub kind: ChainKind,
    /// `hook`
    pub hook: Hook,
    /// `priority`: a lower one comes first. Source NAT is 100, destination NAT -100, filter 0 (bridge: 300, -300,
    /// -200).
    pub priority: i32,
    /// The policy for packets that no rule decided.
    pub policy: Policy,
    /// `device`: for [`Hook::Ingress`] and [`Hook::Egress`].
    pub device: Option<IfName>,
}

impl Base {
    /// `priority srcnat` outside bridges (NF_IP_PRI_NAT_SRC, linux/netfilter_ipv4.h).
    pub const SRCNAT: i32 = 100;
    /// `priority dstnat` outside bridges (NF_IP_PRI_NAT_DST).
    pub const DSTNAT: i32 = -100;
    /// `priority filter` outside bridges (NF_IP_PRI_FILTER).
    pub const FILTER: i32 = 0;

    /// A base chain with policy accept and no device.
    pub fn new(kind: ChainKind, hook: Hook, priority: i32) -> Self {
        Self { kind, hook, priority, policy: Policy::Accept, device: None }
    }
}

/// A base chain's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainKind {
    /// `filter`
    Filter,
    /// `nat`: sees the first packet of each connection
    Nat,
    /// `route`: a changed packet is routed again
    Route,
}

impl ChainKind {
    const ALL: [Self; 3] = [Self::Filter, Self::Nat, Self::Route];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == name)
    }
}

/// The place of a base chain on a packet's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Before routing
    Prerouting,
    /// To this host
    Input,
    /// Through this host
    Forward,
    /// From this host
    Output,
    /// After routing
    Postrouting,
    /// Received by one device (families inet and netdev)
    Ingress,
    /// Sent by one device (family netdev)
    Egress,
}

impl Hook {
    const ALL: [Self; 7] =
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting, Self::Ingress, Self::Egress];

    /// NF_INET_*, NF_BR_* or NF_NETDEV_* of linux/netfilter*.h.
    pub(super) fn number(self, family: NftFamily) -> u32 {
        match self {
            Self::Ingress if family == NftFamily::Netdev => 0,
            Self::Egress => 1,
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
            Self::Ingress => 5,
        }
    }

    pub(super) fn from_number(number: u32, family: NftFamily) -> Option<Self> {
        let of_device = |hook: &Self| matches!(hook, Self::Ingress | Self::Egress);
        Self::ALL
            .into_iter()
            .filter(|h| match family {
                NftFamily::Netdev => of_device(h),
                NftFamily::Inet => *h != Self::Egress,
                _ => !of_device(h),
            })
            .find(|h| h.number(family) == number)
    }
}

/// What happens to a packet that no rule of a base chain decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// It continues.
    #[default]
    Accept,
    /// It is dropped.
    Drop,
}

/// A rule (`nft add rule`). Made by [`RuleBuilder`](super::RuleBuilder).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// Matches and statements in order; the rule ends at the first match that fails. A rule that is read equals the one
    /// that was added.
    pub exprs: Vec<Expr>,
    /// `comment "…"`, cut as a table's.
    pub comment: Option<String>,
}

impl Rule {
    /// Whether it ends with `-j NAME` of iptables, for a target that nf_tables does not know.
    pub fn is_target(&self, name: &str) -> bool {
        self.exprs.iter().any(|expr| expr.is_target(name))
    }

    /// Whether it jumps to `chain`.
    pub fn jumps_to(&self, chain: &str) -> bool {
        self.exprs.iter().any(|expr| matches!(expr, Expr::Verdict(Verdict::Jump(to)) if to == chain))
    }
}

/// A rule as it was read from a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRule {
    /// The name of the rule's chain.
    pub chain: String,
    /// Identifies the rule for deletion. Unique within the table and never used again in it.
    pub handle: u64,
    /// The rule.
    pub rule: Rule,
}

/// A set, or a map when it has data (`nft add set`, `nft add map`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// The name, unique within its table.
    pub name: String,
    /// The key's types; several are a concatenation (`type inet_proto . inet_service`).
    pub key: Vec<Type>,
    /// The type of a map's data; `None` for a set.
    pub data: Option<DataType>,
    /// `flags interval`: elements may be prefixes and ranges, of addresses, protocols and ports.
    pub interval: bool,
    /// `flags timeout`: whether elements expire.
    pub timeout: Timeout,
    /// `comment "…"`, cut as a table's.
    pub comment: Option<String>,
}

impl Set {
    /// A set of exact keys.
    pub fn new(name: impl Into<String>, key: impl Into<Vec<Type>>) -> Self {
        let (name, key) = (name.into(), key.into());
        Self { name, key, data: None, interval: false, timeout: Timeout::Never, comment: None }
    }

    /// A map from exact keys.
    pub fn map(name: impl Into<String>, key: impl Into<Vec<Type>>, data: DataType) -> Self {
        Self { data: Some(data), ..Self::new(name, key) }
    }

    /// Adds `flags interval`.
    pub fn interval(self) -> Self {
        Self { interval: true, ..self }
    }

    /// Whether ranges are stored as a start and an end element. That is so for one field; with several fields a range
    /// is one element with both keys (NFT_SET_CONCAT).
    pub(super) fn start_and_end(&self) -> bool {
        self.interval && self.key.len() == 1
    }
}

/// The type of a map's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataType {
    /// Values (`: ipv4_addr . inet_service`).
    Values(Vec<Type>),
    /// Verdicts (`: verdict`).
    Verdict,
}

/// Whether a set's elements expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Timeout {
    /// Elements never expire.
    #[default]
    Never,
    /// Elements expire if they have a timeout of their own (`flags timeout`).
    PerElement,
    /// All elements expire after this time unless they have a timeout of their own (`timeout 5m`). Whole milliseconds.
    Default(Duration),
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The key: a value per type of the set's key. With `last`, the first key of a range.
    pub key: Vec<Value>,
    /// The last key of a range, included. In a concatenation each field has its own range.
    pub last: Option<Vec<Value>>,
    /// The data of a map for the key.
    pub data: Option<Data>,
    /// The element expires this long after it was added; the set must allow that. When read, it is the whole time, not
    /// the rest. Whole milliseconds.
    pub timeout: Option<Duration>,
    /// `comment "…"`, cut as a table's.
    pub comment: Option<String>,
}

impl Element {
    /// An element with one key.
    pub fn new(key: impl Into<Vec<Value>>) -> Self {
        Self { key: key.into(), last: None, data: None, timeout: None, comment: None }
    }

    /// An element with all keys from `first` to `last`, both included.
    pub fn range(first: Value, last: Value) -> Self {
        let last = (first != last).then(|| vec![last]);
        Self { last, ..Self::new([first]) }
    }

    /// An element with all addresses of a prefix. Host bits are ignored.
    pub fn net(net: IpNetwork) -> Self {
        Self::range(net.network().into(), net.broadcast().into())
    }

    /// Sets the data, for a map.
    pub fn data(self, data: Data) -> Self {
        Self { data: Some(data), ..self }
    }

    /// Sets the comment.
    pub fn comment(self, comment: impl Into<String>) -> Self {
        Self { comment: Some(comment.into()), ..self }
    }
}

/// The data of a map for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// A value per type of the map's data.
    Values(Vec<Value>),
    /// A verdict.
    Verdict(Verdict),
}
