//! subnet.env: flanneld writes it for the CNI plugin, and for itself after a restart.
//!
//! ```text
//! FLANNEL_NETWORK=10.5.0.0/16
//! FLANNEL_SUBNET=10.5.97.1/24
//! FLANNEL_IPV6_NETWORK=fd05::/56
//! FLANNEL_IPV6_SUBNET=fd05:0:0:4d::1/64
//! FLANNEL_MTU=1450
//! FLANNEL_IPMASQ=true
//! ```
//! The lines of a family exist when the family is enabled. Other programs `source` the file with sh, so no value ever
//! needs quotes.

use std::fmt;

use ipnetwork::IpNetwork;
use kernel::types::{Family, Mtu, masked};

use crate::lease::Subnets;
use crate::net::{base_plus_one, parse_cidr};

/// The default path of the file.
pub const DEFAULT_PATH: &str = "/run/flannel/subnet.env";

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetEnv {
    /// All networks, IPv4 first, without duplicates and host bits.
    pub networks: Vec<IpNetwork>,
    /// This host's subnets, without host bits. The file has the address of the bridge instead: base plus one.
    pub subnets: Subnets,
    /// The MTU of a pod's interface.
    pub mtu: Mtu,
    /// Whether flanneld masquerades, so that the plugins need not.
    pub ipmasq: bool,
}

impl SubnetEnv {
    /// The content of the file, in upstream's format.
    pub fn format(&self) -> String {
        self.to_string()
    }

    /// Parses the file for the CNI plugin; `file` names it in the error.
    ///
    /// # Errors
    /// Everything that is wrong with it. [`load_error`] makes the text for a runtime.
    pub fn parse(file: &str, text: &str) -> Result<Self, SubnetEnvError> {
        let mut fields = Fields::default();
        let mut problems = fields.read(text);
        let missing = fields.missing();
        if problems.is_empty() && !missing.is_empty() {
            problems.push(Problem::Missing(missing));
        }
        match (fields.mtu, fields.ipmasq) {
            (Some(mtu), Some(ipmasq)) if problems.is_empty() => {
                Ok(Self { networks: fields.networks, subnets: fields.subnets, mtu, ipmasq })
            }
            _ => Err(SubnetEnvError { file: file.to_owned(), problems }),
        }
    }
}

impl fmt::Display for SubnetEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (family, infix) in [(Family::V4, ""), (Family::V6, "IPV6_")] {
            let of_family = self.networks.iter().filter(|net| Family::from(**net) == family);
            let networks: Vec<String> = of_family.map(ToString::to_string).collect();
            if !networks.is_empty() {
                writeln!(f, "FLANNEL_{infix}NETWORK={}", networks.join(","))?;
            }
            if let Some(subnet) = self.subnets.get(family) {
                writeln!(f, "FLANNEL_{infix}SUBNET={}", base_plus_one(subnet))?;
            }
        }
        writeln!(f, "FLANNEL_MTU={}", self.mtu)?;
        writeln!(f, "FLANNEL_IPMASQ={}", self.ipmasq)
    }
}

/// The subnet.env of the last run, as far as it is readable: a damaged file must not prevent a start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Previous {
    /// The networks; may be empty.
    pub networks: Vec<IpNetwork>,
    /// The subnets, without host bits; may be empty.
    pub subnets: Subnets,
}

impl Previous {
    /// Parses what it can, and skips the rest. A family with several subnets gets none, because it is unclear which
    /// is right.
    pub fn parse(text: &str) -> Self {
        let mut fields = Fields::default();
        fields.read(text);
        Self { networks: fields.networks, subnets: fields.subnets }
    }
}

/// A subnet.env that the CNI plugin cannot use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} {}", list(.problems))]
pub struct SubnetEnvError {
    file: String,
    problems: Vec<Problem>,
}

