//! Errors in a network configuration, in upstream's words where it has them.

use std::fmt;
use std::net::IpAddr;

use gojson::{JsonError, Wrong};
use kernel::types::Family;

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not a JSON document.
    #[error("the network configuration is not JSON: {0}")]
    Json(#[from] JsonError),
    /// All mistakes; never empty. A single mistake prints without a list.
    #[error("{}", list(.0))]
    Mistakes(Vec<Mistake>),
}

impl ConfigError {
    /// All mistakes; empty when the text is not JSON.
    pub fn mistakes(&self) -> &[Mistake] {
        if let Self::Mistakes(all) = self { all } else { &[] }
    }
}

fn list(mistakes: &[Mistake]) -> String {
    let texts: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// One mistake in a configuration. `family` determines the prefix of the key: `SubnetLen`, `IPv6SubnetLen`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// A value has the wrong JSON type.
    #[error(transparent)]
    WrongType(#[from] Wrong),
    /// `EnableIPv4` and `EnableIPv6` are both false.
    #[error("none defined stack: EnableIPv4 and EnableIPv6 are both false")]
    NoFamily,
    /// An enabled family has no network, or the whole address space.
    #[error("please define a correct {}Network parameter in the flannel config", Keys(*.family))]
    NoNetwork {
        /// The family of the key.
        family: Family,
    },
    /// A network is not a CIDR, or one of the other family.
    #[error("{}Network {value} is not an {} like {}", Keys(*.family), cidr_name(*.family), cidr_example(*.family))]
    BadNetwork {
        /// The family of the key.
        family: Family,
        /// The given value, as JSON.
        value: String,
    },
    /// A SubnetMin or SubnetMax is not an address of its family.
    #[error("{}{key} {value:?} is not an {} address", Keys(*.family), ip_name(*.family))]
    BadAddress {
        /// The family of the key.
        family: Family,
        /// `SubnetMin` or `SubnetMax`
        key: &'static str,
        /// The given value.
        value: String,
    },
    /// A subnet has fewer than four (IPv4) or two (IPv6) addresses.
    #[error("SubnetLen must be less than /{}", .family.bits() - 1)]
    LenTooLong {
        /// The family of the key.
        family: Family,
    },
    /// The network has room for fewer than four subnets of the configured length.
    #[error("network must be able to accommodate at least four subnets")]
    LenTooShort {
        /// The family of the key.
        family: Family,
    },
    /// The network has room for fewer than four subnets of any length.
    #[error("{} is too small. Minimum useful network prefix is /{}", small_name(*.family), .family.bits() - 4)]
    NetworkTooSmall {
        /// The family of the key.
        family: Family,
    },
    /// An end of the range is outside the network.
    #[error("{prefix}{key} is not in the range of the {prefix}Network", prefix = Keys(*.family))]
    OutOfNetwork {
        /// The family of the key.
        family: Family,
        /// `SubnetMin` or `SubnetMax`
        key: &'static str,
    },
    /// An end of the range is not the first address of a subnet.
    #[error("{}{key} is not on a SubnetLen boundary: {value}", Keys(*.family))]
    NotAligned {
        /// The family of the key.
        family: Family,
        /// `SubnetMin` or `SubnetMax`
        key: &'static str,
        /// The given value.
        value: IpAddr,
    },
    /// The range contains no subnet.
    #[error("{prefix}SubnetMin {min} is above {prefix}SubnetMax {max}: the range contains no subnet", prefix = Keys(*.family))]
    EmptyRange {
        /// The family of the key.
        family: Family,
        /// The configured or default start
        min: IpAddr,
        /// The configured or default end
        max: IpAddr,
    },
    /// A key of the backend has a mistake.
    #[error(transparent)]
    Backend(#[from] crate::backend::Mistake),
}

/// Something that is allowed, but probably not intended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// There is no `Backend` key, which means udp.
    #[error(
        "the configuration has no Backend key, which means udp: vxlan does the same in the kernel, many times faster"
    )]
    NoBackend,
    /// No program reads this key; it may be misspelt.
    #[error("unknown key {key} is ignored")]
    UnknownKey {
        /// The full key: `Backend.Prot`.
        key: String,
    },
    /// A key occurs more than once, perhaps in different cases.
    #[error("key {key} occurs more than once; the last one counts")]
    RepeatedKey {
        /// The name of the field.
        key: String,
    },
    /// `Network` has host bits, for example `10.5.1.2/16`.
    #[error("{}Network {given} has bits beyond its prefix length; using {used}", Keys(*.family))]
    HostBits {
        /// The family of the key.
        family: Family,
        /// The given network.
        given: ipnetwork::IpNetwork,
        /// The network that is used.
        used: ipnetwork::IpNetwork,
    },
}

/// The prefix of a family's keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys(pub(super) Family);

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 == Family::V4 { "" } else { "IPv6" })
    }
}

fn ip_name(family: Family) -> &'static str {
    if family == Family::V4 { "IPv4" } else { "IPv6" }
}

fn cidr_name(family: Family) -> &'static str {
    if family == Family::V4 { "IPv4 CIDR" } else { "IPv6 CIDR" }
}

fn cidr_example(family: Family) -> &'static str {
    if family == Family::V4 { "10.244.0.0/16" } else { "fd00:10:244::/56" }
}

fn small_name(family: Family) -> &'static str {
    if family == Family::V4 { "network" } else { "IPv6Network" }
}
