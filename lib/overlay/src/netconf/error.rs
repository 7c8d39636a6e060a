//! What can be wrong with a configuration, in upstream's words where it has any.

use std::fmt;
use std::net::IpAddr;

use gojson::{JsonError, Wrong};
use kernel::types::Family;

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not one JSON document.
    #[error("the network configuration is not JSON: {0}")]
    Json(#[from] JsonError),
    /// Everything that is wrong with it; never empty. One mistake prints as itself.
    #[error("{}", list(.0))]
    Mistakes(Vec<Mistake>),
}

impl ConfigError {
    /// The single mistakes; none when the text is no JSON.
    pub fn mistakes(&self) -> &[Mistake] {
        if let Self::Mistakes(all) = self { all } else { &[] }
    }
}

fn list(mistakes: &[Mistake]) -> String {
    let texts: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// One thing that is wrong with a configuration. `family` gives IPv6's keys their prefix: `SubnetLen`,
/// `IPv6SubnetLen`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// A value of another JSON type.
    #[error(transparent)]
    WrongType(#[from] Wrong),
    /// `EnableIPv4` and `EnableIPv6` are both false.
    #[error("none defined stack: EnableIPv4 and EnableIPv6 are both false")]
    NoFamily,
    /// No network for a family that is on, or all of the address space.
    #[error("please define a correct {}Network parameter in the flannel config", Keys(*.family))]
    NoNetwork {
        /// Whose
        family: Family,
    },
    /// A network that is no CIDR, or one of the other family.
    #[error("{}Network {value} is not an {} like {}", Keys(*.family), cidr_name(*.family), cidr_example(*.family))]
    BadNetwork {
        /// Whose
        family: Family,
        /// What is there, as JSON
        value: String,
    },
    /// A SubnetMin or SubnetMax that is no address of its family.
    #[error("{}{key} {value:?} is not an {} address", Keys(*.family), ip_name(*.family))]
    BadAddress {
        /// Whose
        family: Family,
        /// `SubnetMin` or `SubnetMax`
        key: &'static str,
        /// What is there
        value: String,
    },
    /// Subnets of fewer than four (IPv4) or two (IPv6) addresses.
    #[error("SubnetLen must be less than /{}", .family.bits() - 1)]
    LenTooLong {
        /// Whose
        family: Family,
    },
    /// A network with room for fewer than four subnets of the length asked for.
    #[error("network must be able to accommodate at least four subnets")]
    LenTooShort {
        /// Whose
        family: Family,
    },
    /// A network with room for fewer than four subnets of any length.
    #[error("{} is too small. Minimum useful network prefix is /{}", small_name(*.family), .family.bits() - 4)]
    NetworkTooSmall {
        /// Whose
        family: Family,
    },
    /// An end of the range is not in the network.
    #[error("{prefix}{key} is not in the range of the {prefix}Network", prefix = Keys(*.family))]
    OutOfNetwork {
        /// Whose
        family: Family,
        /// `SubnetMin` or `SubnetMax`
        key: &'static str,
    },
    /// An end of the range is not the first address of a subnet.
    #[error("{}{key} is not on a SubnetLen boundary: {value}", Keys(*.family))]
    NotAligned {
        /// Whose
        family: Family,
        /// `SubnetMin` or `SubnetMax`
        key: &'static str,
        /// What is there
        value: IpAddr,
    },
    /// A range without a subnet.
    #[error("{prefix}SubnetMin {min} is above {prefix}SubnetMax {max}: no subnet is left to lease", prefix = Keys(*.family))]
    EmptyRange {
        /// Whose
        family: Family,
        /// The configured or default start
        min: IpAddr,
        /// The configured or default end
        max: IpAddr,
    },
    /// A key of the backend.
    #[error(transparent)]
    Backend(#[from] crate::backend::Mistake),
}

/// Something that is no mistake, but that a person may want to look at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// There is no `Backend`, which means udp.
    #[error(
        "the configuration has no Backend key, which means udp: vxlan does the same in the kernel, many times faster"
    )]
    NoBackend,
    /// Nobody reads this key. It may be misspelt.
    #[error("unknown key {key} is ignored")]
    UnknownKey {
        /// With the objects around it: `Backend.Prot`
        key: String,
    },
    /// A key that is there more than once, perhaps in different cases.
    #[error("key {key} occurs more than once; the last one counts")]
    RepeatedKey {
        /// The field's name
        key: String,
    },
    /// `Network` had host bits, as `10.5.1.2/16` has.
    #[error("{}Network {given} has bits beyond its prefix length; {used} is used", Keys(*.family))]
    HostBits {
        /// Whose
        family: Family,
        /// What is there
        given: ipnetwork::IpNetwork,
        /// What is used
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