impl SubnetEnvError {
    /// The problems; never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// One problem of a subnet.env.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Keys that the plugin needs. The keys of one family are enough.
    #[error("is missing {}", .0.join(", "))]
    Missing(Vec<&'static str>),
    /// A line is not an assignment.
    #[error("line {line} is not KEY=VALUE: {text:?}")]
    NoAssignment {
        /// Counted from 1
        line: usize,
        /// The line
        text: String,
    },
    /// A value cannot be parsed.
    #[error("line {line}: {key} must be {wanted}, not {value:?}")]
    Value {
        /// Counted from 1
        line: usize,
        /// `FLANNEL_MTU`
        key: String,
        /// What the value must be.
        wanted: &'static str,
        /// The given value.
        value: String,
    },
}

/// The message of the flannel plugin when the file cannot be opened or read, in upstream's words.
pub fn load_error(cause: &dyn fmt::Display) -> String {
    format!("failed to load flannel 'subnet.env' file: {cause}. Check the flannel pod log for this node.")
}

#[derive(Debug, Default)]
struct Fields {
    networks: Vec<IpNetwork>,
    subnets: Subnets,
    mtu: Option<Mtu>,
    ipmasq: Option<bool>,
}

impl Fields {
    /// Reads every line that it can, and returns the problems of the others.
    fn read(&mut self, text: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (number, raw) in (1..).zip(text.lines()) {
            let line = raw.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                problems.push(Problem::NoAssignment { line: number, text: line.to_owned() });
                continue;
            };
            let key = key.strip_prefix("export ").unwrap_or(key).trim();
            if let Err(wanted) = self.set(key, unquoted(value.trim())) {
                let value = value.to_owned();
                problems.push(Problem::Value { line: number, key: key.to_owned(), wanted, value });
            }
        }
        problems
    }

    /// Reads one assignment. The error says what the value must be. As upstream, the last of several assignments
    /// wins.
    fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match key {
            "FLANNEL_NETWORK" => self.set_networks(Family::V4, value),
            "FLANNEL_IPV6_NETWORK" => self.set_networks(Family::V6, value),
            "FLANNEL_SUBNET" => self.set_subnet(Family::V4, value).ok_or("one IPv4 CIDR"),
            "FLANNEL_IPV6_SUBNET" => self.set_subnet(Family::V6, value).ok_or("one IPv6 CIDR"),
            "FLANNEL_MTU" => {
                self.mtu = Some(Mtu(value.parse().map_err(|_| "a number of bytes")?));
                Ok(())
            }
            "FLANNEL_IPMASQ" => {
                self.ipmasq = Some(value == "true");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn set_networks(&mut self, family: Family, value: &str) -> Result<(), &'static str> {
        let (good, all_good) = cidrs(value, family);
        self.networks.retain(|net| Family::from(*net) != family);
        for net in good {
            if !self.networks.contains(&net) {
                self.networks.push(net);
            }
        }
        self.networks.sort_by_key(|net| Family::from(*net));
        let wanted = if family == Family::V4 { "a comma list of IPv4 CIDRs" } else { "a comma list of IPv6 CIDRs" };
        if all_good { Ok(()) } else { Err(wanted) }
    }

    fn set_subnet(&mut self, family: Family, value: &str) -> Option<()> {
        match family {
            Family::V4 => self.subnets.v4 = None,
            Family::V6 => self.subnets.v6 = None,
        }
        let (good, all_good) = cidrs(value, family);
        let [only] = good[..] else { return None };
        self.subnets.set(only);
        all_good.then_some(())
    }

    fn missing(&self) -> Vec<&'static str> {
        let groups = [
            (self.networks.is_empty(), "FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK"),
            (self.subnets.is_empty(), "FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET"),
            (self.mtu.is_none(), "FLANNEL_MTU"),
            (self.ipmasq.is_none(), "FLANNEL_IPMASQ"),
        ];
        groups.into_iter().filter_map(|(absent, name)| absent.then_some(name)).collect()
    }
}

/// The value without shell quotes.
fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    value
}

