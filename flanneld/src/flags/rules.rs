//! The flags of packet rules.

use std::time::Duration;

use ipnetwork::IpNetwork;
use kernel::types::masked;
use overlay::net::parse_cidr;
use overlay::rules::{Masquerade, Options};

/// The flags of packet rules.
#[derive(clap::Args)]
pub(super) struct RuleFlags {
    /// Masquerade packets of pods to addresses outside the network
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    ip_masq: bool,
    /// Masquerade without random source ports
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    ip_masq_fully_random_disable: bool,
    /// Networks to which pods' packets are not masqueraded, separated by commas; may be repeated
    #[arg(long, value_name = "CIDR", value_parser = networks)]
    ip_masq_exclude: Vec<Networks>,
    /// Accept forwarded packets of pods
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true)]
    iptables_forward_rules: bool,
    /// Seconds between two checks of pods' rules in the tables of iptables and of their sources in firewalld; other rules are
    /// repaired as soon as they are changed
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds, allow_negative_numbers = true)]
    iptables_resync: i64,
}

/// Networks in one flag.
#[derive(Debug, Clone)]
struct Networks(Vec<IpNetwork>);

fn networks(text: &str) -> Result<Networks, String> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    let parsed =
        parts.map(|part| parse_cidr(part).map(masked).ok_or_else(|| format!("{part:?} is not a network (CIDR)")));
    parsed.collect::<Result<_, _>>().map(Networks)
}

fn seconds(text: &str) -> Result<i64, &'static str> {
    super::go::integer(text).ok_or("not a number")
}

impl RuleFlags {
    /// A flag that has no effect, because another one is off.
    pub(super) fn warning(&self) -> Option<String> {
        let excludes = self.ip_masq_exclude.iter().any(|networks| !networks.0.is_empty());
        (excludes && !self.ip_masq).then(|| "--ip-masq-exclude has no effect without --ip-masq".to_owned())
    }

    /// The time between two checks of what other programs keep: a second or more.
    pub(super) fn resync(&self) -> Duration {
        Duration::from_secs(self.iptables_resync.max(1).unsigned_abs())
    }

    /// The options.
    pub(super) fn options(self) -> Options {
        let exclude = self.ip_masq_exclude.into_iter().flat_map(|networks| networks.0).collect();
        let masquerade = Masquerade { fully_random: !self.ip_masq_fully_random_disable, exclude };
        Options { masquerade: self.ip_masq.then_some(masquerade), forward: self.iptables_forward_rules }
    }
}