/// The family's CIDRs in a comma-separated list, masked, and whether all elements were such CIDRs.
fn cidrs(list: &str, family: Family) -> (Vec<IpNetwork>, bool) {
    let read = |text: &str| parse_cidr(text.trim()).map(masked).filter(|net| Family::from(*net) == family);
    let nets: Vec<Option<IpNetwork>> = list.split(',').map(read).collect();
    let all_good = nets.iter().all(Option::is_some);
    (nets.into_iter().flatten().collect(), all_good)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DUAL: &str = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.97.1/24\nFLANNEL_IPV6_NETWORK=fd05::/56\n\
                        FLANNEL_IPV6_SUBNET=fd05:0:0:4d::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

    fn parse(text: &str) -> Result<SubnetEnv, String> {
        SubnetEnv::parse("subnet.env", text).map_err(|e| e.to_string())
    }

    #[test]
    fn the_text_is_upstreams() {
        let env = SubnetEnv {
            networks: vec![parse_cidr("10.5.0.0/16").unwrap(), parse_cidr("fd05::/56").unwrap()],
            subnets: "10.5.97.0-24&fd05:0:0:4d::-64".parse().unwrap(),
            mtu: Mtu(1450),
            ipmasq: true,
        };
        assert_eq!(env.format(), DUAL);
        assert_eq!(parse(DUAL).unwrap(), env);
        assert_eq!(Previous::parse(DUAL), Previous { networks: env.networks, subnets: env.subnets });
    }

    #[test]
    fn quotes_windows_and_order_do_not_matter() {
        let text = "# x\r\nFLANNEL_IPMASQ='yes'\r\n\r\nexport FLANNEL_MTU=\"1450\"\r\nOTHER=1\r\nFLANNEL_MTU=1400\r\n\
                    FLANNEL_SUBNET=\"10.5.97.1/24\"\r\nFLANNEL_NETWORK=10.5.0.0/16,10.6.0.0/16,10.5.0.0/16\r\n";
        let env = parse(text).unwrap();
        assert_eq!((env.mtu, env.ipmasq, env.networks.len()), (Mtu(1400), false, 2));
        assert_eq!(env.subnets.to_string(), "10.5.97.0-24");
    }

    #[test]
    fn everything_wrong_is_said() {
        let all = "subnet.env is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, \
                   FLANNEL_MTU, FLANNEL_IPMASQ";
        assert_eq!(parse("").unwrap_err(), all);
        assert_eq!(parse(&DUAL.replace("FLANNEL_MTU=1450\n", "")).unwrap_err(), "subnet.env is missing FLANNEL_MTU");
        let bad = DUAL.replace("FLANNEL_MTU=", "FLANNEL_MTU").replace("10.5.97.1/24", "fd05::1/64");
        let said = "subnet.env line 2: FLANNEL_SUBNET must be one IPv4 CIDR, not \"fd05::1/64\"; \
                    line 5 is not KEY=VALUE: \"FLANNEL_MTU1450\"";
        assert_eq!(parse(&bad).unwrap_err(), said);
        assert_eq!(
            load_error(&"open /run/flannel/subnet.env: no such file or directory"),
            "failed to load flannel 'subnet.env' file: open /run/flannel/subnet.env: no such file or directory. \
             Check the flannel pod log for this node."
        );
    }

    #[test]
    fn a_damaged_file_is_no_previous_lease_but_no_error_either() {
        let text = DUAL.replace("10.5.97.1/24", "10.5.97.1/24,10.5.98.1/24").replace("fd05::/56", "x,fd05::/56");
        let previous = Previous::parse(&text);
        assert_eq!(previous.subnets.to_string(), "0.0.0.0-0&fd05:0:0:4d::-64");
        assert_eq!(previous.networks.len(), 2);
        assert_eq!(Previous::parse("\0garbage"), Previous::default());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(v4: u32, v6: u128, len4 in 1_u8..31, len6 in 1_u8..127, mtu: u32, ipmasq: bool, on in 1..4) {
            let nets = [
                IpNetwork::new(std::net::Ipv4Addr::from(v4).into(), len4).unwrap(),
                IpNetwork::new(std::net::Ipv6Addr::from(v6).into(), len6).unwrap(),
            ];
            let on: Vec<IpNetwork> = (0..2).filter(|i| on & (1 << i) != 0).map(|i| masked(nets[i])).collect();
            let env = SubnetEnv { networks: on.clone(), subnets: on.into_iter().collect(), mtu: Mtu(mtu), ipmasq };
            prop_assert_eq!(parse(&env.format()).unwrap(), env);
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = parse(&text);
            let _ = Previous::parse(&text);
        }
    }
}
